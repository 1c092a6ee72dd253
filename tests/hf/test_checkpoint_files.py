"""Files of tensors: what is read, and what each kind of damage says."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import BERT_CONFIG, bert_tensors, write, write_shards
from encdec_eqx.hf.files import MissingFileError
from encdec_eqx.hf.files.flax_file import FlaxFile
from encdec_eqx.hf.files.folder import open_tensors, read_config
from encdec_eqx.hf.files.safetensors_file import MAX_HEADER, SafetensorsFile, write_file

DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]


def _raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(start: int, end: int, shape: Any = None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_the_safetensors_library_writes(tmp_path: Path, dtype: str):
    array = (np.arange(6).reshape(2, 3) % 2).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    save_file({"b": array, "a": array[0].copy(), "empty": array[:0].copy()}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(file.entries) == {"a", "b", "empty"}
    assert file.entries["b"].dtype == array.dtype
    assert file.read("b").tobytes() == array.tobytes()
    assert file.read("a").tobytes() == array[0].tobytes()
    assert file.read("empty").shape == (0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_what_the_safetensors_library_reads(tmp_path: Path, dtype: str):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = {"b": (np.arange(6).reshape(2, 3) % 2).astype(kind), "a": np.ones((), kind), "c": np.ones((0, 2), kind)}
    write_file(
        tmp_path / "x.safetensors",
        [(name, array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()],
    )
    own = SafetensorsFile(tmp_path / "x.safetensors")
    assert {name: own.read(name).tobytes() for name in arrays} == {name: a.tobytes() for name, a in arrays.items()}
    if dtype != "bfloat16":  # the library's NumPy reader has no bfloat16
        theirs = load_file(tmp_path / "x.safetensors")
        assert {name: a.tobytes() for name, a in theirs.items()} == {name: a.tobytes() for name, a in arrays.items()}


def test_mixed_dtypes_are_each_aligned_in_a_written_file(tmp_path: Path):
    arrays = {"a": np.ones(3, np.uint8), "b": np.ones(3, np.float64), "c": np.ones(5, np.float16)}
    write_file(tmp_path / "x", [(name, array.shape, array.dtype, lambda a=array: a) for name, array in arrays.items()])
    for entry in SafetensorsFile(tmp_path / "x").entries.values():
        assert entry.start % entry.dtype.itemsize == 0


def test_a_dtype_the_format_lacks_cannot_be_written(tmp_path: Path):
    array = np.ones(2, np.complex128)
    with pytest.raises(ValueError, match="'x' has dtype complex128"):
        write_file(tmp_path / "x", [("x", array.shape, array.dtype, lambda: array)])


DAMAGED = {
    "empty": (b"", "truncated: got 0 bytes"),
    "short": (b"1234", "truncated: got 4 bytes"),
    "absurd header": (
        (MAX_HEADER + 1).to_bytes(8, "little") + b"{}",
        "first 8 bytes say the header has 100000001 bytes",
    ),
    "header past the end": ((50).to_bytes(8, "little") + b"{}", "header should have 50 bytes, but the file has 2"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_before_the_header_is_named(tmp_path: Path, name: str):
    content, message = DAMAGED[name]
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        SafetensorsFile(tmp_path / "x.safetensors")
    assert str(tmp_path / "x.safetensors") in str(error.value)
    assert "\n" not in str(error.value)


BAD_HEADERS = {
    "not JSON": (b"{nonsense", b"", "header is not JSON"),
    "not UTF-8": (b"\xff\xfe{}", b"", "header is not JSON"),
    "not an object": ([1], b"", "header is a JSON list"),
    "deeply nested": (b"[" * 100_000, b"", "nests too deeply"),
    "a name twice": (b'{"a":' + json.dumps(_entry(0, 4)).encode() + b',"a":{}}', bytes(4), "names 'a' more than once"),
    "no dict": ({"a": 3}, b"", "says 3 of 'a'; expected {'dtype'"),
    "a key missing": ({"a": {"dtype": "F32", "shape": [1]}}, b"", "of 'a'; expected {'dtype'"),
    "a negative length": ({"a": _entry(0, 4, [-1])}, bytes(4), "of 'a'; expected {'dtype'"),
    "a fractional length": ({"a": _entry(0, 4, [1.0])}, bytes(4), "of 'a'; expected {'dtype'"),
    "a huge shape": ({"a": _entry(0, 4, [2**62, 2**62])}, bytes(4), "is given 4 bytes; expected"),
    "an unknown dtype": ({"a": _entry(0, 4, dtype="F4")}, bytes(4), "'a' has dtype 'F4'; expected one of F64, F32"),
    "too few bytes": ({"a": _entry(0, 4, [2])}, bytes(4), r"shape \(2,\) and dtype F32 is given 4 bytes; expected 8"),
    "truncated": ({"a": _entry(0, 8)}, bytes(4), "truncated: tensor 'a' ends at byte"),
    "overlapping": ({"a": _entry(0, 8), "b": _entry(4, 12)}, bytes(12), "'b' starts at byte .* and overlaps 'a'"),
    "a hole": ({"a": _entry(0, 4), "b": _entry(8, 12)}, bytes(12), "'b' starts at byte .* leaves a hole after 'a'"),
    "trailing bytes": ({"a": _entry(0, 4)}, bytes(9), "its tensors end at byte"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_damage_in_the_header_is_named(tmp_path: Path, name: str):
    header, data, message = BAD_HEADERS[name]
    path = _raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(ValueError, match=message) as error:
        SafetensorsFile(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700


def test_shards_read_as_one_file(tmp_path: Path):
    tensors = bert_tensors()
    whole = open_tensors(write(tmp_path / "whole", BERT_CONFIG, tensors))
    shards = open_tensors(write_shards(tmp_path / "shards", BERT_CONFIG, tensors, 3))
    assert set(shards.entries) == set(whole.entries)
    assert all(shards.read(name).tobytes() == whole.read(name).tobytes() for name in tensors)


def _index(folder: Path) -> tuple[Path, dict]:
    path = folder / "model.safetensors.index.json"
    return path, json.loads(path.read_text())


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = write_shards(tmp_path, BERT_CONFIG, bert_tensors())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"lists model-00002-of-00002\.safetensors, which is not in the folder"):
        open_tensors(folder)


def test_an_index_without_a_map_is_named(tmp_path: Path):
    folder = write_shards(tmp_path, BERT_CONFIG, bert_tensors())
    _index(folder)[0].write_text("{}")
    with pytest.raises(ValueError, match="has no 'weight_map'"):
        open_tensors(folder)


def test_an_index_that_disagrees_with_its_shards_is_named(tmp_path: Path):
    folder = write_shards(tmp_path, BERT_CONFIG, bert_tensors())
    path, index = _index(folder)
    name = next(iter(index["weight_map"]))
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "extra": index["weight_map"][name]}}))
    with pytest.raises(ValueError, match="says that 'extra' is in"):
        open_tensors(folder)
    del index["weight_map"][name]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"holds '{name}', which .* places in no file"):
        open_tensors(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", 3])
def test_an_index_cannot_point_outside_its_folder(tmp_path: Path, name: object):
    folder = write_shards(tmp_path, BERT_CONFIG, bert_tensors())
    _index(folder)[0].write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="expected a plain name of a file beside it"):
        open_tensors(folder)


def test_a_pickle_is_refused_with_a_conversion_command(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(NotImplementedError, match="never opens") as error:
        open_tensors(tmp_path)
    command = str(error.value)[str(error.value).index("python -c") :]
    assert "pytorch_model.bin" in command
    assert "weights_only=True" in command
    compile(command.split('"')[1], "command", "exec")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack.index.json"])
def test_other_formats_are_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(NotImplementedError, match="a format that is not read"):
        open_tensors(tmp_path)


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path):
    with pytest.raises(MissingFileError, match="got an empty folder; expected"):
        open_tensors(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"got notes\.txt"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not valid JSON"), ("[1]", "holds a JSON list"), ("\udcff", "is not valid JSON")]
)
def test_a_bad_config_is_named(tmp_path: Path, content: str, message: str):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)


def test_a_missing_config_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"no config\.json in"):
        read_config(tmp_path)


def _flax_array(array: np.ndarray) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def _flax(path: Path, tree: dict) -> Path:
    def packed(value: object) -> object:
        if isinstance(value, dict):
            return {key: packed(item) for key, item in value.items()}
        return _flax_array(value) if isinstance(value, np.ndarray) else value

    content: Any = msgpack.packb(packed(tree), use_bin_type=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_flax_names_become_torch_names(tmp_path: Path, dtype: str):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    kernel, vector = np.arange(6).reshape(2, 3).astype(kind), np.arange(3).astype(kind)
    tree = {"layer": {"0": {"dense": {"kernel": kernel, "bias": vector}, "LayerNorm": {"scale": vector}}}}
    file = FlaxFile(_flax(tmp_path / "flax_model.msgpack", {**tree, "emb": {"embedding": kernel}}))
    assert set(file.entries) == {
        "layer.0.dense.weight",
        "layer.0.dense.bias",
        "layer.0.LayerNorm.weight",
        "emb.weight",
    }
    assert file.read("layer.0.dense.weight").tolist() == kernel.T.tolist()
    assert file.read("emb.weight").dtype == kind
    assert file.entries["layer.0.dense.weight"].shape == (3, 2)


def test_flax_arrays_in_chunks_are_joined(tmp_path: Path):
    array = np.arange(10, dtype=np.float32).reshape(2, 5)
    chunked = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 5},
        "chunks": {"0": array.ravel()[:7], "1": array.ravel()[7:]},
    }
    file = FlaxFile(_flax(tmp_path / "flax_model.msgpack", {"wte": {"embedding": chunked}}))
    assert file.read("wte.weight").tolist() == array.tolist()


def test_flax_chunks_that_do_not_fit_are_named(tmp_path: Path):
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {"0": np.ones(2, np.float32)}}
    with pytest.raises(ValueError, match="the chunks of wte/embedding do not make an array"):
        FlaxFile(_flax(tmp_path / "flax_model.msgpack", {"wte": {"embedding": chunked}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, corrupt or no Flax checkpoint"),
        (b"\x81", "truncated, corrupt or no Flax checkpoint"),
        (msgpack.packb([1]), "holds a list"),
        (msgpack.packb({"a": 1}), "a is a int; expected an array"),
        (msgpack.packb({"a": msgpack.ExtType(7, b"")}), "extension type 7"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"12")))}), "truncated, corrupt"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))}), "dtype 'object'"),
    ],
)
def test_a_damaged_flax_file_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        FlaxFile(tmp_path / "flax_model.msgpack")
    assert "flax_model.msgpack" in str(error.value)
