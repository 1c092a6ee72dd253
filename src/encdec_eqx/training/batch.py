"""What a training batch may hold: checked on the host before anything is traced, completed while tracing; its loss."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._inputs import as_ids, as_mask, float_mask_advice
from .._quoting import quoted
from .._typing import Array, ArrayLike, PRNGKey
from ..encoder import token_config
from ..encoder_decoder import EncoderDecoder
from ..inputs.tokens import as_token_types, check_positions_used
from ..targets import TargetForm
from .loss import (
    IGNORED,
    Loss,
    check_label_range,
    divided_loss_from_hidden,
    seq2seq_loss,
    shift_tokens_right,
)

REQUIRED = ("input_ids", "labels")
MASKS = ("attention_mask", "decoder_attention_mask")
KEYS = (
    *REQUIRED,
    *MASKS,
    "token_type_ids",
    "position_ids",
    "decoder_input_ids",
    "decoder_position_ids",
)
"""All that a batch may hold: the words of the model's own call, and `labels`."""


def checked_batch(batch: Mapping[str, ArrayLike | None], model: Any) -> dict[str, Array]:
    """The batch with ids, labels and masks checked as far as their values are known; entries of None are dropped.

    Args:
        batch: Names from `KEYS` to arrays whose first axis is the batch.
        model: Whose vocabularies bound the ids. Inputs of an encoder that is not the library's are passed unchecked.

    Raises:
        TypeError: The batch is no mapping, or an entry no array of the right kind.
        ValueError: A key is unknown or missing, an id, label or mask out of range, or numbers of rows differ.
    """
    given = checked_entries(batch)
    check_label_range(given["labels"], model.decoder.config.vocab_size)
    ready: dict[str, Any] = {name: as_mask(name, x) if name in MASKS else jnp.asarray(x) for name, x in given.items()}
    return {**ready, **fitting(given, model)}


def fitting(given: Mapping[str, ArrayLike], model: Any) -> dict[str, Array]:
    """Those of the entries that index an embedding matrix of the model, as int32.

    Here and not while tracing, where the values cannot be seen and jax would clamp them. What goes into an encoder that
    is not the library's is left out.

    Raises:
        ValueError: A concrete value is out of its table's range, the encoder has no segments, or a T5 is given
            positions.
    """
    encoder, decoder, ready = model.encoder, model.decoder.config, {}
    limits = {
        "decoder_input_ids": (decoder.vocab_size, "the decoder's vocab_size"),
        "decoder_position_ids": (decoder.positions.limit, "the decoder's table of positions"),
    }
    if (source := token_config(encoder)) is not None:
        limits["input_ids"] = (source.vocab_size, "the encoder's vocab_size")
        limits["position_ids"] = (source.positions.limit, "the encoder's table of positions")
        if "token_type_ids" in given:
            ready["token_type_ids"] = as_token_types(source, given["token_type_ids"])
    for name, config in (("position_ids", source), ("decoder_position_ids", decoder)):
        if name in given and config is not None:
            check_positions_used(config, name)
    for name, (limit, what) in limits.items():
        if name in given:
            ready[name] = as_ids(name, given[name], limit, what)
    return ready


def checked_entries(batch: Mapping[str, ArrayLike | None]) -> dict[str, ArrayLike]:
    """The entries that are not None, their names, kinds and numbers of rows checked, their values not.

    Raises:
        TypeError: The batch is no mapping, or an entry no array of the right kind.
        ValueError: A key is unknown or missing, or numbers of rows differ.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"batch must be a mapping from names to arrays, got {type(batch).__name__}.")
    given = {name: value for name, value in batch.items() if value is not None}
    _check_names(given)
    _check_arrays(given)
    return given


def completed_batch(batch: dict[str, Array], model: Any) -> dict[str, Array]:
    """The batch with its decoder inputs, which are the labels moved right unless they were given.

    A row of mBART's labels may end with its language code, after EOS: that is the row's first input then.

    No decoder mask is added for the padding behind a row's last label: the decoder is causal, so no labelled position
    can see it.
    """
    if "decoder_input_ids" in batch:
        return batch
    form = TargetForm.of(model)
    inputs = shift_tokens_right(batch["labels"], form.pad, form.starts(batch["labels"]))
    return {**batch, "decoder_input_ids": inputs}


def loss_of_batch(
    model: Any, batch: dict[str, Any], loss: Loss | None, key: PRNGKey | None, *, divisor: Array, **options: Any
) -> tuple[Array, Array]:
    """The sum of the loss over a completed batch, divided, and its weight: of `loss`, or of `seq2seq_loss`.

    Args:
        model: a pair, or what is called like one.
        batch: with decoder inputs.
        loss: the user's own; None for `seq2seq_loss`.
        key: turns dropout on.
        divisor: of the sum.
        **options: of `seq2seq_loss`.
    """
    inputs = dict(batch)
    labels, ids, decoder_ids = (inputs.pop(name) for name in ("labels", "input_ids", "decoder_input_ids"))
    if why_whole_logits(model, loss) is None:
        with jax.named_scope("forward"):
            hidden = model.last_hidden_state(ids, decoder_ids, **inputs, key=key)
        total = divided_loss_from_hidden(model, hidden, labels, divisor, **options)
        return total, jnp.sum(labels != IGNORED, dtype=jnp.float32)
    with jax.named_scope("forward"):
        logits = model(ids, decoder_ids, **inputs, key=key).logits
    total, weight = seq2seq_loss(logits, labels, **options) if loss is None else loss(logits, labels)
    return total / divisor, weight


def why_whole_logits(model: Any, loss: Loss | None) -> str | None:
    """Why a step makes whole logits, and does not take the loss from hidden states; None: it does."""
    if loss is not None:
        return "the loss is a function of all logits (loss=...)"
    # eqx.combine makes a model of the same class, so the answer is the same for a state's parts
    if not isinstance(model, EncoderDecoder):
        return f"a {type(model).__name__} is no EncoderDecoder, which has last_hidden_state"
    if type(model).__call__ is not EncoderDecoder.__call__:
        return f"{type(model).__name__} has a __call__ of its own"
    return None


def _check_names(batch: Mapping[str, Any]) -> None:
    for name in batch:
        if name not in KEYS:
            near = difflib.get_close_matches(str(name), KEYS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"the batch holds {quoted(name)}, which no model reads{hint} Known names: {', '.join(KEYS)}."
            )
    for name in REQUIRED:
        if name not in batch:
            raise ValueError(
                f"the batch has no {name!r}; it holds {', '.join(map(quoted, list(batch)[:12])) or 'nothing'}."
            )


def _check_arrays(batch: Mapping[str, Any]) -> None:
    for name, value in batch.items():
        if not isinstance(value, jax.Array | np.ndarray):
            raise TypeError(
                f"{name!r} in the batch must be a jax or NumPy array, got {type(value).__name__}; np.asarray makes one."
            )
        boolean = name in MASKS and value.dtype == np.bool_
        # the inputs of an encoder that is not the library's may be anything: patches, features
        if name != "input_ids" and not boolean and not jnp.issubdtype(value.dtype, jnp.integer):
            wanted = "integers or bools" if name in MASKS else "integers"
            floats = name in MASKS and jnp.issubdtype(value.dtype, jnp.floating)
            advice = " " + float_mask_advice(name, value) if floats else ""
            raise TypeError(f"{name!r} in the batch must hold {wanted}, got {value.dtype}.{advice}")
    if batch["labels"].ndim != 2:
        raise TypeError(f"labels must have the axes (batch, target), got the shape {batch['labels'].shape}.")
    rows = {name: value.shape[0] if value.ndim else None for name, value in batch.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"entries of a batch must have equal numbers of rows, got {rows}.")
