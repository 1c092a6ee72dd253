"""Drawn option sets of `generate`: every token and number of a result is found again by full passes of the model."""

import random
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from drawn_options import START, call, form, mistaken
from judging import attempt
from naive_rules import log_softmax, processed

from encdec_eqx import EncoderDecoder
from models import decoder_config, encoder_config, randomised, tiny_pair
from tolerances import SEQUENCE_SCORES, TOKEN_LOG_PROBS

PART = 50
"""Mutations in one part of the test."""

ROWS, SOURCE, TARGET = 32, 16, 20
BORDER = 1e-4
"""Within this a token may be on either side of a bound, and either of two may be the better one."""


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    pair = randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=2)), seed=1, spread=0.4)
    return pair.with_special_tokens(pad_token_id=0, decoder_start_token_id=START)


@eqx.filter_jit
def _full_pass(model: EncoderDecoder, arrays: dict[str, Any]) -> jax.Array:
    return model(**arrays).logits


def _logits(model: EncoderDecoder, arguments: dict[str, Any], sequences: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Of every position, by one pass over everything, a row a sequence."""
    ids = np.asarray(arguments["input_ids"])
    mask = np.asarray(arguments.get("attention_mask", np.ones(ids.shape, np.int32))).astype(np.int32)
    each = sequences.shape[0] // ids.shape[0]
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)

    def padded(array: np.ndarray, width: int) -> np.ndarray:
        result = np.zeros((ROWS, width), np.int32)
        result[: array.shape[0], : array.shape[1]] = array
        result[array.shape[0] :] = result[:1]
        return result

    arrays = {
        "input_ids": padded(np.repeat(ids, each, axis=0), SOURCE),
        "attention_mask": padded(np.repeat(mask, each, axis=0), SOURCE),
        "decoder_input_ids": padded(sequences, TARGET),
        "decoder_attention_mask": padded(real, TARGET),
        "decoder_position_ids": padded(positions, TARGET),
    }
    return np.asarray(_full_pass(model, arrays))[: sequences.shape[0], : sequences.shape[1]]


def _wrong(model: EncoderDecoder, arguments: dict[str, Any], result: Any) -> list[str]:
    """What is wrong about a result."""
    ids, ends = np.asarray(arguments["input_ids"]), list(arguments["eos_token_id"])
    given = arguments.get("decoder_input_ids", np.full((ids.shape[0], 1), START, np.int32))
    mask = arguments.get("decoder_attention_mask", np.ones(given.shape, np.int32))
    each = result.sequences.shape[0] // ids.shape[0]
    prompt, width = np.repeat(given, each, axis=0), given.shape[1]
    longest = arguments.get("max_length", width + arguments.get("max_new_tokens", 0))
    if not np.array_equal(result.sequences[:, :width], prompt):
        return ["the prompt was changed"]
    new = result.sequences.shape[1] - width
    real = np.concatenate([np.repeat(mask, each, axis=0), np.ones((len(prompt), new), np.int32)], axis=1)
    logits = _logits(model, arguments, result.sequences, real).astype(np.float64)
    faults = []
    for row in range(len(prompt)):
        at = f"row {row}"
        tokens, length = result.sequences[row], int(result.lengths[row])
        faults += [f"{at}: {fault}" for fault in _wrong_end(tokens[width:], length, ends, longest - width, result, row)]
        for t in range(width, width + length):
            # of groups of beams every end is written as the first, as transformers 4.46.3 writes it
            token = int(tokens[t])
            others = ends if token in ends[:1] and "num_beam_groups" in arguments else [token]
            told = (float(result.log_probs[row, t - width]), float(result.processed_log_probs[row, t - width]))
            choice = (logits[row, t - 1], tokens[:t], ids[row // each], arguments, width, ends, longest)
            found = [_wrong_token(other, *told, *choice) for other in others]
            faults += [f"{at}, token {t}: {found[0]}"] if all(found) else []
    return faults + _wrong_scores(arguments, result, each)


def _wrong_end(tokens: np.ndarray, length: int, ends: list[int], longest: int, result: Any, row: int) -> list[str]:
    """What is wrong about where a row ends."""
    first = next((at + 1 for at, token in enumerate(tokens.tolist()) if token in ends), None)
    faults = []
    if length != (longest if first is None else first):
        faults.append(f"{length} tokens of {tokens.tolist()} with the ends {ends} and at most {longest}")
    if (tokens[length:] != 0).any():
        faults.append(f"no padding behind {length} tokens of {tokens.tolist()}")
    if bool(result.truncated[row]) != (first is None):
        faults.append(f"truncated is {result.truncated[row]}")
    return faults


def _wrong_token(
    token: int,
    reported: float,
    reported_processed: float,
    raw: np.ndarray,
    prefix: np.ndarray,
    source: np.ndarray,
    arguments: dict[str, Any],
    width: int,
    ends: list[int],
    longest: int,
) -> str:
    """What is wrong about one choice."""
    beams = arguments.get("num_beams", 1) > 1
    if abs((plain := log_softmax(raw)[token]) - reported) > TOKEN_LOG_PROBS:
        return f"log_probs has {reported} for {token}, a full pass {plain}"
    scores = log_softmax(raw) if beams else raw
    options = dict(arguments)
    contrastive = "penalty_alpha" in options
    if contrastive:
        options.pop("top_k")

    def after(slack: float) -> np.ndarray:
        return processed(scores, prefix, source, options, prompt=width, ends=ends, longest=longest, slack=slack)

    exact = after(0.0)
    if exact[token] == -np.inf and after(BORDER)[token] == -np.inf:
        return f"{token} was forbidden"
    if contrastive:
        best = np.sort(exact)[-arguments["top_k"]]
        return "" if exact[token] >= best - BORDER else f"{token} is none of the best {arguments['top_k']}"
    if not beams and not options.get("do_sample") and exact[token] < exact.max() - BORDER:
        return f"{token} scores {exact[token]}, the best {exact.max()} ({exact.argmax()})"
    if options.get("do_sample") and any(((after(by) > -np.inf) != (exact > -np.inf)).any() for by in (BORDER, -BORDER)):
        return ""
    if "diversity_penalty" in options:  # which beams have chosen a token before is not in a result
        return ""
    expected = exact[token] if beams else log_softmax(exact)[token]
    if abs(expected - reported_processed) > TOKEN_LOG_PROBS * max(1.0, abs(expected)):
        return f"processed_log_probs has {reported_processed} for {token}, the rules say {expected}"
    return ""


def _wrong_scores(arguments: dict[str, Any], result: Any, each: int) -> list[str]:
    """What is wrong about the sums, and about the order of hypotheses."""
    if arguments.get("num_beams", 1) == 1:
        sums = result.log_probs.astype(np.float64).sum(axis=1)
        return [] if np.allclose(sums, result.scores, rtol=0, atol=SEQUENCE_SCORES) else ["scores are not the sums"]
    sums = result.processed_log_probs.astype(np.float64).sum(axis=1)
    penalised = sums / result.lengths ** arguments.get("length_penalty", 1.0)
    faults = []
    if not np.allclose(penalised, result.scores, rtol=1e-5, atol=SEQUENCE_SCORES):
        faults.append(f"scores {result.scores[:4]} are not the penalised sums {penalised[:4]}")
    grouped = result.scores.reshape(-1, each)
    if (np.diff(grouped, axis=1) > BORDER).any():
        faults.append("hypotheses are not in the order of their scores")
    if not arguments.get("num_beam_groups") and not arguments.get("do_sample"):
        rows = result.sequences.reshape(-1, each, result.sequences.shape[1])
        if any(len({tuple(row) for row in sentence.tolist()}) < each for sentence in rows):
            faults.append("a hypothesis came twice")
    return faults


def _same_in_another_order(model: EncoderDecoder, arguments: dict[str, Any], result: Any, keys: Any) -> list[str]:
    """A row's result is its own: sentences in another order give the same results in that order."""
    batch = arguments["input_ids"].shape[0]
    order = np.arange(batch)[::-1]
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    turned: dict[str, Any] = {
        name: (np.asarray(value)[order] if name in names else value) for name, value in arguments.items()
    }
    again = model.generate(**turned, key=None if keys is None else keys[order])
    each = result.sequences.shape[0] // batch
    rows = (order[:, None] * each + np.arange(each)).ravel()
    if not np.array_equal(again.sequences, result.sequences[rows]):
        return ["sentences in another order gave other results"]
    return []


@pytest.mark.parametrize("part", range(9))
def test_drawn_options(model: EncoderDecoder, part: int, seed: int, numbers: range):
    mine = [number for number in numbers if number // PART % 9 == part]
    faulty = []
    for number in mine:
        rng = random.Random(f"{seed}/generate/{number}")
        its = form(seed, number // PART)
        arguments = call(rng, its)
        sampled = arguments.get("do_sample")
        keys = jax.random.split(jax.random.key(number), arguments["input_ids"].shape[0]) if sampled else None
        result = model.generate(**arguments, key=keys)
        faults = _wrong(model, arguments, result)
        if number % 3 == 0:
            faults += _same_in_another_order(model, arguments, result, keys)
        if faults:
            said = {name: value for name, value in arguments.items() if name not in ("input_ids", "attention_mask")}
            faulty.append(f"--seed {seed} --first {number} --mutations 1: {said}\n    " + "\n    ".join(faults[:4]))
    assert not faulty, f"{len(faulty)} of {len(mine)}:\n" + "\n".join(faulty[:8])


def test_mistakes_are_refused_before_anything_is_compiled(model: EncoderDecoder, seed: int, numbers: range):
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    faulty = []
    for number in numbers:
        arguments, name = mistaken(random.Random(f"{seed}/mistakes/{number}"))
        keys: dict[str, Any] = (
            {} if "key" in arguments or not arguments.get("do_sample") else {"key": jax.random.key(0)}
        )
        before = len(compiled)
        result = attempt(lambda a=arguments, k=keys: model.generate(**a, **k), names=[name])
        faults = result.faults + ([] if result.error is not None else ["was accepted"])
        faults += ["compiled something first"] if len(compiled) > before else []
        if faults:
            faulty.append(f"--seed {seed} --first {number} --mutations 1: {name}={arguments[name]!r:.60}: {faults[:2]}")
    assert not faulty, f"{len(faulty)} of {len(numbers)}:\n" + "\n".join(faulty[:20])
