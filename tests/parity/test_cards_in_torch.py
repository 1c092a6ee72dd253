"""The examples for torch on model cards, run, and that a card says so where transformers has no class for a model."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny import BARTS
from transformers import BartForConditionalGeneration, PreTrainedModel

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from hf import random_pair, randomise, saved, tiny_bert, tiny_gpt2


def _example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """The model that the card's last example makes, in the folder of the card."""
    monkeypatch.chdir(folder)
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[-1]
    assert "import torch" in code
    names: dict = {}
    exec(code, names)
    return names["model"]


def test_the_examples_of_a_pair_and_its_pieces_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reference = random_pair(tiny_bert(), tiny_gpt2(), decoder_start_token_id=3, eos_token_id=5, pad_token_id=0)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "theirs"))
    model.save_pretrained(tmp_path / "pair")
    again = _example(tmp_path / "pair", monkeypatch)
    ours, theirs = reference.state_dict(), again.state_dict()
    assert all(torch.equal(theirs[name], array) for name, array in ours.items())
    for piece, name, kind in zip(model.pieces(), ("encoder", "decoder"), ("BertModel", "GPT2LMHeadModel"), strict=True):
        piece.save_pretrained(tmp_path / name)
        assert isinstance(_example(tmp_path / name, monkeypatch), getattr(transformers, kind))


def test_a_whole_checkpoint_names_its_class_and_its_encoder_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(randomise(BartForConditionalGeneration(BARTS["bart"](encoder_layers=3)), 0), tmp_path / "theirs")
    EncoderDecoder.from_pretrained(folder).save_pretrained(tmp_path / "whole")
    assert isinstance(_example(tmp_path / "whole", monkeypatch), BartForConditionalGeneration)
    encoder = Encoder.from_pretrained(folder)
    encoder.save_pretrained(tmp_path / "encoder")
    assert "it has no class for the encoder of a bart alone" in (tmp_path / "encoder" / "README.md").read_text()
    decoder = Decoder.from_pretrained(folder)
    decoder.save_pretrained(tmp_path / "decoder")
    _example(tmp_path / "decoder", monkeypatch)
    EncoderDecoder.from_pieces(encoder, decoder).save_pretrained(tmp_path / "pair")
    assert "does not build the encoder of a bart alone" in (tmp_path / "pair" / "README.md").read_text()
