"""A T5 out of a package's int8 ONNX files, as a folder in Hugging Face's format. Knows nothing of this library.

ONNX is not a format of weights: matrices have lost their names, which are found again by the nodes that multiply by
them. Each is 8 bits with one scale for all of it; in the folder it is float32, so that what is computed with it is that
of the rounded weights, and not what the graph computes, which rounds activations too. The messages are read by hand
(https://onnx.ai/onnx/repo-docs/IR.html has the fields' numbers), as the library for it is not needed for anything else.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_DTYPES = {1: np.dtype(np.float32), 2: np.dtype(np.uint8), 3: np.dtype(np.int8)}

FLAN_T5_SMALL = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
"""Its published `config.json`, in short."""


def flan_t5_folder(package: Path, folder: Path) -> Path:
    """The folder, with the model and its tokenizer in it.

    Args:
        package: where `encoder.onnx`, `decoder.onnx` and `tokenizer.json` are.
        folder: to write into.
    """
    tensors = {}
    for file, prefix, stands_for in (("encoder", "enc.", "encoder."), ("decoder", "m.", "")):
        for name, weight in _weights(memoryview((package / f"{file}.onnx").read_bytes())).items():
            tensors[stands_for + name.removeprefix(prefix)] = weight
    # the encoder's copy of the embedding matrix is the decoder's
    assert np.array_equal(tensors.pop("encoder.embed_tokens.weight"), tensors["shared.weight"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(FLAN_T5_SMALL))
    shutil.copy(package / "tokenizer.json", folder)
    return folder


def _weights(model: memoryview) -> dict[str, np.ndarray]:
    """The weights of a quantized graph, under the names of the modules that they were exported from."""
    graph = next(value for field, value in _fields(model) if field == 7)
    assert not isinstance(graph, int)
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for field, message in _fields(graph):
        if isinstance(message, int):
            continue
        if field == 5:
            name, array = _tensor(message)
            arrays[name] = array
        elif field == 1:
            parts = list(_fields(message))
            kind, node = (next((_text(value) for field, value in parts if field == at), "") for at in (4, 3))
            if kind == "MatMulInteger":
                matrix = [_text(value) for field, value in parts if field == 1][1].removesuffix("_quantized")
                names[matrix] = node.removesuffix("/MatMul_quant").strip("/").replace("/", ".") + ".weight"
    found = {name: array for name, array in arrays.items() if name.endswith("layer_norm.weight")}
    for name in [name.removesuffix("_quantized") for name in arrays if name.endswith("_quantized")]:
        whole, scale, zero = (arrays[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))
        weight = (whole.astype(np.float32) - zero.astype(np.float32)) * scale
        found[names.get(name, name)] = np.ascontiguousarray(weight.T) if name in names else weight
    return found


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    shape: list[int] = []
    kind, name, raw, numbers = 0, "", b"", list[int]()
    for field, value in _fields(message):
        if isinstance(value, int):
            shape += [value] if field == 1 else []
            numbers += [value] if field == 5 else []
            kind = value if field == 2 else kind
        elif field == 8:
            name = _text(value)
        elif field in (4, 9):  # floats, or bytes of whatever kind
            raw = bytes(value)
        elif field == 5:
            numbers += _varints(value)
    if kind not in _DTYPES:
        return name, np.zeros(0)
    dtype = _DTYPES[kind]
    array = np.array(numbers, np.int64).astype(dtype) if numbers else np.frombuffer(raw, dtype)
    return name, array.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer's message: their numbers and values."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = message[at : at + size], at + size
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _text(value: int | memoryview) -> str:
    assert not isinstance(value, int)
    return bytes(value).decode()
