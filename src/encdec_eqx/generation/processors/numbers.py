"""Rules about numbers alone: invalid ones made finite, logits made log-probabilities. Must not know: ids, lengths."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._base import Length, Logits, Prefix


class Finite(eqx.Module):
    """NaN becomes 0, an infinity the largest finite number of its sign (`remove_invalid_values`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return jnp.nan_to_num(logits)


class Normalised(eqx.Module):
    """Log-probabilities (`renormalize_logits`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return jax.nn.log_softmax(logits, axis=-1)
