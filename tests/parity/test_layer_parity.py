"""Parts of layers against the modules of live transformers that they stand for, every parameter random."""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    T5Config,
)
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom_alibi
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_alibi
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_neighbours
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.stablelm.modeling_stablelm import StableLmLayerNormPerHead
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense, T5LayerNorm

from encdec_eqx.layers.alibi import AlibiConfig, alibi_bias, alibi_positions
from encdec_eqx.layers.disentangled import DisentangledConfig, disentangled_scores, position_rows
from encdec_eqx.layers.feed_forward import MLP, GatedMLP
from encdec_eqx.layers.linear import Dropout, Linear
from encdec_eqx.layers.norm import LayerNorm, RMSNorm
from encdec_eqx.layers.relative_bias import RelativeBiasConfig, bucket
from encdec_eqx.layers.rotary import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryConfig,
    RotaryScaling,
    Rotation,
    YarnScaling,
)
from tolerances import EXACT, PARITY_ATTENTION, PARITY_HIDDEN, PARITY_ROTATED

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, where these modules compile functions
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, make_log_bucket_position
    from transformers.models.modernbert.modeling_modernbert import ModernBertMLP

HIDDEN, INNER = 24, 40


def _randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 1.0 if parameter.ndim == 1 else 0.3, generator=generator)
    return module.eval()


def _input(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _array(tensor: torch.Tensor) -> jax.Array:
    return jnp.asarray(tensor.detach().numpy())


def _linear(theirs: nn.Module, rows: slice = slice(None)) -> Linear:
    """Torch stores (out, in); GPT-2's own class (in, out)."""
    weight, bias = _array(theirs.weight), theirs.bias
    weight = weight.T if isinstance(theirs, nn.Linear) else weight
    return Linear(weight[:, rows], None if bias is None else _array(bias)[rows])


# --- norms

NORMS: dict[str, tuple[type[nn.Module], dict[str, bool]]] = {
    "t5": (T5LayerNorm, {}),
    "llama": (LlamaRMSNorm, {}),
    "gemma": (GemmaRMSNorm, {"unit_offset": True, "scale_in_float32": True}),
    "olmo2": (Olmo2RMSNorm, {"scale_in_float32": True}),
}


@pytest.mark.parametrize("family", NORMS)
def test_rms_norms(family: str) -> None:
    kind, options = NORMS[family]
    theirs, x = _randomised(kind(HIDDEN, eps=1e-3)), _input(2, 5, HIDDEN)
    ours = RMSNorm(_array(theirs.weight), 1e-3, **options)
    np.testing.assert_allclose(ours(_array(x)), theirs(x).detach(), atol=PARITY_HIDDEN)


@pytest.mark.parametrize("family", NORMS)
def test_rms_norms_in_bfloat16_round_where_the_reference_does(family: str) -> None:
    """The last bit of a square root may move one entry over an edge; rounding elsewhere moves one in five or more."""
    kind, options = NORMS[family]
    theirs, x = _randomised(kind(HIDDEN, eps=1e-3)).bfloat16(), _input(40, 5, HIDDEN).bfloat16()
    ours = RMSNorm(_array(theirs.weight.float()).astype(jnp.bfloat16), 1e-3, **options)
    out = ours(_array(x.float()).astype(jnp.bfloat16)).astype(jnp.float32)
    assert np.mean(np.asarray(out) != theirs(x).float().detach().numpy()) < 0.01


def test_layer_norms_per_head() -> None:
    theirs, x = _randomised(StableLmLayerNormPerHead(6, 4, eps=1e-3)), _input(2, 4, 5, 6)
    ours = LayerNorm(jnp.stack([_array(norm.weight) for norm in theirs.norms]), None, 1e-3)
    by_token = ours(jnp.moveaxis(_array(x), 1, 2))
    np.testing.assert_allclose(jnp.moveaxis(by_token, 2, 1), theirs(x).detach(), atol=PARITY_HIDDEN)


# --- feed-forward


def _llama() -> tuple[nn.Module, Callable[[nn.Module], MLP | GatedMLP]]:
    config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=INNER, mlp_bias=True)
    return LlamaMLP(config), lambda it: GatedMLP(
        _linear(it.gate_proj), _linear(it.up_proj), _linear(it.down_proj), Dropout(0.0), "silu"
    )


def _t5() -> tuple[nn.Module, Callable[[nn.Module], MLP | GatedMLP]]:
    config = T5Config(d_model=HIDDEN, d_ff=INNER, feed_forward_proj="gated-gelu")
    return T5DenseGatedActDense(config), lambda it: GatedMLP(
        _linear(it.wi_0), _linear(it.wi_1), _linear(it.wo), Dropout(0.1), "gelu_new"
    )


def _modernbert() -> tuple[nn.Module, Callable[[nn.Module], MLP | GatedMLP]]:
    config = ModernBertConfig(hidden_size=HIDDEN, intermediate_size=INNER, mlp_bias=True)
    return ModernBertMLP(config), lambda it: GatedMLP(
        _linear(it.Wi, slice(INNER)), _linear(it.Wi, slice(INNER, None)), _linear(it.Wo), Dropout(0.0), "gelu"
    )


def _gpt2() -> tuple[nn.Module, Callable[[nn.Module], MLP | GatedMLP]]:
    config = GPT2Config(n_embd=HIDDEN, n_inner=INNER)
    return GPT2MLP(INNER, config), lambda it: MLP(_linear(it.c_fc), _linear(it.c_proj), Dropout(0.0), "gelu_new")


@pytest.mark.parametrize("make", [_llama, _t5, _modernbert, _gpt2])
def test_feed_forward_parts(make: Callable) -> None:
    theirs, convert = make()
    theirs, x = _randomised(theirs), _input(2, 5, HIDDEN)
    np.testing.assert_allclose(convert(theirs)(_array(x), key=None), theirs(x).detach(), atol=PARITY_HIDDEN)


# --- positions


def _rope(**scaling) -> LlamaRotaryEmbedding:
    settings = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "max_position_embeddings": 256}
    return LlamaRotaryEmbedding(LlamaConfig(**settings, rope_theta=500000.0, rope_scaling=scaling or None))


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT, LONG = tuple(np.linspace(1, 2, 8).tolist()), tuple(np.linspace(1, 12, 8).tolist())
SCALINGS: dict[str, tuple[dict, RotaryScaling | None]] = {
    "none": ({}, None),
    "linear": ({"rope_type": "linear", "factor": 8.0}, LinearScaling(factor=8.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 8.0}, DynamicNTKScaling(factor=8.0, max_positions=256)),
    "llama3": (
        {"rope_type": "llama3", "original_max_position_embeddings": 128, **LLAMA3},
        Llama3Scaling(original_max_positions=128, **LLAMA3),
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128},
        YarnScaling(factor=2.0, original_max_positions=128),
    ),
    "yarn with settings": (
        {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 128,
            "truncate": False,
            "mscale": 0.7,
            "mscale_all_dim": 0.9,
            "beta_fast": 20.0,
            "beta_slow": 2.0,
        },
        YarnScaling(
            factor=2.0,
            original_max_positions=128,
            truncate=False,
            mscale=0.7,
            mscale_all_dim=0.9,
            beta_fast=20.0,
            beta_slow=2.0,
        ),
    ),
    "longrope": (
        {"rope_type": "longrope", "factor": 8.0, "short_factor": list(SHORT), "long_factor": list(LONG)},
        LongRopeScaling(factor=8.0, short_factors=SHORT, long_factors=LONG, original_max_positions=256),
    ),
}


@pytest.mark.parametrize("longest", [200, 700])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotations_of_halves(scaling: str, longest: int) -> None:
    settings, ours = SCALINGS[scaling]
    positions = np.stack([np.arange(longest - 9, longest), np.arange(9)])
    q, k = _input(2, 3, 9, 16), _input(2, 3, 9, 16, seed=2)
    cos, sin = _rope(**settings)(q, torch.tensor(positions))
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    rotation = Rotation.of_positions(RotaryConfig(theta=500000.0, scaling=ours), 16, jnp.asarray(positions))
    for x, expected in zip((q, k), theirs, strict=True):
        np.testing.assert_allclose(rotation(_array(x)), expected, atol=PARITY_ROTATED)


def test_rotations_of_neighbours_in_a_part_of_the_head() -> None:
    x, positions = _input(2, 3, 9, 16), np.stack([np.arange(9), np.arange(700, 709)])
    sin, cos = torch.chunk(create_sinusoidal_positions(709, 12)[torch.tensor(positions)], 2, dim=-1)
    part = rotate_neighbours(x[..., :12].transpose(1, 2), sin, cos).transpose(1, 2)
    rotation = Rotation.of_positions(RotaryConfig(pairs="neighbours", dim=12), 16, jnp.asarray(positions))
    np.testing.assert_allclose(rotation(_array(x)), torch.cat([part, x[..., 12:]], -1), atol=PARITY_ROTATED)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (8, 200), (16, 800), (64, 50), (100, 128), (320, 800)]
)
def test_buckets_are_the_same_for_every_distance(bidirectional: bool, buckets: int, max_distance: int) -> None:
    config = RelativeBiasConfig(
        entries=buckets, buckets=buckets, max_distance=max_distance, bidirectional=bidirectional
    )
    behind = np.arange(-2000, 2001)[None]
    theirs = T5Attention._relative_position_bucket(torch.tensor(-behind), bidirectional, buckets, max_distance)
    np.testing.assert_array_equal(bucket(config, jnp.asarray(behind)), theirs)


@pytest.mark.parametrize("heads", [1, 3, 8, 12, 71])
def test_linear_biases(heads: int) -> None:
    mask = np.ones((2, 600), bool)
    mask[0, :5] = mask[1, 500:] = False
    positions, ids = alibi_positions(jnp.asarray(mask)), torch.tensor(mask).long()
    bloom = bloom_alibi(ids, heads, torch.float32).reshape(2, heads, 1, -1)
    np.testing.assert_allclose(alibi_bias(AlibiConfig(), heads, positions, score_scale=1.0), bloom, atol=EXACT)
    falcon = falcon_alibi(ids, heads, torch.float32).reshape(2, heads, 1, -1) * 0.25
    ours = alibi_bias(AlibiConfig(scaled=True, bfloat16=True), heads, positions, score_scale=0.25)
    np.testing.assert_allclose(ours, falcon, atol=EXACT)


@pytest.mark.parametrize(("span", "max_distance"), [(256, 512), (32, 64), (8, 40), (7, 50), (4, 12)])
def test_disentangled_buckets_are_the_same_for_every_distance(span: int, max_distance: int) -> None:
    relative = np.arange(-2000, 2001)
    theirs = make_log_bucket_position(torch.tensor(relative), span, max_distance).long() + span
    ours = position_rows(DisentangledConfig(span=span, max_distance=max_distance), jnp.asarray(relative[None]))
    np.testing.assert_array_equal(ours[0], torch.clamp(theirs, 0, 2 * span - 1))


@pytest.mark.parametrize("buckets", [8, -1])
@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], ["p2c", "c2p"]])
def test_disentangled_attention(kinds: list[str], buckets: int) -> None:
    settings = {"hidden_size": HIDDEN, "num_attention_heads": 4, "max_relative_positions": 20, "pos_att_type": kinds}
    config = DebertaV2Config(**settings, relative_attention=True, position_buckets=buckets, share_att_key=False)
    span = buckets if buckets > 0 else 20
    theirs, x, table = _randomised(DisentangledSelfAttention(config)), _input(2, 13, HIDDEN), _input(2 * span, HIDDEN)
    mask = torch.ones(2, 1, 13, 13, dtype=torch.bool)
    expected, weights = theirs(x, mask, output_attentions=True, rel_embeddings=table)

    def heads(projection: nn.Module, states: torch.Tensor) -> jax.Array:
        return jnp.swapaxes(_linear(projection)(_array(states)).reshape(*states.shape[:-1], 4, 6), -3, -2)

    q, k, v = (heads(it, x) for it in (theirs.query_proj, theirs.key_proj, theirs.value_proj))
    relative = disentangled_scores(
        q,
        k,
        position_keys=heads(theirs.pos_key_proj, table) if "c2p" in kinds else None,
        position_queries=heads(theirs.pos_query_proj, table) if "p2c" in kinds else None,
        rows=position_rows(
            DisentangledConfig(span=span, max_distance=20, buckets=buckets > 0),
            jnp.arange(13)[:, None] - jnp.arange(13)[None],
        ),
    )
    scores = (jnp.einsum("bhqe,bhke->bhqk", q, k) + relative) / math.sqrt(6 * (1 + len(kinds)))
    ours = jax.nn.softmax(scores, axis=-1)
    np.testing.assert_allclose(ours, weights.detach(), atol=PARITY_ATTENTION)
    out = jnp.einsum("bhqk,bhke->bqhe", ours, v).reshape(2, 13, HIDDEN)
    np.testing.assert_allclose(out, expected.detach(), atol=PARITY_HIDDEN)
