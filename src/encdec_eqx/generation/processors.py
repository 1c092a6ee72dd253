"""What changes logits before a token is chosen: one callable module a rule, pure functions of their arguments.

A processor is called as `processor(logits, prefix, length)`: float32 logits (rows, vocab), and `prefix` (rows, width),
whose first `length` columns are the tokens so far, prompt and its left padding included. It returns the new logits.
Numbers that may differ from call to call are arrays (they are traced), so that only which processors are present, and
`top_k`, decide which program runs. A user's own processor is any `eqx.Module` of this form.

Must not know: models, caches, loops. The definitions are those of transformers 4.57.6, in its order.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from .._typing import Array, ArrayLike
from .resolve import Settings

Logits = Float[Array, "rows vocab"]
Prefix = Int32[Array, "rows width"]
Length = Int32[Array, ""]


@runtime_checkable
class Processor(Protocol):
    """The form of a processor."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        ...


def _without(logits: Logits, ids: Int32[ArrayLike, " ends"], when: Array) -> Logits:
    """Forbid some ids while a condition holds."""
    return jnp.where(when, logits.at[:, ids].set(-jnp.inf), logits)


class MinLength(eqx.Module):
    """No end while the sequence, prompt included, is shorter than `least`."""

    least: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
        return _without(logits, self.eos_ids, length < self.least)


class MinNewTokens(eqx.Module):
    """No end while fewer than `least` tokens follow the prompt."""

    least: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
        return _without(logits, self.eos_ids, length - self.prompt_width < self.least)


class SourceNGrams(eqx.Module):
    """No run of `size` tokens that the source has (`encoder_no_repeat_ngram_size`).

    Attributes:
        ids: the source's ids, a row a sentence.
        width: how many columns of them count; padding within them does, as in torch.
        size: length of the runs.
        rows_per_sentence: rows of the logits a sentence.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    size: int = eqx.field(static=True)
    rows_per_sentence: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        windows = self.ids.shape[1] - self.size + 1
        if windows < 1:
            return logits
        source = jnp.repeat(jnp.asarray(self.ids), self.rows_per_sentence, axis=0)
        repeated = jnp.broadcast_to((jnp.arange(windows) + self.size <= self.width)[None], (source.shape[0], windows))
        for at in range(self.size - 1):
            column = jnp.maximum(length - (self.size - 1) + at, 0)
            token = jax.lax.dynamic_slice_in_dim(prefix, column, 1, axis=1)
            repeated = repeated & (source[:, at : at + windows] == token)
        repeated = repeated & (length + 1 >= self.size)
        rows = jnp.arange(source.shape[0])[:, None]
        forbidden = jnp.zeros(logits.shape, jnp.bool_).at[rows, source[:, self.size - 1 :]].max(repeated)
        return jnp.where(forbidden, -jnp.inf, logits)


class ForcedToken(eqx.Module):
    """Nothing but some ids where the prefix has a certain length.

    Attributes:
        at: that length.
        ids: the ids, all equally likely.
    """

    at: Int32[ArrayLike, ""]
    ids: Int32[ArrayLike, " ids"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
        forced = jnp.full_like(logits, -jnp.inf).at[:, jnp.asarray(self.ids)].set(0.0)
        return jnp.where(length == self.at, forced, logits)


class Temperature(eqx.Module):
    """Logits divided by `temperature`."""

    temperature: Float[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return logits / self.temperature


class TopK(eqx.Module):
    """Only the k largest logits, and those equal to the smallest of them."""

    k: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        least = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))[0][:, -1:]
        return jnp.where(logits < least, -jnp.inf, logits)


class TopP(eqx.Module):
    """Only the fewest most probable tokens whose probabilities add up to `mass`, at least one (Holtzman et al. 2020).

    As in torch the tail is what is cut: from the least probable token on, as long as the sum is at most 1 - mass. Of
    equal logits those with smaller ids are cut first (torch leaves open which, but not how many).
    """

    mass: Float[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        ascending = _sorted(logits)
        sums = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
        # The sums grow, so what is cut is a beginning of the sorted row, up to some value and some of its equals.
        cut = jnp.minimum(jnp.sum(sums <= 1 - self.mass, axis=-1, keepdims=True), logits.shape[-1] - 1)
        least = jnp.take_along_axis(ascending, cut, axis=1)
        equal = logits == least
        equals_cut = cut - jnp.sum(logits < least, axis=-1, keepdims=True)
        kept = (logits > least) | (equal & (jnp.cumsum(equal, axis=-1) > equals_cut))
        return jnp.where(kept, logits, -jnp.inf)


def _sorted(logits: Logits) -> Logits:
    """Each row in ascending order.

    Sorted as integers of the same order, for which XLA has a fast routine on CPU: 2.4 ms a row of 50,257, not 42.
    """
    zero_has_one_form = jnp.where(logits == 0, 0.0, logits)
    ordered = jax.lax.sort(_flip_negative(jax.lax.bitcast_convert_type(zero_has_one_form, jnp.int32)), is_stable=False)
    return jax.lax.bitcast_convert_type(_flip_negative(ordered), jnp.float32)


def _flip_negative(bits: Int32[Array, "rows vocab"]) -> Int32[Array, "rows vocab"]:
    """All bits but the sign of negative numbers, whose floats grow in the other direction; its own inverse."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def build(
    settings: Settings,
    *,
    min_length: int,
    eos_ids: Sequence[int],
    prompt_width: int,
    rows_per_sentence: int,
    source: tuple[np.ndarray, int] | None = None,
) -> tuple[Processor, ...]:
    """The processors of one run, in torch's order; those that would change nothing are left out.

    Args:
        settings: what was asked for.
        min_length: in columns of the prefix (the settings' also counts columns that the prefix lacks).
        eos_ids: ids that end a row.
        prompt_width: columns of the prompt.
        rows_per_sentence: beams or samples.
        source: the source's ids and how many of their columns are not the bucket's padding.
    """
    ends = np.asarray(eos_ids, np.int32)
    chain: list[Processor] = []
    if settings.encoder_no_repeat_ngram_size > 0 and source is not None:
        ids, width = source
        size = settings.encoder_no_repeat_ngram_size
        chain.append(SourceNGrams(ids, np.asarray(width, np.int32), size, rows_per_sentence))
    if min_length > 0:
        chain.append(MinLength(np.asarray(min_length, np.int32), ends))
    if settings.min_new_tokens > 0:
        chain.append(
            MinNewTokens(np.asarray(settings.min_new_tokens, np.int32), np.asarray(prompt_width, np.int32), ends)
        )
    if settings.forced_bos_token_id is not None:
        chain.append(ForcedToken(np.asarray(1, np.int32), np.asarray([settings.forced_bos_token_id], np.int32)))
    if settings.forced_eos_token_ids:
        last = np.asarray(prompt_width + settings.max_new_tokens - 1, np.int32)
        chain.append(ForcedToken(last, np.asarray(settings.forced_eos_token_ids, np.int32)))
    if settings.temperature != 1.0:
        chain.append(Temperature(np.asarray(settings.temperature, np.float32)))
    if settings.top_k > 0:
        chain.append(TopK(settings.top_k))
    if settings.top_p < 1.0:
        chain.append(TopP(np.asarray(settings.top_p, np.float32)))
    return tuple(chain)


def apply(processors: Sequence[Processor], logits: Logits, prefix: Prefix, length: Length) -> Logits:
    """All processors, one after another."""
    for processor in processors:
        logits = processor(logits, prefix, length)
    return logits
