"""Option sets of `generate`, drawn so that many share their programs. Knows nothing of how they work.

Which rules hold is drawn a few times, what their values are every time.
"""

import dataclasses
import random
from typing import Any

import numpy as np

VOCAB, SOURCE, PROMPT = 53, 16, 9
"""Ids; columns of the source and of a prompt that share a program."""

START, END = 1, 2

Search = dict[str, Any]

SEARCHES: tuple[Search, ...] = (
    {},
    {"do_sample": True, "num_return_sequences": 2},
    {"num_beams": 3, "num_return_sequences": 3},
    {},
    {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 2},
    {"do_sample": True, "num_return_sequences": 1},
    {"num_beams": 3, "do_sample": True, "num_return_sequences": 1},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
)
"""What decides the program most, in turn."""

RULES = (
    "sequence_bias",
    "encoder_repetition_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "renormalize_logits",
)
SHAPING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclasses.dataclass(frozen=True)
class Form:
    """What a few calls have in common, which decides their programs.

    Attributes:
        search: options of the search that stay.
        rules: names of the rules that hold.
        sizes: numbers that are part of a program.
        prompted: whether there are prompts.
        ends: whether rows can end.
    """

    search: Search
    rules: tuple[str, ...]
    sizes: dict[str, int]
    prompted: bool
    ends: bool


def form(seed: int, number: int) -> Form:
    """The form of a number."""
    rng = random.Random(f"{seed}/form/{number}")
    search = SEARCHES[number % len(SEARCHES)]
    prompted, ends = rng.random() < 0.4, rng.random() < 0.9
    rules = [name for name in RULES if rng.random() < 0.35]
    if search.get("do_sample"):
        rules += [name for name in SHAPING if rng.random() < 0.4]
    if prompted:
        rules = [name for name in rules if name != "forced_bos_token_id"]
    if not ends:
        rules = [name for name in rules if name not in ("min_new_tokens", "exponential_decay_length_penalty")]
    if "num_beams" in search:
        # beams that are all forbidden are filled up in ways of their own
        rules = [name for name in rules if name not in ("forced_eos_token_id", "forced_bos_token_id")]
    sizes = {"no_repeat_ngram_size": rng.choice([2, 3]), "encoder_no_repeat_ngram_size": rng.choice([2, 3])}
    return Form(search, tuple(rules), sizes, prompted, ends)


def call(rng: random.Random, its: Form) -> dict[str, Any]:
    """The arguments of one call of a form."""
    batch = rng.choice([7, 8])
    arguments: dict[str, Any] = _source(rng, batch)
    longest = rng.randrange(2, 9)
    if its.prompted:
        arguments |= _prompt(rng, batch)
    width = arguments["decoder_input_ids"].shape[1] if its.prompted else 1
    if rng.random() < 0.5:
        arguments["max_new_tokens"] = longest
    else:
        arguments["max_length"] = width + longest
    many = rng.choice([1, 1, 2, 4])
    arguments["eos_token_id"] = rng.sample([END, *range(3, 20)], many) if its.ends else ()
    arguments |= its.search
    for name in its.rules:
        arguments[name] = _value(rng, name, its, longest)
    forced = {arguments.get(name) for name in ("forced_bos_token_id", "forced_eos_token_id")}
    if "suppress_tokens" in arguments:  # a forced id that is suppressed is refused
        arguments["suppress_tokens"] = [i for i in arguments["suppress_tokens"] if i not in forced] or [0]
    if "num_beams" in its.search and "num_beam_groups" not in its.search:
        arguments["length_penalty"] = rng.choice([0.0, 0.5, 1.0, 1.7, -0.5])
    if "num_beam_groups" in its.search:
        arguments["diversity_penalty"] = rng.choice([0.1, 0.7, 3.0])
    return arguments


def _ids(rng: random.Random, *shape: int) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).integers(3, VOCAB, shape, dtype=np.int32)


def _source(rng: random.Random, batch: int) -> dict[str, Any]:
    width = rng.randrange(2, SOURCE + 1)
    ids = _ids(rng, batch, width)
    lengths = np.asarray([rng.randrange(1, width + 1) for _ in range(batch)])
    kind = rng.choice(["none", "right", "left", "holes"])
    if kind == "none":
        return {"input_ids": ids}
    mask = np.arange(width)[None] < lengths[:, None]
    if kind == "left":
        mask = mask[:, ::-1]
    if kind == "holes":
        mask = np.asarray([[rng.random() < 0.7 or at == 0 for at in range(width)] for _ in range(batch)])
    return {"input_ids": ids, "attention_mask": rng.choice([mask, mask.astype(np.int32), mask.astype(np.int64)])}


def _prompt(rng: random.Random, batch: int) -> dict[str, Any]:
    width = rng.randrange(2, PROMPT)
    ids = _ids(rng, batch, width)
    lengths = np.asarray([rng.randrange(1, width + 1) for _ in range(batch)])
    lengths[rng.randrange(batch)] = width  # a column that no row needs is not fed
    padded = np.arange(width)[None] < (width - lengths)[:, None]
    ids[np.arange(batch), width - lengths] = START
    if rng.random() < 0.4:
        ids[:, 0] = START
        return {"decoder_input_ids": ids}
    return {"decoder_input_ids": ids, "decoder_attention_mask": (~padded).astype(np.int32)}


def _value(rng: random.Random, name: str, its: Form, longest: int) -> Any:
    some = [rng.randrange(3, VOCAB) for _ in range(rng.choice([1, 2, 3, 4]))]
    # four sequences of up to two ids before the last, so that all share a program
    sequences = [[rng.randrange(3, VOCAB) for _ in range(size)] for size in (3, 1, 2, 1)]
    values: dict[str, Any] = {
        "sequence_bias": [[ids, rng.choice([-9.0, -1.0, 0.5, 4.0])] for ids in sequences],
        "encoder_repetition_penalty": rng.choice([0.5, 1.3, 3.0]),
        "repetition_penalty": rng.choice([0.6, 1.2, 2.5]),
        **its.sizes,
        "bad_words_ids": sequences,
        "min_new_tokens": rng.randrange(1, longest + 1),
        "forced_bos_token_id": rng.randrange(3, VOCAB),
        "forced_eos_token_id": rng.randrange(3, VOCAB),
        "exponential_decay_length_penalty": [rng.randrange(4), rng.choice([1.1, 1.5, 0.9])],
        "suppress_tokens": some,
        "begin_suppress_tokens": some,
        "renormalize_logits": True,
        "temperature": rng.choice([0.3, 0.8, 1.5, 4.0]),
        "top_k": rng.choice([1, 2, 5, 20, 60]),
        "top_p": rng.choice([0.05, 0.5, 0.9, 0.999]),
        "min_p": rng.choice([0.01, 0.1, 0.7]),
        "typical_p": rng.choice([0.1, 0.5, 0.95]),
        "epsilon_cutoff": rng.choice([1e-4, 0.02, 0.2]),
        "eta_cutoff": rng.choice([1e-4, 0.02, 0.2]),
    }
    return values[name]


MISTAKES: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (0, -1, 2.5, "5", True, 10**9, 10**30, np.ones(2), [3]),
    "max_length": (0, 1, -7, 3.0, "9", 10**12),
    "min_length": (-1, 2.5, 10**9, "3"),
    "min_new_tokens": (-1, 99, 1.5, "2"),
    "do_sample": (1, "yes", 0.0, []),
    "temperature": (0, -1.0, float("nan"), float("inf"), "hot", True, 1e-60, 1e300, [0.7]),
    "top_k": (-1, 2.5, "9", True, 10**30),
    "top_p": (-0.1, 1.1, float("nan"), "x", 2),
    "min_p": (-0.1, 1.5, "x"),
    "typical_p": (0.0, -1, 1.5, "x"),
    "epsilon_cutoff": (1.0, -0.1, "x"),
    "eta_cutoff": (1.0, -0.1, "x"),
    "num_beams": (0, -2, 2.0, "4", 10**9, 10**30, True),
    "num_beam_groups": (0, 3, 2.0, "2", 10**9),
    "diversity_penalty": (-1.0, float("nan"), "x", 1e300),
    "num_return_sequences": (0, -1, 10**9, 2.0, "2"),
    "length_penalty": (float("nan"), float("inf"), "x", 1e300),
    "early_stopping": ("always", 3, []),
    "penalty_alpha": (-0.1, 1.5, "x", float("nan")),
    "repetition_penalty": (0.0, -1.0, float("nan"), "x", 1e300, 1e-60),
    "encoder_repetition_penalty": (0.0, -1.0, "x", 1e-60),
    "no_repeat_ngram_size": (-1, 1.5, "2", 10**30),
    "encoder_no_repeat_ngram_size": (-1, 1.5, "2"),
    "bad_words_ids": (3, [3], [[]], [["a"]], "ab", [[-1]], [[99]], [[1.5]], {"a": 1}),
    "sequence_bias": (3, [[3]], [[[], 1.0]], [[[3], "x"]], [[[99], 1.0]], {"(": 1.0}, [[[3], float("nan")]]),
    "suppress_tokens": (-1, [99], ["a"], 1.5, [[3]], list(range(VOCAB))),
    "begin_suppress_tokens": (-1, [99], ["a"], 1.5, [[3]]),
    "forced_bos_token_id": (-1, 99, 1.5, "3", [[3]]),
    "forced_eos_token_id": (-1, 99, [], "3", 1.5),
    "exponential_decay_length_penalty": (3, [3], [-1, 1.1], [1, 0.0], [1, -2.0], ["a", 1.1], [1, float("nan")], "ab"),
    "force_words_ids": ([], [[]], [[[]]], 3, "ab", [["a"]], [[-1]], [[99]]),
    "eos_token_id": (-2, 99, "2", 1.5, [[2]], True),
    "pad_token_id": (-2, 99, "0", 1.5),
    "decoder_start_token_id": (-2, 99, "1", 1.5),
    "logits_processor": (3, "x", [3], lambda logits: logits),
    "constraint": (3, "a*", []),
    "assistant_model": (3, "gpt2"),
    "output_cross_attentions": (1, "yes"),
    "generation_config": ({}, {"max_length": 4}, 3),
    "attention_mask": (np.ones((1, 1), np.int32), np.ones(3, np.int32), 0.5, "1", [[1, 1]]),
    "decoder_input_ids": (np.ones((1, 1, 1), np.int32), np.full((99, 2), 1), [[1]], "1", 1.5),
    "decoder_attention_mask": (np.ones((1, 1), np.int32), "1"),
    "max_lenght": (5,),
    "beams": (4,),
    "params": ({},),
    "stop_strings": (["x"],),
    "guidance_scale": (1.5,),
    "key": (3, "x"),
}
"""Values that no call can have, by option; names that none has among them."""


def mistaken(rng: random.Random) -> tuple[dict[str, Any], str]:
    """The arguments of a call with one mistake in it, and the option that has it."""
    its = Form(rng.choice(SEARCHES[:6]), (), {}, False, True)
    arguments = call(rng, its)
    arguments.pop("max_length", None)
    arguments["max_new_tokens"] = 4
    if "num_beams" in its.search:
        arguments.pop("diversity_penalty", None)
        arguments.pop("num_beam_groups", None)
    name = rng.choice(sorted(MISTAKES))
    if name == "max_length":
        del arguments["max_new_tokens"]
    if name == "key":
        arguments |= {"do_sample": True}
    arguments[name] = rng.choice(MISTAKES[name])
    return arguments, name
