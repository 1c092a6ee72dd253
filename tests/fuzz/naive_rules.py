"""The rules of `generate` for one row and one token, in NumPy and double precision, as transformers defines them.

Uses nothing of the library. `slack` loosens the rules of sampling by so much: a token on a border may be either.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Of one row."""
    with np.errstate(divide="ignore", invalid="ignore"):
        highest = scores.max()
        return scores - highest - np.log(np.exp(scores - highest).sum())


def processed(
    scores: np.ndarray,
    prefix: np.ndarray,
    source: np.ndarray,
    options: dict[str, Any],
    *,
    prompt: int,
    ends: list[int],
    longest: int,
    slack: float = 0.0,
) -> np.ndarray:
    """Scores after all rules that are asked for, in transformers' order.

    Args:
        scores: the model's, of one row.
        prefix: the ids so far, the prompt included.
        source: the source's ids, padding included.
        options: of `generate`.
        prompt: how many ids of the prefix are the prompt's.
        ends: the ids that end a row.
        longest: how long a row may get, the prompt included.
        slack: see above.
    """
    scores, length = scores.astype(np.float64).copy(), prefix.size
    for ids, bias in {tuple(ids): bias for ids, bias in options.get("sequence_bias", ())}.items():
        if _follows(prefix, ids):
            scores[ids[-1]] += bias
    if "encoder_repetition_penalty" in options:
        _penalise(scores, source, 1 / options["encoder_repetition_penalty"])
    if "repetition_penalty" in options:
        _penalise(scores, prefix, options["repetition_penalty"])
    if size := options.get("no_repeat_ngram_size"):
        scores[_repeating(prefix, prefix, size)] = -np.inf
    if size := options.get("encoder_no_repeat_ngram_size"):
        scores[_repeating(source, prefix, size)] = -np.inf
    for ids in options.get("bad_words_ids", ()):
        if not (len(ids) == 1 and ids[0] in ends) and _follows(prefix, ids):
            scores[ids[-1]] = -np.inf
    if length < options.get("min_length", 0) or length - prompt < options.get("min_new_tokens", 0):
        scores[ends] = -np.inf
    if "forced_bos_token_id" in options and length == 1:
        scores = _only(scores, [options["forced_bos_token_id"]])
    if "forced_eos_token_id" in options and length == longest - 1:
        scores = _only(scores, np.atleast_1d(options["forced_eos_token_id"]).tolist())
    if "exponential_decay_length_penalty" in options:
        start, factor = options["exponential_decay_length_penalty"]
        if length > start + prompt:
            for end in set(ends):
                if scores[end] > -np.inf:
                    scores[end] += abs(scores[end]) * (factor ** (length - start - prompt) - 1)
    scores[list(options.get("suppress_tokens", ()))] = -np.inf
    if length == prompt + ("forced_bos_token_id" in options):
        scores[list(options.get("begin_suppress_tokens", ()))] = -np.inf
    if options.get("do_sample"):
        # in beam search so many of the best stay that one goes on if all ends are among them
        keep = 1 if options.get("num_beams", 1) == 1 else max(1, len(ends)) + 1
        scores = _sampled(scores, options, keep, slack)
    return log_softmax(scores) if options.get("renormalize_logits") else scores


def _sampled(scores: np.ndarray, options: dict[str, Any], keep: int, slack: float) -> np.ndarray:
    scores = scores / options.get("temperature", 1.0)
    if count := options.get("top_k"):
        scores = np.where(scores < np.sort(scores)[-min(max(count, keep), scores.size)] - slack, -np.inf, scores)
    for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
        if name in options:
            cut, best = _cut(name, options[name], scores, slack)
            cut[np.argsort(-best, kind="stable")[:keep]] = False
            scores = np.where(cut, -np.inf, scores)
    return scores


def _cut(name: str, value: float, scores: np.ndarray, slack: float) -> tuple[np.ndarray, np.ndarray]:
    """Which ids a rule cuts, and what says which are the best to it."""
    logs = log_softmax(scores)
    shares = np.exp(logs)
    entropy = -float((shares[shares > 0] * logs[shares > 0]).sum())
    if name == "top_p":
        order = np.argsort(scores, kind="stable")
        cut = np.zeros(scores.shape, bool)
        cut[order[np.cumsum(shares[order]) <= 1 - value - slack]] = True
        return cut, scores
    if name == "min_p":
        return shares < value * shares.max() - slack, scores
    if name == "typical_p":
        distance = np.abs(-logs - entropy)
        order = np.argsort(distance, kind="stable")
        last = min(int((np.cumsum(shares[order]) < value + slack).sum()), order.size - 1)
        return distance > distance[order[last]] + slack, -distance
    least = value if name == "epsilon_cutoff" else min(value, np.sqrt(value) * np.exp(-entropy))
    return shares < least - slack, scores


def _follows(prefix: np.ndarray, ids: Sequence[int]) -> bool:
    """Whether the last of some ids would come where the others stand before it."""
    before = ids[:-1]
    return len(ids) <= prefix.size and prefix[prefix.size - len(before) :].tolist() == list(before)


def _penalise(scores: np.ndarray, ids: np.ndarray, penalty: float) -> None:
    found = np.unique(ids[ids < scores.size])
    scores[found] = np.where(scores[found] < 0, scores[found] * penalty, scores[found] / penalty)


def _repeating(text: np.ndarray, prefix: np.ndarray, size: int) -> list[int]:
    """Ids that would complete a run of the text."""
    if prefix.size + 1 < size:
        return []
    last = prefix[prefix.size - size + 1 :].tolist()
    return [int(text[i + size - 1]) for i in range(text.size - size + 1) if text[i : i + size - 1].tolist() == last]


def _only(scores: np.ndarray, ids: list[int]) -> np.ndarray:
    forced = np.full_like(scores, -np.inf)
    forced[ids] = 0.0
    return forced
