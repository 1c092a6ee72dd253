"""The source side of `generate`: inputs checked on the host, padded to a bucket, encoded by one compiled program.

The ids of a library encoder are padded; of any other encoder only the states.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from .._inputs import float_mask_advice
from .._typing import ArrayLike
from ..config import StackConfig
from ..encoder import EncoderOutput
from ..inputs.tokens import longest
from .buckets import LEAST_SOURCE, bucket


def on_host(name: str, value: Any, *, rank: int = 2) -> np.ndarray:
    """A jax or NumPy array as a NumPy array of the expected rank.

    Raises:
        TypeError: if it is something else, or has another rank.
    """
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be a jax or NumPy array, got {type(value).__name__}: pass np.asarray(...).")
    if value.ndim != rank:
        raise TypeError(f"{name} must have {rank} axes (batch first), got shape {tuple(value.shape)}.")
    if 0 in value.shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(value.shape)}; at least one row and token are needed.")
    return np.asarray(value)


def host_ids(name: str, value: Any, *, below: int, table: str) -> np.ndarray:
    """Ids as int32, each in [0, below).

    Raises:
        TypeError: if they are not integers of shape (batch, length).
        ValueError: if one is out of range.
    """
    array = on_host(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}.")
    wrong = (array < 0) | (array >= below)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}; expected 0 to {below - 1} ({table} has {below} rows). "
            "Check that the ids come from this model's own tokenizer."
        )
    return array.astype(np.int32)


def host_mask(name: str, value: Any, *, shape: tuple[int, int], of: str) -> np.ndarray:
    """A mask of 0 and 1 (or bools) as bools; every row has a real token.

    Raises:
        TypeError: if it holds floats or has another shape than what it masks.
        ValueError: if it holds other numbers, or a row without a real token.
    """
    array = on_host(name, value)
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must hold bools or integers 0 and 1 (1: may be attended), got {array.dtype}. "
            f"{float_mask_advice(name, array)}"
        )
    if array.shape != shape:
        raise TypeError(f"{name} must have the shape of {of}, {shape}, got {array.shape}.")
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise ValueError(f"{name} holds {wrong}; expected 1 (real token) or 0 (padding).")
    empty = ~array.astype(bool).any(axis=1)
    if empty.any():
        raise ValueError(f"row {int(np.argmax(empty))} of {name} has no real token: all of it is 0. Leave the row out.")
    return array.astype(bool)


def check_positions(name: str, tokens: int, *, longest: int, how: str) -> None:
    """Refuse sequences that a table of positions cannot number.

    Raises:
        ValueError: if `tokens` exceeds `longest`.
    """
    if tokens > longest:
        raise ValueError(f"{name} is {tokens} tokens long, but the table of positions numbers at most {longest}. {how}")


@functools.lru_cache
def longest_sequence(config: StackConfig) -> int:
    """The most tokens whose positions are counted that a stack can number."""
    return longest(config, None)


def host_level(*values: Any) -> None:
    """Refuse to run inside a transformation.

    Raises:
        RuntimeError: if a leaf is traced, or everything is.
    """
    # Under jit even a new constant is traced, also where all arguments are concrete.
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((values, jax.device_put(np.zeros(()))))):
        raise RuntimeError(
            "generate runs on the host: it pads, loops and trims outside jit, and compiles its own programs. It was "
            "called inside jit, vmap, grad or another transformation. Call it outside, or build a loop of your own "
            "from model.init_cache and model.decode, which are plain functions to jit."
        )


class Encoded(NamedTuple):
    """A source as the decoder reads it.

    Attributes:
        states: the encoder's states (padded batch, padded source, hidden).
        mask: which of them may be attended.
        width: how many columns are not the bucket's padding.
    """

    states: ArrayLike
    mask: np.ndarray
    width: int


@dataclass(frozen=True)
class Source:
    """A checked source, not encoded yet.

    Attributes:
        batch: number of source sequences.
        encode: runs the encoder, if it has to run.
        ids: (batch, source) the token ids, if that is what the source came as.
    """

    batch: int
    encode: Callable[[], Encoded]
    ids: np.ndarray | None = None


@eqx.filter_jit
def _encode(encoder: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> EncoderOutput:
    with jax.named_scope("encode"):
        return encoder(*inputs, key=None, **options)


def from_ids(
    encoder: Any,
    config: StackConfig,
    input_ids: Any,
    *,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
) -> Source:
    """The source of a library encoder: ids, padded on the right to the bucket, dummy sequences below.

    Raises:
        TypeError: for a wrong shape or dtype.
        ValueError: for ids, positions or lengths that a table does not have, or a mask that is not 0 and 1.
    """
    ids = host_ids("input_ids", input_ids, below=config.vocab_size, table="the encoder's token table")
    most = longest_sequence(config) if position_ids is None else longest(config, position_ids)
    check_positions("input_ids", ids.shape[1], longest=most, how="Truncate the source.")
    mask = _mask_or_ones(attention_mask, ids.shape, "input_ids")
    rows, width = bucket(ids.shape[0]), bucket(ids.shape[1], least=LEAST_SOURCE, most=most)
    # RoBERTa's positions count ids that are not padding: the bucket's padding must not be counted.
    fill = config.positions.padding_idx if config.positions.counting == "non_padding" else None
    inputs = _padded(ids, rows, width, fill or 0)
    options: dict[str, Any] = {"attention_mask": _padded(mask, rows, width), "position_ids": None}
    if position_ids is not None:
        table = config.positions.limit
        positions = _like_ids("position_ids", position_ids, ids, below=table, table="the encoder's position table")
        options["position_ids"] = _padded(positions, rows, width)
    if token_type_ids is not None:
        types = _like_ids("token_type_ids", token_type_ids, ids, below=_types(config), table="its table of types")
        options["token_type_ids"] = _padded(types, rows, width)
    return Source(
        ids.shape[0],
        lambda: Encoded(
            _encode(encoder, (inputs,), options).last_hidden_state, options["attention_mask"], ids.shape[1]
        ),
        ids,
    )


def from_any(
    encoder: Any, inputs: Any, *, attention_mask: Any = None, position_ids: Any = None, token_type_ids: Any = None
) -> Source:
    """The source of any other encoder: encoded as it is (one program a shape), then the states are padded."""
    options = {"attention_mask": attention_mask, "position_ids": position_ids}
    if token_type_ids is not None:
        options["token_type_ids"] = token_type_ids
    leaves = [leaf for leaf in jax.tree.leaves(inputs) if eqx.is_array(leaf)]
    if not leaves or not leaves[0].ndim:
        raise TypeError(f"the source must hold an array with the batch as its first axis, got {type(inputs).__name__}.")

    def encode() -> Encoded:
        out = _encode(encoder, (inputs,), options)
        mask = attention_mask if out.attention_mask is None else out.attention_mask
        return _padded_states(out.last_hidden_state, mask)

    return Source(leaves[0].shape[0], encode, _token_ids(inputs))


def from_outputs(
    outputs: EncoderOutput,
    input_ids: Any = None,
    *,
    hidden_size: int,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
) -> Source:
    """States that were encoded before.

    Args:
        outputs: what `encode` returned.
        input_ids: accepted, as many callers pass them along; their batch is looked at, and rules that compare with
            the source read them.
        hidden_size: width of the states.
        attention_mask: which states may be attended; a mask inside `outputs` wins.
        position_ids: an error, as the encoder does not run.
        token_type_ids: likewise.

    Raises:
        TypeError: for states of another rank or width, a mask of another shape or dtype, `input_ids` of another batch.
        ValueError: for a mask that is not 0 and 1, or arguments that only an encoder could use.
    """
    for name, value in (("position_ids", position_ids), ("token_type_ids", token_type_ids)):
        if value is not None:
            raise ValueError(f"{name} would do nothing: with encoder_outputs the encoder does not run. Leave it out.")
    if not isinstance(outputs, EncoderOutput):
        raise TypeError(f"encoder_outputs must be the EncoderOutput of model.encode, got {type(outputs).__name__}.")
    states = outputs.last_hidden_state
    if states.ndim != 3 or states.shape[-1] != hidden_size:
        raise TypeError(
            f"encoder_outputs.last_hidden_state must have shape (batch, source, {hidden_size}), the encoder's "
            f"hidden_size, got {tuple(states.shape)}. States must not be projected."
        )
    batches = [np.shape(leaf)[0] for leaf in jax.tree.leaves(input_ids) if np.ndim(leaf)]
    if batches and batches[0] != states.shape[0]:
        raise TypeError(f"input_ids have batch {batches[0]}, encoder_outputs have batch {states.shape[0]}.")
    mask = attention_mask if outputs.attention_mask is None else outputs.attention_mask
    padded = _padded_states(states, mask)
    return Source(states.shape[0], lambda: padded, _token_ids(input_ids))


def padded_ids(ids: np.ndarray) -> np.ndarray:
    """Token ids padded to their bucket, for rules that compare with the source."""
    return _padded(ids, bucket(ids.shape[0]), bucket(ids.shape[1], least=LEAST_SOURCE))


def _token_ids(inputs: Any) -> np.ndarray | None:
    """The inputs, if they are token ids."""
    is_ids = eqx.is_array_like(inputs) and np.ndim(inputs) == 2 and np.asarray(inputs).dtype.kind in "iu"
    return np.asarray(inputs).astype(np.int32) if is_ids else None


def _padded_states(states: ArrayLike, mask: Any) -> Encoded:
    batch, length = states.shape[:2]
    rows, width = bucket(batch), bucket(length, least=LEAST_SOURCE)
    allowed = _mask_or_ones(mask, (batch, length), "the encoder's states")
    if (batch, length) != (rows, width):
        states = _padded(np.asarray(states), rows, width)
    return Encoded(states, _padded(allowed, rows, width), length)


def _mask_or_ones(mask: Any, shape: tuple[int, ...], of: str) -> np.ndarray:
    batch, length = shape
    if mask is None:
        return np.ones((batch, length), bool)
    return host_mask("attention_mask", mask, shape=(batch, length), of=of)


def _like_ids(name: str, value: Any, ids: np.ndarray, *, below: int, table: str) -> np.ndarray:
    array = host_ids(name, value, below=below, table=table)
    if array.shape != ids.shape:
        raise TypeError(f"{name} must have the shape of input_ids, {ids.shape}, got {array.shape}.")
    return array


def _types(config: StackConfig) -> int:
    types = config.vocab_size if config.embeddings.token_types_from_tokens else config.embeddings.token_type_size
    if not types:
        raise ValueError(f"token_type_ids are given, but this {config.model_type} encoder has no token types.")
    return types


def _padded(array: np.ndarray, rows: int, width: int, fill: int = 0) -> np.ndarray:
    """Padded on the right to `width`; further rows repeat the first, so that they are as harmless as it is."""
    batch, length = array.shape[:2]
    widened = np.full((batch, width, *array.shape[2:]), fill, array.dtype)
    widened[:, :length] = array
    return np.concatenate([widened, np.repeat(widened[:1], rows - batch, axis=0)])
