"""Every attribute that a family is said to ignore, held against what live torch does with it.

All of them at once are set to something else: torch's numbers must stay the same bit for bit. What torch's classes know
must be known here, under any spelling.
"""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch
from tiny import BARTS, CAUSAL, DECODERS, ENCODERS, T5S
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, GenerationConfig, PretrainedConfig
from transformers.modeling_utils import no_init_weights
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from encdec_eqx import Decoder, Encoder
from encdec_eqx.generation.options import DEFAULTS, NOT_BUILT, option_names
from encdec_eqx.hf.attributes import FIXED
from encdec_eqx.hf.families import FAMILIES
from encdec_eqx.hf.ignored import GENERATION, IGNORED
from hf import VOCAB, as_torch, random_batch, randomise, saved
from tolerances import PARITY_LOGITS

# A value other than the usual one for each attribute of any family that is ignored.
ODD: dict[str, Any] = (
    {"output_hidden_states": True, "output_attentions": True, "output_past": False}
    | {"gradient_checkpointing": True, "torchscript": True, "xla_device": True}
    | {"use_bfloat16": True, "tf_legacy_loss": True, "_attn_implementation": "eager", "attn_implementation": "sdpa"}
    | {"_attn_implementation_autoset": True, "_attn_implementation_internal": "eager", "_attn_was_changed": True}
    | {"base_model_tp_plan": {"x": "y"}, "base_model_pp_plan": {}, "base_model_ep_plan": {}}
    | {"dtype": "float16", "torch_dtype": "float16", "tie_encoder_decoder": True, "architectures": ["X"]}
    | {"finetuning_task": "x", "transformers_version": "1", "_name_or_path": "x", "name_or_path": "y"}
    | {"_commit_hash": "0", "_from_model_config": True, "model_card": "x", "tags": ["x"]}
    | {"id2label": {"0": "a"}, "label2id": {"a": 0}, "num_labels": 1, "_num_labels": 1, "classifier_dropout": 0.9}
    | {"problem_type": "regression", "sep_token_id": 5, "cls_token_id": 6, "mask_token_id": 7, "unk_token_id": 8}
    | {"tokenizer_class": "X", "prefix": "p ", "task_specific_params": {"summarization": {"max_length": 3}}}
    | {"output_scores": True, "return_dict_in_generate": True, "output_logits": True}
    | {"cache_implementation": "static", "cache_config": {}, "return_legacy_cache": True, "prefill_chunk_size": 2}
    | {"low_memory": True, "disable_compile": True, "is_assistant": True}
    | {"num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.1}
    | {"assistant_lookbehind": 3, "target_lookbehind": 3, "generation_kwargs": {}}
)
# Other shapes of products, or products of another kind, and so other roundings.
CHUNKED = {"chunk_size_feed_forward": 1, "use_cache": False}
UPCAST = {"reorder_and_upcast_attn": True}
# What torch does not let a config say, or says by another type than a number.
NOT_SET = {"use_return_dict", "return_dict", "compile_config"}
# Likewise of single families.
ODD_OF_FAMILIES: dict[str, Any] = (
    {"directionality": "x", "pooler_fc_size": 3, "pooler_num_attention_heads": 3, "pooler_num_fc_layers": 3}
    | {"pooler_size_per_head": 3, "pooler_type": "x", "summary_type": "first", "summary_use_proj": False}
    | {"summary_activation": "relu", "summary_proj_to_labels": False, "summary_last_dropout": 0.9}
    | {"summary_first_dropout": 0.9, "hidden_dropout": 0.9, "generator_size": 3, "classifier_dropout_prob": 0.9}
    | {"embedding_size": 3, "down_scale_factor": 3, "gap_size": 3, "net_structure_type": 3, "num_memory_blocks": 3}
    | {"qa_dropout": 0.9, "seq_classif_dropout": 0.9, "tie_weights_": False, "n_ctx": 3}
    | {"predict_special_tokens": False, "attention_type": "block_sparse"}
    | {"block_size": 2, "num_random_blocks": 3, "num_hidden_layers": 7, "classif_dropout": 0.9, "save_step": 3}
    | {"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True, "layerdrop": 0.9}
    | {"static_position_embeddings": True, "extra_pos_embeddings": 7, "add_bias_logits": True}
    | {"layernorm_variant": "prelayernorm", "do_blenderbot_90_layernorm": True, "encoder_layerdrop": 0.9}
    | {"decoder_layerdrop": 0.9, "force_bos_token_to_be_generated": True, "is_encoder_decoder": False}
    | {"classifier_pooling": "mean", "classifier_bias": True, "classifier_activation": "relu", "decoder_bias": False}
    | {"sparse_prediction": True, "sparse_pred_ignore_index": 3, "repad_logits_with_grad": True}
    | {"initializer_cutoff_factor": 3.0, "deterministic_flash_attn": True, "reference_compile": False}
    | {"hidden_activation": "silu", "attn_logit_softcapping": 0.5, "_sliding_window_pattern": 2}
    | {"embd_pdrop": 0.9, "pretraining_tp": 2, "is_llama_config": False, "rope_interleaved": True}
    | {"transformers.js_config": {"dtype": "q4"}, "use_mrope": True, "max_window_layers": 1}
    | {"rope_theta": 3.0, "partial_rotary_factor": 0.9, "rotary": False, "scale_attn_weights": False}
    | {"activation_dropout": 0.9, "apply_residual_connection_post_layernorm": True, "offset_alibi": 3, "seq_length": 3}
    | {"masked_softmax_fusion": False, "bias_dropout_fusion": False, "attention_softmax_in_fp32": False}
    | {"skip_bias_add": False, "skip_bias_add_qkv": True, "n_inner": 3}
    | {"n_positions": 3, "scalable_attention": False}
    | {"layer_norm_eps": 0.9, "position_embedding_type": "relative_key", "legacy": False}
    | {"pooler_dropout": 0.9, "pooler_hidden_act": "relu", "pooler_hidden_size": 3}
)
ODD_OPTIONS: dict[str, Any] = (
    {"max_length": 5, "max_new_tokens": 4, "min_length": 3, "min_new_tokens": 3, "do_sample": True}
    | {"early_stopping": True, "num_beams": 3, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}
    | {"typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "repetition_penalty": 1.5}
    | {"encoder_repetition_penalty": 1.5, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "bad_words_ids": [[3]]}
    | {"encoder_no_repeat_ngram_size": 2, "num_return_sequences": 2, "forced_bos_token_id": 5}
    | {"forced_eos_token_id": 6, "remove_invalid_values": True, "exponential_decay_length_penalty": [2, 1.5]}
    | {"suppress_tokens": [4], "begin_suppress_tokens": [4], "renormalize_logits": True}
    | {"sequence_bias": [[[3], 1.0]], "num_beam_groups": 3, "diversity_penalty": 0.5, "penalty_alpha": 0.5}
    | {"force_words_ids": [[5]], "num_assistant_tokens": 3, "prompt_lookup_num_tokens": 3}
    | {"max_matching_ngram_size": 2, "guidance_scale": 2.0, "dola_layers": "low", "stop_strings": ["x"]}
    | {"max_time": 5.0, "assistant_early_exit": 1, "token_healing": True}
    | {"watermarking_config": {"bias": 1.0}, "constraints": None}
)


def _parameters(kind: Any) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_attribute_that_torchs_classes_know_is_known(family: str):
    kind = T5GemmaModuleConfig if family == "t5_gemma_module" else CONFIG_MAPPING[family]
    names = _parameters(kind) | _parameters(PretrainedConfig) | set(kind.attribute_map)
    names |= set(PretrainedConfig._get_global_generation_defaults())
    names |= {name for name in GenerationConfig().to_dict() if name not in ("transformers_version",)}
    assert not FAMILIES[family].unknown(dict.fromkeys(names))
    # an attribute that has another name must have it here, too
    handled = {name: other for name, other in kind.attribute_map.items() if FAMILIES[family].handles(other)}
    assert handled.items() <= dict(FAMILIES[family].spellings).items()


def test_options_of_generation_are_the_same_in_a_config_and_for_generate():
    arguments = {"prefix_allowed_tokens_fn", "stopping_criteria", "streamer", "inputs_embeds", "past_key_values"}
    arguments |= {name for name in NOT_BUILT if name.startswith(("decoder_", "negative_"))}
    assert set(GENERATION) == {*option_names(), *NOT_BUILT} - arguments
    assert PretrainedConfig._get_global_generation_defaults() == dict(DEFAULTS)


def test_every_ignored_attribute_has_an_odd_value():
    own = {name for family in FAMILIES.values() for name in family.ignored}
    assert own == {*ODD_OF_FAMILIES, *UPCAST}
    assert set(IGNORED) == {*ODD, *ODD_OPTIONS, *NOT_SET, *CHUNKED}
    assert set(ODD_OPTIONS) == set(GENERATION)


def _changed(folder: Path, target: Path, changes: dict[str, Any]) -> Path:
    target.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


def _states(auto: Any, folder: Path, *, encoder: bool) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Passing `gradient_checkpointing` to a config")
        model = auto.from_pretrained(folder, attn_implementation="eager").eval()
    arrays = {name: array for name, array in random_batch(0).items() if not name.startswith("decoder")}
    model = model.get_encoder() if encoder and hasattr(model, "decoder") else model
    with torch.no_grad():
        # torch's cache has as many layers as BART's encoder, which its decoder then overruns
        out = model(**as_torch(arrays), return_dict=True, **({} if encoder else {"use_cache": False}))
    return out.last_hidden_state if encoder else out.logits


CASES = [*(("encoder", name) for name in ENCODERS), *(("decoder", name) for name in (*DECODERS, *CAUSAL))]


@pytest.mark.parametrize(("role", "family"), CASES)
def test_what_is_ignored_changes_no_number_in_torch(role: str, family: str, tmp_path: Path):
    encoder, ours = role == "encoder", FAMILIES[family]
    auto = AutoModel if encoder else AutoModelForCausalLM
    config = {**ENCODERS, **DECODERS, **CAUSAL}[family](**({} if encoder else {"is_decoder": True}))
    with no_init_weights():  # which fails for StableLM's norms
        reference = auto.from_config(config, attn_implementation="eager")
    folder = saved(randomise(reference, 1), tmp_path / "plain")
    changes = {**ODD, **ODD_OPTIONS, **{name: ODD_OF_FAMILIES[name] for name in ours.ignored if name not in UPCAST}}
    if family in {**BARTS, **T5S} and encoder:
        # the whole model is loaded, which would share what its pieces do not
        del changes["tie_encoder_decoder"], changes["is_encoder_decoder"]
    if encoder:
        changes |= {name: 3 for name in ours.other_role.get("encoder", ()) if not name.startswith("decoder_")}
    odd = _changed(folder, tmp_path / "odd", changes)
    expected = _states(auto, folder, encoder=encoder)
    assert torch.equal(_states(auto, odd, encoder=encoder), expected)
    rounded = _states(auto, _changed(folder, tmp_path / "rounded", CHUNKED | UPCAST), encoder=encoder)
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=PARITY_LOGITS)
    kind = Encoder if encoder else Decoder
    plain, same = kind.from_pretrained(folder), kind.from_pretrained(odd, strict_config=True)
    assert eqx.tree_equal(plain, same)


FIXED_VALUES: dict[str, Any] = {"sliding_window": 2, "attention_chunk_size": 2, "num_kv_shared_layers": 1}


@pytest.mark.parametrize("name", FIXED_VALUES)
def test_what_is_refused_would_change_what_torch_does(name: str, tmp_path: Path):
    """A cache that drops tokens: other logits, or none at all."""
    config = DECODERS["gpt2"]()
    folder = saved(randomise(AutoModelForCausalLM.from_config(config), 1), tmp_path / "plain")
    odd = _changed(folder, tmp_path / "odd", {name: FIXED_VALUES[name]})
    assert name in FIXED
    with pytest.raises(ValueError, match=f"attribute '{name}' is "):
        Decoder.from_pretrained(odd)
    ids = torch.arange(8)[None] + 4
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = []
    for place in (folder, odd):
        model = AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager").eval()
        try:
            out = model.generate(ids, max_new_tokens=8, **options, return_dict_in_generate=True, output_logits=True)
            found.append(torch.stack(out.logits))  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        except (IndexError, RuntimeError, ValueError) as error:
            found.append(error)
    assert isinstance(found[1], Exception) or not torch.equal(found[0], found[1])
    assert found[0].shape == (8, 1, VOCAB)
