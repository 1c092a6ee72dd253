"""A decoder of a few lines for tests of the loops: compiled in a moment, and touchy about masks and positions.

Its hidden state is made of the sum over the tokens so far (masked ones left out), the current token's position and the
mean of the sentence's source states. Knows nothing of the library's own layers.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from encdec_eqx import EncoderOutput, GenerationConfig, SpecialTokens
from encdec_eqx.generation.engine import Run, request
from encdec_eqx.generation.result import GenerationResult
from encdec_eqx.generation.source_and_prompt import from_outputs
from models import VOCAB, decoder_config

SIZE = 6


class StandInCache(eqx.Module):
    """The embeddings so far by slot, the source's means, and the number of slots used."""

    kept: jax.Array
    source: jax.Array
    length: jax.Array

    @property
    def slots(self) -> int:
        return self.kept.shape[1]


class StandInDecoder(eqx.Module):
    """`init_cache`, `advance` and `logits` of a decoder."""

    tokens: jax.Array
    positions: jax.Array
    head: jax.Array

    def init_cache(self, encoder_states: Any, encoder_mask: Any, *, rows: int, slots: int) -> StandInCache:
        weights = jnp.asarray(encoder_mask, jnp.float32)[..., None]
        mean = jnp.sum(encoder_states * weights, axis=1) / jnp.sum(weights, axis=1)
        per_row = jnp.repeat(mean, rows // mean.shape[0], axis=0)
        return StandInCache(jnp.zeros((rows, slots, SIZE)), per_row, jnp.zeros((), jnp.int32))

    def advance(
        self, ids: Any, cache: StandInCache, *, mask: Any = None, positions: Any = None, branches: Any = None
    ) -> Any:
        embedded = self.tokens[ids]
        if mask is not None:
            embedded = embedded * jnp.asarray(mask, jnp.float32)[..., None]
        kept = jax.lax.dynamic_update_slice_in_dim(cache.kept, embedded, cache.length, axis=1)
        if branches is None:
            earlier = jnp.arange(cache.slots)[None, :] <= cache.length + jnp.arange(ids.shape[1])[:, None]
            seen = jnp.broadcast_to(earlier[None], (ids.shape[0], *earlier.shape))
        else:
            seen = branches.visible
        totals = jnp.einsum("rns,rsz->rnz", seen.astype(jnp.float32), kept, precision="highest")
        hidden = jnp.sin(totals + cache.source[:, None] + self.positions[positions])
        return hidden, StandInCache(kept, cache.source, cache.length + ids.shape[1])

    def truncate(self, cache: StandInCache, length: Any) -> StandInCache:
        return StandInCache(cache.kept, cache.source, length)

    def logits(self, hidden: jax.Array) -> jax.Array:
        return hidden @ self.head


def stand_in(seed: int = 0, *, sharpness: float = 4.0, vocab: int = VOCAB, positions: int = 24) -> StandInDecoder:
    """A random one; `sharpness` sets how far logits are apart."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(vocab, SIZE), (positions, SIZE), (SIZE, vocab)]
    tokens, places, head = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return StandInDecoder(tokens, places, sharpness * head)


def states(batch: int, length: int = 5, seed: int = 0) -> np.ndarray:
    """Random encoder states."""
    return np.random.default_rng(seed).standard_normal((batch, length, SIZE), dtype=np.float32)


TOKENS = SpecialTokens(eos_token_id=(2,), pad_token_id=0, decoder_start_token_id=1)


def request_of(
    decoder: StandInDecoder,
    encoder_states: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    tokens: SpecialTokens = TOKENS,
    file: GenerationConfig | None = None,
    generation_config: GenerationConfig | None = None,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
    key: Any = None,
    config_changes: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """A run with a stand-in for a decoder and states for a source."""
    config = decoder_config(vocab_size=decoder.tokens.shape[0], **(config_changes or {}))
    outputs = EncoderOutput(encoder_states)
    return request(
        decoder,
        config,
        lambda: from_outputs(outputs, hidden_size=SIZE, attention_mask=mask),
        project=None,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
        generation_config=generation_config,
        file_config=file,
        special_tokens=tokens,
        arguments=options,
        key=key,
    )


def generate(*args: Any, **options: Any) -> GenerationResult:
    """`EncoderDecoder.generate` with a stand-in for a decoder and states for a source."""
    return request_of(*args, **options).generate()
