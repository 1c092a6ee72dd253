"""Shards: transformers loads what is saved here in several files, and spreads the same tensors over as many."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, EncoderDecoderModel

from encdec_eqx import Decoder, EncoderDecoder
from hf import as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2


def _total(index: Path) -> int:
    return json.loads(index.read_text())["metadata"]["total_size"]


@pytest.mark.parametrize("size", ["20KB", 3000])
def test_transformers_loads_our_shards(tmp_path: Path, size: str | int):
    theirs = random_pair(tiny_bert(), tiny_gpt2())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    model = EncoderDecoder.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", max_shard_size=size)
    indices = [tmp_path / name / "model.safetensors.index.json" for name in ("theirs", "ours")]
    assert _total(indices[0]) == _total(indices[1])
    named = [set(json.loads(index.read_text())["weight_map"]) for index in indices]
    assert named[0] == named[1]
    again, info = EncoderDecoderModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    batch = as_torch(random_batch(0))
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, theirs(**batch).logits)


def test_transformers_loads_a_piece_in_shards(tmp_path: Path):
    theirs = random_pair(tiny_bert(), tiny_gpt2()).decoder
    decoder = Decoder.from_pretrained(saved(theirs, tmp_path / "theirs"))
    decoder.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    assert len(list((tmp_path / "ours").glob("model-*"))) > 1
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)
