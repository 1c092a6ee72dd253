"""Families: Hugging Face configs read and written, and name tables that agree with the models' arrays."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from encdec_eqx import Decoder, Encoder, StackConfig
from encdec_eqx._trees import path_name
from encdec_eqx.config import (
    AttentionConfig,
    CrossAttention,
    EmbeddingsConfig,
    FeedForwardConfig,
    GatedMLPConfig,
    LayerSpec,
    NormConfig,
    PositionsConfig,
)
from encdec_eqx.hf import transforms
from encdec_eqx.hf.attributes import Attribute
from encdec_eqx.hf.families import FAMILIES, read_pair, write_pair
from encdec_eqx.hf.family import arrays
from models import decoder_config

# BERT's words for the sizes, as most of its relatives use them.
_SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIZES |= {"intermediate_size": 12, "max_position_embeddings": 6}
_GROUPED = {**_SIZES, "num_key_value_heads": 1}
# BART's: both pieces in one config, of unequal depth.
_BART = {"vocab_size": 11, "d_model": 8, "max_position_embeddings": 6, "pad_token_id": 1}
_BART |= {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 12}
_BART |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 16}

# T5's: heads that are wider than the model, decoders of another depth, positions without a bound.
_T5 = {"vocab_size": 11, "d_model": 8, "d_kv": 5, "num_heads": 2, "d_ff": 12, "num_layers": 2, "num_decoder_layers": 1}
_GEMMA = {**_SIZES, "num_key_value_heads": 1, "head_dim": 6}

SMALL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "xlm-roberta-xl"), _SIZES),
    **dict.fromkeys(("roberta-prelayernorm", "ernie", "megatron-bert", "bert-generation", "big_bird"), _SIZES),
    **{name: {**_SIZES, "embedding_size": 6} for name in ("electra", "roformer", "albert")},
    "rembert": {**_SIZES, "input_embedding_size": 6, "output_embedding_size": 10},
    "mpnet": _SIZES,
    "modernbert": {**_SIZES, "pad_token_id": 0},
    "deberta-v2": _SIZES,
    "distilbert": {"vocab_size": 11, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
    | {"max_position_embeddings": 6},
    "gpt2": {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 6},
    **dict.fromkeys(("bart", "mbart", "plbart", "marian", "pegasus", "m2m_100"), _BART),
    **dict.fromkeys(("blenderbot", "blenderbot-small"), _BART),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    "trocr": {name: size for name, size in _BART.items() if not name.startswith("encoder_")},
    "gpt_neox": {**_SIZES, "rotary_pct": 0.5},
    "gptj": {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 6, "rotary_dim": 2},
    "phi": {**_SIZES, "num_key_value_heads": 1},
    "opt": {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 12}
    | {"max_position_embeddings": 6, "word_embed_proj_dim": 6},
    "falcon": {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"ffn_hidden_size": 12, "max_position_embeddings": 6},
    "bloom": {"vocab_size": 11, "hidden_size": 8, "n_layer": 2, "n_head": 2},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3"), _GROUPED),
    "stablelm": {**_GROUPED, "partial_rotary_factor": 0.5},
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "t5_gemma_module"), _GEMMA),
    "xglm": {"vocab_size": 11, "d_model": 8, "num_layers": 2, "attention_heads": 2, "ffn_dim": 12}
    | {"max_position_embeddings": 6},
}
DECODER = {"is_decoder": True, "add_cross_attention": True}
ABLE = {role: [name for name in SMALL if role in FAMILIES[name].architectures] for role in ("encoder", "decoder")}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 3}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
DEBERTA |= {"norm_rel_ebd": "layer_norm"}

LONG_ROPE = {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}

# What each family accepts besides its sizes.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in ABLE["encoder"]),
    *((family, DECODER) for family in ABLE["decoder"]),
    *((family, {"is_decoder": True}) for family in ("bert", "roberta", "gpt2")),
    *((family, {**DECODER, "tie_word_embeddings": False, "eos_token_id": [3, 4]}) for family in ABLE["decoder"]),
    ("bert", {"position_embedding_type": "relative_key", "type_vocab_size": 0}),
    ("roberta", {"position_embedding_type": "relative_key_query", "is_decoder": True, "hidden_act": "relu"}),
    ("bert", {"is_decoder": True, "add_cross_attention": True, "cross_attention_hidden_size": 12}),
    ("bert", {"pad_token_id": None, "hidden_act": "silu", "layer_norm_eps": 1e-5, "initializer_range": 0.1}),
    ("bert", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.0}),
    ("gpt2", {"n_inner": 20, "activation_function": "relu", "resid_pdrop": 0.0, "embd_pdrop": 0.2, "attn_pdrop": 0.3}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "n_layer": 1}),
    ("gpt2", {"decoder_start_token_id": 3, "pad_token_id": 4, "bos_token_id": None}),
    ("xlm-roberta-xl", {"position_embedding_type": "relative_key", "layer_norm_eps": 1e-3}),
    ("ernie", {"use_task_id": True, "task_type_vocab_size": 4}),
    ("megatron-bert", {"position_embedding_type": "relative_key", "is_decoder": True}),
    ("rembert", {"input_embedding_size": 8, "type_vocab_size": 0}),
    ("electra", {**DECODER, "embedding_size": 8, "hidden_act": "relu"}),
    ("bert-generation", {"position_embedding_type": "relative_key_query"}),
    ("big_bird", {**DECODER, "use_bias": False, "rescale_embeddings": True}),
    ("roformer", {**DECODER, "embedding_size": 8, "rotary_value": True}),
    ("distilbert", {"sinusoidal_pos_embds": True, "activation": "relu", "dropout": 0.2, "attention_dropout": 0.3}),
    ("albert", {"num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2}),
    ("albert", {"num_hidden_groups": 2, "embedding_size": 8, "hidden_dropout_prob": 0}),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **DECODER}),
    ("t5", {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}),
    ("mt5", {"feed_forward_proj": "relu", "dropout_rate": 0.0, "layer_norm_epsilon": 1e-5, "initializer_factor": 0.3}),
    ("umt5", {"feed_forward_proj": "gated-silu", "decoder_start_token_id": 3, "pad_token_id": 4, **DECODER}),
    ("mpnet", {"relative_attention_num_buckets": 40, "pad_token_id": 0}),
    ("deberta-v2", DEBERTA),
    ("deberta-v2", {**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2, "embedding_size": 6}),
    ("deberta-v2", {**DEBERTA, "pos_att_type": ["c2p"], "share_att_key": True, "position_biased_input": False}),
    ("deberta-v2", {**DEBERTA, "position_buckets": -1, "max_relative_positions": 4, "norm_rel_ebd": "none"}),
    ("deberta-v2", {**DEBERTA, "position_buckets": 4, "max_relative_positions": 20, "hidden_dropout_prob": 0.3}),
    ("deberta-v2", {"pos_att_type": ["p2c"], "type_vocab_size": 3, "conv_kernel_size": 1, "num_hidden_layers": 1}),
    ("modernbert", {"num_hidden_layers": 5, "local_attention": 6, "global_attn_every_n_layers": 4, "norm_eps": 1e-3}),
    ("modernbert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "hidden_activation": "silu"}),
    ("modernbert", {"global_rope_theta": 500.0, "local_rope_theta": 20.0, "attention_dropout": 0.1}),
    ("modernbert", {"embedding_dropout": 0.2, "mlp_dropout": 0.3, "initializer_range": 0.1}),
    ("llama", {**DECODER, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "num_key_value_heads": 2}),
    ("llama", {"is_decoder": True, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "rope_theta": 50.0}),
    ("llama", {**DECODER, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 3}}),
    ("llama", {**DECODER, "rope_scaling": LLAMA3}),
    ("gpt_neox", {**DECODER, "use_parallel_residual": False, "attention_bias": False, "hidden_dropout": 0.2}),
    ("gpt_neox", {"is_decoder": True, "rotary_pct": 0.75, "rotary_emb_base": 50.0, "attention_dropout": 0.1}),
    ("gpt_neox", {"is_decoder": True, "rope_scaling": LLAMA3, "layer_norm_eps": 1e-3}),
    ("gptj", {**DECODER, "rotary_dim": 4, "n_inner": 20, "resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3}),
    ("phi", {**DECODER, "qk_layernorm": True, "num_key_value_heads": 2, "partial_rotary_factor": 1.0}),
    ("phi", {"is_decoder": True, "head_dim": 6, "partial_rotary_factor": 2 / 3, "embd_pdrop": 0.1, "resid_pdrop": 0.2}),
    ("opt", {**DECODER, "word_embed_proj_dim": 8, "do_layer_norm_before": False, "enable_bias": False}),
    ("opt", {"is_decoder": True, "_remove_final_layer_norm": True, "init_std": 0.1, "dropout": 0.0}),
    ("opt", {"is_decoder": True, "layer_norm_elementwise_affine": False, "pad_token_id": None}),
    ("falcon", {**DECODER, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2}),
    ("falcon", {**DECODER, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    ("falcon", {**DECODER, "multi_query": True, "parallel_attn": False, "bias": True}),
    ("falcon", {**DECODER, "multi_query": False, "parallel_attn": False, "alibi": True, "num_kv_heads": 4}),
    ("falcon", {"is_decoder": True, "rope_theta": 50.0, "rope_scaling": LLAMA3, "hidden_dropout": 0.1}),
    ("bloom", {**DECODER, "apply_residual_connection_post_layernorm": True, "hidden_dropout": 0.1}),
    ("mistral", {**DECODER, "sliding_window": None, "head_dim": 6}),
    ("qwen2", {**DECODER, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("qwen3", {**DECODER, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}),
    ("smollm3", {**DECODER, "no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 3}),
    ("olmo2", {**DECODER, "attention_bias": True, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ("phi3", {**DECODER, "rope_scaling": LONG_ROPE, "original_max_position_embeddings": 3}),
    ("phi3", {**DECODER, "num_key_value_heads": 2, "resid_pdrop": 0.1, "sliding_window": 4}),
    ("stablelm", {**DECODER, "qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 2}),
    ("gemma", {**DECODER, "hidden_act": "silu", "attention_bias": True, "pad_token_id": None, "rope_theta": 50.0}),
    ("gemma2", {"is_decoder": True, "query_pre_attn_scalar": 7.3, "attn_logit_softcapping": None}),
    ("gemma2", {**DECODER, "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}),
    ("gemma2", {**DECODER, "final_logit_softcapping": None, "rope_scaling": LLAMA3, "hidden_activation": "relu"}),
    ("gemma3_text", {**DECODER, "rope_local_base_freq": 50.0, "query_pre_attn_scalar": 7}),
    ("gemma3_text", {"is_decoder": True, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("t5_gemma_module", {"attn_logit_softcapping": 3.0, "dropout_rate": 0.1, "rope_theta": 50.0}),
    ("t5_gemma_module", {**DECODER, "cross_attention_hidden_size": 10, "final_logit_softcapping": None}),
]


def _hf(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **SMALL[family], **changes}


def _roles(family: str) -> tuple[str, ...]:
    return tuple(FAMILIES[family].architectures)


def test_every_family_is_here():
    assert set(SMALL) == set(FAMILIES)


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_a_config_written_reads_back_the_same(family: str, changes: dict[str, Any]):
    config = StackConfig.from_hf(_hf(family, **changes))
    role = "decoder" if changes.get("is_decoder") else "encoder"
    written = FAMILIES[family].to_hf(config, role)
    assert StackConfig.from_hf(written) == config
    assert written["model_type"] == family
    for name, value in changes.items():
        assert written[name] == value or name == "is_decoder"


def test_defaults_are_the_published_base_models():
    bert = StackConfig.from_hf({"model_type": "bert"})
    assert (bert.vocab_size, bert.hidden_size, len(bert.layers), bert.feed_forward.size) == (30522, 768, 12, 3072)
    assert bert.norm == NormConfig(eps=1e-12, placement="post")
    assert bert.pooler
    assert not bert.causal
    roberta = StackConfig.from_hf({"model_type": "roberta"})
    assert (roberta.bos_token_id, roberta.pad_token_id, roberta.eos_token_id) == (0, 1, 2)
    assert roberta.positions == PositionsConfig(max_positions=512, counting="non_padding", padding_idx=1)
    gpt2 = StackConfig.from_hf({"model_type": "gpt2"})
    assert (gpt2.feed_forward, gpt2.norm) == (
        FeedForwardConfig(size=3072, activation="gelu_new"),
        NormConfig(eps=1e-5, placement="pre", final=True),
    )
    assert gpt2.causal
    assert gpt2.head is not None


def test_gpt2_score_scales_are_by_layer():
    config = StackConfig.from_hf(_hf("gpt2", scale_attn_by_inverse_layer_idx=True))
    assert [layer.score_scale for layer in config.layers] == [0.5, 0.25]
    config = StackConfig.from_hf(_hf("gpt2", scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False))
    assert [layer.score_scale for layer in config.layers] == [1.0, 0.5]


def test_t5s_attributes_mean_what_torch_means_by_them():
    config = StackConfig.from_hf(_hf("t5", feed_forward_proj="gated-gelu"))
    assert config.feed_forward == GatedMLPConfig(size=12, activation="gelu_new", dropout=0.1)
    assert [layer.score_scale for layer in config.layers] == [1.0, 1.0]
    assert config.attention.relative_bias is not None
    assert config.attention.relative_bias.bidirectional
    tied, untied = (StackConfig.from_hf(_hf("t5", **DECODER, tie_word_embeddings=tie)) for tie in (True, False))
    assert tied.head is not None
    assert untied.head is not None
    assert (tied.head.scale, untied.head.scale) == (8**-0.5, 1.0)
    assert tied.attention.relative_bias is not None
    assert not tied.attention.relative_bias.bidirectional
    # absent or null, the decoder is as deep as the encoder
    for depth in ({}, {"num_decoder_layers": None}):
        hf = {name: value for name, value in _hf("t5").items() if name != "num_decoder_layers"}
        assert len(StackConfig.from_hf({**hf, **depth, **DECODER}).layers) == 2


def test_what_t5s_configs_derive_is_not_trusted():
    derived = {"dense_act_fn": "relu", "is_gated_act": False}
    plain = _hf("t5", feed_forward_proj="gated-silu")
    assert StackConfig.from_hf({**plain, **derived}) == StackConfig.from_hf(plain)
    (remark,) = FAMILIES["t5"].remarks({**plain, **derived})
    assert "dense_act_fn = 'relu' and is_gated_act = False in config.json: feed_forward_proj = 'gated-silu'" in remark
    written = FAMILIES["t5"].to_hf(StackConfig.from_hf({**plain, **derived}), "encoder")
    assert (written["dense_act_fn"], written["is_gated_act"]) == ("silu", True)
    assert FAMILIES["t5"].remarks({**plain, **written}) == ()


def test_what_a_kind_of_rope_scaling_does_not_read_is_said():
    said = {"type": "yarn", "factor": 2.0, "finetuned": True}
    (remark,) = FAMILIES["llama"].remarks({"rope_scaling": said})
    assert remark == "rope_scaling: 'yarn' does not read 'finetuned', here and in torch: not saved again"
    assert not FAMILIES["llama"].remarks({"rope_scaling": LLAMA3})
    assert not FAMILIES["llama"].remarks({"rope_scaling": None})


def test_alberts_layers_are_shared_by_groups():
    sizes = {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2}
    layers = StackConfig.from_hf(_hf("albert", **sizes)).layers
    assert [layer.weights for layer in layers] == [0, 1] * 3 + [2, 3] * 2
    assert [layer.hidden_state for layer in layers] == [False, True] * 5


def test_robertas_head_has_gelu_whatever_the_layers_have():
    config = StackConfig.from_hf(_hf("roberta", hidden_act="relu", is_decoder=True))
    assert config.head is not None
    assert (config.head.activation, config.feed_forward.activation) == ("gelu", "relu")
    config = StackConfig.from_hf(_hf("bert", hidden_act="relu", is_decoder=True))
    assert config.head is not None
    assert config.head.activation == "relu"


def test_gpt2_takes_the_common_spellings():
    assert StackConfig.from_hf(
        {"model_type": "gpt2", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    ) == StackConfig.from_hf({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1})
    with pytest.raises(ValueError, match="'hidden_size' is 12 and 'n_embd' is 8"):
        StackConfig.from_hf({"model_type": "gpt2", "hidden_size": 12, "n_embd": 8, "n_head": 2})


OLD_AND_VERBOSE = {
    "torch_dtype": "float32",
    "transformers_version": "3.0.2",
    "gradient_checkpointing": False,
    "use_cache": True,
    "output_past": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
    "use_bfloat16": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "finetuning_task": None,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "max_length": 20,
    "min_length": 0,
    "num_beams": 1,
    "early_stopping": False,
    "bad_words_ids": None,
    "no_repeat_ngram_size": 0,
    "xla_device": None,
    "sep_token_id": None,
    "_name_or_path": "x",
    "_commit_hash": "0",
}


_BERTS = {"directionality": "bidi", "pooler_fc_size": 768}
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
# What published configs of the family say besides.
LEGACY: dict[str, dict[str, Any]] = {
    "bert": _BERTS,
    "roberta": _BERTS,
    "gpt_neox": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "gptj": {"n_ctx": 6, "rotary": True, "scale_attn_weights": True, "summary_type": "cls_index"},
    "opt": {"activation_dropout": 0.0, "layerdrop": 0.0},
    "falcon": {"apply_residual_connection_post_layernorm": False},
    "bloom": {"offset_alibi": 100, "seq_length": 2048, "masked_softmax_fusion": True, "n_inner": None},
    "gpt2": {"n_ctx": 6, "summary_type": "cls_index"},
    "electra": {**_SUMMARY, "summary_last_dropout": 0.1},
    "rembert": {"classifier_dropout_prob": 0.1, "position_embedding_type": "absolute"},
    "big_bird": {"attention_type": "block_sparse", "block_size": 64, "num_random_blocks": 3}
    | {"position_embedding_type": "absolute"},
    "distilbert": {"qa_dropout": 0.1, "seq_classif_dropout": 0.2, "tie_weights_": True},
    "albert": {"classifier_dropout_prob": 0.1, "down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0}
    | {"num_memory_blocks": 0, "position_embedding_type": "absolute"},
}


@pytest.mark.parametrize("family", SMALL)
def test_what_older_versions_wrote_changes_nothing(family: str):
    old = _hf(family, **OLD_AND_VERBOSE, **LEGACY.get(family, {}), is_decoder="encoder" not in _roles(family))
    plain = _hf(family, is_decoder="encoder" not in _roles(family))
    assert StackConfig.from_hf(old) == StackConfig.from_hf(plain)


@pytest.mark.parametrize("family", SMALL)
def test_attributes_that_no_version_has_are_left_out_and_named_at_once(family: str, caplog: pytest.LogCaptureFixture):
    given = _hf(family, surprise=3, author="\x1b[1mx")
    plain = StackConfig.from_hf(_hf(family))
    assert not caplog.records
    assert StackConfig.from_hf(given) == plain
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert "not understood: surprise, author; if it changes numbers, so does leaving it out" in said.message
    with pytest.raises(
        ValueError, match=r"not understood: surprise = 3, author = '\\x1b\[1mx'\. strict_config=True makes"
    ):
        StackConfig.from_hf(given, strict_config=True)
    assert StackConfig.from_hf(_hf(family), strict_config=True) == plain


def test_of_thousands_of_names_some_are_shown(caplog: pytest.LogCaptureFixture):
    StackConfig.from_hf(_hf("bert", **{f"{'n' * 500}{i}": i for i in range(9000)}))
    (said,) = caplog.records
    assert "and 8980 more" in said.message
    assert len(said.message) < 2000


REFUSED = [
    ("bert", {"pruned_heads": []}, "'pruned_heads' is \\[\\]; expected {}: pruned"),
    ("bert", {"is_encoder_decoder": 0}, "'is_encoder_decoder' is 0; expected False"),
    ("bert", {"auto_map": ""}, "'auto_map' is ''; expected None"),
    ("bert", {"configuration_files": ["config.4.0.0.json"]}, "torch reads another file in place of config.json"),
    ("bert", {"transformers_weights": "other.safetensors"}, "rename it to model.safetensors"),
    ("gpt2", {"sliding_window": 4}, "torch's cache would drop tokens by it"),
    ("albert", {"position_embedding_type": None}, "'position_embedding_type' is None; expected 'absolute'"),
    ("bart", {"num_attention_heads": 3, "encoder_attention_heads": 2}, "two names of one attribute"),
    ("bert", {"pruned_heads": {"0": [1]}}, "'pruned_heads' is {'0': \\[1\\]}; expected {}: pruned"),
    ("bert", {"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
    ("bert", {"auto_map": {"AutoModel": "x.Y"}}, "code of its own, which is never run"),
    ("bert", {"is_encoder_decoder": True}, "one encoder or decoder is expected here"),
    ("bert", {"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'; expected one of absolute"),
    ("bert", {"add_cross_attention": True}, "expected cross-attention in a decoder only"),
    ("bert", {"hidden_act": "swoosh"}, "activation is 'swoosh'"),
    ("bert", {"num_attention_heads": 3}, "width 8 is not a multiple of the number of heads 3"),
    ("gpt2", {"n_head": 0}, "number of heads 0; expected at least 1"),
    ("bert", {"num_hidden_layers": 0}, "number of layers is 0; expected at least 1"),
    ("gpt2", {"n_layer": "2"}, "attribute 'n_layer' is '2'; expected a whole number"),
    ("gpt2", {"hidden_size": 8.0}, "attribute 'hidden_size' is 8.0; expected a whole number"),
    ("bert", {"vocab_size": None}, "attribute 'vocab_size' is None; expected a whole number"),
    ("bert", {"vocab_size": True}, "attribute 'vocab_size' is True; expected a whole number"),
    ("bert", {"is_decoder": "yes"}, "attribute 'is_decoder' is 'yes'; expected true or false"),
    ("bert", {"hidden_act": None}, "attribute 'hidden_act' is None; expected text"),
    ("gpt2", {"n_inner": "wide"}, "attribute 'n_inner' is 'wide'; expected a whole number or null"),
    ("bert", {"eos_token_id": [1, "x"]}, "attribute 'eos_token_id' is .* expected whole numbers"),
    ("bert", {"pad_token_id": 0.5}, "attribute 'pad_token_id' is 0.5; expected a whole number or null"),
    ("bert", {"hidden_dropout_prob": 1.5}, "dropout is 1.5"),
    ("roberta", {"pad_token_id": None}, "give `padding_idx`"),
    ("bert", {"layer_norm_eps": "small"}, "attribute 'layer_norm_eps' is 'small'; expected a number"),
    ("megatron-bert", {**DECODER, "position_embedding_type": "relative_key"}, "'relative_key' in a decoder with cross"),
    ("rembert", {"position_embedding_type": "relative_key"}, "expected 'absolute': the family has no other positions"),
    ("albert", {"position_embedding_type": "relative_key"}, "expected 'absolute': this family does not scale"),
    ("albert", {"num_hidden_groups": 3}, "num_hidden_layers is 2, num_hidden_groups 3 .* expected groups of at least"),
    ("mpnet", {"relative_attention_num_buckets": 8}, "buckets is 32 and entries 8; expected a row a bucket"),
    ("roformer", {"num_attention_heads": 8}, "positions rotate pairs, but AttentionConfig.head_dim is 1: odd"),
    ("t5", {"feed_forward_proj": "gelu-gated"}, "'gelu-gated'; expected an activation, or 'gated-' and an activation"),
    ("t5", {"feed_forward_proj": "gated-gelu-new"}, "'gated-gelu-new'; expected an activation, or 'gated-'"),
    ("umt5", {"feed_forward_proj": "gated-swoosh"}, "activation is 'swoosh'"),
    *((name, {"is_decoder": True}, "models of this family can only be encoders") for name in ("distilbert", "mpnet")),
    ("deberta-v2", {"pos_att_type": "c2p|p2p"}, "pos_att_type has 'p2p'; expected any of p2c, c2p"),
    ("deberta-v2", {"pos_att_type": ["C2P"]}, "pos_att_type has 'C2P'; expected any of p2c, c2p"),
    ("deberta-v2", {**DEBERTA, "norm_rel_ebd": "rms"}, "norm_rel_ebd has 'rms'; expected any of layer_norm, none"),
    (
        "deberta-v2",
        {"attention_head_size": 3},
        "attention_head_size is 3; expected hidden_size / num_attention_heads, 4",
    ),
    (
        "deberta-v2",
        {**DEBERTA, "position_buckets": 1},
        "span is 1 and max_distance 6; with buckets, expected a span of",
    ),
    ("deberta-v2", {**DEBERTA, "max_relative_positions": 5}, "span is 8 and max_distance 5; with buckets, expected"),
    ("deberta-v2", {"conv_kernel_size": 2}, "kernel_size is 2; expected an odd number"),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 3}, "groups is 3; expected a divisor of hidden_size, 8"),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "swoosh"}, "activation is 'swoosh'"),
    ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0; expected at least 1"),
    ("modernbert", {"local_attention": -1}, "local_attention is -1; expected the width of a window"),
    ("modernbert", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "scaled rotations are not built for this"),
    (
        "llama",
        {"rope_scaling": {"type": "ntk"}},
        "its rope_type is 'ntk'; expected one of default, linear, dynamic, yarn",
    ),
    ("llama", {"rope_scaling": {**LLAMA3, "factor": "8"}}, "of the kind 'llama3' has factor = '8'; expected a number"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "the kind 'linear' needs factor as well"),
    ("llama", {"rope_scaling": 4.0}, "attribute 'rope_scaling' is 4.0; expected dict or null"),
    ("llama", {"num_key_value_heads": 3}, "expected a divisor of num_heads"),
    ("gptj", {"rotary_dim": None}, "rotary_dim is null, .*; expected how many of a head are to rotate"),
    ("gptj", {"rotary_dim": 3}, r"RotaryConfig\.dim is 3; pairs rotate"),
    ("opt", {"word_embed_proj_dim": 0}, "size is 0"),
    (
        "falcon",
        {"multi_query": False, "num_kv_heads": 2},
        "num_kv_heads is 2, num_attention_heads 4 .*; expected as many",
    ),
    ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "expected true: torch has no such layer"),
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3}, "is 3; expected 1 or 2"),
    ("falcon", {"num_ln_in_parallel_attn": 2}, "expected null or 1: torch has no such layer"),
    ("bloom", {"slow_but_exact": True}, "leaves out the biases of `dense`"),
    ("bloom", {"n_embed": 12}, "two names of one attribute"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "torch's cache would drop tokens by it"),
    ("qwen2", {"layer_types": ["sliding_attention"]}, "layer_types is .*; expected .* for each of the 2 layers"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "has layers that slide, and sliding_window is null"),
    ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0; expected at least 1"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers is .*; expected 0 or 1 for each of the 2 layers"),
    (
        "phi3",
        {"rope_scaling": {**LONG_ROPE, "long_factor": [1.0]}},
        "has long_factor = .*; expected a list of 2 numbers",
    ),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "the type 'linear'; expected one of longrope"),
    ("olmo2", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "expected one of default, linear, dynamic$"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0; expected a number above 0"),
    ("gemma2", {"query_pre_attn_scalar": float("nan")}, "query_pre_attn_scalar is nan; expected a number above 0"),
    ("t5", {"d_model": 0}, "0; expected a whole number of at least 1"),
    ("gemma2", {"sliding_window": None}, "layers that slide, and sliding_window is null"),
    ("gemma2", {"sliding_window": 0}, "LayerSpec.window is 0; expected a whole number of at least 1"),
    ("gemma2", {"layer_types": ["full_attention"]}, "for each of the 2 layers"),
    ("gemma2", {"layer_types": ["full_attention", "chunked_attention"]}, "'full_attention' or 'sliding_attention' for"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0; expected at least 1"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "a decoder sees no token after its own"),
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_what_a_config_cannot_say_is_an_error_that_names_it(family: str, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as error:
        StackConfig.from_hf(_hf(family, **changes))
    assert f"the {family} config cannot be used" in str(error.value)


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"unknown model_type 'mamba'.*bert, .*gpt2, .*roberta"):
        StackConfig.from_hf({"model_type": "mamba"})


INEXPRESSIBLE = [
    ("bert", {"norm": NormConfig(placement="pre")}, "norm"),
    ("bert", {"layers": (LayerSpec(score_scale=3.0),) * 2}, "layers"),
    ("bert", {"causal": True}, "causal"),
    ("bert", {"pooler": False}, "pooler"),
    ("gpt2", {"layers": (LayerSpec(cross_attention=True), LayerSpec())}, "layers"),
    ("gpt2", {"layers": (LayerSpec(score_scale=0.3), LayerSpec(score_scale=0.7))}, "layers"),
    ("gpt2", {"positions": PositionsConfig(max_positions=6, counting="non_padding", padding_idx=0)}, "positions"),
    ("gpt2", {"pooler": True}, "pooler"),
    ("gpt2", {"head": None}, "head"),
    ("roberta", {"pad_token_id": 3}, "positions"),
    ("xlm-roberta-xl", {"norm": NormConfig(eps=1e-5, placement="pre")}, "norm"),
    ("distilbert", {"norm": NormConfig(eps=1e-5)}, "norm"),
    ("albert", {"layers": (LayerSpec(),) * 2}, "layers"),
    ("t5", {"feed_forward": GatedMLPConfig(size=12, activation="gelu")}, "feed_forward"),
    ("mpnet", {"attention": AttentionConfig(num_heads=2, head_dim=4, dropout=0.1)}, "attention"),
    ("rembert", {"embeddings": EmbeddingsConfig(token_type_size=2, norm=True, padding_idx=0)}, "embeddings"),
]


@pytest.mark.parametrize(
    ("family", "piece", "message"),
    [
        (
            "albert",
            Decoder,
            "'albert', .* whose models can only be an encoder; expected, for the decoder, one of ",
        ),
        (
            "xglm",
            Encoder,
            "'xglm', .* whose models can only be a decoder; expected, for the encoder, one of albert",
        ),
    ],
)
def test_a_piece_of_a_family_that_has_none_is_refused(family: str, piece: Any, message: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(_hf(family)))
    with pytest.raises(ValueError, match=message):
        piece.from_pretrained(tmp_path)


@pytest.mark.parametrize(("family", "changes", "field"), INEXPRESSIBLE)
def test_what_a_format_cannot_express_is_an_error_that_names_it(family: str, changes: dict[str, Any], field: str):
    config = dataclasses.replace(StackConfig.from_hf(_hf(family)), **changes)
    with pytest.raises(ValueError, match=rf"a {family} config\.json cannot express .*{field} = "):
        FAMILIES[family].to_hf(config, "encoder")


def _of_families_without_cross() -> list[str]:
    """Families whose decoders can do without cross-attention."""
    plain = {"is_decoder": True, "add_cross_attention": False}
    return [name for name in ABLE["decoder"] if not StackConfig.from_hf(_hf(name, **plain)).cross_attention]


@pytest.mark.parametrize("family", _of_families_without_cross())
def test_grafted_cross_attention_is_said_and_named_in_every_family(family: str):
    plain = StackConfig.from_hf(_hf(family, is_decoder=True, add_cross_attention=False))
    shared = any(layer.weights is not None for layer in plain.layers)
    before = eqx.filter_eval_shape(Decoder.init, plain, key=jax.random.key(0))
    for init in ("copy", "zero_gate", "merged"):
        how: Any = CrossAttention(every=1 if shared else 2, init=init)
        decoder = eqx.filter_eval_shape(lambda d, how=how: d.with_cross_attention(how, key=jax.random.key(0)), before)
        written = FAMILIES[family].to_hf(decoder.config, "decoder")
        assert written.get("cross_attention_every", 1) == how.every
        assert StackConfig.from_hf(written) == decoder.config
        named = [ours for _, (ours, _, _) in FAMILIES[family].table(decoder.config, "decoder").rows()]
        assert set(named) == {path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(decoder)[0]}


def _skeleton(config: StackConfig, role: str) -> dict[str, tuple[int, ...]]:
    build = Encoder.init if role == "encoder" else Decoder.init
    shapes = eqx.filter_eval_shape(build, config, key=jax.random.key(0))
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]}


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_array_has_its_rows_and_every_row_goes_there_and_back(family: str, changes: dict[str, Any]):
    role = "decoder" if changes.get("is_decoder") or family == "gpt2" else "encoder"
    config = StackConfig.from_hf(_hf(family, **changes))
    table = FAMILIES[family].table(config, role)
    shapes = _skeleton(config, role)
    filled = {path: np.full(shape, np.nan, np.float32) for path, shape in shapes.items()}
    rng = np.random.default_rng(0)
    theirs: dict[str, np.ndarray] = {}
    parts: dict[str, list[tuple[transforms.How, np.ndarray]]] = {}
    for _, (ours, name, transform) in table.rows():
        if name not in theirs:
            theirs[name] = rng.normal(size=transforms.their_shape(transform, shapes[ours])).astype(np.float32)
        transforms.write(transform, filled[ours], theirs[name])
        parts.setdefault(name, []).append((transform, filled[ours]))
    assert not any(np.isnan(array).any() for array in filled.values())
    for name, those in parts.items():
        assert len(those) == 1 or all(isinstance(transform, transforms.Fused) for transform, _ in those)
        assert transforms.join(those).tobytes() == theirs[name].tobytes()


def test_a_pairs_config_comes_apart_and_together():
    pair = {
        "model_type": "encoder-decoder",
        "encoder": _hf("bert"),
        "decoder": _hf("gpt2", is_decoder=True, add_cross_attention=True),
        "tie_encoder_decoder": False,
        "decoder_start_token_id": 3,
        "max_length": 50,
        "vocab_size": 11,
        "torch_dtype": "float32",
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }
    read = read_pair(pair)
    assert (read.tokens["decoder_start_token_id"], read.tokens["pad_token_id"], read.tied) == (3, None, False)
    written = write_pair(read)
    assert written["max_length"] == 50
    assert "torch_dtype" not in written
    assert written["is_encoder_decoder"] is True
    assert read_pair(written) == read


def test_a_pairs_own_unknown_attributes_are_kept():
    read = read_pair({"model_type": "encoder-decoder", "encoder": _hf("bert"), "decoder": _hf("gpt2"), "surprise": [1]})
    assert read.unknown == {"surprise": [1]}
    assert write_pair(read)["surprise"] == [1]


FIXED_TRUE = dataclasses.replace(FAMILIES["bert"], fixed={"do_layer_norm_before": (True, "no other order is built")})


@pytest.mark.parametrize("value", [False, None, 0, "", {}, 1, "true"])
def test_what_is_built_in_one_way_only_lets_no_other_value_pass(value: Any):
    assert FIXED_TRUE.from_hf(_hf("bert", do_layer_norm_before=True)) == StackConfig.from_hf(_hf("bert"))
    with pytest.raises(ValueError, match=r"'do_layer_norm_before' is .*; expected True: no other order is built"):
        FIXED_TRUE.from_hf(_hf("bert", do_layer_norm_before=value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": None}, "no object 'encoder'"),
        ({"decoder": [1]}, "no object 'decoder'"),
        ({"encoder": {**SMALL["bert"], "is_decoder": True}}, "the encoder's config has is_decoder"),
        ({"tie_encoder_decoder": "false"}, "attribute 'tie_encoder_decoder' is 'false'; expected true or false"),
        ({"tie_encoder_decoder": 0}, "attribute 'tie_encoder_decoder' is 0; expected true or false"),
        ({"is_encoder_decoder": "yes"}, "attribute 'is_encoder_decoder' is 'yes'; expected true or false"),
        ({"vocab_size": "11"}, "attribute 'vocab_size' is '11'; expected a whole number"),
        ({"pad_token_id": 0.5}, "attribute 'pad_token_id' is 0.5; expected a whole number or null"),
        ({"eos_token_id": ["2"]}, "attribute 'eos_token_id' is .*; expected whole numbers"),
        ({"encoder": {**SMALL["bert"], "is_decoder": "false"}}, "attribute 'is_decoder' is 'false'; expected true"),
        ({"cross_attention_hidden_size": 8}, "'cross_attention_hidden_size' = 8; .* put it under 'decoder'"),
        ({"pruned_heads": {"0": [1]}}, "attribute 'pruned_heads' = "),
    ],
)
def test_a_pairs_config_that_makes_no_sense_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        read_pair({"model_type": "encoder-decoder", "encoder": _hf("bert"), "decoder": _hf("gpt2"), **changes})


def test_a_fresh_big_bird_says_that_its_attention_is_full(tmp_path: Path):
    """Without a word torch would take it for a sparse one; a loaded one keeps what its file said."""
    config = StackConfig.from_hf(_hf("big_bird"))
    encoder = Encoder.init(config, key=jax.random.key(0))
    encoder.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    assert written["attention_type"] == "original_full"
    path.write_text(json.dumps({**written, "attention_type": "block_sparse"}))
    Encoder.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["attention_type"] == "block_sparse"


_FORMS, _LEAVES = ("qkv", "kv", "q", "k", "v"), ("weight", "bias")


@functools.cache
def _known_arrays() -> frozenset[str]:
    """What arrays are called below a layer, in models of all families, and in those with a gate."""
    names: set[str] = set()
    for family, changes in VARIANTS:
        role = "decoder" if changes.get("is_decoder") or family == "gpt2" else "encoder"
        names |= arrays(StackConfig.from_hf(_hf(family, **changes)), role)
    names |= arrays(decoder_config(feed_forward=GatedMLPConfig(size=20, bias=True)), "decoder")
    names |= arrays(decoder_config(norm=NormConfig(placement="both")), "decoder")
    names.add("cross_gate")  # of grafted cross-attention
    # `projections` names every form that attention has
    forms = (f"{kind}_attention.{form}.{leaf}" for kind in ("self", "cross") for form in _FORMS for leaf in _LEAVES)
    names.update(forms)
    return frozenset(re.sub(r"^stack\.blocks\.\d+\.", "", name) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_of_tensors_is_of_an_array_that_there_is(family: str):
    """Rows without their array leave themselves out, and so would one with a slip of the pen."""
    rows = {re.sub(r"^stack\.blocks\.\d+\.", "", row[0]) for group in FAMILIES[family].rows.values() for row in group}
    assert rows - _known_arrays() == set()


def test_a_slip_in_a_row_is_named():
    bert = FAMILIES["bert"]
    slip = dataclasses.replace(bert, config_rows=(*bert.config_rows, Attribute("use_bias", "feedforward.bias", True)))
    with pytest.raises(ValueError, match=r"feedforward\.bias; StackConfig has no such part"):
        slip.from_hf(_hf("bert"))
    with pytest.raises(ValueError, match="unknown transform 'transpose' in a row of tensors; expected one of 'same'"):
        transforms.their_shape("transpose", (2, 3))
