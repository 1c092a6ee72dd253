"""Checkpoints whose config holds a piece's as an object of its own: T5Gemma's two, and the text of a larger Gemma 3.

Their numbers are compared in `test_family_goldens` and, live, in `tests/parity/test_t5gemma.py`.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest
from safetensors.numpy import load_file, save_file

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.hf.families import NESTED

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
WHOLE = GOLDENS / "t5gemma"


def _config(folder: Path = WHOLE) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _copy(folder: Path, config: dict[str, Any]) -> Path:
    shutil.copytree(WHOLE, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_pieces_have_tables_of_their_own_and_come_apart() -> None:
    model = EncoderDecoder.from_pretrained(WHOLE)
    assert (model.model_type, model.ties, model.enc_to_dec_proj) == ("t5gemma", (), None)
    encoder, decoder = model.pieces()
    assert {encoder.config.model_type, decoder.config.model_type} == {"t5_gemma_module"}
    assert not encoder.config.causal
    assert eqx.tree_equal(Encoder.from_pretrained(WHOLE), encoder)
    assert eqx.tree_equal(Decoder.from_pretrained(WHOLE), decoder)


def test_what_a_config_says_besides_is_named_and_saved_again(tmp_path: Path) -> None:
    said = _config() | {"novelty": 1, "classifier_dropout_rate": 0.3, "forced_eos_token_id": 1}
    said["encoder"] |= {"novelty": 2, "id2label": {"0": "x"}}
    folder = _copy(tmp_path / "theirs", said)
    with pytest.raises(ValueError, match=r"not understood: novelty = 1, encoder\.novelty = 2"):
        EncoderDecoder.from_pretrained(folder, strict_config=True)
    model = EncoderDecoder.from_pretrained(folder)
    assert model.load_report.unknown == ("novelty", "encoder.novelty")
    model.save_pretrained(tmp_path / "ours")
    again = _config(tmp_path / "ours")
    for name in ("novelty", "classifier_dropout_rate", "forced_eos_token_id"):
        assert again[name] == said[name]
    assert again["encoder"]["novelty"] == 2
    assert again["encoder"]["id2label"] == {"0": "x"}
    # what the whole says of generating goes with the decoder
    pair = EncoderDecoder.from_pieces(Encoder.from_pretrained(folder), Decoder.from_pretrained(folder))
    assert pair.generation_config is not None
    assert pair.generation_config.forced_eos_token_id == (1,)


def test_a_missing_model_type_is_read_off_the_class(tmp_path: Path) -> None:
    said = {name: value for name, value in _config().items() if name != "model_type"}
    model = EncoderDecoder.from_pretrained(_copy(tmp_path / "x", said))
    assert model.model_type == "t5gemma"
    assert "config.json has no model_type" in str(model.load_report)


WRONG = [
    ({"encoder": None}, "'encoder' is None; expected an object, as a t5gemma config holds a t5_gemma_module one"),
    ({"decoder": {"model_type": "gpt2"}}, "'decoder' has the model_type 'gpt2'; expected 't5_gemma_module'"),
    ({"tie_encoder_decoder": True}, "the pieces have no tensor in common"),
    ({"dropout_rate": "much"}, "config.json, 'encoder': .* attribute 'dropout_rate' is 'much'; expected a number"),
    ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
    ({"tie_word_embeddings": False}, r"missing 'lm_head\.out_proj\.weight'"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda value: next(iter(value)) if value else "")
def test_what_cannot_be_read_is_told(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderDecoder.from_pretrained(_copy(tmp_path / "x", _config() | changes))


def test_a_piece_whose_config_is_absent_is_told(tmp_path: Path) -> None:
    folder = _copy(tmp_path / "x", {**_config(), "decoder": 3})
    with pytest.raises(ValueError, match=r"config\.json: 'decoder' is 3; expected an object"):
        Decoder.from_pretrained(folder)
    Encoder.from_pretrained(folder)


@pytest.mark.parametrize("model_type", NESTED)
def test_a_stack_config_is_of_one_piece(model_type: str) -> None:
    with pytest.raises(ValueError, match=rf"a config of '{model_type}' holds that of a piece under '\w+'.*: give that"):
        StackConfig.from_hf({"model_type": model_type})


def test_pieces_that_one_config_cannot_express_are_not_saved_as_one(tmp_path: Path) -> None:
    model = EncoderDecoder.from_pretrained(WHOLE)
    wider = model.decoder.resize_token_embeddings(70, key=jax.random.key(0))
    model = dataclasses.replace(model, decoder=wider)
    with pytest.raises(ValueError, match="the encoder's vocab_size would be lost"):
        model.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_pair_of_its_pieces_is_saved_as_a_pair(tmp_path: Path) -> None:
    pair = EncoderDecoder.from_pieces(*EncoderDecoder.from_pretrained(WHOLE).pieces())
    pair.save_pretrained(tmp_path)
    assert _config(tmp_path)["model_type"] == "encoder-decoder"
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert eqx.tree_equal((again.encoder, again.decoder), (pair.encoder, pair.decoder))


@pytest.mark.parametrize("prefix", ["language_model.model", "model.language_model"])
def test_the_text_model_of_a_gemma_3_with_images_is_read(prefix: str, tmp_path: Path) -> None:
    plain = GOLDENS / "gemma3_text"
    text = _config(plain)
    tensors = load_file(plain / "model.safetensors")
    outer = prefix.removesuffix(".language_model") if prefix.startswith("model.") else ""
    images = f"{outer}.vision_tower.head.weight".removeprefix(".")
    renamed = {f"{prefix}.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    renamed[images] = tensors["model.norm.weight"]
    save_file(renamed, tmp_path / "model.safetensors")
    said = {"model_type": "gemma3", "text_config": text, "vision_config": {}, "eos_token_id": [1, 6]}
    (tmp_path / "config.json").write_text(json.dumps(said))
    ours = Decoder.from_pretrained(tmp_path, add_cross_attention=False)
    expected = Decoder.from_pretrained(plain, add_cross_attention=False)
    assert ours.config == expected.config.replace(eos_token_id=(1, 6))
    assert eqx.tree_equal((ours.stack, ours.embeddings), (expected.stack, expected.embeddings))
    assert (images, "what takes images") in ours.load_report.ignored
    with pytest.raises(ValueError, match="'gemma3_text', a family whose models can only be a decoder"):
        Encoder.from_pretrained(tmp_path)
