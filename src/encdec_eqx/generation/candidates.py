"""The best, or drawn, continuations of a sentence's beams, over all beams and the whole vocabulary.

Knows nothing of sequences: it sees scores, and says which beam and which token.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32, Key

from .._typing import Array
from .loop import picked

_BLOCK = 512


class Candidates(eqx.Module):
    """Continuations of each sentence, the best first; of equals the one of the first beam and the lower token id.

    Attributes:
        scores: what was ranked.
        beams: which beam each continues.
        tokens: by which token.
    """

    scores: Float[Array, "batch candidates"]
    beams: Int32[Array, "batch candidates"]
    tokens: Int32[Array, "batch candidates"]

    def picked(self, which: Int32[Array, "batch some"]) -> "Candidates":
        """Some of them, in the order of `which`."""
        return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, which, axis=1), self)


def best(scores: Float[Array, "batch beams vocab"], count: int) -> Candidates:
    """The `count` largest scores.

    In two steps: the blocks of the vocabulary with the largest maxima hold all of them, so only those are searched. On
    CPU a plain `top_k` of 4 beams of 50,257 took 2.8 ms a sentence batch of 4, this 0.33 ms.

    Args:
        scores: may hold -inf.
        count: at most all there are.
    """
    batch, _, vocab = scores.shape
    filler = -vocab % _BLOCK
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, filler)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, _BLOCK)
    which = jax.lax.top_k(jnp.max(blocks, axis=-1), min(count, blocks.shape[1]))[1]
    # in their order, so that equals within them keep theirs
    which = jnp.sort(which, axis=1)
    searched = picked(blocks, which).reshape(batch, -1)
    found, at = jax.lax.top_k(searched, count)
    index = jnp.take_along_axis(which, at // _BLOCK, axis=1) * _BLOCK + at % _BLOCK
    # only where fewer than `count` scores are above -inf can the filler be among them
    tokens = jnp.minimum(index % (vocab + filler), vocab - 1)
    return Candidates(found, index // (vocab + filler), tokens)


def drawn(scores: Float[Array, "batch beams vocab"], count: int, keys: Key[Array, " batch"]) -> Candidates:
    """`count` continuations drawn without replacement with probabilities softmax(scores), then ranked by score.

    By the largest of the scores with Gumbel noise added (Kool et al. 2019), which is that distribution exactly.

    Args:
        scores: unnormalised log-probabilities, over all beams of a sentence together.
        count: at most all there are.
        keys: one a sentence.
    """
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:], jnp.float32))(keys)
    found = best(scores + noise, count)
    flat = found.beams * scores.shape[2] + found.tokens
    plain = jnp.take_along_axis(scores.reshape(scores.shape[0], -1), flat, axis=1)
    ranked, order = jax.lax.top_k(plain, count)
    beams, tokens = (jnp.take_along_axis(part, order, axis=1) for part in (found.beams, found.tokens))
    return Candidates(ranked, beams, tokens)
