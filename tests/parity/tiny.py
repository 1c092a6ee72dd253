"""A tiny random Hugging Face config of every family, by `model_type`. Knows nothing of this library.

Sizes are small and unequal, so that none is taken for another, and what may be chosen is not at its default.
"""

import warnings
from collections.abc import Callable
from typing import Any

from transformers import (
    AlbertConfig,
    BartConfig,
    BertGenerationConfig,
    BigBirdConfig,
    BlenderbotConfig,
    BlenderbotSmallConfig,
    BloomConfig,
    CamembertConfig,
    Data2VecTextConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    MegatronBertConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    MT5Config,
    Olmo2Config,
    OPTConfig,
    PegasusConfig,
    Phi3Config,
    PhiConfig,
    PLBartConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RemBertConfig,
    RobertaPreLayerNormConfig,
    RoFormerConfig,
    SmolLM3Config,
    StableLmConfig,
    T5Config,
    T5GemmaConfig,
    TrOCRConfig,
    UMT5Config,
    XGLMConfig,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
)

from hf import VOCAB, tiny_bert, tiny_gpt2, tiny_roberta

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, where these modules compile functions
    import transformers.models.deberta_v2.modeling_deberta_v2
    import transformers.models.modernbert.modeling_modernbert  # noqa: F401

Tiny = Callable[..., PretrainedConfig]

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 28,
    "max_position_embeddings": 32,
    "layer_norm_eps": 2e-5,
}
ROBERTA_LIKE = {**SIZES, "hidden_size": 24, "max_position_embeddings": 34, "type_vocab_size": 3}


BART_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 28,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

T5_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 28,
    "num_heads": 4,
    # torch's cache has as many layers as the encoder: a deeper decoder overruns it
    "num_layers": 3,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 9,
    "layer_norm_epsilon": 2e-5,
    "decoder_start_token_id": 0,
}


def _tiny(kind: type[PretrainedConfig], **settings: Any) -> Tiny:
    return lambda **changes: kind(**{**settings, **changes})


BOTH: dict[str, Tiny] = {
    "bert": tiny_bert,
    "roberta": tiny_roberta,
    "gpt2": tiny_gpt2,
    "xlm-roberta": _tiny(XLMRobertaConfig, **ROBERTA_LIKE),
    "camembert": _tiny(CamembertConfig, **ROBERTA_LIKE),
    "data2vec-text": _tiny(Data2VecTextConfig, **ROBERTA_LIKE),
    "xlm-roberta-xl": _tiny(XLMRobertaXLConfig, **ROBERTA_LIKE),
    "roberta-prelayernorm": _tiny(RobertaPreLayerNormConfig, **ROBERTA_LIKE),
    "ernie": _tiny(ErnieConfig, **SIZES, use_task_id=True, task_type_vocab_size=4, type_vocab_size=5),
    "megatron-bert": _tiny(MegatronBertConfig, **SIZES),
    "rembert": _tiny(RemBertConfig, **SIZES, input_embedding_size=12, output_embedding_size=20, pad_token_id=1),
    "electra": _tiny(ElectraConfig, **SIZES, embedding_size=12),
    "bert-generation": _tiny(BertGenerationConfig, **SIZES),
    "big_bird": _tiny(BigBirdConfig, **SIZES, attention_type="original_full", rescale_embeddings=True, use_bias=False),
    "roformer": _tiny(RoFormerConfig, **SIZES, embedding_size=12, rotary_value=True),
}

BARTS: dict[str, Tiny] = {
    "bart": _tiny(BartConfig, **BART_LIKE, activation_function="silu"),
    "mbart": _tiny(MBartConfig, **BART_LIKE, scale_embedding=True),
    "marian": _tiny(MarianConfig, **BART_LIKE),
    "pegasus": _tiny(PegasusConfig, **BART_LIKE, scale_embedding=True),
    "blenderbot": _tiny(BlenderbotConfig, **BART_LIKE),
    "blenderbot-small": _tiny(BlenderbotSmallConfig, **BART_LIKE, scale_embedding=True),
    "plbart": _tiny(PLBartConfig, **BART_LIKE, activation_function="relu"),
    "m2m_100": _tiny(M2M100Config, **BART_LIKE, encoder_layerdrop=0.0, decoder_layerdrop=0.0),
}
"""Families whose checkpoints hold both pieces."""

T5S: dict[str, Tiny] = {
    "t5": _tiny(T5Config, **T5_LIKE, feed_forward_proj="gelu"),
    "mt5": _tiny(MT5Config, **T5_LIKE, feed_forward_proj="gated-silu"),
    "umt5": _tiny(UMT5Config, **T5_LIKE),
}
"""Whose decoders torch has in whole checkpoints alone."""

ENCODERS: dict[str, Tiny] = {
    **BOTH,
    **BARTS,
    **T5S,
    "distilbert": _tiny(
        DistilBertConfig, vocab_size=VOCAB, dim=16, n_layers=2, n_heads=2, hidden_dim=28, max_position_embeddings=32
    ),
    "albert": _tiny(AlbertConfig, **{**SIZES, "num_hidden_layers": 4, "num_hidden_groups": 2, "embedding_size": 12}),
    "mpnet": _tiny(MPNetConfig, **SIZES, relative_attention_num_buckets=35),
    "deberta-v2": _tiny(
        DebertaV2Config,
        **SIZES,
        type_vocab_size=3,
        embedding_size=12,
        pad_token_id=1,
        relative_attention=True,
        pos_att_type="p2c|c2p",
        position_buckets=6,
        norm_rel_ebd="layer_norm",
        conv_kernel_size=3,
        conv_groups=2,
    ),
    "modernbert": _tiny(
        ModernBertConfig,
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
        norm_eps=2e-5,
        global_attn_every_n_layers=2,
        local_attention=4,
        global_rope_theta=500.0,
        local_rope_theta=20.0,
        **{f"{name}_token_id": at for at, name in enumerate(("bos", "eos", "pad", "cls", "sep"))},
    ),
}
"""Families that can be encoders."""

DECODERS: dict[str, Tiny] = {
    **BOTH,
    # torch joins M2M100's decoder to no encoder but its own
    **{name: tiny for name, tiny in BARTS.items() if name != "m2m_100"},
    "xglm": _tiny(
        XGLMConfig,
        vocab_size=VOCAB,
        # at the place of the first position, whose row torch therefore leaves empty
        pad_token_id=2,
        eos_token_id=3,
        d_model=20,
        num_layers=2,
        attention_heads=4,
        ffn_dim=30,
        max_position_embeddings=32,
    ),
    "trocr": _tiny(
        TrOCRConfig,
        vocab_size=VOCAB,
        d_model=20,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=30,
        max_position_embeddings=32,
        use_learned_position_embeddings=False,
        layernorm_embedding=False,
    ),
}
"""Families that can be decoders with cross-attention."""

LLAMA_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 28,
    "max_position_embeddings": 32,
    "rms_norm_eps": 2e-5,
    "rope_theta": 300.0,
}

EVEN_HEADS = {**{name: size for name, size in LLAMA_LIKE.items() if name != "head_dim"}, "hidden_size": 40}
STABLE = {**{name: size for name, size in EVEN_HEADS.items() if name != "rms_norm_eps"}, "layer_norm_eps": 2e-5}
STABLE |= {"num_attention_heads": 5, "num_key_value_heads": 5}
WINDOWS = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
GEMMA_LIKE = {**LLAMA_LIKE, "sliding_window": 4, "query_pre_attn_scalar": 7}
SMOL_TOKENS = {"pad_token_id": 2, "bos_token_id": 3, "eos_token_id": 4}

CAUSAL: dict[str, Tiny] = {
    "llama": _tiny(LlamaConfig, **LLAMA_LIKE, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "gpt_neox": _tiny(GPTNeoXConfig, **SIZES, rotary_pct=0.5, rotary_emb_base=100, hidden_act="gelu_new"),
    "gptj": _tiny(
        GPTJConfig, vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=3, n_positions=32, rotary_dim=4, n_inner=28
    ),
    "phi": _tiny(PhiConfig, **{**SIZES, "num_attention_heads": 4}, num_key_value_heads=2, rope_theta=50.0),
    "opt": _tiny(
        OPTConfig,
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        ffn_dim=28,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
    ),
    "falcon": _tiny(
        FalconConfig,
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_kv_heads=2,
        new_decoder_architecture=True,
        ffn_hidden_size=28,
        rope_theta=50.0,
        layer_norm_epsilon=2e-5,
    ),
    "bloom": _tiny(BloomConfig, vocab_size=VOCAB, hidden_size=24, n_layer=2, n_head=6, layer_norm_epsilon=2e-5),
    "mistral": _tiny(MistralConfig, **LLAMA_LIKE, sliding_window=4),
    "qwen2": _tiny(Qwen2Config, **EVEN_HEADS, **WINDOWS),
    "qwen3": _tiny(Qwen3Config, **{**LLAMA_LIKE, **WINDOWS, "sliding_window": 5}, attention_bias=True),
    "smollm3": _tiny(SmolLM3Config, **EVEN_HEADS, **SMOL_TOKENS, no_rope_layer_interval=2, attention_bias=True),
    "olmo2": _tiny(Olmo2Config, **EVEN_HEADS),
    "phi3": _tiny(Phi3Config, **EVEN_HEADS, partial_rotary_factor=0.4, pad_token_id=3, sliding_window=5),
    "stablelm": _tiny(StableLmConfig, **STABLE, use_qkv_bias=True, qk_layernorm=True, partial_rotary_factor=0.5),
    "gemma": _tiny(GemmaConfig, **LLAMA_LIKE, attention_bias=True, hidden_act="gelu", hidden_activation="relu"),
    "gemma2": _tiny(Gemma2Config, **GEMMA_LIKE, attn_logit_softcapping=1.5, final_logit_softcapping=2.5),
    "gemma3_text": _tiny(Gemma3TextConfig, **GEMMA_LIKE, sliding_window_pattern=2, rope_local_base_freq=70.0),
}
"""Families that can be decoders and to which torch gives no cross-attention: causal language models, compared alone."""

LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0, "original_max_position_embeddings": 24}
YARN = {"factor": 3.0, "beta_fast": 4.0, "beta_slow": 0.5, "original_max_position_embeddings": 12}
OLD_FALCON: dict[str, Any] = {"new_decoder_architecture": False, "num_kv_heads": None}
LONG_ROPE = {"short_factor": [1.0, 1.5], "long_factor": [1.0, 4.0]}
PLAIN_LLAMA = {"attention_bias": False, "mlp_bias": False}

THREE = {"num_hidden_layers": 3}
SLIDING, FULL = "sliding_attention", "full_attention"

CAUSAL_VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {**PLAIN_LLAMA, "tie_word_embeddings": True, "head_dim": None, "num_key_value_heads": None}),
    ("llama", {**PLAIN_LLAMA, "num_key_value_heads": 1, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    ("llama", {"mlp_bias": False, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}),
    ("llama", {"attention_bias": False, "rope_scaling": {"rope_type": "yarn", **YARN}}),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 0.7, "mscale_all_dim": 0.4}}),
    ("llama", {"rope_scaling": {"rope_type": "yarn", **YARN, "attention_factor": 1.3, "truncate": False}}),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}}),
    ("llama", {"rope_scaling": {"rope_type": "default"}, "pad_token_id": 0, "hidden_act": "relu"}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}),
    ("gpt_neox", {"rotary_pct": 1.0, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    ("gpt_neox", {"hidden_size": 24, "num_attention_heads": 4, "rotary_pct": 0.25}),  # 1.5 entries of 6
    ("gptj", {"rotary_dim": 8, "n_inner": None, "tie_word_embeddings": True, "activation_function": "relu"}),
    ("phi", {"qk_layernorm": True, "num_key_value_heads": None, "partial_rotary_factor": 1.0}),
    ("phi", {"qk_layernorm": True, "num_key_value_heads": 1, "hidden_size": 48, "partial_rotary_factor": 0.4}),
    ("phi", {"head_dim": 10, "partial_rotary_factor": 0.4, "tie_word_embeddings": True, "pad_token_id": 0}),
    ("phi", {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "hidden_act": "relu"}),
    ("opt", {"do_layer_norm_before": False, "activation_function": "gelu"}),
    ("opt", {"word_embed_proj_dim": None, "enable_bias": False}),
    ("opt", {"word_embed_proj_dim": None, "do_layer_norm_before": False, "tie_word_embeddings": False}),
    ("opt", {"_remove_final_layer_norm": True, "word_embed_proj_dim": 36, "pad_token_id": 0}),
    ("falcon", {"num_ln_in_parallel_attn": 1, "bias": True, "tie_word_embeddings": False, "activation": "relu"}),
    ("falcon", {"num_kv_heads": None, "rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    ("falcon", {**OLD_FALCON, "ffn_hidden_size": None}),
    ("falcon", {**OLD_FALCON, "multi_query": False, "bias": True}),
    ("falcon", {**OLD_FALCON, "parallel_attn": False}),
    ("falcon", {**OLD_FALCON, "parallel_attn": False, "multi_query": False, "bias": True}),
    ("bloom", {"apply_residual_connection_post_layernorm": True, "n_head": 3}),
    ("bloom", {"n_head": 4, "tie_word_embeddings": False}),
    ("bloom", {"n_head": 12}),
    ("mistral", {"sliding_window": None, "tie_word_embeddings": True, "num_key_value_heads": None}),
    ("mistral", {"head_dim": None, "hidden_size": 40, "sliding_window": 1}),
    ("qwen2", {"use_sliding_window": False, "tie_word_embeddings": True}),
    ("qwen2", {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 6}),
    ("qwen2", {"sliding_window": 2, "max_window_layers": 0, "rope_scaling": {"type": "yarn", **YARN}}),
    ("qwen3", {"use_sliding_window": False, "attention_bias": False, "tie_word_embeddings": True, "head_dim": 8}),
    ("qwen3", {"layer_types": ["sliding_attention", "sliding_attention"], "num_key_value_heads": 4}),
    ("smollm3", {"no_rope_layers": [0, 0], "attention_bias": False, "mlp_bias": True, "tie_word_embeddings": False}),
    ("smollm3", {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 4}),
    ("smollm3", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "head_dim": 6}),
    ("olmo2", {"attention_bias": True, "rope_scaling": {"type": "linear", "factor": 3.0}, "head_dim": 8}),
    ("olmo2", {"num_key_value_heads": None, "tie_word_embeddings": True, "pad_token_id": None}),
    ("phi3", {"num_key_value_heads": None, "sliding_window": None, "tie_word_embeddings": True}),
    ("phi3", {"rope_scaling": {"type": "longrope", **LONG_ROPE}, "original_max_position_embeddings": 24}),
    ("phi3", {"rope_scaling": {"type": "su", **LONG_ROPE}, "num_key_value_heads": 4}),
    ("phi3", {"partial_rotary_factor": 0.5}),  # 5 entries of 10
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False, "partial_rotary_factor": 0.25}),
    ("stablelm", {"num_key_value_heads": 1, "partial_rotary_factor": 1.0, "tie_word_embeddings": True}),
    (
        "stablelm",
        {"qk_layernorm": False, "use_parallel_residual": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    ("gemma", {"attention_bias": False, "tie_word_embeddings": False, "num_key_value_heads": 4, "pad_token_id": None}),
    ("gemma", {"num_key_value_heads": 1, "hidden_act": "silu", "rope_scaling": {"type": "linear", "factor": 2.5}}),
    ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False}),
    ("gemma2", {**THREE, "layer_types": [FULL, SLIDING, SLIDING], "query_pre_attn_scalar": 7.3}),
    ("gemma2", {"layer_types": [FULL] * 2, "query_pre_attn_scalar": 10, "attention_bias": True}),
    ("gemma2", {**THREE, "rope_scaling": {"rope_type": "llama3", **LLAMA3}, "num_key_value_heads": 4}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "attn_logit_softcapping": 2.0}),
    ("gemma3_text", {**THREE, "layer_types": [SLIDING, FULL, FULL], "final_logit_softcapping": 1.5}),
    ("gemma3_text", {**THREE, "sliding_window_pattern": 3, "rope_scaling": {"rope_type": "yarn", **YARN}}),
    ("gemma3_text", {"sliding_window_pattern": 1, "tie_word_embeddings": False, "pad_token_id": 6}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}, "attention_bias": True}),
]
"""Settings that the models above do not have; each is compared in a call, a cached one, and through files."""

_GEMMA_ENCODER = {
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 40,
    "sliding_window": 4,
    "query_pre_attn_scalar": 11,
}
_GEMMA_DECODER = {
    **_GEMMA_ENCODER,
    "hidden_size": 16,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "sliding_window": 3,
    "query_pre_attn_scalar": 5.5,
}


def _t5gemma(encoder: dict[str, Any], decoder: dict[str, Any], **settings: Any) -> Tiny:
    nested = {"encoder": {**_GEMMA_ENCODER, **encoder}, "decoder": {**_GEMMA_DECODER, **decoder}}
    return _tiny(T5GemmaConfig, **nested, vocab_size=VOCAB, **settings)


_TOKENS = {"bos_token_id": 5, "eos_token_id": 7, "pad_token_id": 3}
_UNLIKE = {"attn_logit_softcapping": None, "attention_bias": True, "hidden_activation": "silu", "rms_norm_eps": 1e-3}
T5GEMMAS: dict[str, Tiny] = {
    "t5gemma": _t5gemma({}, {}),
    "t5gemma_untied": _t5gemma(
        {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 9.0},
        {"final_logit_softcapping": 1.5, "num_key_value_heads": 6, "tie_word_embeddings": False},
        tie_word_embeddings=False,
        dropout_rate=0.1,
        attention_dropout=0.2,
    ),
    "t5gemma_plain": _t5gemma(
        {**_UNLIKE, "rope_theta": 300.0, "pad_token_id": 3},
        {**_UNLIKE, **_TOKENS, "final_logit_softcapping": None, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    # as wide as each other, so that the pieces join others
    "t5gemma_even": _t5gemma({"num_hidden_layers": 2, "hidden_size": 16}, {}),
}
"""Whole checkpoints of T5Gemma. Its pieces have the config of a class that torch gives no name of its own."""
