"""Checkpoints as people have them: names behind a wrapper's, no `model_type`, two sets of weights, a head left out."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import (
    BERT_CONFIG,
    GPT2_CONFIG,
    HIDDEN,
    VOCAB,
    bert_head,
    bert_tensors,
    gpt2_tensors,
    pair_config,
    pair_tensors,
    write,
    write_shards,
    write_tied_pair,
)
from encdec_eqx import Decoder, Encoder, EncoderDecoder

BART = Path(__file__).parent.parent / "goldens" / "families" / "bart"
WRAPPERS = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.backbone.", "_fsdp_wrapped_module."]


def _untyped(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**config, **changes}.items() if name != "model_type"}


# --- names behind others


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_behind_a_wrappers_are_read_without_it(wrapper: str, tmp_path: Path):
    def wrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {wrapper + name: array for name, array in tensors.items()}

    bert, bart = bert_tensors() | bert_head(), load_file(BART / "model.safetensors")
    plain = Encoder.from_pretrained(write(tmp_path / "a", BERT_CONFIG, bert))
    encoder = Encoder.from_pretrained(write(tmp_path / "b", BERT_CONFIG, wrapped(bert)))
    pair = EncoderDecoder.from_pretrained(write(tmp_path / "c", pair_config(), wrapped(pair_tensors())))
    shutil.copytree(BART, tmp_path / "d")
    save_file(wrapped(bart), tmp_path / "d" / "model.safetensors")
    assert eqx.tree_equal(encoder, plain)
    assert eqx.tree_equal(pair, EncoderDecoder.from_pretrained(write(tmp_path / "e", pair_config(), pair_tensors())))
    assert eqx.tree_equal(EncoderDecoder.from_pretrained(tmp_path / "d"), EncoderDecoder.from_pretrained(BART))
    for report in (encoder.load_report, pair.load_report):
        (note,) = report.notes
        assert all(part in note for part in wrapper.split("."))
        assert note in str(report)
    assert not plain.load_report.notes


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_checkpoint_wrapped_module"])
def test_wrappers_may_be_inside(wrapper: str, tmp_path: Path):
    tensors = {name.replace("encoder.", f"encoder.{wrapper}.", 1): array for name, array in pair_tensors().items()}
    tensors = {name.replace(".h.1.", f".h.1.{wrapper}."): array for name, array in tensors.items()}
    model = EncoderDecoder.from_pretrained(write(tmp_path / "a", pair_config(), tensors))
    plain = EncoderDecoder.from_pretrained(write(tmp_path / "b", pair_config(), pair_tensors()))
    assert eqx.tree_equal(model, plain)
    assert repr(wrapper) in model.load_report.notes[0]


def test_a_base_model_behind_a_wrapper_gets_what_is_new(tmp_path: Path):
    tensors = {f"module.{name}": array for name, array in gpt2_tensors("").items()}
    decoder = Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, tensors))
    assert decoder.config.cross_attention
    assert len(decoder.load_report.loaded) == len(tensors)


def test_what_stands_beside_the_wrapped_model_is_named_with_the_reason(tmp_path: Path):
    tensors = {f"model.{name}": array for name, array in pair_tensors().items()}
    tensors["criterion.weight"] = np.zeros(3, np.float32)
    with pytest.raises(
        ValueError, match=r"\(1 problem; names stand behind 'model\.', .* unexpected 'criterion.weight'"
    ):
        EncoderDecoder.from_pretrained(write(tmp_path, pair_config(), tensors))
    # a prefix that explains nothing is not blamed
    other = {f"module.{name}": array for name, array in bert_tensors("").items()}
    with pytest.raises(ValueError, match=r"unexpected 'module\.") as caught:
        Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, other))
    assert "left out" not in str(caught.value)


# --- no model_type


@pytest.mark.parametrize(
    "architecture", ["BertModel", "BertForMaskedLM", "BertLMHeadModel", "TFBertForPreTraining", "FlaxBertModel"]
)
def test_architectures_stand_in_for_a_model_type(architecture: str, tmp_path: Path):
    config = _untyped(BERT_CONFIG, architectures=[architecture])
    encoder = Encoder.from_pretrained(write(tmp_path, config, bert_tensors()))
    assert encoder.config.model_type == "bert"
    assert architecture in encoder.load_report.notes[0]


@pytest.mark.parametrize(
    "architectures", [None, [], ["BertModel", "GPT2Model"], ["Bertweet"], ["BertJapaneseModel"], "BertModel", [3], {}]
)
def test_what_architectures_do_not_tell_is_asked_for(architectures: Any, tmp_path: Path):
    folder = write(tmp_path, _untyped(BERT_CONFIG, architectures=architectures), bert_tensors())
    with pytest.raises(ValueError, match=r"config.json: model_type is None.* Say it with model_type='bert'"):
        Encoder.from_pretrained(folder)
    encoder = Encoder.from_pretrained(folder, model_type="bert")
    assert encoder.config.model_type == "bert"
    assert "as the argument model_type says" in encoder.load_report.notes[0]


def test_another_name_for_a_family(tmp_path: Path):
    folder = write(tmp_path, {**BERT_CONFIG, "model_type": "my-bert"}, bert_tensors())
    with pytest.raises(ValueError, match=r"model_type is 'my-bert'; .* under another name loads with model_type="):
        Encoder.from_pretrained(folder)
    encoder = Encoder.from_pretrained(folder, model_type="bert")
    assert "config.json says 'my-bert'" in encoder.load_report.notes[0]
    encoder.save_pretrained(tmp_path / "saved")
    assert Encoder.from_pretrained(tmp_path / "saved").config == encoder.config
    with pytest.raises(ValueError, match="model_type is 'none'; expected one of"):
        Encoder.from_pretrained(folder, model_type="none")


def test_a_pair_and_its_pieces_without_model_types(tmp_path: Path):
    config = pair_config()
    config["encoder"] = _untyped(config["encoder"], architectures=None)
    config["decoder"] = _untyped(config["decoder"])
    folder = write(tmp_path / "a", _untyped(config, architectures=None), pair_tensors())
    with pytest.raises(ValueError, match=r"'encoder': model_type is None.* Say it with encoder_model_type="):
        EncoderDecoder.from_pretrained(folder)
    model = EncoderDecoder.from_pretrained(folder, encoder_model_type="bert")
    plain = EncoderDecoder.from_pretrained(write(tmp_path / "b", pair_config(), pair_tensors()))
    assert eqx.tree_equal((model.encoder, model.decoder), (plain.encoder, plain.decoder))
    assert len(model.load_report.notes) == 3
    pieces = (
        write(tmp_path / "bert", _untyped(BERT_CONFIG, architectures=None), bert_tensors()),
        write(tmp_path / "gpt2", _untyped(GPT2_CONFIG, architectures=None), gpt2_tensors()),
    )
    joined = EncoderDecoder.from_encoder_decoder_pretrained(
        *pieces, encoder_model_type="bert", decoder_model_type="gpt2"
    )
    assert joined.decoder.config.model_type == "gpt2"


def test_a_whole_checkpoint_without_a_model_type(tmp_path: Path):
    shutil.copytree(BART, tmp_path, dirs_exist_ok=True)
    config = json.loads((BART / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(_untyped(config)))
    assert EncoderDecoder.from_pretrained(tmp_path).model_type == "bart"
    (tmp_path / "config.json").write_text(json.dumps(_untyped(config, architectures=None)))
    with pytest.raises(ValueError, match="Say it with model_type="):
        EncoderDecoder.from_pretrained(tmp_path)
    assert EncoderDecoder.from_pretrained(tmp_path, model_type="bart").model_type == "bart"
    with pytest.raises(TypeError, match=r"encoder_model_type='bart'.* not of a pair: give model_type instead"):
        EncoderDecoder.from_pretrained(tmp_path, model_type="bart", encoder_model_type="bart")


# --- two of a thing


def _warned(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return record.getMessage()


def test_two_sets_of_weights_are_told_of_and_the_other_can_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    old, new = pair_tensors(), {name: array + 1 for name, array in pair_tensors().items()}
    write_shards(tmp_path, pair_config(), new)
    stale = write(tmp_path, pair_config(), old) / "model.safetensors"
    model = EncoderDecoder.from_pretrained(tmp_path)
    text = _warned(caplog)
    assert "model.safetensors.index.json with its 2 shards lies beside model.safetensors, which is the one" in text
    assert f"move it out of {tmp_path}" in text
    table = old["decoder.transformer.wte.weight"]
    np.testing.assert_array_equal(model.decoder.embeddings.tokens.weight, table)
    stale.rename(tmp_path / "elsewhere")
    model = EncoderDecoder.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    np.testing.assert_array_equal(model.decoder.embeddings.tokens.weight, table + 1)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "adapter_model.safetensors"]
)
def test_other_formats_beside_are_told_of(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (write(tmp_path, pair_config(), pair_tensors()) / name).write_bytes(b"not read")
    EncoderDecoder.from_pretrained(tmp_path)
    assert f"{name} lies beside model.safetensors, which is the one that was read" in _warned(caplog)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "rng_state.pth", "tokenizer.json"])
def test_what_is_no_model_is_not(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (write(tmp_path, pair_config(), pair_tensors()) / name).write_bytes(b"not read")
    # an index whose shards are gone is no set of weights
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert not EncoderDecoder.from_pretrained(tmp_path).load_report.warnings
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_a_trained_head_that_the_config_ties_is_told_of_and_can_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    head = np.full((VOCAB, HIDDEN), 2, np.float32)
    folder = write(tmp_path / "gpt2", GPT2_CONFIG, {**gpt2_tensors(cross=True), "lm_head.weight": head})
    assert Decoder.from_pretrained(folder).head.projection is None
    text = _warned(caplog)
    assert "left out lm_head.weight: the values differ from those of transformer.wte.weight" in text
    assert "or pass tie_word_embeddings=False" in text
    projection: Any = Decoder.from_pretrained(folder, tie_word_embeddings=False).head.projection
    np.testing.assert_array_equal(projection.weight, head.T)

    tensors = {**pair_tensors(), "decoder.lm_head.weight": head}
    folder = write(tmp_path / "pair", pair_config(), tensors)
    assert EncoderDecoder.from_pretrained(folder).decoder.head.projection is None
    assert "set tie_word_embeddings to false under 'decoder' in config.json" in _warned(caplog)
    config = pair_config()
    config["decoder"] = {**config["decoder"], "tie_word_embeddings": False}
    projection = EncoderDecoder.from_pretrained(write(folder, config, tensors)).decoder.head.projection
    np.testing.assert_array_equal(projection.weight, head.T)

    equal = {**gpt2_tensors(cross=True), "lm_head.weight": gpt2_tensors()["transformer.wte.weight"]}
    assert not Decoder.from_pretrained(write(tmp_path / "equal", GPT2_CONFIG, equal)).load_report.warnings


def test_a_whole_checkpoints_head(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    shutil.copytree(BART, tmp_path, dirs_exist_ok=True)
    tensors = load_file(BART / "model.safetensors")
    head = tensors["model.shared.weight"] + 1
    save_file({**tensors, "lm_head.weight": head}, tmp_path / "model.safetensors")
    assert EncoderDecoder.from_pretrained(tmp_path).decoder.head.projection is None
    assert "set tie_word_embeddings to false in config.json" in _warned(caplog)
    config = json.loads((BART / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    projection: Any = EncoderDecoder.from_pretrained(tmp_path).decoder.head.projection
    np.testing.assert_array_equal(projection.weight, head.astype(np.float32).T)


def test_an_encoder_of_its_own_in_a_tied_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tensors = load_file(write_tied_pair(tmp_path) / "model.safetensors")
    own = bert_tensors("encoder.", seed=9)
    save_file({**tensors, **own}, tmp_path / "model.safetensors")
    assert EncoderDecoder.from_pretrained(tmp_path).ties
    text = _warned(caplog)
    assert "more tensors: the values differ" in text
    assert "set tie_encoder_decoder to false in config.json" in text
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_encoder_decoder": False}))
    model = EncoderDecoder.from_pretrained(tmp_path)
    assert not model.ties
    table = own["encoder.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(model.encoder.embeddings.tokens.weight, table)
