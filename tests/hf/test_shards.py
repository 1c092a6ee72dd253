"""Saving in shards: which tensor lies in which file, what the index says, and that nothing of another save stays."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open

from checkpoints import GPT2_CONFIG, gpt2_tensors, pair_config, pair_tensors, write
from encdec_eqx import Decoder, EncoderDecoder, quantize
from encdec_eqx.hf.files.shards import layout, size_in_bytes

INDEX = "model.safetensors.index.json"


def _model(folder: Path) -> EncoderDecoder:
    return EncoderDecoder.from_pretrained(write(folder, pair_config(), pair_tensors()))


def _same(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def _held(path: Path) -> dict[str, int]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("size", ["2KB", 2000, "0.002 mb"])
def test_shards_and_their_index(tmp_path: Path, size: Any):
    model = _model(tmp_path / "model")
    model.save_pretrained(tmp_path / "shards", max_shard_size=size)
    index = json.loads((tmp_path / "shards" / INDEX).read_text())
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert files == [f"model-{at:05d}-of-{len(files):05d}.safetensors" for at in range(1, len(files) + 1)]
    assert len(files) > 3
    sizes = {name: _held(tmp_path / "shards" / name) for name in files}
    assert index["weight_map"] == {tensor: name for name, held in sizes.items() for tensor in held}
    assert index["metadata"] == {"total_size": sum(sum(held.values()) for held in sizes.values())}
    assert all(sum(held.values()) <= 2000 or len(held) == 1 for held in sizes.values())
    assert sum(map(len, sizes.values())) == len(pair_tensors())
    assert _same(EncoderDecoder.from_pretrained(tmp_path / "shards", dtype=None), model)


def test_a_piece_and_an_int8_model_in_shards(tmp_path: Path):
    decoder = Decoder.from_pretrained(write(tmp_path / "gpt2", GPT2_CONFIG, gpt2_tensors()))
    decoder.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert _same(Decoder.from_pretrained(tmp_path / "shards"), decoder)
    small = quantize(decoder, "int8")
    small.save_pretrained(tmp_path / "shards", max_shard_size="1KB")
    names = {path.name for path in (tmp_path / "shards").glob("model*")}
    assert "model.int8.safetensors.index.json" in names
    assert all(name.startswith("model.int8") for name in names)
    assert _same(Decoder.from_pretrained(tmp_path / "shards", dtype=None), small)
    decoder.save_pretrained(tmp_path / "shards")
    assert [path.name for path in (tmp_path / "shards").glob("model*")] == ["model.safetensors"]
    assert _same(Decoder.from_pretrained(tmp_path / "shards"), decoder)


def test_another_layout_replaces_the_one_before(tmp_path: Path):
    model, folder = _model(tmp_path / "model"), tmp_path / "out"
    for size in ("5GB", "2KB", "4KB", "1GB"):
        model.save_pretrained(folder, max_shard_size=size)
        shards = sorted(folder.glob("model-*.safetensors"))
        assert (folder / "model.safetensors").exists() == (not shards) == ("GB" in size)
        assert (folder / INDEX).exists() == bool(shards)
        assert all(path.name.endswith(f"-of-{len(shards):05d}.safetensors") for path in shards)
        assert _same(EncoderDecoder.from_pretrained(folder), model)


def test_tensors_keep_their_order_and_large_ones_stand_alone():
    """The example of Hugging Face's own description: 6, 6, 2, 6, 2 and 2 of at most 10."""
    sizes = [6, 6, 2, 6, 2, 2]
    tensors = [(f"t{at}", (size,), np.dtype(np.int8), lambda: np.zeros(0)) for at, size in enumerate(sizes)]
    files = layout(tensors, "model.safetensors", 10).files.values()
    assert [[tensor[1][0] for tensor in shard] for shard in files] == [[6], [6, 2], [6, 2, 2]]
    files = layout([*tensors, ("big", (11,), np.dtype(np.int8), lambda: np.zeros(0))], "m.safetensors", 10).files
    assert list(files) == [f"m-{at:05d}-of-00004.safetensors" for at in range(1, 5)]
    assert sum([tensor[0] == "big" for tensor in shard] == [True] for shard in files.values()) == 1
    whole = layout(tensors, "model.safetensors", 24)
    assert list(whole.files) == ["model.safetensors"]
    assert whole.index is None


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ("5", ValueError),
        ("5 GBs", ValueError),
        ("GB", ValueError),
        ("-5GB", ValueError),
        ("0KB", ValueError),
        ("nanGB", ValueError),
        (0, ValueError),
        (-1, ValueError),
    ],
)
def test_a_size_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, size: Any, error: type[Exception]):
    model = _model(tmp_path / "model")
    with pytest.raises(error, match=r"max_shard_size is .*'5GB' or '200MB'"):
        model.save_pretrained(tmp_path / "out", max_shard_size=size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [5e9, True, None])
def test_a_size_is_a_text_or_a_whole_number(size: Any):
    with pytest.raises(TypeError, match=r"max_shard_size is .*'5GB' or '200MB'"):
        size_in_bytes(size)


def test_sizes_mean_what_transformers_means():
    whole: Any = np.int64(2000)
    assert size_in_bytes(whole) == 2000
    sizes = {"5GB": 5 * 10**9, "200MB": 2 * 10**8, "1.5kb": 1500, " 2 TB ": 2 * 10**12, "1GiB": 2**30, "3KIB": 3072}
    assert {text: size_in_bytes(text) for text in sizes} == sizes
