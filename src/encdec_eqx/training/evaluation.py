"""How good a model is on examples: its mean loss, what it generates, and how many tokens it may generate."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from .. import _processes as processes
from .._trees import astype
from .._typing import Array
from ..encoder_decoder import EncoderDecoder
from ..generation.generation_config import GenerationConfig
from ..hf.gathering import gathered, spans_processes
from ..inputs.tokens import longest
from ..params.sharding import without_mesh
from ..text.texts import by_length, pad_rows, pad_sources, source_pad
from .batch import checked_batch, completed_batch, loss_of_batch
from .loss import Loss, seq2seq_loss
from .rows_on_mesh import ON_ONE_DEVICE, RowsOnMesh

_NOTHING = -1


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


def mean_loss(
    model: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    compute_dtype: Any = None,
    loss: Loss | None = None,
    rows: RowsOnMesh = ON_ONE_DEVICE,
) -> float:
    """Mean cross-entropy of all labels, in nats per label, without smoothing, z-loss or dropout; or of another loss.

    Sums and numbers are added over the batches, so that the result does not depend on how they were cut. `rows` puts
    them where the model is.
    """
    total = weight = 0.0
    for batch in batches:
        one, number = _summed_loss(model, checked_batch(rows.put(batch), model), compute_dtype, loss)
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
    rows: RowsOnMesh = ON_ONE_DEVICE,
) -> list[list[int]]:
    """The ids that the model generates for each source, without start token, EOS and padding.

    Sources of similar length share a batch, and results come in the callers' order. `fields` are what goes with each
    source's ids, in the words of `generate`: a mask, segments, positions. `rows` says how many a mesh wants. Of a model
    that is spread over several processes each takes it whole, and generates for every so many-th of the sources.
    """
    if spans_processes(model):
        return _generated_together(model, sources, batch_size, max_new_tokens, num_beams, fields)
    results: list[list[int]] = [[]] * len(sources)
    for chosen in by_length(sources, batch_size):
        places = pad_rows(chosen, rows.filled(min(batch_size, len(sources))))
        beside = None if fields is None else [fields[at] for at in places]
        batch = pad_sources([sources[at] for at in places], source_pad(model), beside)
        made = model.generate(**batch, max_new_tokens=max_new_tokens, num_beams=num_beams)
        truncated, lengths, sequences = map(np.asarray, (made.truncated, made.lengths, made.sequences))
        for at, row, length, cut in zip(chosen, sequences, lengths, truncated, strict=False):
            # EOS is the last of the counted ones, unless the row was cut before it
            results[at] = row[1:][: length if cut else length - 1].tolist()
    return results


def _generated_together(
    model: Any,
    sources: Sequence[np.ndarray],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int,
    fields: Sequence[Mapping[str, np.ndarray]] | None,
) -> list[list[int]]:
    """What the processes generate, each for its share of the sources; all come to know all of it."""
    own = slice(processes.number(), None, processes.count())
    whole = without_mesh(jax.tree.map(lambda leaf: jnp.asarray(gathered(leaf)), model))
    made = generate_ids(
        whole,
        sources[own],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        fields=None if fields is None else fields[own],
    )
    table = np.full((-(-len(sources) // processes.count()), max_new_tokens), _NOTHING, np.int32)
    for row, ids in zip(table, made, strict=False):
        row[: len(ids)] = ids
    tables = multihost_utils.process_allgather(table)
    rows = np.swapaxes(tables, 0, 1).reshape(-1, max_new_tokens)[: len(sources)]
    return [row[row != _NOTHING].tolist() for row in rows]


@eqx.filter_jit
def _summed_loss(model: Any, batch: dict[str, Any], compute_dtype: Any, loss: Loss | None) -> tuple[Array, Array]:
    if compute_dtype is not None:
        model = astype(model, compute_dtype)
    loss = None if loss is seq2seq_loss else loss
    return loss_of_batch(model, completed_batch(batch, model), loss, None, divisor=jnp.ones(()))


MARGIN, LEAST_MARGIN = 0.25, 8
"""Of the longest target, and in tokens: texts that the model has not seen may be somewhat longer."""


def with_length(model: EncoderDecoder, targets: Iterable[int], chosen: int | None = None) -> EncoderDecoder:
    """The model, its `generation_config` with a `max_new_tokens` if it has no length to stop at.

    Args:
        model: the model; a `max_length` or `max_new_tokens` of its own stays.
        targets: lengths of the targets seen, the end-of-sequence token included.
        chosen: the length that evaluations were given, which is then the model's too. Default: that of the longest
            target and a quarter, at least 8 tokens, more, as far as the decoder has positions.
    """
    options = model.generation_config or GenerationConfig()
    if own_length(model) is not None:
        return model
    most = max(targets)
    wanted = most + max(LEAST_MARGIN, math.ceil(MARGIN * most))
    # one position is the start token's
    limit = max(longest(model.decoder.config, None) - 1, most)
    options = dataclasses.replace(options, max_new_tokens=chosen or min(wanted, limit))
    return dataclasses.replace(model, generation_config=options)


def own_length(model: EncoderDecoder) -> tuple[str, int] | None:
    """The length that the model's generation settings give, by the name of the option; None if they give none."""
    options = model.generation_config or GenerationConfig()
    given = {name: getattr(options, name) for name in ("max_new_tokens", "max_length")}
    return next(((name, value) for name, value in given.items() if value is not None), None)


def too_short(model: EncoderDecoder, targets: Iterable[int]) -> str | None:
    """What is to be said of a model whose own length cuts targets that it is trained on; None: it cuts none."""
    own, most = own_length(model), max(targets)
    if own is None or own[1] - (own[0] == "max_length") >= most:  # which counts the start token
        return None
    return (
        f"the model's generation settings have {own[0]}={own[1]}, and the longest target has {most} tokens: what it "
        "generates will be cut. Pass max_new_tokens to generate, or change generation_config.json in model/."
    )
