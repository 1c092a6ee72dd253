"""Tiny models made from a `StackConfig` alone, every parameter random. Knows nothing of files or torch."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from encdec_eqx import (
    AttentionConfig,
    Decoder,
    EmbeddingsConfig,
    Encoder,
    EncoderDecoder,
    FeedForwardConfig,
    HeadConfig,
    LayerSpec,
    NormConfig,
    PositionsConfig,
    StackConfig,
)

VOCAB = 53


def encoder_config(size: int = 16, depth: int = 2, **changes: Any) -> StackConfig:
    """Post-norm, with token types, a pooler and bidirectional attention: BERT's choices."""
    settings: dict[str, Any] = {
        "model_type": "bert",
        "vocab_size": VOCAB,
        "hidden_size": size,
        "layers": (LayerSpec(),) * depth,
        "attention": AttentionConfig(num_heads=4, head_dim=size // 4),
        "feed_forward": FeedForwardConfig(size=24),
        "norm": NormConfig(eps=1e-6),
        "positions": PositionsConfig(max_positions=24),
        "embeddings": EmbeddingsConfig(token_type_size=2, norm=True, padding_idx=0),
        "pooler": True,
        "pad_token_id": 0,
    }
    return StackConfig(**{**settings, **changes})


def decoder_config(size: int = 12, depth: int = 3, **changes: Any) -> StackConfig:
    """Pre-norm with a final norm, causal, cross-attention in every layer: GPT-2's choices."""
    settings: dict[str, Any] = {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "hidden_size": size,
        "layers": (LayerSpec(cross_attention=True),) * depth,
        "attention": AttentionConfig(num_heads=3, head_dim=size // 3),
        "feed_forward": FeedForwardConfig(size=20, activation="gelu_new"),
        "norm": NormConfig(eps=1e-5, placement="pre", final=True),
        "positions": PositionsConfig(max_positions=24),
        "embeddings": EmbeddingsConfig(token_types_from_tokens=True),
        "head": HeadConfig(),
        "causal": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return StackConfig(**{**settings, **changes})


def randomised(module: Any, seed: int = 0, spread: float = 0.15) -> Any:
    """The module with normal noise added to every array, so that no bias is 0 and no scale 1.

    Leaves may also be the bare shapes of `eqx.filter_eval_shape`: they stand for ones in norms and zeros elsewhere.
    Drawn by NumPy: drawing by jax compiles a program for each shape, which takes longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def noisy(path: Any, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            is_scale = leaf.ndim and "norm" in str(path[-2]) and str(path[-1]) == ".weight"
            start = np.full(leaf.shape, float(is_scale))
        else:
            start = np.asarray(leaf)
        return jnp.asarray(start + spread * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(noisy, module)


def tiny_pair(encoder: StackConfig | None = None, decoder: StackConfig | None = None, seed: int = 0) -> EncoderDecoder:
    """The two joined; by default their widths differ, so that there is a projection."""
    return randomised(_shapes_of_pair(encoder or encoder_config(), decoder or decoder_config()), seed)


@functools.cache  # tracing what draws the weights takes longer than many tests
def _shapes_of_pair(encoder: StackConfig, decoder: StackConfig) -> EncoderDecoder:
    def join() -> EncoderDecoder:
        key = jax.random.key(0)
        return EncoderDecoder.from_pieces(Encoder.init(encoder, key=key), Decoder.init(decoder, key=key), key=key)

    return eqx.filter_eval_shape(join)


def random_ids(seed: int, *shape: int, low: int = 3) -> np.ndarray:
    """Ids from `low` up."""
    return np.random.default_rng(seed).integers(low, VOCAB, shape, dtype=np.int32)


def right_mask(lengths: list[int], width: int) -> np.ndarray:
    """Row i has `lengths[i]` ones, then zeros."""
    return (np.arange(width)[None] < np.asarray(lengths)[:, None]).astype(np.int32)


def array_count(module: Any) -> int:
    """Number of array leaves."""
    return len(jax.tree.leaves(eqx.filter(module, eqx.is_array)))
