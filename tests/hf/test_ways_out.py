"""What refusals of checkpoints recommend, done: it works."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import BERT_CONFIG, GPT2_CONFIG, LAYERS, bert_tensors, gpt2_tensors, pair_config, pair_tensors, write
from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.config import NormConfig

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any], file: str = "config.json") -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


REMOVED = {
    "auto_map": ({"AutoModel": "modeling.Model"}, "remove 'auto_map' from config.json"),
    "is_encoder_decoder": (True, "If it is one of the two, remove the attribute"),
    "sliding_window": (64, "remove it if the model was trained without"),
}


@pytest.mark.parametrize("name", REMOVED)
def test_an_attribute_is_removed(name: str, tmp_path: Path):
    value, message = REMOVED[name]
    folder = write(tmp_path, {**BERT_CONFIG, name: value}, bert_tensors())
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(folder)
    _edit(folder, lambda hf: hf.pop(name))
    Encoder.from_pretrained(folder, strict_config=True)


def test_weights_under_another_name_are_renamed(tmp_path: Path):
    folder = write(tmp_path, {**BERT_CONFIG, "transformers_weights": "other.safetensors"}, bert_tensors())
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"rename it to model\.safetensors and remove the attribute"):
        Encoder.from_pretrained(folder)
    (folder / "other.safetensors").rename(folder / "model.safetensors")
    _edit(folder, lambda hf: hf.pop("transformers_weights"))
    Encoder.from_pretrained(folder)


def test_the_config_of_a_version_is_put_in_place(tmp_path: Path):
    other = {**BERT_CONFIG, "configuration_files": ["config.4.0.0.json"]}
    folder = write(tmp_path, other, bert_tensors(), **{"config.4.0.0": BERT_CONFIG})
    with pytest.raises(ValueError, match=r"put the one for version 4\.57\.6 in its place"):
        Encoder.from_pretrained(folder)
    (folder / "config.4.0.0.json").replace(folder / "config.json")
    Encoder.from_pretrained(folder)


def test_a_size_is_corrected_in_the_config_or_by_an_argument(tmp_path: Path):
    folder = write(tmp_path, {**BERT_CONFIG, "intermediate_size": 16}, bert_tensors())
    with pytest.raises(
        ValueError, match=r"correct sizes in config\.json \(or pass them to the piece's from_pretrained\)"
    ):
        Encoder.from_pretrained(folder)
    passed = Encoder.from_pretrained(folder, intermediate_size=12)
    _edit(folder, lambda hf: hf.update(intermediate_size=12))
    assert eqx.tree_equal(Encoder.from_pretrained(folder), passed)


def test_unexpected_tensors_are_removed(tmp_path: Path):
    folder = write(tmp_path, GPT2_CONFIG, {**gpt2_tensors(), "value_head.weight": np.zeros((3, 4), np.float32)})
    with pytest.raises(ValueError, match=r"unexpected 'value_head\.weight'.*load_file, save_file"):
        Decoder.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["value_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert len(Decoder.from_pretrained(folder).load_report.loaded) == 4 + 12 * LAYERS


def test_an_encoder_that_says_it_is_a_decoder_is_set_right(tmp_path: Path):
    folder = write(tmp_path, pair_config(encoder={**BERT_CONFIG, "is_decoder": True}), pair_tensors())
    with pytest.raises(ValueError, match=r"set both to false in config\.json"):
        EncoderDecoder.from_pretrained(folder)
    _edit(folder, lambda hf: hf["encoder"].update(is_decoder=False))
    EncoderDecoder.from_pretrained(folder)


def test_ties_of_pieces_that_differ_are_set_to_false(tmp_path: Path):
    decoder = {**BERT_CONFIG, "num_attention_heads": 4, "is_decoder": True}
    pieces = {"encoder": {**BERT_CONFIG}, "decoder": decoder}
    whole = EncoderDecoder.from_pieces(
        Encoder.from_pretrained(write(tmp_path / "bert", BERT_CONFIG, bert_tensors())),
        Decoder.from_pretrained(write(tmp_path / "heads", {**BERT_CONFIG, "num_attention_heads": 4}, bert_tensors())),
    )
    whole.save_pretrained(tmp_path / "pair")
    _edit(tmp_path / "pair", lambda hf: hf.update(tie_encoder_decoder=True, **pieces))
    with pytest.raises(ValueError, match=r"differ in heads .* set it to false in config\.json"):
        EncoderDecoder.from_pretrained(tmp_path / "pair")
    _edit(tmp_path / "pair", lambda hf: hf.update(tie_encoder_decoder=False))
    EncoderDecoder.from_pretrained(tmp_path / "pair")


def test_a_whole_checkpoint_with_two_tables_is_saved_as_a_pair(tmp_path: Path):
    model = EncoderDecoder.from_pretrained(GOLDENS / "bart")
    apart = dataclasses.replace(model, encoder=model.pieces()[0], ties=())
    with pytest.raises(ValueError, match=r"Save them as a pair: EncoderDecoder\.from_pieces\(\*model\.pieces\(\)\)"):
        apart.save_pretrained(tmp_path)
    EncoderDecoder.from_pieces(*apart.pieces()).save_pretrained(tmp_path)
    assert eqx.tree_equal(EncoderDecoder.from_pretrained(tmp_path).decoder, apart.decoder)


def test_what_no_format_expresses_is_kept_by_equinox(tmp_path: Path):
    encoder = Encoder.from_pretrained(write(tmp_path / "bert", BERT_CONFIG, bert_tensors()))
    odd = dataclasses.replace(encoder, config=encoder.config.replace(norm=NormConfig(placement="pre")))
    with pytest.raises(ValueError, match=r"cannot express norm .* equinox\.tree_serialise_leaves"):
        odd.save_pretrained(tmp_path / "out")
    eqx.tree_serialise_leaves(tmp_path / "odd.eqx", odd)
    like = Encoder.init(odd.config, key=jax.random.key(1))
    again = eqx.tree_deserialise_leaves(tmp_path / "odd.eqx", like)
    assert eqx.tree_equal(jax.tree.leaves(again), jax.tree.leaves(odd))


def test_an_option_that_makes_no_sense_is_removed_and_passed(tmp_path: Path):
    options = {"temperature": -1, "max_length": 4, "decoder_start_token_id": 1, "pad_token_id": 0}
    folder = write(tmp_path, pair_config(), pair_tensors(), generation_config=options)
    with pytest.raises(ValueError, match="Correct it there, or remove it and pass it to generate"):
        EncoderDecoder.from_pretrained(folder)
    _edit(folder, lambda hf: hf.pop("temperature"), "generation_config.json")
    model = EncoderDecoder.from_pretrained(folder)
    ids = model.generate(np.ones((1, 2), np.int32), temperature=0.5, do_sample=True, key=jax.random.key(0)).sequences
    assert np.asarray(ids).shape[1] <= 4
