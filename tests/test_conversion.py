"""Conversions, against the tensors that went in: formats, dtypes, shards, pieces, pairs, and the command."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest

from checkpoints import (
    BERT_CONFIG,
    GPT2_CONFIG,
    bert_tensors,
    gpt2_tensors,
    pair_config,
    pair_tensors,
    read_back,
    same_tensors,
    write,
    write_tied_pair,
)
from compositions import FAMILY_GOLDENS
from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.cli import main
from encdec_eqx.conversion import convert_checkpoint, join_checkpoints
from encdec_eqx.hf.files.folder import open_tensors
from encdec_eqx.hf.files.torch_file import TorchFile
from encdec_eqx.text import TextToText
from tokenizers_of import word_pieces


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A pair's folder with files beside it, some of which are a trainer's."""
    folder = write(tmp_path / "pair", pair_config(eos_token_id=5), pair_tensors())
    (folder / "generation_config.json").write_text('{"num_beams": 2}')
    for name in ("source_tokenizer.json", "target_tokenizer.json", "vocab.txt", "README.md", "optimizer.pt", ".hidden"):
        (folder / name).write_text(name)
    (folder / "runs").mkdir()
    return folder


def _all(folder: Path) -> dict[str, np.ndarray]:
    tensors = open_tensors(folder)
    return {name: np.array(tensors.read(name)) for name in tensors.entries}


def _same(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", None])
def test_dtypes_and_shards(tmp_path: Path, pair: Path, dtype: Any):
    said = convert_checkpoint(pair, tmp_path / "out", dtype=dtype, max_shard_size="2KB")
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype or "float32")
    expected = {name: array.astype(numpy_dtype) for name, array in pair_tensors().items()}
    found = _all(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == numpy_dtype
        np.testing.assert_array_equal(array, expected[name])
    assert len(said.files) > 3
    assert sum(said.files.values()) == sum(array.nbytes for array in expected.values())
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("dtype") == dtype
    model = EncoderDecoder.from_pretrained(tmp_path / "out", dtype=None)
    assert model.decoder.embeddings.tokens.weight.dtype == numpy_dtype


def test_other_files_come_along_and_what_does_not_is_said(tmp_path: Path, pair: Path):
    said = convert_checkpoint(pair, tmp_path / "out")
    kept = ("README.md", "generation_config.json", "source_tokenizer.json", "target_tokenizer.json", "vocab.txt")
    assert said.copied == kept
    assert set(said.left_out) == {"optimizer.pt", "runs/ (a folder)"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*kept, "config.json", "model.safetensors"}
    for name in kept:
        assert (tmp_path / "out" / name).read_bytes() == (pair / name).read_bytes()


def test_a_flax_file(tmp_path: Path):
    tree: dict[str, Any] = {}
    for name, array in gpt2_tensors().items():
        *above, last = name.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        dense = last == "weight" and array.ndim == 2 and not name.startswith(("transformer.wte", "transformer.wpe"))
        inner["kernel" if dense else last] = array.T if dense else array
    flat = msgpack.packb(_packed(tree), use_bin_type=True)
    assert isinstance(flat, bytes)
    folder = write(tmp_path / "flax", GPT2_CONFIG, gpt2_tensors())
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(flat)
    convert_checkpoint(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    loaded = (Decoder.from_pretrained(place, add_cross_attention=False) for place in (folder, tmp_path / "out"))
    assert _same(*loaded)


def _packed(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _packed(value) for name, value in tree.items()}
    return msgpack.ExtType(1, _bytes((tree.shape, tree.dtype.name, tree.tobytes())))


def _bytes(value: Any) -> bytes:
    content = msgpack.packb(value, use_bin_type=True)
    assert isinstance(content, bytes)
    return content


def test_pieces_are_taken_from_a_pair_by_their_names(tmp_path: Path, pair: Path):
    encoder = convert_checkpoint(pair, tmp_path / "encoder", take="encoder")
    decoder = convert_checkpoint(pair, tmp_path / "decoder", take="decoder")
    assert same_tensors(read_back(tmp_path / "encoder"), bert_tensors(""))
    assert same_tensors(read_back(tmp_path / "decoder"), gpt2_tensors(cross=True))
    pieces = EncoderDecoder.from_pretrained(pair).pieces()
    assert _same(Encoder.from_pretrained(tmp_path / "encoder"), pieces[0])
    assert _same(Decoder.from_pretrained(tmp_path / "decoder"), pieces[1])
    assert "source_tokenizer.json as tokenizer.json" in encoder.copied
    assert (tmp_path / "decoder" / "tokenizer.json").read_text() == "target_tokenizer.json"
    assert "generation_config.json (of the decoder)" in encoder.left_out
    assert json.loads((tmp_path / "decoder" / "config.json").read_text())["eos_token_id"] == 5
    assert decoder.copied[0] == "generation_config.json"


def test_a_tied_encoder_is_taken_whole(tmp_path: Path):
    folder = write_tied_pair(tmp_path / "tied")
    convert_checkpoint(folder, tmp_path / "encoder", take="encoder")
    encoder, _ = EncoderDecoder.from_pretrained(folder).pieces()
    assert _same(Encoder.from_pretrained(tmp_path / "encoder"), encoder)


def test_a_piece_of_a_whole_checkpoint_is_read_alone(tmp_path: Path):
    folder = tmp_path / "bart"
    shutil.copytree(FAMILY_GOLDENS / "bart", folder)
    (folder / "tokenizer.json").write_text("{}")
    encoder, decoder = EncoderDecoder.from_pretrained(folder).pieces()
    for piece, expected in (("encoder", encoder), ("decoder", decoder)):
        said = convert_checkpoint(folder, tmp_path / piece, take=cast(Any, piece))
        assert said.copied[-1] == "tokenizer.json"
        assert _same({"encoder": Encoder, "decoder": Decoder}[piece].from_pretrained(tmp_path / piece), expected)


def test_a_piece_of_a_piece_is_refused(tmp_path: Path):
    folder = write(tmp_path / "gpt2", GPT2_CONFIG, gpt2_tensors())
    for dry_run in (False, True):
        with pytest.raises(ValueError, match="is no pair that a piece could be taken out of: its model_type is 'gpt2'"):
            convert_checkpoint(folder, tmp_path / "out", take="decoder", dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_two_pieces_are_joined_with_their_tokenizers(tmp_path: Path):
    encoder = write(tmp_path / "bert", {**BERT_CONFIG, "vocab_size": 53}, _widened(bert_tensors()))
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    decoder = write(tmp_path / "gpt2", {**GPT2_CONFIG, **tokens, "vocab_size": 53}, _widened(gpt2_tensors()))
    said = join_checkpoints(encoder, decoder, tmp_path / "bare", dtype="bfloat16")
    assert said.dtypes == ("bfloat16",)
    assert any("cross-attention, absent from the checkpoint" in note for note in said.notes)
    assert EncoderDecoder.from_pretrained(tmp_path / "bare", dtype=None).decoder.config.cross_attention
    for folder in (encoder, decoder):
        word_pieces().save(str(folder / "tokenizer.json"))
    join_checkpoints(encoder, decoder, tmp_path / "pair", max_shard_size="4KB", key=jax.random.key(3))
    assert isinstance(TextToText.from_pretrained(tmp_path / "pair")("the cat", max_new_tokens=2), str)
    assert _same(EncoderDecoder.from_pretrained(tmp_path / "pair").encoder, Encoder.from_pretrained(encoder))


def _widened(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with 53 token ids."""
    wide = {name: np.resize(array, (53, 8)) for name, array in tensors.items() if array.shape == (17, 8)}
    return {**tensors, **wide}


def test_int8(tmp_path: Path, pair: Path):
    said = convert_checkpoint(pair, tmp_path / "out", method="int8")
    assert said.dtypes == ("int8",)
    assert "int8" in EncoderDecoder.from_pretrained(tmp_path / "out").load_report.what
    with pytest.raises(ValueError, match="is quantized already"):
        convert_checkpoint(tmp_path / "out", tmp_path / "again", dtype="float32")


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, pair: Path):
    planned = convert_checkpoint(pair, tmp_path / "out", dtype="float16", max_shard_size=1500, dry_run=True)
    assert not (tmp_path / "out").exists()
    done = convert_checkpoint(pair, tmp_path / "out", dtype="float16", max_shard_size=1500)
    assert (planned.files, planned.copied, planned.left_out) == (done.files, done.copied, done.left_out)
    assert "would be written" in str(planned)
    assert "would be" not in str(done)


def test_a_number_that_does_not_fit_is_refused_and_nothing_stays(tmp_path: Path):
    tensors = pair_tensors()
    tensors[next(iter(tensors))][0, 0] = 1e6
    folder = write(tmp_path / "large", pair_config(), tensors)
    with pytest.raises(ValueError, match="has numbers that are too large for float16: take bfloat16"):
        convert_checkpoint(folder, tmp_path / "out", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_nothing_is_written_over(tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.stat().st_mtime_ns for path in pair.iterdir()}
    monkeypatch.chdir(pair)
    for target in (pair, ".", "../pair"):
        with pytest.raises(ValueError, match="is the source, which is never written over"):
            convert_checkpoint(pair, target)
    with pytest.raises(ValueError, match="it is not empty"):
        convert_checkpoint(pair, tmp_path)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="taken: it is a file"):
        convert_checkpoint(pair, tmp_path / "taken")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        convert_checkpoint(pair, tmp_path / "file" / "out")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        convert_checkpoint(tmp_path / "absent", tmp_path / "out")
    assert {path.name: path.stat().st_mtime_ns for path in pair.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"take": "head"}, ValueError, "take is 'head'; expected one of 'encoder', 'decoder'"),
        ({"dtype": "float64"}, ValueError, "dtype is 'float64'"),
        ({"method": "int4"}, ValueError, "method is 'int4'"),
        ({"method": "int8", "dtype": "float16"}, TypeError, "give one of them"),
        ({"method": "int8", "take": "encoder"}, TypeError, "take the piece first"),
        ({"max_shard_size": "5"}, ValueError, "max_shard_size is '5'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, pair: Path, options: Any, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        convert_checkpoint(pair, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_pickle_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    monkeypatch.setitem(sys.modules, "torch", None)
    folder = write(tmp_path / "old", GPT2_CONFIG, gpt2_tensors())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ImportError, match="which torch alone reads, and torch is not installed: pip install"):
        convert_checkpoint(folder, tmp_path / "out")
    with pytest.raises(ImportError):
        TorchFile(folder / "pytorch_model.bin")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture):
    assert main(["convert", "--dtype", "float16", str(pair), str(tmp_path / "out"), "--max-shard-size", "3000"]) == 0
    said = capsys.readouterr().out
    assert "bytes of float16 written" in said
    assert "left out: optimizer.pt" in said
    assert len(list((tmp_path / "out").glob("model-*"))) > 1
    assert main(["convert", str(pair), str(tmp_path / "piece"), "--take", "encoder"]) == 0
    assert main(["convert", str(pair), str(tmp_path / "other"), "--take", "decoder", "--dry-run"]) == 0
    assert not (tmp_path / "other").exists()
    for words, message in (
        ([str(pair)], "expected SOURCE TARGET"),
        (["--encoder", "a", "b"], "--encoder and --decoder go together"),
        ([str(pair), "x", "--encoder", "a", "--decoder", "b"], "expected TARGET"),
        (["x", "--encoder", "a", "--decoder", "b", "--dry-run"], "--dry-run does nothing"),
        ([str(pair), "x", "--max-shard-size", "5 bottles"], "--max-shard-size is '5 bottles'"),
        ([str(pair), "x", "--quantize", "int8", "--dtype", "float16"], "--quantize and --dtype do not go together"),
    ):
        assert main(["convert", *words]) == 1
        assert message in capsys.readouterr().err
