"""Filters of sampling: temperature, and which tokens may be drawn by rank, probability or surprise.

`keep` is how many of the best tokens stay whatever a rule says, as in torch.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from .form import Length, Logits, Prefix

Rows = Float[Array, "rows 1"]
Column = Int32[Array, "rows 1"]
Bits = Int32[Array, "rows vocab"]
Mask = Bool[Array, "rows _"]


class Temperature(eqx.Module):
    """Logits divided by `temperature`."""

    temperature: Float[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return logits / self.temperature


class TopK(eqx.Module):
    """Only the k largest logits, and those equal to the smallest of them."""

    k: Int32[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        bits = _ordered(logits)
        return jnp.where(bits < _kth_largest(bits, self.k), -jnp.inf, logits)


class TopP(eqx.Module):
    """Only the most probable tokens: the least probable ones that have `tail` together are cut (Holtzman et al. 2020).

    As in torch the last to be cut is the last one whose probability, with those of all smaller ones, adds up to at most
    `tail`, which is 1 - `top_p`. Of equal logits those with smaller ids are cut first (torch leaves open which, but not
    how many).
    """

    tail: Float[ArrayLike, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        bits, probabilities = _ordered(logits), jax.nn.softmax(logits, axis=-1)
        most = max(logits.shape[-1] - self.keep, 0)
        beyond = _least(lambda bound: _total(probabilities, bits <= bound) > self.tail, bits.shape[0], *_FLOATS)
        untouched = _kth_largest(bits, np.asarray(self.keep, np.int32))
        # Everything below `bound` is cut, and as many of its equals as still fit.
        bound = jnp.minimum(beyond, untouched)
        equal = bits == bound
        each = jnp.max(jnp.where(equal, probabilities, 0.0), axis=-1, keepdims=True)
        fit = jnp.floor((self.tail - _total(probabilities, bits < bound)) / each)
        fit = jnp.where(beyond > untouched, most, jnp.clip(fit, 0, most).astype(jnp.int32))
        fit = jnp.minimum(fit, most - _count(bits < bound))
        ids = jax.lax.broadcasted_iota(jnp.int32, bits.shape, 1)
        last = _least(lambda id_: _count(equal & (ids <= id_)) >= fit, bits.shape[0], -1, logits.shape[-1])
        return jnp.where((bits > bound) | (equal & (ids > last)), logits, -jnp.inf)


class MinP(eqx.Module):
    """Only tokens at least `fraction` times as probable as the most probable one (Nguyen et al. 2024)."""

    fraction: Float[ArrayLike, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        probabilities = jax.nn.softmax(logits, axis=-1)
        kept = probabilities >= self.fraction * jnp.max(probabilities, axis=-1, keepdims=True)
        # the most probable one passes by itself
        return jnp.where(kept | _largest(logits, self.keep) if self.keep > 1 else kept, logits, -jnp.inf)


class Typical(eqx.Module):
    """Only tokens whose surprise is closest to the entropy, as many as have `mass` together (Meister et al. 2022)."""

    mass: Float[ArrayLike, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        logs = jax.nn.log_softmax(logits, axis=-1)
        probabilities, distances = jnp.exp(logs), jnp.abs(-logs - _entropy(logs))
        bits = _ordered(distances)
        kept = bits <= _least(lambda bound: _total(probabilities, bits <= bound) >= self.mass, bits.shape[0], *_FLOATS)
        # the closest one is never beyond the bound
        return jnp.where(kept | _largest(-distances, self.keep) if self.keep > 1 else kept, logits, -jnp.inf)


class Epsilon(eqx.Module):
    """Only tokens at least `least` probable (Hewitt et al. 2022)."""

    least: Float[ArrayLike, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        kept = jax.nn.softmax(logits, axis=-1) >= self.least
        return jnp.where(kept | _kept_anyway(logits, self.keep), logits, -jnp.inf)


class Eta(eqx.Module):
    """The same with a bound that sinks where the entropy is high: sqrt(least) * exp(-entropy), if that is lower."""

    least: Float[ArrayLike, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        logs = jax.nn.log_softmax(logits, axis=-1)
        least = jnp.minimum(self.least, jnp.sqrt(self.least) * jnp.exp(-_entropy(logs)))
        kept = jax.nn.softmax(logits, axis=-1) >= least
        return jnp.where(kept | _kept_anyway(logits, self.keep), logits, -jnp.inf)


def _entropy(logs: Logits) -> Rows:
    """Of log-probabilities; what has no probability adds nothing."""
    return -jnp.sum(jnp.where(logs == -jnp.inf, 0.0, logs * jnp.exp(logs)), axis=-1, keepdims=True)


def _largest(values: Logits, count: int) -> Mask:
    """Where the `count` largest of each row are, the first of equals."""
    ids = jax.lax.top_k(values, min(count, values.shape[-1]))[1]
    return jnp.zeros(values.shape, jnp.bool_).at[jnp.arange(values.shape[0])[:, None], ids].set(True)


def _kept_anyway(logits: Logits, keep: int) -> Mask:
    """The `keep` largest logits of each row, and those equal to the smallest of them."""
    if keep == 1:
        return logits >= jnp.max(logits, axis=-1, keepdims=True)
    return logits >= jax.lax.top_k(logits, min(keep, logits.shape[-1]))[0][:, -1:]


# --- bounds found by halving -----------------------------------------------------------------------------------------
#
# A bound between "kept" and "cut" is a number of the row. It is found without sorting: floats and integers of the same
# order have 32 bits, so 32 sums over the row narrow it down to one. Measured on CPU, 16 rows of 50,257: 6 to 11 ms a
# rule, where `lax.top_k` of 50 takes 129, a sort of bare numbers 38 and one that takes others along over 600.


def _ordered(numbers: Logits) -> Bits:
    """Integers in the order of the floats: all bits but the sign of negative numbers, which grow downwards, flipped."""
    bits = jax.lax.bitcast_convert_type(jnp.where(numbers == 0, 0.0, numbers), jnp.int32)  # zero has two forms
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


_FLOATS = (-0x7F800001, 0x7F800000)
"""`_ordered` of minus and plus infinity."""


def _least(holds: Callable[[Column], Mask], rows: int, low: int, high: int) -> Column:
    """For each row the least number from `low` to `high` at which something holds that holds from then on.

    Where it holds nowhere, `high`.
    """

    def halve(_: Int32[Array, ""], bounds: tuple[Column, Column]) -> tuple[Column, Column]:
        low, high = bounds
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # the sum could be too large
        enough = holds(middle)
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    ends = (jnp.full((rows, 1), low, jnp.int32), jnp.full((rows, 1), high, jnp.int32))
    return jax.lax.fori_loop(0, (high - low).bit_length(), halve, ends)[1]


def _kth_largest(bits: Bits, k: Int32[ArrayLike, ""]) -> Column:
    """The k-th largest of each row: the least number of which fewer than k are larger."""
    return _least(lambda bound: _count(bits > bound) < k, bits.shape[0], *_FLOATS)


def _total(weights: Logits, where: Mask) -> Rows:
    return jnp.sum(jnp.where(where, weights, 0.0), axis=-1, keepdims=True)


def _count(where: Mask) -> Column:
    return jnp.sum(where, axis=-1, keepdims=True, dtype=jnp.int32)
