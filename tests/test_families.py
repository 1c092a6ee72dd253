"""Families: Hugging Face configs read and written, and name tables that agree with the models' arrays."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from encdec_eqx import Decoder, Encoder, StackConfig
from encdec_eqx._trees import path_name
from encdec_eqx.checkpoint import transforms
from encdec_eqx.checkpoint.table import NameTable
from encdec_eqx.config import FeedForwardConfig, LayerSpec, NormConfig, PositionsConfig
from encdec_eqx.families import FAMILIES, read_pair, write_pair

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
    "roberta": {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 6},
}
SMALL["bert"] |= {"intermediate_size": 12, "max_position_embeddings": 6}
SMALL["roberta"] |= {"intermediate_size": 12, "max_position_embeddings": 6}

# What each family accepts besides its sizes.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in SMALL),
    *((family, {"is_decoder": True}) for family in SMALL),
    *((family, {"is_decoder": True, "add_cross_attention": True}) for family in SMALL),
    *((family, {"is_decoder": True, "tie_word_embeddings": False, "eos_token_id": [3, 4]}) for family in SMALL),
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
]


def _hf(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **SMALL[family], **changes}


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


@pytest.mark.parametrize("family", SMALL)
def test_what_older_versions_wrote_changes_nothing(family: str):
    own = {"n_ctx": 6, "summary_type": "cls_index"} if family == "gpt2" else {"directionality": "bidi"}
    assert StackConfig.from_hf(_hf(family, **OLD_AND_VERBOSE, **own)) == StackConfig.from_hf(_hf(family))


REFUSED = [
    ("bert", {"surprise": 3}, "attribute 'surprise' = 3 is not known"),
    ("gpt2", {"hidden_act": "gelu"}, "attribute 'hidden_act' = 'gelu' is not known"),
    ("bert", {"n_ctx": 6}, "attribute 'n_ctx' = 6 is not known"),
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
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_what_a_config_cannot_say_is_an_error_that_names_it(family: str, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as error:
        StackConfig.from_hf(_hf(family, **changes))
    assert f"the {family} config cannot be used" in str(error.value)


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"unknown model_type 'mamba'.*bert, gpt2, roberta"):
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
]


@pytest.mark.parametrize(("family", "changes", "field"), INEXPRESSIBLE)
def test_what_a_format_cannot_express_is_an_error_that_names_it(family: str, changes: dict[str, Any], field: str):
    config = dataclasses.replace(StackConfig.from_hf(_hf(family)), **changes)
    with pytest.raises(ValueError, match=rf"a {family} config\.json cannot express .*{field} = "):
        FAMILIES[family].to_hf(config, "encoder")


def _skeleton(config: StackConfig, role: str) -> dict[str, tuple[int, ...]]:
    build = Encoder.init if role == "encoder" else Decoder.init
    shapes = eqx.filter_eval_shape(build, config, key=jax.random.key(0))
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]}


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_array_has_its_rows_and_every_row_goes_there_and_back(family: str, changes: dict[str, Any]):
    role = "decoder" if changes.get("is_decoder") or family == "gpt2" else "encoder"
    config = StackConfig.from_hf(_hf(family, **changes))
    table = NameTable(**FAMILIES[family].table(config, role))
    shapes = _skeleton(config, role)
    filled = {path: np.full(shape, np.nan, np.float32) for path, shape in shapes.items()}
    rng = np.random.default_rng(0)
    theirs = {}
    for _, (ours, name, transform) in table.rows():
        theirs[name] = rng.normal(size=transforms.their_shape(transform, shapes[ours])).astype(np.float32)
        transforms.write(transform, filled[ours], theirs[name])
    assert not any(np.isnan(array).any() for array in filled.values())
    for _, (ours, name, transform) in table.rows():
        assert transforms.read(transform, filled[ours]).tobytes() == theirs[name].tobytes()
    assert len(theirs) == len(list(table.rows()))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": None}, "no object 'encoder'"),
        ({"decoder": [1]}, "no object 'decoder'"),
        ({"encoder": {**SMALL["bert"], "is_decoder": True}}, "the encoder's config has is_decoder"),
        ({"surprise": 1}, "attribute 'surprise' = 1 is not known"),
        ({"pruned_heads": {"0": [1]}}, "attribute 'pruned_heads' = "),
    ],
)
def test_a_pairs_config_that_makes_no_sense_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        read_pair({"model_type": "encoder-decoder", "encoder": _hf("bert"), "decoder": _hf("gpt2"), **changes})
