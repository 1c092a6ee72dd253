"""Checkpoints against live torch: what its classes write is read, and what is written here its classes read."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    GPT2Model,
    PretrainedConfig,
    PreTrainedModel,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaModel,
)

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from hf import as_torch, random_batch, random_pair, randomise, saved, tiny_bert, tiny_gpt2, tiny_roberta
from tolerances import PARITY_HIDDEN, PARITY_LOGITS

TINY = {"bert": tiny_bert, "roberta": tiny_roberta, "gpt2": tiny_gpt2}
BASE_PREFIX = {"bert": "bert", "roberta": "roberta", "gpt2": "transformer"}


def _same_files(left: Path, right: Path) -> bool:
    a, b = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def _standalone(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    config._attn_implementation = "eager"
    return randomise(kind(config), 0)


ENCODERS = [
    (BertModel, "bert", {}),
    (BertForMaskedLM, "bert", {}),
    (BertForPreTraining, "bert", {"type_vocab_size": 5}),
    (BertForSequenceClassification, "bert", {"hidden_act": "relu"}),
    (BertModel, "bert", {"position_embedding_type": "relative_key_query"}),
    (RobertaModel, "roberta", {}),
    (RobertaForMaskedLM, "roberta", {"hidden_act": "gelu_new"}),
    (GPT2Model, "gpt2", {}),
    (GPT2LMHeadModel, "gpt2", {"tie_word_embeddings": False, "n_inner": 28}),
    (GPT2DoubleHeadsModel, "gpt2", {"num_labels": 1}),
]


@pytest.mark.parametrize(("kind", "family", "changes"), ENCODERS)
def test_every_class_loads_as_an_encoder(tmp_path: Path, kind: Any, family: str, changes: dict[str, Any]):
    torch_model = _standalone(kind, TINY[family](**changes))
    folder = saved(torch_model, tmp_path / "torch")
    encoder = Encoder.from_pretrained(folder)
    batch = random_batch(1)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    base = getattr(torch_model, BASE_PREFIX[family], torch_model)
    with torch.no_grad():
        expected = base(**as_torch(given)).last_hidden_state.numpy()
    got = np.asarray(encoder(**given).last_hidden_state)
    real = given["attention_mask"].astype(bool)
    assert np.abs(got - expected)[real].max() < PARITY_HIDDEN
    encoder.save_pretrained(tmp_path / "ours")
    base_class = {"bert": BertModel, "roberta": RobertaModel, "gpt2": GPT2Model}[family]
    again, info = base_class.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    with torch.no_grad():
        assert torch.equal(again.eval()(**as_torch(given)).last_hidden_state, torch.from_numpy(expected))


DECODERS = [
    (BertLMHeadModel, "bert", {"is_decoder": True, "add_cross_attention": True}),
    (BertLMHeadModel, "bert", {"is_decoder": True, "tie_word_embeddings": False, "hidden_act": "silu"}),
    (BertForMaskedLM, "bert", {}),
    (RobertaForCausalLM, "roberta", {"is_decoder": True, "add_cross_attention": True, "tie_word_embeddings": False}),
    (RobertaForMaskedLM, "roberta", {}),
    (GPT2LMHeadModel, "gpt2", {}),
    (GPT2LMHeadModel, "gpt2", {"add_cross_attention": True, "tie_word_embeddings": False}),
    (GPT2LMHeadModel, "gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
]


@pytest.mark.parametrize(("kind", "family", "changes"), DECODERS)
def test_every_class_loads_as_a_decoder(tmp_path: Path, kind: Any, family: str, changes: dict[str, Any]):
    folder = saved(_standalone(kind, TINY[family](**changes)), tmp_path / "torch")
    decoder = Decoder.from_pretrained(folder)
    assert bool(decoder.load_report.new) is not changes.get("add_cross_attention", False)
    ids = random_batch(2)["decoder_input_ids"]
    as_decoder = {"is_decoder": True} if family != "gpt2" else {}
    torch_model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **as_decoder).eval()
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(ids).long()).logits.numpy()
    assert np.abs(np.asarray(decoder(ids).logits) - expected).max() < PARITY_LOGITS
    decoder.save_pretrained(tmp_path / "ours")
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    with torch.no_grad():
        assert torch.equal(again.eval()(torch.from_numpy(ids).long()).logits, torch.from_numpy(expected))


PAIRS = [
    ("bert", "gpt2", {}, {}, {}),
    ("roberta", "roberta", {}, {"tie_word_embeddings": False}, {}),
    ("gpt2", "bert", {}, {"position_embedding_type": "relative_key", "hidden_act": "relu"}, {}),
    ("bert", "roberta", {"hidden_size": 20, "num_attention_heads": 2}, {}, {}),
    ("bert", "gpt2", {}, {"tie_word_embeddings": False, "scale_attn_weights": False}, {"decoder_start_token_id": 5}),
    ("bert", "bert", {}, {}, {"tie_encoder_decoder": True}),
    ("roberta", "roberta", {}, {}, {"tie_encoder_decoder": True}),
    ("gpt2", "gpt2", {}, {}, {"tie_encoder_decoder": True}),
]


def _torch_logits(model: EncoderDecoderModel, batch: dict[str, np.ndarray]) -> torch.Tensor:
    # with a cache, torch's relative positions are wrong for every query of a prompt but the last
    with torch.no_grad():
        return model.eval()(**as_torch(batch), use_cache=False).logits


@pytest.mark.parametrize(("encoder", "decoder", "enc_changes", "dec_changes", "settings"), PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pairs_go_to_torch_and_back(
    tmp_path: Path, encoder: str, decoder: str, enc_changes: dict, dec_changes: dict, settings: dict, dtype: str
):
    theirs = random_pair(TINY[encoder](**enc_changes), TINY[decoder](**dec_changes), **settings)
    folder = saved(theirs.to(getattr(torch, dtype)), tmp_path / "torch")
    model = EncoderDecoder.from_pretrained(folder, dtype=None)
    model.save_pretrained(tmp_path / "ours")
    assert _same_files(folder, tmp_path / "ours")
    again, info = EncoderDecoderModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager", dtype="auto"
    )
    assert not any(info.values()), info
    assert again.dtype == getattr(torch, dtype)
    assert again.config.tie_encoder_decoder == bool(settings.get("tie_encoder_decoder"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        assert getattr(again.generation_config, name) == getattr(theirs.generation_config, name)
    batch = random_batch(3)
    in_float32 = EncoderDecoder.from_pretrained(tmp_path / "ours", dtype=jnp.float32)
    expected = _torch_logits(again.float(), batch).numpy()
    real = batch["decoder_attention_mask"].astype(bool)
    assert np.abs(np.asarray(in_float32(**batch).logits) - expected)[real].max() < PARITY_LOGITS
    assert np.array_equal(expected, _torch_logits(theirs.float(), batch).numpy())


def test_torchs_shards_load(tmp_path: Path):
    theirs = random_pair(tiny_bert(), tiny_gpt2())
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    EncoderDecoder.from_pretrained(tmp_path / "shards").save_pretrained(tmp_path / "ours")
    assert _same_files(saved(theirs, tmp_path / "whole"), tmp_path / "ours")


def test_a_verbose_config_reads_as_a_terse_one(tmp_path: Path):
    theirs = random_pair(tiny_bert(), tiny_gpt2(tie_word_embeddings=False), decoder_start_token_id=7)
    folder = saved(theirs, tmp_path)
    terse = EncoderDecoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    verbose = EncoderDecoder.from_pretrained(folder)
    assert verbose.encoder.config == terse.encoder.config
    assert verbose.decoder.config == terse.decoder.config
    assert verbose.special_tokens == terse.special_tokens


@pytest.mark.parametrize("family", TINY)
def test_every_attribute_of_the_reference_is_known(family: str):
    """Whatever the pinned version of transformers writes, whole or as a difference, can be read."""
    config = TINY[family]()
    assert StackConfig.from_hf(config.to_dict()) == StackConfig.from_hf(config.to_diff_dict())
    assert StackConfig.from_hf(type(config)().to_dict()) == StackConfig.from_hf({"model_type": family})
