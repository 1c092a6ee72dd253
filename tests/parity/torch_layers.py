"""Layers of live transformers, one or two of a kind with every parameter random, and how they are said in ours.

A case has torch's layers, a call of them that returns the last states, a `StackConfig` that describes them, and their
tensors by the names of our arrays.
"""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BloomConfig,
    DebertaV2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    ModernBertConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    T5Config,
    UMT5Config,
)
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.falcon import modeling_falcon as falcon
from transformers.models.gemma2 import modeling_gemma2 as gemma2
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.opt import modeling_opt as opt
from transformers.models.phi import modeling_phi as phi
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.stablelm import modeling_stablelm as stablelm
from transformers.models.t5 import modeling_t5 as t5
from transformers.models.umt5 import modeling_umt5 as umt5

from encdec_eqx.config import (
    AlibiConfig,
    AttentionConfig,
    EmbeddingsConfig,
    GatedMLPConfig,
    LayerNormConfig,
    LayerSpec,
    MLPConfig,
    PositionsConfig,
    QKNormConfig,
    RelativeBiasConfig,
    RMSNormConfig,
    RotaryConfig,
    StackConfig,
)
from encdec_eqx.layers.disentangled import DisentangledAttentionConfig, DisentangledConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, where these modules compile functions
    from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta
    from transformers.models.modernbert import modeling_modernbert as modernbert

BATCH, LENGTH, SOURCE = 2, 11, 5
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 24, 40, 4, 2, 8
WINDOW, EPS, THETA, LOCAL_THETA = 4, 3e-3, 500.0, 20.0

REAL = np.ones((BATCH, LENGTH), bool)
REAL[1, -3:] = False
SOURCE_REAL = np.ones((BATCH, SOURCE), bool)
SOURCE_REAL[0, -2:] = False

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """Torch's layers and what they are in ours.

    Attributes:
        layers: torch's layers, or whatever holds them.
        call: from the input (and encoder states) to the last states.
        config: of the stack.
        arrays: from torch's layers to the arrays of our stack, by name.
    """

    layers: nn.Module
    call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    config: StackConfig
    arrays: Arrays


def random_states(*shape: int, seed: int) -> torch.Tensor:
    """Normal numbers, the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _randomise(module: nn.Module, spread: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 1.0 if parameter.ndim == 1 else spread, generator=generator)
    module.eval()


# --- masks and rotations as the models make them


def _mask(*, causal: bool = True, window: int | None = None, two_sided: int | None = None) -> torch.Tensor:
    at = torch.arange(LENGTH)
    distance = at[:, None] - at[None, :]
    visible = torch.tensor(REAL)[:, None, None, :] & torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    if causal:
        visible = visible & (distance >= 0)
    if window is not None:
        visible = visible & (distance < window)
    if two_sided is not None:
        visible = visible & (distance.abs() <= two_sided)
    return _additive(visible)


def _additive(visible: torch.Tensor) -> torch.Tensor:
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)


POSITIONS = torch.arange(LENGTH)[None].expand(BATCH, LENGTH)


def _rope(config: PretrainedConfig, theta: float = THETA, kind: type[nn.Module] = llama.LlamaRotaryEmbedding) -> Any:
    config = copy.deepcopy(config)
    config.rope_theta, config.rope_scaling = theta, None
    return kind(config)(torch.zeros(1), POSITIONS)


# --- tensors by our names


def _linear(name: str, weight: torch.Tensor, bias: torch.Tensor | None, *out: int) -> Arrays:
    """From torch's (out, in)."""
    found = {f"{name}.weight": weight.detach().numpy().T.reshape(weight.shape[1], *(out or (weight.shape[0],)))}
    if bias is not None:
        found[f"{name}.bias"] = bias.detach().numpy().reshape(*(out or bias.shape))
    return found


def _of(name: str, module: nn.Module, *out: int) -> Arrays:
    return _linear(name, module.weight, module.bias, *out)


def _norm(name: str, module: nn.Module, *shape: int) -> Arrays:
    tensors = {f"{name}.{key}": tensor.detach().numpy() for key, tensor in module.named_parameters()}
    return {key: tensor.reshape(shape or tensor.shape) for key, tensor in tensors.items()}


def _fused(name: str, weight: torch.Tensor, bias: torch.Tensor | None, heads: int, head_dim: int) -> Arrays:
    """Queries, keys and values from an output of (heads, 3, head_dim)."""
    weight = weight.reshape(heads, 3, head_dim, -1).transpose(0, 1).reshape(3 * heads * head_dim, -1)
    if bias is not None:
        bias = bias.reshape(heads, 3, head_dim).transpose(0, 1).reshape(-1)
    return _linear(name, weight, bias, 3, heads, head_dim)


def _joined(name: str, modules: Sequence[nn.Module], heads: int, head_dim: int) -> Arrays:
    """Queries, keys and values from three matrices of equal size."""
    weight, biases = torch.cat([module.weight for module in modules]), [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases)
    return _linear(name, weight, bias, len(modules), heads, head_dim)


def _apart(name: str, q: Any, k: Any, v: Any, head_dim: int) -> Arrays:
    return {
        key: tensor
        for part, module in (("q", q), ("k", k), ("v", v))
        for key, tensor in _of(f"{name}.{part}", module, module.weight.shape[0] // head_dim, head_dim).items()
    }


def _stack(layers: Sequence[Arrays], **shared: np.ndarray) -> Arrays:
    named = {f"blocks.{at}.{key}": tensor for at, arrays in enumerate(layers) for key, tensor in arrays.items()}
    return {**named, **{f"shared.{key}.weight": tensor for key, tensor in shared.items()}}


def _config(
    attention: AttentionConfig,
    feed_forward: MLPConfig | GatedMLPConfig,
    norm: LayerNormConfig | RMSNormConfig,
    layers: tuple[LayerSpec, ...] = (LayerSpec(),),
    causal: bool = True,
) -> StackConfig:
    return StackConfig(
        model_type="parity",
        vocab_size=3,
        hidden_size=HIDDEN,
        layers=layers,
        attention=attention,
        feed_forward=feed_forward,
        norm=norm,
        positions=PositionsConfig(max_positions=64, kind="none"),
        embeddings=EmbeddingsConfig(),
        causal=causal,
    )


def _in_turn(layers: nn.ModuleList, **options: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Options that are lists have one entry per layer."""

    def call(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        for at, layer in enumerate(layers):
            out = layer(x, **{key: value[at] if isinstance(value, list) else value for key, value in options.items()})
            x = out[0] if isinstance(out, tuple) else out
        return x

    return call


SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_hidden_layers": 2,
    "rms_norm_eps": EPS,
    "rope_theta": THETA,
    "attn_implementation": "eager",
}
GATED = GatedMLPConfig(size=INNER)
RMS = RMSNormConfig(eps=EPS, final=False)
GEMMA_RMS = dataclasses.replace(RMS, placement="both", unit_offset=True, scale_in_float32=True)
LAYER_NORM = LayerNormConfig(eps=EPS, placement="pre")
ROTARY = RotaryConfig(theta=THETA)


def _gated(layer: nn.Module) -> Arrays:
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    return {
        key: tensor
        for ours, theirs in names.items()
        for key, tensor in _of(f"feed_forward.{ours}", getattr(layer.mlp, theirs)).items()
    }


def _grouped(layer: nn.Module, head_dim: int = HEAD_DIM) -> Arrays:
    attention = layer.self_attn
    return {
        **_apart("self_attention", attention.q_proj, attention.k_proj, attention.v_proj, head_dim),
        **_of("self_attention.out", attention.o_proj),
    }


def _pre(layer: nn.Module) -> Arrays:
    return {
        **_norm("self_norm", layer.input_layernorm),
        **_norm("feed_forward_norm", layer.post_attention_layernorm),
    }


def _attention(**changes: Any) -> AttentionConfig:
    settings = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "rotary": (ROTARY,)}
    return AttentionConfig(**{"qkv_bias": False, "out_bias": False, **settings, **changes})


def _llama() -> Case:
    config = LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    layers = nn.ModuleList([llama.LlamaDecoderLayer(config, 0)])
    _randomise(layers)
    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), position_embeddings=_rope(config)),
        _config(_attention(qkv_bias=True, out_bias=True), dataclasses.replace(GATED, bias=True), RMS),
        _stack([{**_grouped(layer), **_pre(layer), **_gated(layer)} for layer in layers]),
    )


def _qwen2() -> Case:
    config = Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, layer_types=["full_attention", "sliding_attention"]
    )
    layers = nn.ModuleList([qwen2.Qwen2DecoderLayer(config, at) for at in range(2)])
    head_dim = layers[0].self_attn.head_dim
    _randomise(layers)
    return Case(
        layers,
        _in_turn(layers, attention_mask=[_mask(), _mask(window=WINDOW)], position_embeddings=_rope(config)),
        _config(_attention(qkv_bias=True, head_dim=head_dim), GATED, RMS, (LayerSpec(), LayerSpec(window=WINDOW))),
        _stack([{**_grouped(layer, head_dim), **_pre(layer), **_gated(layer)} for layer in layers]),
    )


def _qk(layer: nn.Module, *shapes: tuple[int, ...]) -> Arrays:
    q_shape, k_shape = shapes or ((), ())
    return {
        **_norm("self_attention.q_norm", layer.self_attn.q_norm, *q_shape),
        **_norm("self_attention.k_norm", layer.self_attn.k_norm, *k_shape),
    }


def _qwen3() -> Case:
    config = Qwen3Config(**SIZES)
    layers = nn.ModuleList([qwen3.Qwen3DecoderLayer(config, 0)])
    _randomise(layers)
    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), position_embeddings=_rope(config)),
        _config(_attention(qk_norm=QKNormConfig(norm=RMS)), GATED, RMS),
        _stack([{**_grouped(layer), **_qk(layer), **_pre(layer), **_gated(layer)} for layer in layers]),
    )


def _both(layer: nn.Module) -> Arrays:
    return {
        **_norm("self_norm", layer.input_layernorm),
        **_norm("self_output_norm", layer.post_attention_layernorm),
        **_norm("feed_forward_norm", layer.pre_feedforward_layernorm),
        **_norm("feed_forward_output_norm", layer.post_feedforward_layernorm),
    }


def _gemma2() -> Case:
    config = Gemma2Config(**SIZES, sliding_window=WINDOW, query_pre_attn_scalar=11, attn_logit_softcapping=2.0)
    layers = nn.ModuleList([gemma2.Gemma2DecoderLayer(config, at) for at in range(2)])
    _randomise(layers)
    scale = 11**-0.5
    return Case(
        layers,
        _in_turn(layers, attention_mask=[_mask(window=WINDOW), _mask()], position_embeddings=_rope(config)),
        _config(
            _attention(logit_cap=2.0),
            dataclasses.replace(GATED, activation="gelu_pytorch_tanh"),
            GEMMA_RMS,
            (LayerSpec(window=WINDOW, score_scale=scale), LayerSpec(score_scale=scale)),
        ),
        _stack([{**_grouped(layer), **_both(layer), **_gated(layer)} for layer in layers]),
    )


def _gemma3() -> Case:
    config = Gemma3TextConfig(
        **SIZES,
        sliding_window=WINDOW,
        query_pre_attn_scalar=11,
        layer_types=["sliding_attention", "full_attention"],
    )
    layers = nn.ModuleList([gemma3.Gemma3DecoderLayer(config, at) for at in range(2)])
    _randomise(layers)
    scale, local = 11**-0.5, RotaryConfig(theta=LOCAL_THETA)
    return Case(
        layers,
        _in_turn(
            layers,
            attention_mask=[_mask(window=WINDOW), _mask()],
            position_embeddings_global=_rope(config),
            position_embeddings_local=_rope(config, LOCAL_THETA),
        ),
        _config(
            _attention(qk_norm=QKNormConfig(norm=GEMMA_RMS), rotary=(ROTARY, local)),
            dataclasses.replace(GATED, activation="gelu_pytorch_tanh"),
            GEMMA_RMS,
            (LayerSpec(window=WINDOW, score_scale=scale, rotary=1), LayerSpec(score_scale=scale)),
        ),
        _stack([{**_grouped(layer), **_qk(layer), **_both(layer), **_gated(layer)} for layer in layers]),
    )


def _olmo2() -> Case:
    config = Olmo2Config(**SIZES)
    layers = nn.ModuleList([olmo2.Olmo2DecoderLayer(config, 0)])
    head_dim = layers[0].self_attn.head_dim
    _randomise(layers)
    norm = dataclasses.replace(RMS, scale_in_float32=True, placement="output")
    shapes = ((HEADS, head_dim), (KV_HEADS, head_dim))

    def norms(layer: nn.Module) -> Arrays:
        return {
            **_norm("self_norm", layer.post_attention_layernorm),
            **_norm("feed_forward_norm", layer.post_feedforward_layernorm),
        }

    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), position_embeddings=_rope(config)),
        _config(_attention(qk_norm=QKNormConfig(norm=norm, span="all_heads"), head_dim=head_dim), GATED, norm),
        _stack(
            [{**_grouped(layer, head_dim), **_qk(layer, *shapes), **norms(layer), **_gated(layer)} for layer in layers]
        ),
    )


def _phi() -> Case:
    sizes = {key: value for key, value in SIZES.items() if key not in ("head_dim", "rms_norm_eps")}
    config = PhiConfig(
        **sizes, layer_norm_eps=EPS, partial_rotary_factor=2 / 3, qk_layernorm=True, hidden_act="gelu_new"
    )
    layers = nn.ModuleList([phi.PhiDecoderLayer(config, 0)])
    head_dim, dim = layers[0].self_attn.head_dim, layers[0].self_attn.rotary_ndims
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        attention = layer.self_attn
        return {
            **_apart("self_attention", attention.q_proj, attention.k_proj, attention.v_proj, head_dim),
            **_of("self_attention.out", attention.dense),
            **_norm("self_attention.q_norm", attention.q_layernorm),
            **_norm("self_attention.k_norm", attention.k_layernorm),
            **_norm("self_norm", layer.input_layernorm),
            **_of("feed_forward.up", layer.mlp.fc1),
            **_of("feed_forward.down", layer.mlp.fc2),
        }

    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), position_embeddings=_rope(config, kind=phi.PhiRotaryEmbedding)),
        _config(
            _attention(
                head_dim=head_dim,
                qkv_bias=True,
                out_bias=True,
                rotary=(dataclasses.replace(ROTARY, dim=dim),),
                qk_norm=QKNormConfig(norm=LAYER_NORM),
            ),
            MLPConfig(size=INNER, activation="gelu_new"),
            LAYER_NORM,
            (LayerSpec(block="parallel"),),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _stablelm(*, parallel: bool) -> Case:
    sizes = {key: value for key, value in SIZES.items() if key not in ("head_dim", "rms_norm_eps")}
    config = StableLmConfig(**sizes, layer_norm_eps=EPS, partial_rotary_factor=2 / 3, use_parallel_residual=parallel)
    config.qk_layernorm = True
    layers = nn.ModuleList([stablelm.StableLmDecoderLayer(config, 0)])
    head_dim, dim = layers[0].self_attn.head_dim, layers[0].self_attn.rotary_ndims
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        attention = layer.self_attn
        per_head = {
            f"self_attention.{ours}.weight": np.stack([norm.weight.detach().numpy() for norm in theirs.norms])
            for ours, theirs in (("q_norm", attention.q_layernorm), ("k_norm", attention.k_layernorm))
        }
        norms = _norm("self_norm", layer.input_layernorm) if parallel else _pre(layer)
        return {**_grouped(layer, head_dim), **per_head, **norms, **_gated(layer)}

    return Case(
        layers,
        _in_turn(
            layers, attention_mask=_mask(), position_embeddings=_rope(config, kind=stablelm.StableLmRotaryEmbedding)
        ),
        _config(
            _attention(
                head_dim=head_dim,
                rotary=(dataclasses.replace(ROTARY, dim=dim),),
                qk_norm=QKNormConfig(norm=LayerNormConfig(eps=EPS, bias=False), span="each_head"),
            ),
            GATED,
            LAYER_NORM,
            (LayerSpec(block="parallel" if parallel else "serial"),),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _gptj() -> Case:
    config = GPTJConfig(
        n_embd=HIDDEN,
        n_inner=INNER,
        n_head=HEADS,
        rotary_dim=4,
        n_positions=64,
        layer_norm_epsilon=EPS,
        attn_implementation="eager",
    )
    layers, head_dim = nn.ModuleList([gptj.GPTJBlock(config, 0)]), HIDDEN // HEADS
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        attention = layer.attn
        return {
            **_joined("self_attention.qkv", (attention.q_proj, attention.k_proj, attention.v_proj), HEADS, head_dim),
            **_of("self_attention.out", attention.out_proj),
            **_norm("self_norm", layer.ln_1),
            **_of("feed_forward.up", layer.mlp.fc_in),
            **_of("feed_forward.down", layer.mlp.fc_out),
        }

    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), position_ids=POSITIONS),
        _config(
            _attention(head_dim=head_dim, num_kv_heads=None, rotary=(RotaryConfig(pairs="neighbours", dim=4),)),
            MLPConfig(size=INNER, activation="gelu_new"),
            LAYER_NORM,
            (LayerSpec(block="parallel"),),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _gpt_neox(*, parallel: bool) -> Case:
    sizes = {
        key: value for key, value in SIZES.items() if key not in ("head_dim", "rms_norm_eps", "num_key_value_heads")
    }
    config = GPTNeoXConfig(**sizes, layer_norm_eps=EPS, rotary_pct=2 / 3, use_parallel_residual=parallel)
    layers, head_dim = nn.ModuleList([gpt_neox.GPTNeoXLayer(config, 0)]), HIDDEN // HEADS
    dim = layers[0].attention.rotary_ndims
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        fused = layer.attention.query_key_value
        return {
            **_fused("self_attention.qkv", fused.weight, fused.bias, HEADS, head_dim),
            **_of("self_attention.out", layer.attention.dense),
            **_pre(layer),
            **_of("feed_forward.up", layer.mlp.dense_h_to_4h),
            **_of("feed_forward.down", layer.mlp.dense_4h_to_h),
        }

    return Case(
        layers,
        _in_turn(
            layers, attention_mask=_mask(), position_embeddings=_rope(config, kind=gpt_neox.GPTNeoXRotaryEmbedding)
        ),
        _config(
            _attention(
                head_dim=head_dim,
                num_kv_heads=None,
                qkv_bias=True,
                out_bias=True,
                rotary=(dataclasses.replace(ROTARY, dim=dim),),
            ),
            MLPConfig(size=INNER, activation="gelu"),
            LAYER_NORM,
            (LayerSpec(block="parallel_norms" if parallel else "serial"),),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _bloom(*, normed_residual: bool) -> Case:
    heads = 3  # not a power of two
    config = BloomConfig(
        hidden_size=HIDDEN,
        n_head=heads,
        layer_norm_epsilon=EPS,
        attn_implementation="eager",
        apply_residual_connection_post_layernorm=normed_residual,
    )
    layers = nn.ModuleList([bloom.BloomBlock(config, at) for at in range(2)])
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        fused = layer.self_attention.query_key_value
        return {
            **_fused("self_attention.qkv", fused.weight, fused.bias, heads, HIDDEN // heads),
            **_of("self_attention.out", layer.self_attention.dense),
            **_pre(layer),
            **_of("feed_forward.up", layer.mlp.dense_h_to_4h),
            **_of("feed_forward.down", layer.mlp.dense_4h_to_h),
        }

    alibi = bloom.build_alibi_tensor(torch.tensor(REAL).long(), heads, torch.float32)
    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), alibi=alibi),
        _config(
            AttentionConfig(num_heads=heads, head_dim=HIDDEN // heads, alibi=AlibiConfig()),
            MLPConfig(size=4 * HIDDEN, activation="gelu_new"),
            dataclasses.replace(LAYER_NORM, placement="pre_residual" if normed_residual else "pre"),
            (LayerSpec(), LayerSpec()),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _falcon_split(attention: nn.Module, kv_heads: int, head_dim: int) -> Arrays:
    """By group of queries, its key, its value."""
    fused = attention.query_key_value.weight.reshape(kv_heads, -1, head_dim, HIDDEN)
    parts = {"q": fused[:, :-2], "k": fused[:, -2:-1], "v": fused[:, -1:]}
    named: Arrays = {}
    for part, weight in parts.items():
        flat = weight.reshape(-1, HIDDEN)
        named |= _linear(f"self_attention.{part}", flat, None, flat.shape[0] // head_dim, head_dim)
    return {**named, **_of("self_attention.out", attention.dense)}


def _falcon(*, two_norms: bool) -> Case:
    """The layer of 40B (groups, a norm for each side) and that of 7B (one key head, one norm)."""
    settings = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "layer_norm_epsilon": EPS, "rope_theta": THETA}
    config = FalconConfig(
        **settings, new_decoder_architecture=two_norms, num_kv_heads=KV_HEADS, attn_implementation="eager"
    )
    layers, head_dim = nn.ModuleList([falcon.FalconDecoderLayer(config, 0)]), HIDDEN // HEADS
    kv_heads = KV_HEADS if two_norms else 1
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        norms = _norm("self_norm", layer.ln_attn if two_norms else layer.input_layernorm)
        if two_norms:
            norms |= _norm("feed_forward_norm", layer.ln_mlp)
        return {
            **_falcon_split(layer.self_attention, kv_heads, head_dim),
            **norms,
            **_of("feed_forward.up", layer.mlp.dense_h_to_4h),
            **_of("feed_forward.down", layer.mlp.dense_4h_to_h),
        }

    return Case(
        layers,
        _in_turn(layers, alibi=None, attention_mask=_mask(), position_embeddings=_rope(config)),
        _config(
            _attention(head_dim=head_dim, num_kv_heads=kv_heads),
            MLPConfig(size=4 * HIDDEN, activation="gelu", bias=False),
            LAYER_NORM,
            (LayerSpec(block="parallel_norms" if two_norms else "parallel"),),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _falcon_alibi() -> Case:
    """The layer of the 1B and 7B models of RefinedWeb: one after another, with biases, ALiBi instead of rotations."""
    heads = 3  # not a power of two
    config = FalconConfig(
        hidden_size=HIDDEN,
        num_attention_heads=heads,
        layer_norm_epsilon=EPS,
        bias=True,
        multi_query=False,
        parallel_attn=False,
        alibi=True,
        attn_implementation="eager",
    )
    layers = nn.ModuleList([falcon.FalconDecoderLayer(config, 0)])
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        fused = layer.self_attention.query_key_value
        return {
            **_fused("self_attention.qkv", fused.weight, fused.bias, heads, HIDDEN // heads),
            **_of("self_attention.out", layer.self_attention.dense),
            **_pre(layer),
            **_of("feed_forward.up", layer.mlp.dense_h_to_4h),
            **_of("feed_forward.down", layer.mlp.dense_4h_to_h),
        }

    alibi = falcon.build_alibi_tensor(torch.tensor(REAL).long(), heads, torch.float32)
    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask(), alibi=alibi),
        _config(
            AttentionConfig(num_heads=heads, head_dim=HIDDEN // heads, alibi=AlibiConfig(scaled=True, bfloat16=True)),
            MLPConfig(size=4 * HIDDEN, activation="gelu"),
            LAYER_NORM,
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _opt(*, before: bool) -> Case:
    config = OPTConfig(
        hidden_size=HIDDEN,
        ffn_dim=INNER,
        num_attention_heads=HEADS,
        attn_implementation="eager",
        do_layer_norm_before=before,
    )
    layers, head_dim = nn.ModuleList([opt.OPTDecoderLayer(config, 0)]), HIDDEN // HEADS
    _randomise(layers)

    def arrays(layer: nn.Module) -> Arrays:
        attention = layer.self_attn
        return {
            **_joined("self_attention.qkv", (attention.q_proj, attention.k_proj, attention.v_proj), HEADS, head_dim),
            **_of("self_attention.out", attention.out_proj),
            **_norm("self_norm", layer.self_attn_layer_norm),
            **_norm("feed_forward_norm", layer.final_layer_norm),
            **_of("feed_forward.up", layer.fc1),
            **_of("feed_forward.down", layer.fc2),
        }

    return Case(
        layers,
        _in_turn(layers, attention_mask=_mask()),
        _config(
            AttentionConfig(num_heads=HEADS, head_dim=head_dim),
            MLPConfig(size=INNER, activation="relu"),
            LayerNormConfig(eps=1e-5, placement="pre" if before else "post"),
        ),
        _stack([arrays(layer) for layer in layers]),
    )


def _t5(*, decoder: bool, shared: bool) -> Case:
    """Two blocks of T5, whose first has the bias of both, or of UMT5, whose blocks have one each."""
    kind = T5Config if shared else UMT5Config
    config = kind(
        d_model=HIDDEN,
        d_kv=HEAD_DIM,
        d_ff=INNER,
        num_heads=HEADS,
        layer_norm_epsilon=EPS,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,
        feed_forward_proj="gated-gelu",
    )
    config.is_decoder, config.use_cache = decoder, False
    if shared:
        layers = nn.ModuleList([t5.T5Block(config, at == 0, layer_idx=at) for at in range(2)])
    else:
        layers = nn.ModuleList([umt5.UMT5Block(config, layer_idx=at) for at in range(2)])
    _randomise(layers, 0.15)  # its scores are not scaled down
    cross_mask = _additive(torch.tensor(SOURCE_REAL)[:, None, None, :])
    options = {"encoder_attention_mask": cross_mask, "cache_position": torch.arange(LENGTH)}

    def call(x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        bias, cross_bias = None, None
        for layer in layers:
            given: dict[str, Any] = {"attention_mask": _mask(causal=decoder), **options}
            given |= {"encoder_hidden_states": states if decoder else None}
            if shared:
                given |= {"position_bias": bias, "encoder_decoder_position_bias": cross_bias}
            x, *rest = layer(x, **given)
            if shared:
                bias, cross_bias = rest[0], rest[1] if decoder else None
        return x

    def attention(name: str, module: nn.Module) -> Arrays:
        qkv = (module.q, module.k, module.v)
        if name == "self_attention":
            return {**_joined(f"{name}.qkv", qkv, HEADS, HEAD_DIM), **_of(f"{name}.out", module.o)}
        kv = _joined(f"{name}.kv", qkv[1:], HEADS, HEAD_DIM)
        return {**_of(f"{name}.q", module.q, HEADS, HEAD_DIM), **kv, **_of(f"{name}.out", module.o)}

    def arrays(layer: nn.Module) -> Arrays:
        own, *cross, last = layer.layer
        named = {**attention("self_attention", own.SelfAttention), **_norm("self_norm", own.layer_norm)}
        if not shared:
            bias = own.SelfAttention.relative_attention_bias.weight
            named["self_attention.relative_bias.weight"] = bias.detach().numpy()
        for sublayer in cross:
            named |= attention("cross_attention", sublayer.EncDecAttention)
            named |= _norm("cross_norm", sublayer.layer_norm)
        dense = last.DenseReluDense
        return {
            **named,
            **_norm("feed_forward_norm", last.layer_norm),
            **_of("feed_forward.gate", dense.wi_0),
            **_of("feed_forward.up", dense.wi_1),
            **_of("feed_forward.down", dense.wo),
        }

    own: Any = layers[0].get_submodule("layer.0.SelfAttention")
    first = own.relative_attention_bias.weight.detach().numpy()
    bias = RelativeBiasConfig(entries=8, buckets=8, max_distance=10, bidirectional=not decoder, shared=shared)
    spec = LayerSpec(score_scale=1.0, cross_attention=decoder)
    return Case(
        layers,
        call,
        _config(
            _attention(num_kv_heads=None, rotary=(), relative_bias=bias),
            dataclasses.replace(GATED, activation="gelu_new"),
            RMS,
            (spec, spec),
            causal=decoder,
        ),
        _stack([arrays(layer) for layer in layers], **({"relative_bias": first} if shared else {})),
    )


def _modernbert() -> Case:
    config = ModernBertConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        norm_eps=EPS,
        global_rope_theta=THETA,
        local_rope_theta=LOCAL_THETA,
        local_attention=6,
        global_attn_every_n_layers=3,
        attn_implementation="eager",
        reference_compile=False,
    )
    layers, head_dim = (
        nn.ModuleList([modernbert.ModernBertEncoderLayer(config, at) for at in range(2)]),
        HIDDEN // HEADS,
    )
    _randomise(layers)

    def arrays(at: int, layer: nn.Module) -> Arrays:
        gate, up = torch.chunk(layer.mlp.Wi.weight, 2)
        return {
            **_linear("self_attention.qkv", layer.attn.Wqkv.weight, None, 3, HEADS, head_dim),
            **_of("self_attention.out", layer.attn.Wo),
            **(_norm("self_norm", layer.attn_norm) if at else {}),
            **_norm("feed_forward_norm", layer.mlp_norm),
            **_linear("feed_forward.gate", gate, None),
            **_linear("feed_forward.up", up, None),
            **_of("feed_forward.down", layer.mlp.Wo),
        }

    return Case(
        layers,
        _in_turn(
            layers,
            attention_mask=_mask(causal=False),
            sliding_window_mask=_mask(causal=False, two_sided=3),
            position_ids=POSITIONS,
        ),
        _config(
            _attention(head_dim=head_dim, num_kv_heads=None, rotary=(ROTARY, RotaryConfig(theta=LOCAL_THETA))),
            dataclasses.replace(GATED, activation="gelu"),
            dataclasses.replace(LAYER_NORM, bias=False),
            (LayerSpec(self_norm=False), LayerSpec(window=4, rotary=1)),
            causal=False,
        ),
        _stack([arrays(at, layer) for at, layer in enumerate(layers)]),
    )


def _deberta(*, own: bool) -> Case:
    """Two layers of DeBERTa v3 (projections of contents also serve positions) or of v2's other form."""
    config = DebertaV2Config(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        layer_norm_eps=EPS,
        relative_attention=True,
        position_buckets=4,
        max_relative_positions=16,
        share_att_key=not own,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
    )
    encoder, head_dim = deberta.DebertaV2Encoder(config), HIDDEN // HEADS
    layers = encoder.layer[:2]
    _randomise(encoder)

    def arrays(layer: nn.Module) -> Arrays:
        attention = layer.attention.self
        named = _joined(
            "self_attention.qkv", (attention.query_proj, attention.key_proj, attention.value_proj), HEADS, head_dim
        )
        if own:
            named |= _of("self_attention.position_key", attention.pos_key_proj, HEADS, head_dim)
            named |= _of("self_attention.position_query", attention.pos_query_proj, HEADS, head_dim)
        return {
            **named,
            **_of("self_attention.out", layer.attention.output.dense),
            **_norm("self_norm", layer.attention.output.LayerNorm),
            **_of("feed_forward.up", layer.intermediate.dense),
            **_of("feed_forward.down", layer.output.dense),
            **_norm("feed_forward_norm", layer.output.LayerNorm),
        }

    mask = torch.tensor(REAL)[:, None, None, :] & torch.tensor(REAL)[:, None, :, None]
    attention = DisentangledAttentionConfig(
        num_heads=HEADS,
        head_dim=head_dim,
        rows=DisentangledConfig(span=4, max_distance=16),
        own_projections=own,
        embedding_norm=LayerNormConfig(eps=EPS),
    )
    spec = LayerSpec(score_scale=(3 * head_dim) ** -0.5)
    return Case(
        encoder,
        _in_turn(layers, attention_mask=mask, rel_embeddings=encoder.get_rel_embedding().detach()),
        _config(
            attention, MLPConfig(size=INNER), LayerNormConfig(eps=EPS, placement="post"), (spec, spec), causal=False
        ),
        {
            **_stack([arrays(layer) for layer in layers], other=encoder.rel_embeddings.weight.detach().numpy()),
            **_norm("shared.other.norm", encoder.LayerNorm),
        },
    )


CASES: dict[str, Callable[[], Case]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "olmo2": _olmo2,
    "phi": _phi,
    "stablelm": lambda: _stablelm(parallel=False),
    "stablelm, parallel": lambda: _stablelm(parallel=True),
    "gptj": _gptj,
    "gpt_neox": lambda: _gpt_neox(parallel=False),
    "gpt_neox, parallel": lambda: _gpt_neox(parallel=True),
    "bloom": lambda: _bloom(normed_residual=False),
    "bloom, normed residual": lambda: _bloom(normed_residual=True),
    "falcon, one norm": lambda: _falcon(two_norms=False),
    "falcon, two norms": lambda: _falcon(two_norms=True),
    "falcon, alibi": _falcon_alibi,
    "opt": lambda: _opt(before=True),
    "opt, norms after": lambda: _opt(before=False),
    "t5 encoder": lambda: _t5(decoder=False, shared=True),
    "t5 decoder": lambda: _t5(decoder=True, shared=True),
    "umt5 encoder": lambda: _t5(decoder=False, shared=False),
    "umt5 decoder": lambda: _t5(decoder=True, shared=False),
    "modernbert": _modernbert,
    "deberta": lambda: _deberta(own=False),
    "deberta, own projections": lambda: _deberta(own=True),
}
