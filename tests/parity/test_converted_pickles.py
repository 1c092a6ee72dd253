"""torch's own pickles of every format, in one file and in shards: converted, they hold the very tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EncoderDecoderModel

from encdec_eqx import EncoderDecoder
from encdec_eqx.conversion import convert_checkpoint
from encdec_eqx.hf.files.folder import open_tensors
from hf import as_torch, random_batch, random_pair, tiny_bert, tiny_gpt2
from tolerances import PARITY_LOGITS


@pytest.mark.parametrize("shards", ["1GB", "30KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pickle_becomes_safetensors(shards: str, dtype: torch.dtype, tmp_path: Path):
    reference = random_pair(tiny_bert(), tiny_gpt2()).to(dtype)
    reference.save_pretrained(tmp_path / "old", safe_serialization=False, max_shard_size=shards)
    said = convert_checkpoint(tmp_path / "old", tmp_path / "new")
    assert said.dtypes == (str(dtype).removeprefix("torch."),)
    assert not list((tmp_path / "new").glob("*.bin"))
    found = open_tensors(tmp_path / "new")
    for name, tensor in reference.state_dict().items():
        if name in found.entries:
            np.testing.assert_array_equal(np.array(found.read(name)).astype(np.float32), tensor.float().numpy(), name)
    again, info = EncoderDecoderModel.from_pretrained(
        tmp_path / "new", output_loading_info=True, dtype=dtype, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    arrays = random_batch(0)
    with torch.no_grad():
        expected = reference.float()(**as_torch(arrays)).logits.numpy()
        assert np.array_equal(again.float().eval()(**as_torch(arrays)).logits.numpy(), expected)
    valid = arrays["decoder_attention_mask"].astype(bool)
    logits = np.asarray(EncoderDecoder.from_pretrained(tmp_path / "new")(**arrays).logits)
    np.testing.assert_allclose(logits[valid], expected[valid], rtol=0, atol=PARITY_LOGITS)


def test_formats_of_torch_and_of_trainers(tmp_path: Path):
    reference = random_pair(tiny_bert(), tiny_gpt2())
    reference.save_pretrained(tmp_path / "old", safe_serialization=False)
    file, state = tmp_path / "old" / "pytorch_model.bin", reference.state_dict()
    convert_checkpoint(file, tmp_path / "plain")
    torch.save(state, file, _use_new_zipfile_serialization=False)
    convert_checkpoint(tmp_path / "old", tmp_path / "legacy", dtype="bfloat16", max_shard_size="20KB")
    torch.save({"state_dict": state, "epoch": 3}, file)
    convert_checkpoint(tmp_path / "old", tmp_path / "trainer")
    plain, trainer = (EncoderDecoder.from_pretrained(tmp_path / name) for name in ("plain", "trainer"))
    table = reference.decoder.transformer.wte.weight.detach()
    for model in (plain, trainer):
        np.testing.assert_array_equal(model.decoder.embeddings.tokens.weight, table.numpy())
    legacy = EncoderDecoder.from_pretrained(tmp_path / "legacy")
    np.testing.assert_array_equal(legacy.decoder.embeddings.tokens.weight, table.bfloat16().float().numpy())
    convert_checkpoint(tmp_path / "old", tmp_path / "encoder", take="encoder")
    assert (tmp_path / "encoder" / "model.safetensors").is_file()


class _Runs:
    """What would run when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path):
    reference = random_pair(tiny_bert(), tiny_gpt2())
    reference.save_pretrained(tmp_path / "old", safe_serialization=False)
    file, marker = tmp_path / "old" / "pytorch_model.bin", tmp_path / "marker"
    torch.save({**reference.state_dict(), "x": _Runs(marker)}, file)
    with pytest.raises(ValueError, match="what else there is could run code"):
        convert_checkpoint(tmp_path / "old", tmp_path / "new")
    assert not marker.exists()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"truncated or corrupt|it is damaged"):
        convert_checkpoint(tmp_path / "old", tmp_path / "new")
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="no plain names and tensors"):
        convert_checkpoint(tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new").exists()
