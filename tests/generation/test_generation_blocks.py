"""The loop as a GPU runs it, in blocks of steps and never for one row alone: the same results, and no second cache."""

import dataclasses
import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from encdec_eqx import EncoderDecoder, _inputs
from encdec_eqx.generation import engine
from encdec_eqx.generation.constraints import from_token_regex
from encdec_eqx.generation.plan_checks import Assistant
from generation_stand_in import generate, stand_in, states
from models import VOCAB, decoder_config, encoder_config, random_ids, randomised, tiny_pair
from tolerances import SEQUENCE_SCORES

NEW = 13  # one block and five steps of another
NEVER = 52  # the last id, which no test draws


@pytest.fixture
def in_blocks(monkeypatch):
    """From here on the loop takes the shape that it has on a GPU."""
    return lambda: monkeypatch.setattr(engine, "platform", lambda: "gpu")


SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "key": jax.random.key(0), "num_return_sequences": 2, "top_p": 0.9},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    "beam_sampling": {"num_beams": 2, "do_sample": True, "key": jax.random.key(1)},
    "words": {"num_beams": 3, "force_words_ids": [[5]]},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "constraint": {"constraint": from_token_regex("(<5>|<6>|<7>){4}<8>+", eos_token_id=2, vocab_size=VOCAB)},
    "lookup": {"prompt_lookup_num_tokens": 2},
    "assistant": {"num_assistant_tokens": 3},
}


def _assert_same(ours: Any, theirs: Any) -> None:
    for field in dataclasses.fields(ours):
        if field.name != "compilations":
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), err_msg=field.name)


@pytest.mark.parametrize("name", sorted(SEARCHES.keys() - {"lookup"}))
def test_blocks_are_single_steps_to_the_last_bit(name, in_blocks):
    """Nothing ends; rows end one by one, the last within a block; all end in the first step."""
    decoder, options = stand_in(1, sharpness=2.0), SEARCHES[name]
    if name == "assistant":
        near = eqx.tree_at(lambda it: it.head, decoder, decoder.head + 0.3 * stand_in(9, sharpness=1.0).head)
        options = options | {"assistant_model": Assistant(near, None, decoder_config())}

    def run(most: int, ends: list[int]) -> Any:
        return generate(decoder, states(3, seed=1), max_new_tokens=most, eos_token_id=ends, **options)

    if name == "constraint":
        ends = [[2]]
    else:
        free = run(NEW, [NEVER] * 4).sequences
        late = [int(free[row, at]) for row, at in ((0, 3), (1, 10), (2, 9), (-1, 8))]
        ends = [[NEVER] * 4, late, free[[0, 1, 2, -1], 1].tolist()]
    calls = [(most, some) for most in (NEW, 16) for some in ends]
    expected = [run(*call) for call in calls]
    in_blocks()
    for call, single in zip(calls, expected, strict=True):
        _assert_same(run(*call), single)


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=1)), seed=1, spread=0.4)


SOURCE = {"input_ids": random_ids(0, 3, 7), "attention_mask": np.arange(7)[None] < np.array([[7], [5], [6]])}


@pytest.mark.parametrize("name", ["greedy", "beams", "lookup", "assistant"])
def test_streams_in_blocks_are_the_same(model, name, in_blocks):
    """With a real decoder, whose keys and values are written to by steps that do not count."""
    call = {"max_new_tokens": NEW, "eos_token_id": (), **SEARCHES[name]}
    if name == "assistant":
        call["assistant_model"] = model.decoder
    pieces = (6, 4, 1) if name == "greedy" else (6,)
    expected = [list(model.stream(**SOURCE, tokens_at_a_time=each, **call)) for each in pieces]
    in_blocks()
    for each, single in zip(pieces, expected, strict=True):
        chunks = list(model.stream(**SOURCE, tokens_at_a_time=each, **call))
        assert len(chunks) == len(single)
        for ours, theirs in zip(chunks, single, strict=True):
            np.testing.assert_array_equal(ours.tokens, theirs.tokens)
            np.testing.assert_array_equal(ours.finished, theirs.finished)
        _assert_same(chunks[-1].result, single[-1].result)


@pytest.mark.parametrize(("platform", "steps"), [("cpu", [1] * 6), ("tpu", [1] * 6), ("gpu", [8, 1, 4, 2, 4, 8])])
def test_how_often_the_loop_checks(platform, steps, monkeypatch):
    monkeypatch.setattr(engine, "platform", lambda: platform)
    assert [engine.steps_per_check(tokens) for tokens in (64, 1, 4, 6, 12, 0)] == steps


def test_xla_knows_the_steps_of_a_block_and_needs_no_second_cache(model, in_blocks, monkeypatch):
    """Donated buffers are written in place, and no temporary is as large as a cache."""
    found = {}
    advance: Any = engine.advance_until

    def caught(fixed: Any, state: Any) -> Any:
        compiled = advance.lower(fixed, state).compile().compiled
        found[fixed[3]] = compiled.as_text(), compiled.memory_analysis(), sum(x.nbytes for x in jax.tree.leaves(state))
        return advance(fixed, state)

    monkeypatch.setattr(engine, "advance_until", caught)
    model.generate(**SOURCE, max_new_tokens=NEW)
    in_blocks()
    model.generate(**SOURCE, max_new_tokens=NEW)
    (plain, before, _), (text, memory, state) = found[1], found[8]
    trips = re.compile(r'known_trip_count":\{"n":"8"')
    assert trips.search(text)
    assert not trips.search(plain)
    assert memory.alias_size_in_bytes == before.alias_size_in_bytes >= 0.9 * state
    assert memory.temp_size_in_bytes - before.temp_size_in_bytes < 0.1 * state


ALONE: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "key": jax.random.key(0)},
    "sampling by a key a row": {"do_sample": True, "key": jax.random.split(jax.random.key(3), 1)},
    "the source's ids": {"encoder_repetition_penalty": 1.4, "encoder_no_repeat_ngram_size": 2},
    "prompt": {"decoder_input_ids": np.array([[1, 5, 8]])},
    "weights": {"output_cross_attentions": True},
    "two samples": {"do_sample": True, "key": jax.random.key(0), "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "lookup": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_row_that_is_alone_gets_another_beside_it(model, name, in_blocks, monkeypatch):
    """Which does not show; and only where it would be alone."""
    call = {"input_ids": SOURCE["input_ids"][:1], "max_new_tokens": 9, "eos_token_id": [NEVER], **ALONE[name]}
    expected = model.generate(**call)
    in_blocks()
    monkeypatch.setattr(_inputs, "platform", lambda: "gpu")  # masks are lengths there
    rows: list[int] = []
    opened = engine._open_cache
    monkeypatch.setattr(engine, "_open_cache", lambda *a, **k: rows.append(k["sources"]) or opened(*a, **k))
    result = model.generate(**call)
    assert rows == [1 if name in ("two samples", "beams", "lookup") else 2]
    np.testing.assert_array_equal(result.sequences, expected.sequences)
    np.testing.assert_array_equal(result.lengths, expected.lengths)
    assert result.passes == expected.passes
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=SEQUENCE_SCORES)
    if name == "greedy":
        chunks = list(model.stream(**call, tokens_at_a_time=8))
        np.testing.assert_array_equal(chunks[-1].result.sequences, expected.sequences)
        np.testing.assert_array_equal(np.concatenate([chunk.tokens for chunk in chunks], 1), expected.sequences[:, 1:])
    for ours, theirs in zip(result.cross_attentions or (), expected.cross_attentions or (), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SEQUENCE_SCORES)
