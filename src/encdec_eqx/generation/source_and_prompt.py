"""What a run reads, on the host: the source, which one compiled program encodes, and prompts; padded to buckets.

Sizes that arrays are padded up to are the same for every axis: 1, 2, 3, 4, then 2^n times 1, 5/4 and 3/2 (5, 6, 8, 10,
12, 16, 20, 24, 32, ...), starting at a least size. At most a quarter of a padded axis is padding, and a tenfold range
takes ten sizes. The ids of a library encoder are padded; of any other encoder only the states.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.core import Tracer

from .._inputs import host_ids, host_mask, with_lengths
from .._padding import RightPadding
from .._typing import ArrayLike
from ..config import StackConfig
from ..encoder import EncoderOutput
from ..inputs.counting import PositionRule as PositionRule
from ..inputs.tokens import check_positions_used, longest

LEAST_SOURCE = 16
LEAST_PREFIX = 8
LEAST_SLOTS = 16


@functools.lru_cache(maxsize=4096)
def bucket(size: int, *, least: int = 1, most: int | None = None, parts: int = 1) -> int:
    """The smallest size of the grid that holds `size`.

    Args:
        size: what has to fit, at least 1.
        least: the grid's first size.
        most: a limit of the model (the length of a table), at least `size`; it ends the grid.
        parts: what the size must be a multiple of: each of so many parts then has a size of the grid.
    """
    if parts > 1:
        return parts * bucket(-(-size // parts), least=-(-least // parts), most=None if most is None else most // parts)
    octave = 1 << (size.bit_length() - 1)
    steps = (octave, 5 * octave // 4, 3 * octave // 2, 2 * octave)
    fits = max(least, next(step for step in steps if step >= size))
    return fits if most is None else min(fits, most)


@dataclass(frozen=True)
class TargetBucket:
    """Sizes of the decoder's side.

    Attributes:
        prefix: prompt tokens before the last one, padded on the left (0 if there are none).
        slots: places of the self-attention cache.
    """

    prefix: int
    slots: int

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, prefix: int, new: int, *, most: int) -> "TargetBucket":
        """The sizes for a prompt of `prefix` + 1 tokens and `new` generated ones.

        A token is fed to the decoder, and takes a slot, when the next one is wanted: the prompt's last token and all
        generated ones but the last. So `prefix + new` slots are used, of at most `most`, the longest sequence that
        the decoder's table of positions allows. Near that limit the prefix gets what the new tokens leave.
        """
        padded = min(bucket(prefix, least=LEAST_PREFIX), most - new) if prefix else 0
        return cls(prefix=padded, slots=bucket(padded + new, least=LEAST_SLOTS, most=most))


_MOST_SLOTS = 2**24
"""Slots of the decoder's cache over all rows: 400 GB of keys and values in a decoder of 6 layers of width 512."""

MOST_PAIRS = 2**28
"""Of tokens that are fed at once and slots they may attend to, over all rows: each is a number in every head."""

_MOST_SCORES = 2**31
"""Logits of one step, 8 GiB."""


def check_run(sequences: int, rows: int, at_once: int, slots: int, vocab_size: int) -> None:
    """Refuse runs, mistyped or made up, that are far beyond what one device holds; before anything is allocated.

    For each of the sequences there are `rows` of the cache, for each of them a step feeds `at_once` tokens.
    """
    sizes = f"{sequences:,} sequences of {rows * at_once:,} beams, samples or candidates with room for {slots:,} tokens"
    how = "Lower num_beams, num_return_sequences, top_k of contrastive search, max_new_tokens, or the batch."
    for name, size, most in (
        ("slots of the decoder's cache", sequences * rows * slots * at_once, _MOST_SLOTS),
        ("pairs of tokens and slots in every step", sequences * rows * slots * at_once**2, MOST_PAIRS),
        ("logits in every step", sequences * rows * at_once * vocab_size, _MOST_SCORES),
    ):
        if size > most:
            raise ValueError(f"this run is too large: {sizes} need {size:,} {name}, and {most:,} are allowed. {how}")


def check_positions(name: str, tokens: int, *, longest: int, how: str) -> None:
    """Refuse sequences that a table of positions cannot number."""
    if tokens > longest:
        raise ValueError(f"{name} is {tokens} tokens long, but the table of positions numbers at most {longest}. {how}")


@functools.lru_cache
def longest_sequence(config: StackConfig) -> int:
    """The most tokens whose positions are counted that a stack can number."""
    return longest(config, None)


def host_level(*values: Any) -> None:
    """Refuse to run inside a transformation: a `RuntimeError` if a leaf is traced, or everything is."""
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
    mask: ArrayLike | RightPadding
    width: int


@dataclass(frozen=True)
class Source:
    """A checked source, not encoded yet.

    Attributes:
        batch: number of source sequences.
        encode: runs the encoder, if it has to run.
        ids: (batch, source) the token ids, if that is what the source came as.
        parts: what its rows are padded to a multiple of; more than 1 on a mesh.
    """

    batch: int
    encode: Callable[[], Encoded]
    ids: np.ndarray | None = None
    parts: int = 1


@eqx.filter_jit
def _encode(encoder: Any, inputs: Any, options: dict[str, Any]) -> EncoderOutput:
    with jax.named_scope("encode"):
        return encoder(inputs, key=None, **options)


def from_ids(
    encoder: Any,
    config: StackConfig,
    input_ids: Any,
    *,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
    parts: int = 1,
) -> Source:
    """The source of a library encoder: ids, padded on the right to the bucket, dummy sequences below."""
    ids = host_ids("input_ids", input_ids, below=config.vocab_size, table="the encoder's token table")
    most = longest_sequence(config) if position_ids is None else longest(config, position_ids)
    check_positions("input_ids", ids.shape[1], longest=most, how="Truncate the source.")
    mask = host_mask("attention_mask", attention_mask, shape=ids.shape, of="input_ids")
    rows, width = bucket(ids.shape[0], parts=parts), bucket(ids.shape[1], least=LEAST_SOURCE, most=most)

    def like_ids(name: str, value: Any, below: int, table: str) -> np.ndarray:
        array = host_ids(name, value, below=below, table=table)
        if array.shape != ids.shape:
            raise TypeError(f"{name} must have the shape of input_ids, {ids.shape}, got {array.shape}.")
        return _padded(array, rows, width)

    mask = _padded(mask, rows, width)
    known = with_lengths(mask)
    taken = known if getattr(encoder, "takes_right_padding", False) else mask
    options: dict[str, Any] = {"attention_mask": taken, "position_ids": None}
    if position_ids is not None:
        check_positions_used(config)
        table = "the encoder's position table"
        options["position_ids"] = like_ids("position_ids", position_ids, config.positions.limit, table)
    if token_type_ids is not None:
        embedded = config.embeddings
        types = config.vocab_size if embedded.token_types_from_tokens else embedded.token_type_size
        if not types:
            raise ValueError(f"token_type_ids are given, but this {config.model_type} encoder has no token types.")
        options["token_type_ids"] = like_ids("token_type_ids", token_type_ids, types, "its table of types")
    # RoBERTa's positions count ids that are not padding: the bucket's padding must not be counted.
    fill = config.positions.padding_idx if config.positions.counting == "non_padding" else None
    padded = _padded(ids, rows, width, fill or 0)

    def encode() -> Encoded:
        return Encoded(_encode(encoder, padded, options).last_hidden_state, known, ids.shape[1])

    return Source(ids.shape[0], encode, ids, parts)


def from_any(
    encoder: Any,
    inputs: Any,
    *,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
    parts: int = 1,
) -> Source:
    """The source of any other encoder: encoded as it is (one program a shape), then the states are padded.

    On a mesh rows like the first are added before, so that they divide among the devices.
    """
    options = {"attention_mask": attention_mask, "position_ids": position_ids}
    if token_type_ids is not None:
        options["token_type_ids"] = token_type_ids
    leaves = [leaf for leaf in jax.tree.leaves(inputs) if eqx.is_array(leaf)]
    if not leaves or not leaves[0].ndim:
        raise TypeError(f"the source must hold an array with the batch as its first axis, got {type(inputs).__name__}.")

    batch = leaves[0].shape[0]

    def encode() -> Encoded:
        read, how = _with_rows((inputs, options), batch, -batch % parts)
        return _padded_states(_encode(encoder, read, how), how["attention_mask"], parts)

    return Source(batch, encode, _token_ids(inputs), parts)


def from_outputs(
    outputs: EncoderOutput,
    input_ids: Any = None,
    *,
    hidden_size: int,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
    parts: int = 1,
) -> Source:
    """States of that width that were encoded before; a mask inside `outputs` wins.

    `input_ids` are accepted, as many callers pass them along: rules that compare with the source read them.
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
    padded = _padded_states(outputs, attention_mask, parts)
    return Source(states.shape[0], lambda: padded, _token_ids(input_ids), parts)


def padded_source(ids: np.ndarray, rows: int) -> np.ndarray:
    """Token ids padded to so many rows and their bucket, for rules that compare with the source."""
    return _padded(ids, rows, bucket(ids.shape[1], least=LEAST_SOURCE))


def _token_ids(inputs: Any) -> np.ndarray | None:
    """The inputs, if they are token ids."""
    is_ids = eqx.is_array_like(inputs) and np.ndim(inputs) == 2 and np.asarray(inputs).dtype.kind in "iu"
    return np.asarray(inputs).astype(np.int32) if is_ids else None


def _padded_states(outputs: EncoderOutput, mask: Any, parts: int) -> Encoded:
    states, mask = outputs.last_hidden_state, mask if outputs.attention_mask is None else outputs.attention_mask
    batch, length = states.shape[:2]
    rows, width = bucket(batch, parts=parts), bucket(length, least=LEAST_SOURCE)
    allowed = host_mask("attention_mask", mask, shape=(batch, length), of="the encoder's states")
    if (batch, length) != (rows, width):
        states = _padded(np.asarray(states), rows, width)
    return Encoded(states, with_lengths(_padded(allowed, rows, width)), length)


def _with_rows(tree: Any, batch: int, more: int) -> Any:
    """Arrays of `batch` rows with `more`, which are like the first."""

    def longer(leaf: Any) -> Any:
        if not more or not eqx.is_array(leaf) or leaf.shape[:1] != (batch,):
            return leaf
        return np.concatenate([leaf, np.repeat(leaf[:1], more, axis=0)])

    return jax.tree.map(longer, tree)


def _padded(array: np.ndarray, rows: int, width: int, fill: int = 0) -> np.ndarray:
    """Padded on the right to `width`; further rows repeat the first, so that they are as harmless as it is."""
    batch, length = array.shape[:2]
    widened = np.full((batch, width, *array.shape[2:]), fill, array.dtype)
    widened[:, :length] = array
    return np.concatenate([widened, np.repeat(widened[:1], rows - batch, axis=0)])


@dataclass(frozen=True)
class Prompt:
    """What the decoder starts from, one row per source sequence.

    Attributes:
        ids: (batch, width) the prompt as it will stand in the result, start token and left padding included.
        real: (batch, width) False at left padding.
    """

    ids: np.ndarray
    real: np.ndarray

    @property
    def width(self) -> int:
        """Tokens that `max_length` counts as the prompt, left padding included, as in torch."""
        return self.ids.shape[1]

    def trimmed(self) -> "Prompt":
        """Without columns that are padding in every row: what the decoder has to see."""
        first = int(np.argmax(self.real.any(axis=0)))
        return Prompt(self.ids[:, first:], self.real[:, first:])

    def padded(self, rows: int, width: int) -> "Prompt":
        """Padded to `rows` by copies of the first row, and on the left to `width`."""
        more, left = rows - self.ids.shape[0], width - self.width
        ids, real = (np.concatenate([a, np.repeat(a[:1], more, axis=0)]) for a in (self.ids, self.real))
        return Prompt(np.pad(ids, ((0, 0), (left, 0))), np.pad(real, ((0, 0), (left, 0))))


def start_only(batch: int, start: int | np.ndarray) -> Prompt:
    """Every row holds the start token, or its own."""
    return Prompt(np.array(np.broadcast_to(np.int32(start), (batch,)))[:, None], np.ones((batch, 1), bool))


def from_user(ids: object, mask: object, *, batch: int, vocab_size: int, start: int | np.ndarray) -> Prompt:
    """A user's `decoder_input_ids`, with the start token (or a row's own) in front if no row begins with it.

    torch prepends it under the same condition. In a left-padded row it comes before the first real token. Without ids
    there is nothing else.
    """
    if ids is None and mask is None:
        return start_only(batch, start)
    if ids is None:
        raise ValueError("decoder_attention_mask is given without decoder_input_ids: there is nothing to mask.")
    array = host_ids("decoder_input_ids", ids, below=vocab_size, table="the decoder's token table")
    if array.shape[0] != batch:
        raise TypeError(
            f"decoder_input_ids must have one row per sentence: {batch}, got shape {array.shape}. For several results "
            "per sentence pass num_return_sequences."
        )
    real = host_mask("decoder_attention_mask", mask, shape=array.shape, of="decoder_input_ids")
    wrong = (real[:, :-1] & ~real[:, 1:]).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"row {row} of decoder_attention_mask is {real[row].astype(int).tolist()}: padding follows real tokens, "
            "and generated tokens would follow the padding. Pad prompts on the left (tokenizer.padding_side='left')."
        )
    first, starts = np.argmax(real, axis=1)[:, None], start_only(batch, start).ids
    if (np.take_along_axis(array, first, axis=1) == starts).any():
        return Prompt(array, real)
    # one column more; the start token stands right before each row's first real token
    column = np.arange(array.shape[1] + 1)[None, :]
    before, behind = np.pad(array, ((0, 0), (0, 1)), mode="edge"), np.pad(array, ((0, 0), (1, 0)), mode="edge")
    wider = np.where(column < first, before, np.where(column == first, starts, behind))
    return Prompt(wider, column >= first)


def key_data(key: Any, batch: int, padded_batch: int) -> np.ndarray:
    """The words of the caller's key, or of one key per source sequence, the latter padded to the bucket."""
    data = _words(key)
    if data.ndim == 1:
        return data
    if data.ndim != 2 or data.shape[0] != batch:
        raise ValueError(f"key must be one key or {batch} keys, one per sequence; got shape {data.shape[:-1]}.")
    return np.concatenate([data, np.repeat(data[:1], padded_batch - batch, axis=0)])


def _words(key: Any) -> np.ndarray:
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a jax PRNG key, got {type(key).__name__}: pass jax.random.key(seed).")
    if jnp.issubdtype(key.dtype, dtypes.prng_key):
        implementation = str(jax.random.key_impl(key))
        if implementation != "threefry2x32":
            raise NotImplementedError(
                f"key belongs to the generator {implementation}, whose numbers depend on the batch they are drawn in: "
                "a row's sample would depend on the other rows. Pass jax.random.key(seed, impl='threefry2x32')."
            )
        return np.asarray(jax.random.key_data(key))
    words = np.asarray(key)
    if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] != 2:
        got = f"shape {words.shape} of {words.dtype}"
        raise TypeError(f"key must be a jax PRNG key, got {got}: pass jax.random.key(seed).")
    return words
