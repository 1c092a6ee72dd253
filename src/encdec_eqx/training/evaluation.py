"""How good a model is on examples: its mean loss, and the metrics of what it generates.

Knows a model's calls, batches and the table of metrics; must not know the loop, nor where examples come from.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from .._trees import astype
from .._typing import Array
from ..text.batching import by_length, filled, padded, source_pad
from .batch import checked_batch, completed_batch
from .loss import seq2seq_loss

Decode = Callable[[Sequence[int]], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """What a model made of one example.

    Attributes:
        source: What it read; ids where there is no text.
        text: What it generated.
        references: What it should have generated; any of them.
    """

    source: str
    text: str
    references: tuple[str, ...]


def mean_loss(model: Any, batches: Iterable[Mapping[str, np.ndarray]], *, compute_dtype: Any = None) -> float:
    """Mean cross-entropy of all labels, in nats a token, without smoothing, z-loss or dropout.

    Sums and numbers are added over the batches, so that the result does not depend on how they were cut.
    """
    total = weight = 0.0
    for batch in batches:
        one, number = _summed_loss(model, checked_batch(batch, model), compute_dtype)
        total, weight = total + float(one), weight + float(number)
    if not weight:
        raise ValueError("the evaluation's examples hold no label: their targets are empty.")
    return total / weight


def generate_ids(
    model: Any,
    sources: Sequence[np.ndarray],
    *,
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    fields: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> list[list[int]]:
    """The ids that the model generates for each source, without start token, end token and padding.

    Sources of similar length share a batch, and results come in the callers' order. `fields` are what goes with each
    source's ids, in the words of `generate`: a mask, segments, positions.
    """
    results: list[list[int]] = [[]] * len(sources)
    for chosen in by_length(sources, batch_size):
        places = filled(chosen, min(batch_size, len(sources)))
        beside = None if fields is None else [fields[at] for at in places]
        batch = padded([sources[at] for at in places], source_pad(model), beside)
        rows = _generate_batch(model, batch, max_new_tokens, num_beams)
        for at, row in zip(chosen, rows, strict=False):
            results[at] = row
    return results


def _generate_batch(
    model: Any, batch: Mapping[str, np.ndarray], max_new_tokens: int, num_beams: int
) -> list[list[int]]:
    result = model.generate(**batch, max_new_tokens=max_new_tokens, num_beams=num_beams)
    truncated, lengths = np.asarray(result.truncated), np.asarray(result.lengths)
    rows = np.asarray(result.sequences)[:, 1:]
    # the end token is the last of the counted ones, unless the row was cut before it
    return [
        row[: length if cut else length - 1].tolist() for row, length, cut in zip(rows, lengths, truncated, strict=True)
    ]


@eqx.filter_jit
def _summed_loss(model: Any, batch: dict[str, Array], compute_dtype: Any) -> tuple[Array, Array]:
    if compute_dtype is not None:
        model = astype(model, compute_dtype)
    inputs = completed_batch(batch, model)
    labels = inputs["labels"]
    rest = {name: x for name, x in inputs.items() if name not in ("labels", "input_ids", "decoder_input_ids")}
    logits = model(inputs["input_ids"], inputs["decoder_input_ids"], **rest).logits
    return seq2seq_loss(logits, labels)
