"""Files that were made to do harm: each is a clear error, at once, that names the file and prints safely."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from checkpoints import GPT2_CONFIG, gpt2_tensors, write
from encdec_eqx import Decoder
from encdec_eqx.hf.files.flax_file import FlaxFile
from encdec_eqx.hf.files.folder import open_tensors
from encdec_eqx.hf.files.safetensors_file import MAX_AXES, SafetensorsFile

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _refused(call: Callable[[], Any]) -> str:
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        call()
    assert time.perf_counter() - start < 10.0
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 2000
    return text


def test_thirty_thousand_names_of_which_one_stands_twice(tmp_path: Path):
    entries = ",".join(f'"name{i}": {json.dumps(EMPTY)}' for i in [*range(30_000), 29_999])
    text = _refused(lambda: SafetensorsFile(_raw(tmp_path / "x", f"{{{entries}}}".encode())))
    assert f"{tmp_path / 'x'} is corrupt: its header names 'name29999' more than once" in text


def test_ten_thousand_names_that_no_model_has(tmp_path: Path):
    write(tmp_path, GPT2_CONFIG, {})
    _raw(tmp_path / "model.safetensors", {f"h.{i}.other.{i}": EMPTY for i in range(10_000)})
    text = _refused(lambda: Decoder.from_pretrained(tmp_path))
    assert "10028 problems" in text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**EMPTY, "dtype": {}}, r"has dtype {}; expected one of F64"),
        ({**EMPTY, "dtype": ["F32"]}, r"has dtype \['F32'\]; expected one of F64"),
        ({**EMPTY, "dtype": "F32\x1b[2J"}, r"has dtype 'F32\\x1b\[2J'; expected"),
        ({**EMPTY, "shape": [1] * (MAX_AXES + 1), "data_offsets": [0, 4]}, f"has {MAX_AXES + 1} dimensions; expected"),
        ({**EMPTY, "shape": [0, 2**62, 2**62]}, r"has the shape \(0, 4611686018427387904, .* counted in 64 bits"),
        ({**EMPTY, "shape": [0, 2**63]}, "counted in 64 bits"),
        ({**EMPTY, "shape": [2**70], "data_offsets": [0, 2**72]}, "counted in 64 bits"),
        ({**EMPTY, "data_offsets": [0, int("9" * 4000)]}, "expected 0"),
        ({**EMPTY, "other": "x" * 10**6}, r"its header says .*\.\.\. of 'a'; expected"),
    ],
)
def test_what_a_header_says_of_a_tensor(entry: dict[str, Any], message: str, tmp_path: Path):
    text = _refused(lambda: SafetensorsFile(_raw(tmp_path / "x", {"a": entry}, b"\0" * 4)))
    assert str(tmp_path / "x") in text
    assert re.search(message, text)


def test_a_tensor_of_as_many_axes_as_numpy_has_is_read(tmp_path: Path):
    entry = {"dtype": "F32", "shape": [1] * MAX_AXES, "data_offsets": [0, 4]}
    file = SafetensorsFile(_raw(tmp_path / "x", {"a": entry}, np.float32(3).tobytes()))
    assert file.read("a").shape == (1,) * MAX_AXES


@pytest.mark.parametrize("name", ["lm_head.weight", "transformer.wte.weight"])
def test_a_tied_copy_of_another_rank_is_a_problem_of_that_name(name: str, tmp_path: Path):
    copy = np.zeros((1,) * MAX_AXES, np.float32)
    write(tmp_path, GPT2_CONFIG, {**gpt2_tensors(), "lm_head.weight": copy, name: copy})
    if name == "lm_head.weight":  # a copy is left aside, and said to differ
        assert any("left out lm_head.weight" in line for line in Decoder.from_pretrained(tmp_path).load_report.warnings)
    else:
        assert "wrong shape of 'transformer.wte.weight': got (1, 1," in _refused(
            lambda: Decoder.from_pretrained(tmp_path)
        )


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a": ' * 50_000, b'{"a": ' + b"1" * 10_000 + b"}", b"\xff{", b'"x"', b"{\x00"]
)
def test_a_header_that_is_no_object(header: bytes, tmp_path: Path):
    text = _refused(lambda: SafetensorsFile(_raw(tmp_path / "x", header)))
    assert text.startswith(f"{tmp_path / 'x'} is corrupt")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "\0", "..", "", "a/b", {}, ["b"], 3, None])
def test_names_of_shards_that_no_file_can_have(name: Any, tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    text = _refused(lambda: open_tensors(tmp_path))
    assert "expected a plain name of a file beside it, of at most 255 bytes" in text


@pytest.mark.parametrize("name", ["\x1b[2J.safetensors", "\ud800", "a\nb"])
def test_names_of_shards_and_tensors_reach_no_terminal_as_they_are(name: str, tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "which is not in the folder" in _refused(lambda: open_tensors(tmp_path))
    folder = write(tmp_path / "x\x1b[2J\n", GPT2_CONFIG, {})
    _raw(folder / "model.safetensors", {f"transformer.{name}": EMPTY})
    assert r"x\x1b[2J\n/model.safetensors" in _refused(lambda: Decoder.from_pretrained(folder))


def test_files_in_a_folder_are_listed_safely(tmp_path: Path):
    (tmp_path / "evil\x1b[2J").write_text("")
    assert r"got evil\x1b[2J; expected" in _refused(lambda: open_tensors(tmp_path))


def test_reports_print_names_safely(tmp_path: Path):
    layer = "h.0.attn.bias"
    report = Decoder.from_pretrained(
        write(tmp_path / "a\x1b[2J", GPT2_CONFIG, {**gpt2_tensors(), f"transformer.{layer}": np.zeros(1, np.float32)})
    ).load_report
    for text in (str(report), report.verbose()):
        assert all(line.isprintable() for line in text.splitlines())


def _flax_array(shape: Any) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, "float32", bytes(4))))


@pytest.mark.parametrize(
    "array",
    [
        *(_flax_array(shape) for shape in ([1] * 70, [-5], ["a"], [2**40, 2**40], [2**64 - 1], 2**64 - 1)),
        {"__msgpack_chunked_array__": True, "chunks": {"0": _flax_array([1])}, "shape": {"0": 2**64 - 1}},
        {"__msgpack_chunked_array__": True, "chunks": {"0": 3}, "shape": {"0": 1}},
    ],
    ids=range(8),
)
def test_sizes_in_a_flax_file(array: Any, tmp_path: Path):
    content: Any = msgpack.packb({"params": {"kernel": array}})
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    assert str(tmp_path) in _refused(lambda: FlaxFile(tmp_path / "flax_model.msgpack"))
