"""From the caller's PRNG key to one key a row and token: checked on the host, folded in the program.

Must not know: models, strategies. Row (r, s) of sentence r and sample s draws token t with
`fold_in(fold_in(fold_in(key, r), s), t)`; an array of one key a sentence takes the place of `fold_in(key, r)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Int32, Key, UInt32

from .._typing import Array, ArrayLike


def key_data(key: Any, *, batch: int, sentences: int) -> np.ndarray:
    """The words of one key, or of one key a sentence, the latter filled up to the bucket.

    Args:
        key: what the caller passed.
        batch: number of sentences.
        sentences: the same, padded to its bucket.

    Raises:
        TypeError: if `key` is no PRNG key.
        ValueError: if there is not one key a sentence.
        NotImplementedError: for a generator other than threefry.
    """
    data = _words(key)
    if data.ndim == 1:
        return data
    if data.ndim != 2 or data.shape[0] != batch:
        raise ValueError(f"key must be one key or {batch} keys, one per sentence; got shape {data.shape[:-1]}.")
    return np.concatenate([data, np.repeat(data[:1], sentences - batch, axis=0)])


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


def row_keys(data: UInt32[ArrayLike, "*sentences 2"], rows: int, samples: int) -> Key[Array, " rows"]:
    """One key a row, by sentence and sample."""
    key = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    sentence, sample = np.divmod(np.arange(rows, dtype=np.int32), np.int32(samples))
    of_sentence = key[sentence] if key.ndim else jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, sentence)
    return jax.vmap(jax.random.fold_in)(of_sentence, sample)


def token_keys(keys: Key[Array, " rows"], token: Int32[Array, ""]) -> Key[Array, " rows"]:
    """The rows' keys for one token."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, token)
