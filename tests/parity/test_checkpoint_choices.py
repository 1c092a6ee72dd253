"""Which of two sets of weights, and which of two tensors, torch takes: the choice here is the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from encdec_eqx import Decoder
from hf import randomise, saved, tiny_gpt2
from tolerances import PARITY_LOGITS


def _torch_table(folder: Path) -> np.ndarray:
    return GPT2LMHeadModel.from_pretrained(folder).transformer.wte.weight.detach().numpy()


def _ours(folder: Path) -> Decoder:
    return Decoder.from_pretrained(folder, add_cross_attention=False)


@pytest.mark.parametrize("beside", ["shards", "pickle"])
def test_a_file_beside_another_set(beside: str, tmp_path: Path) -> None:
    old, new = (randomise(GPT2LMHeadModel(tiny_gpt2()), seed) for seed in (0, 1))
    if beside == "shards":
        new.save_pretrained(tmp_path, max_shard_size="20KB")
        assert (tmp_path / "model.safetensors.index.json").exists()
    else:
        torch.save(new.state_dict(), tmp_path / "pytorch_model.bin")
    for path in saved(old, tmp_path / "old").iterdir():
        path.rename(tmp_path / path.name)
    if beside == "shards":  # torch's own saving would have cleared them away
        shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
        assert len(shards) > 1
    decoder = _ours(tmp_path)
    np.testing.assert_array_equal(decoder.embeddings.tokens.weight, _torch_table(tmp_path))
    np.testing.assert_array_equal(decoder.embeddings.tokens.weight, old.transformer.wte.weight.detach().numpy())
    assert "lies beside model.safetensors" in decoder.load_report.warnings[0]
    (tmp_path / "model.safetensors").rename(tmp_path / "away")
    if beside == "shards":
        table = _torch_table(tmp_path)
        np.testing.assert_array_equal(_ours(tmp_path).embeddings.tokens.weight, table)
        np.testing.assert_array_equal(table, new.transformer.wte.weight.detach().numpy())


def test_a_head_that_the_config_ties(tmp_path: Path) -> None:
    model = randomise(GPT2LMHeadModel(tiny_gpt2()), 0)
    tensors = load_file(saved(model, tmp_path) / "model.safetensors")
    head = torch.full_like(tensors["transformer.wte.weight"], 0.5)
    save_file({**tensors, "lm_head.weight": head}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = np.array([[4, 5, 6]], np.int32)
    for tied in (True, False):
        reference = GPT2LMHeadModel.from_pretrained(tmp_path, tie_word_embeddings=tied).eval()
        with torch.no_grad():
            expected = reference(torch.from_numpy(ids).long()).logits.numpy()
        decoder = Decoder.from_pretrained(tmp_path, add_cross_attention=False, tie_word_embeddings=tied)
        np.testing.assert_allclose(decoder(ids).logits, expected, rtol=0, atol=PARITY_LOGITS)
        assert bool(decoder.load_report.warnings) == tied
