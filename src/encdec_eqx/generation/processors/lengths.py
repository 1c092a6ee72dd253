"""Rules about ends of sequences: when there may be none yet, and when one is wanted more and more.

Must not know: other ids, sampling.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Int32

from ..._typing import Array, ArrayLike
from ._base import Length, Logits, Prefix


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


class DecayingLength(eqx.Module):
    """Ends become likelier from some length on (`exponential_decay_length_penalty`).

    An end that is forbidden stays so. (In torch minus infinity plus its own size is NaN, which is then chosen.)

    Attributes:
        start: the length, prompt included, behind which they do.
        growth: `factor ** k - 1` for k from 0 on; from a table, since powers in float32 are off by many units.
        eos_ids: ids that end a row.
    """

    start: Int32[ArrayLike, ""]
    growth: Float[ArrayLike, " steps"]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
        growth = jnp.asarray(self.growth)
        share = growth[jnp.clip(length - self.start, 0, growth.shape[0] - 1)]
        ends = logits[:, jnp.asarray(self.eos_ids)]
        raised = jnp.where(ends == -jnp.inf, ends, ends + jnp.abs(ends) * share)
        return logits.at[:, jnp.asarray(self.eos_ids)].set(raised)
