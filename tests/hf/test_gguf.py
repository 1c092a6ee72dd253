"""A GGUF file becomes a folder with the same numbers in Hugging Face's order, or an error that says what to do."""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from encdec_eqx import Decoder
from encdec_eqx.conversion import convert_checkpoint
from encdec_eqx.hf.files import MissingFileError
from encdec_eqx.hf.files.folder import open_tensors
from encdec_eqx.hf.files.gguf_file import convert_gguf

HIDDEN, HEADS, KV_HEADS, INNER, LAYERS = 64, 4, 2, 96, 2
LETTERS = [chr(at) for at in (*range(33, 127), 0x120)]
TOKENS = ["<|end|>", "<|im_start|>", "<|im_end|>", *LETTERS, "he", "Ġhe", "12", "<user>"]
MERGES = ["h e", "Ġ he", "1 2"]
TYPES = [3, 3, 3] + [1] * (len(TOKENS) - 4) + [4]
KINDS = {"q": gguf.GGMLQuantizationType.Q4_1, "embed": gguf.GGMLQuantizationType.Q8_0}
MATRICES = {
    "blk.{i}.attn_q": ("model.layers.{i}.self_attn.q_proj", (HIDDEN, HIDDEN), HEADS),
    "blk.{i}.attn_k": ("model.layers.{i}.self_attn.k_proj", (HIDDEN * KV_HEADS // HEADS, HIDDEN), KV_HEADS),
    "blk.{i}.attn_v": ("model.layers.{i}.self_attn.v_proj", (HIDDEN * KV_HEADS // HEADS, HIDDEN), None),
    "blk.{i}.attn_output": ("model.layers.{i}.self_attn.o_proj", (HIDDEN, HIDDEN), None),
    "blk.{i}.ffn_gate": ("model.layers.{i}.mlp.gate_proj", (INNER, HIDDEN), None),
    "blk.{i}.ffn_up": ("model.layers.{i}.mlp.up_proj", (INNER, HIDDEN), None),
    "blk.{i}.ffn_down": ("model.layers.{i}.mlp.down_proj", (HIDDEN, INNER), None),
}
NORMS = {
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
}


def _llama_cpps_order(weight: np.ndarray, heads: int | None) -> np.ndarray:
    """Where llama.cpp's converter puts the rows of queries and keys, head by head: 0, n/2, 1, n/2 + 1, and so on."""
    if heads is None:
        return weight
    size = len(weight) // heads
    within = np.stack([np.arange(size // 2), size // 2 + np.arange(size // 2)], axis=1).reshape(-1)
    return weight[(np.arange(heads)[:, None] * size + within).reshape(-1)]


def _written(path: Path, *, tied: bool = True, **changes: Any) -> dict[str, np.ndarray]:
    """A tiny Llama in GGUF; its tensors in Hugging Face's names and order, as far as eight or four bits hold them."""
    rng = np.random.default_rng(0)
    fields = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e5,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.vocab_size": len(TOKENS),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TYPES,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **changes,
    }
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture"))
    for name, value in fields.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif value is not None:
            writer.add_uint32(name, value)
    expected = {}

    def add(theirs: str, ours: str, shape: tuple[int, ...], heads: int | None, kind: Any) -> None:
        weight = rng.normal(size=shape).astype(np.float32)
        stored = _llama_cpps_order(weight, heads)
        expected[f"{ours}.weight"] = weight if kind is None else dequantize(quantize(weight, kind), kind)
        writer.add_tensor(f"{theirs}.weight", stored if kind is None else quantize(stored, kind), raw_dtype=kind)

    add("token_embd", "model.embed_tokens", (len(TOKENS), HIDDEN), None, KINDS["embed"])
    add("output_norm", "model.norm", (HIDDEN,), None, None)
    if not tied:
        add("output", "lm_head", (len(TOKENS), HIDDEN), None, KINDS["embed"])
    for i in range(LAYERS):
        for theirs, ours in NORMS.items():
            add(theirs.format(i=i), ours.format(i=i), (HIDDEN,), None, None)
        for theirs, (ours, shape, heads) in MATRICES.items():
            add(theirs.format(i=i), ours.format(i=i), shape, heads, KINDS["q"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_have_hugging_faces_names_order_and_numbers(tmp_path: Path, tied: bool) -> None:
    expected = _written(tmp_path / "tiny.gguf", tied=tied)
    folder = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "new" / "tiny")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
        "tie_word_embeddings": tied,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 128,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e5,
        "vocab_size": len(TOKENS),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _tokenizer(tmp_path: Path, **changes: Any) -> Tokenizer:
    _written(tmp_path / "tiny.gguf", **changes)
    return Tokenizer.from_file(str(convert_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny") / "tokenizer.json"))


def test_the_tokenizer_merges_splits_and_keeps_whole_what_the_file_says(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path)
    text = "he he12<|im_end|><user>!"
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["he", "Ġhe", "1", "2", "<|im_end|>", "<user>", "!"]  # SmolLM takes digits one by one
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert tokenizer.decode(encoded.ids) == "he he12<user>!"


def test_gpt_2_s_splits_and_a_first_token(tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.add_bos_token": True}
    tokenizer = _tokenizer(tmp_path, **changes)
    assert tokenizer.encode("12 he").tokens == ["<|im_start|>", "12", "Ġhe"]
    assert tokenizer.encode("12", "he").tokens == ["<|im_start|>", "12", "<|im_start|>", "he"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"general.architecture": "bert"}, NotImplementedError, r"general.architecture is 'bert'; expected 'llama'"),
        ({"llama.rope.scaling.type": "yarn"}, NotImplementedError, r"llama.rope.scaling.type = 'yarn'"),
        ({"llama.expert_count": 8}, NotImplementedError, r"llama.expert_count = 8"),
        ({"llama.block_count": None}, ValueError, r"lacks llama.block_count"),
        ({"llama.attention.head_count": [4, 4]}, ValueError, r"head_count = \[4, 4\]; expected .* same for all layers"),
        ({"llama.rope.freq_base": float("nan")}, ValueError, r"freq_base = nan; expected a number above 0"),
        ({"llama.attention.head_count_kv": 3}, ValueError, r"self_attn.k_proj.weight has 32 rows, which 3 heads"),
        ({"tokenizer.ggml.tokens": None}, ValueError, r"ggml.tokens = None.*tokenizer=False"),
        ({"tokenizer.ggml.merges": None}, ValueError, r"ggml.merges = None.*tokenizer=False"),
        ({"tokenizer.ggml.token_type": [1]}, ValueError, r"another number of token types"),
        ({"tokenizer.ggml.eos_token_id": 5000}, ValueError, r"eos_token_id = 5000, and 10\d tokens"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
            ValueError,
            r"in front of texts that it does not name",
        ),
        ({"tokenizer.ggml.model": "llama"}, NotImplementedError, r"kind 'llama'.*tokenizer=False"),
        ({"tokenizer.ggml.pre": "qwen2"}, NotImplementedError, r"splits text as 'qwen2'; expected .* gpt-2, default"),
    ],
    ids=str,
)
def test_what_is_not_read_says_what_to_do(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    _written(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(error, match=said):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_another_tokenizer_is_left_out_on_request(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tokenizer.ggml.model": "llama"}
    _written(tmp_path / "tiny.gguf", **changes)
    folder = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny", tokenizer=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_damaged_file_changes_nothing(tmp_path: Path) -> None:
    _written(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for content in (b"", b"GGUF", b"{}", whole[:100], whole[: len(whole) // 3], whole[:-9000]):
        (tmp_path / "tiny.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=r"tiny\.gguf' is no GGUF file, or it is damaged|tiny\.gguf is no GGUF"):
            convert_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny")
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    _written(tmp_path / "tiny.gguf")
    with pytest.raises(ValueError, match="it is not empty"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert_gguf(tmp_path / "other.gguf", tmp_path / "new")


def test_where_a_gguf_file_is_loaded_the_error_says_to_convert_it(tmp_path: Path) -> None:
    _written(tmp_path / "tiny.gguf")
    said = r"made such a folder, by encdec_eqx\.hf\.files\.gguf_file\.convert_gguf\('tiny\.gguf', a_new_folder\)"
    for path in (tmp_path / "tiny.gguf", tmp_path):
        with pytest.raises(MissingFileError, match=said):
            Decoder.from_pretrained(path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(MissingFileError, match=said):
        Decoder.from_pretrained(tmp_path)


def test_without_the_gguf_package_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"gguf.*\[gguf\]"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "new")


def test_it_is_converted_into_another_dtype_and_shards(tmp_path: Path):
    expected = _written(tmp_path / "tiny.gguf")
    planned = convert_checkpoint(tmp_path / "tiny.gguf", tmp_path / "out", dtype="bfloat16", dry_run=True)
    assert "weights of bfloat16 would be written" in str(planned)
    said = convert_checkpoint(tmp_path / "tiny.gguf", tmp_path / "out", dtype="bfloat16", max_shard_size="50KB")
    assert len(said.files) > 1
    assert said.copied == ("tokenizer.json", "tokenizer_config.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf"]
    whole = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "whole")
    found, exact = open_tensors(tmp_path / "out"), open_tensors(whole)
    assert found.entries.keys() == exact.entries.keys()
    assert len(expected) == len(found.entries)
    for name in found.entries:
        np.testing.assert_array_equal(found.read(name), exact.read(name).astype(ml_dtypes.bfloat16))
