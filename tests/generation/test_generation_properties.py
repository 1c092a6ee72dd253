"""What holds of any prompts, masks, searches, patterns and options: properties of a few drawn examples."""

import re
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_eqx.generation.constraints import from_regex
from encdec_eqx.generation.options import IN_FILES, OPTIONS
from encdec_eqx.generation.plan import Plan, resolve_settings, split_options
from generation_stand_in import TOKENS, generate, request_of, stand_in, states
from tolerances import SEQUENCE_SCORES

NEW = 5
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 7},
    "beams": {"num_beams": 3},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """States of up to three sources, their mask, and a prompt for each."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    prompts = draw(
        st.lists(st.lists(st.integers(3, 20), max_size=3), min_size=len(lengths), max_size=len(lengths)),
        label="prompts",
    )
    source = states(len(lengths), max(lengths), seed=draw(st.integers(0, 3)))
    mask = np.arange(max(lengths))[None] < np.asarray(lengths)[:, None]
    return source, mask, [[1, *prompt] for prompt in prompts]


def _padded(prompts: list[list[int]]) -> dict[str, np.ndarray]:
    width = max(map(len, prompts))
    ids = np.array([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = np.arange(width)[None] >= width - np.array([[len(prompt)] for prompt in prompts])
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=6)
@given(call=calls())
def test_a_row_is_what_it_is_alone_and_a_stream_is_the_whole(search: str, call: Any):
    source, mask, prompts = call
    decoder, options = stand_in(4), {"max_new_tokens": NEW, **SEARCHES[search]}
    keys = jax.random.split(jax.random.key(0), 3)[: len(prompts)] if search == "sampling" else None
    together = generate(decoder, source, mask, key=keys, **_padded(prompts), **options)
    *chunks, last = request_of(decoder, source, mask, key=keys, **_padded(prompts), **options).stream(2)
    np.testing.assert_array_equal(last.result.sequences, together.sequences)
    done = {row: tokens for chunk in (*chunks, last) for row, tokens in chunk.done.items()}
    for row, prompt in enumerate(prompts):
        real = int(mask[row].sum())
        key = None if keys is None else keys[row : row + 1]
        alone = generate(decoder, source[row : row + 1, :real], key=key, **_padded([prompt]), **options)
        length = int(alone.lengths[0])
        assert together.lengths[row] == length
        tokens = together.sequences[row, together.sequences.shape[1] - together.log_probs.shape[1] :]
        np.testing.assert_array_equal(tokens[:length], alone.sequences[0, len(prompt) : len(prompt) + length])
        np.testing.assert_array_equal(tokens[length:], TOKENS.pad_token_id)
        np.testing.assert_array_equal(done[row], tokens[:length])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=0, atol=SEQUENCE_SCORES)


PIECES = ["a", "b", "ab", "ba", "0", "1", " ", "-", "aa", None]
EOS = len(PIECES)
patterns = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", r"\d", ".", "-", r"\w", " ?", "[0-1a]"]),
    lambda part: st.one_of(
        st.tuples(part, part).map("".join),
        st.tuples(part, part).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(part, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=60)
@given(pattern=patterns, ids=st.lists(st.integers(0, EOS - 2), max_size=6))
def test_a_pattern_accepts_what_pythons_re_does(pattern: str, ids: list[int]):
    constraint = from_regex(pattern, [*PIECES, None], eos_token_id=EOS)
    text = "".join(PIECES[at] or "" for at in ids)
    assert constraint.accepts([*ids, EOS]) == (re.fullmatch(pattern, text) is not None)
    assert not constraint.accepts([*ids, EOS - 1, EOS])


VALUES: dict[str, list[Any]] = {
    "max_length": [9, 0, "5"],
    "max_new_tokens": [5, 2.5],
    "min_length": [0, 3, 99],
    "do_sample": [True, False, 1],
    "temperature": [1.0, 0.5, -1.0],
    "top_k": [0, 3],
    "top_p": [1.0, 0.9, 2.0],
    "num_beams": [1, 3],
    "num_beam_groups": [1, 3],
    "diversity_penalty": [0.0, 0.5],
    "num_return_sequences": [1, 2],
    "length_penalty": [1.0, 2.0],
    "early_stopping": [False, "never", "soon"],
    "penalty_alpha": [0.0, 0.6],
    "force_words_ids": [[[3]], [[99]]],
    "no_repeat_ngram_size": [0, 2],
    "suppress_tokens": [[], [4], [200]],
    "forced_eos_token_id": [2, 200],
    "renormalize_logits": [True],
    "prompt_lookup_num_tokens": [3],
}
RENAMED = {"max_length": "max_new_tokens", "forced_eos_token_id": "forced_eos_token_ids"}
RENAMED |= {"prompt_lookup_num_tokens": "ahead"}
# what these choose is the search, and with it fields of other names
CHOOSING = {"search", "lookup_longest", "notes"}


@settings(max_examples=150)
@given(
    asked=st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=5).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(VALUES[name]) for name in names})
    )
)
def test_a_plan_changes_what_its_options_say_or_an_error_names_one(asked: dict[str, Any]):
    options, _ = split_options({"max_new_tokens": 4, **asked} if "max_length" not in asked else asked)
    facts = {"prompt_width": 1, "eos_ids": (2,), "has_key": True, "vocab_size": 99, "has_source_ids": True}
    try:
        plan = resolve_settings(options, None, None, **facts)
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in asked)
        return
    neutral = Plan(max_new_tokens=4)
    allowed = {RENAMED.get(name, name) for name in asked} | CHOOSING
    changed = {name for name in vars(plan) if getattr(plan, name) != getattr(neutral, name)}
    assert changed <= allowed
    assert resolve_settings(options, None, None, **facts) == plan


def test_every_option_has_a_row_and_its_neutral_value_passes_its_check():
    assert set(VALUES) <= set(IN_FILES) < set(OPTIONS)
    for name, option in OPTIONS.items():
        if option.neutral is not None and (option.neutral != () or name in ("bad_words_ids", "sequence_bias")):
            assert option.check(name, option.neutral) == option.neutral
