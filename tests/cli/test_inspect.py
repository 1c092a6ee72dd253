"""`encdec-eqx inspect`: says of a checkpoint what loading it would, for every family, without reading its arrays."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import checkpoints
from compositions import FAMILY_GOLDENS
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig, cli, inspect_checkpoint
from encdec_eqx.hf.families import FAMILIES, WHOLES
from encdec_eqx.hf.files import flax_file, folder, safetensors_file
from encdec_eqx.hf.transforms import their_shape
from encdec_eqx.inspection import CheckpointSummary

CASES = sorted(place.name for place in FAMILY_GOLDENS.iterdir())


def _numbers(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model))


@pytest.fixture
def unread(monkeypatch):
    """Fails if a tensor is read."""

    def read(self: Any, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(safetensors_file.SafetensorsFile, "read", read)


@pytest.mark.parametrize("case", CASES)
def test_it_says_what_loading_says_of_every_family(case, unread, request):
    summary = inspect_checkpoint(FAMILY_GOLDENS / case)
    request.getfixturevalue("monkeypatch").undo()
    both = "+" in case or case in WHOLES
    model = EncoderDecoder.from_pretrained(FAMILY_GOLDENS / case) if both else None
    if model is None:
        model = (Encoder if summary.kind == "encoder" else Decoder).from_pretrained(FAMILY_GOLDENS / case)
    assert summary.kind == ("pair" if "+" in case else "whole" if both else summary.kind)
    assert str(summary.report) == str(model.load_report)
    assert summary.report.verbose() == model.load_report.verbose()
    assert summary.total.parameters == sum(part.parameters for part in summary.parts) == _numbers(model)
    assert summary.report.loaded_bytes == model.load_report.loaded_bytes
    for role, piece in summary.pieces.items():
        config = getattr(model, role).config if both else model.config
        assert (piece["layers"], piece["width"]) == (len(config.layers), config.hidden_size)
        assert piece["vocabulary"] == config.vocab_size and piece["family"] == config.model_type
    json.dumps(summary.to_dict())


def test_a_pair_in_full(tmp_path, capsys):
    model = EncoderDecoder.from_encoder_decoder_pretrained("letters", "phonemes", dtype="bfloat16")
    model.with_special_tokens(decoder_start_token_id=1).save_pretrained(tmp_path)
    summary = inspect_checkpoint(tmp_path)
    assert (summary.kind, summary.model_type, summary.also) == ("pair", "encoder-decoder", None)
    assert summary.pieces["decoder"] == {
        "family": "gpt2",
        "layers": 2,
        "width": 128,
        "heads": 4,
        "head width": 32,
        "feed-forward": "512, gelu_new",
        "norm": "LayerNorm, pre",
        "vocabulary": 42,
        "positions": "learned, 32",
        "attention": "full, causal",
        "cross-attention": "every layer",
        "head": "tied to the embeddings",
    }
    assert summary.projection == (160, 128)
    sizes = {part.name: part.parameters for part in summary.parts}
    assert sizes["projection"] == 160 * 128 + 128
    assert sizes["encoder pooler"] == 160 * 160 + 160
    assert list(sizes)[3:5] == ["encoder pooler", "projection"]
    assert {part.dtypes for part in summary.parts} == {("bfloat16",)}
    assert summary.total.nbytes == 2 * summary.total.parameters
    assert summary.special_tokens["decoder_start_token_id"] == 1
    assert cli.main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for words in ("a pair (bert and gpt2)", "from width 160 to 128", "eos_token_id 2", "converted from bfloat16"):
        assert words in told
    assert f"{summary.total.parameters:,}" in told


def test_a_piece_shows_what_would_be_new_and_ignored_in_either_role(capsys):
    assert cli.main(["inspect", "phonemes"]) == 0
    told = capsys.readouterr().out
    assert "a decoder (gpt2)" in told and "--role encoder" in told
    assert "new: 16 arrays: cross-attention, absent" in told
    assert "bos_token_id 1 '[START]'" in told
    assert cli.main(["inspect", "letters", "--role", "decoder", "--names"]) == 0
    told = capsys.readouterr().out
    assert "ignored: 2 tensors (pooler.dense.bias, pooler.dense.weight): the pooler" in told
    assert "new: 5 arrays (head." in told
    summary = inspect_checkpoint("letters")
    assert (summary.kind, summary.also) == ("encoder", "decoder")


def test_json_is_one_object_with_everything(capsys):
    assert cli.main(["inspect", "pronounce", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"]["parameters"] == 3_624_192
    assert told["token_names"] == {"0": "[PAD]", "1": "[START]", "2": "[END]"}
    assert told["tokenizers"] == ["source_tokenizer.json", "target_tokenizer.json"]
    assert len(told["report"]["loaded"]) == 135
    assert set(told) == {*CheckpointSummary.__dataclass_fields__, "total"}


def _write_headers(place: Path, config: StackConfig) -> int:
    """A checkpoint of any size that takes no room: true headers, and a hole in the place of its tensors."""
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            eqx.filter_eval_shape(Decoder.init, config, key=jax.random.key(0))
        )
    }
    header, at = {}, 0
    for _, (ours, theirs, how) in FAMILIES[config.model_type].table(config, "decoder").rows():
        shape = their_shape(how, shapes[ours])
        size = 4 * int(np.prod(shape, dtype=object))
        header[theirs] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (place / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return at


def test_half_a_terabyte_is_inspected_at_once(tmp_path, unread, capsys):
    hf = {"model_type": "gpt2", "n_embd": 8192, "n_layer": 40, "n_head": 64, "vocab_size": 2**23, "n_positions": 1024}
    (tmp_path / "config.json").write_text(json.dumps({**hf, "add_cross_attention": True, "is_decoder": True}))
    size = _write_headers(tmp_path, StackConfig.from_hf({**hf, "add_cross_attention": True, "is_decoder": True}))
    assert size > 400e9
    summary = inspect_checkpoint(tmp_path)
    assert summary.total.nbytes == size == 4 * summary.total.parameters == summary.report.loaded_bytes
    assert not summary.report.new
    assert cli.main(["inspect", str(tmp_path)]) == 0
    assert " GB in float32" in capsys.readouterr().out


def test_shards_are_one_checkpoint(tmp_path, unread):
    checkpoints.write_shards(tmp_path, checkpoints.BERT_CONFIG, checkpoints.bert_tensors())
    summary = inspect_checkpoint(tmp_path)
    assert len(summary.files) == 2
    assert summary.report.loaded_bytes == sum(tensor.nbytes for tensor in checkpoints.bert_tensors().values())


def test_tied_copies_are_named_and_not_compared(tmp_path, unread):
    tensors = checkpoints.gpt2_tensors()
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    checkpoints.write(tmp_path, checkpoints.GPT2_CONFIG, tensors)
    assert ("lm_head.weight", "tied to another tensor, with which it was not compared") in inspect_checkpoint(
        tmp_path
    ).report.ignored


@pytest.mark.parametrize("name", ["pytorch_model.bin", None])
def test_without_weights_that_can_be_read_the_architecture_is_told(tmp_path, name, capsys):
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.BERT_CONFIG))
    if name:
        (tmp_path / name).write_bytes(b"a pickle")
    assert cli.main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "an encoder (bert)" in told and "0 tensors loaded" in told
    assert "the weights were not looked at: " in told
    assert ("is a pickle" if name else "no weights in") in told
    assert "lies beside" not in told


def test_an_old_flax_file_says_that_it_was_read_whole(tmp_path):
    msgpack = pytest.importorskip("msgpack")
    checkpoints.write(tmp_path, checkpoints.BERT_CONFIG, checkpoints.bert_tensors(""))
    tree: dict[str, Any] = {}
    for name, array in checkpoints.read_back(tmp_path).items():
        at = tree
        *above, last = name.split(".")
        for part in above:
            at = at.setdefault(part, {})
        is_norm, is_table = "LayerNorm" in name, "embeddings" in above[-1] and "LayerNorm" not in name
        last = {"weight": "scale" if is_norm else "embedding" if is_table else "kernel"}.get(last, last)
        array = array.T if last == "kernel" else array
        packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
        at[last] = msgpack.ExtType(flax_file._ARRAY, packed)
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack.packb(tree))
    (tmp_path / "model.safetensors").unlink()
    summary = inspect_checkpoint(tmp_path)
    assert "flax_model.msgpack has no header: it was read whole" in summary.report.notes
    assert summary.total.parameters == _numbers(Encoder.from_pretrained(tmp_path))


def test_what_cannot_be_loaded_is_said_in_the_same_words(tmp_path, capsys):
    tensors = checkpoints.bert_tensors()
    del tensors["bert.embeddings.LayerNorm.bias"]
    checkpoints.write(tmp_path, checkpoints.BERT_CONFIG, tensors)
    with pytest.raises(ValueError, match=r"missing 'embeddings\.LayerNorm\.bias'") as caught:
        Encoder.from_pretrained(tmp_path)
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"encdec-eqx: {caught.value}\n"


@pytest.mark.parametrize("role", ["decoder", "both"])
def test_a_role_that_cannot_be_meant_is_an_error(role):
    with pytest.raises(ValueError, match=r"has both pieces|expected 'encoder' or 'decoder'"):
        inspect_checkpoint("pronounce" if role == "decoder" else "letters", role=role)


def test_headers_only_ends_with_its_block():
    with folder.headers_only():
        described = Encoder.from_pretrained("letters")
    loaded = Encoder.from_pretrained("letters")
    shape = described.embeddings.tokens.weight
    assert isinstance(shape, jax.ShapeDtypeStruct) and shape.dtype == np.float16
    assert isinstance(loaded.embeddings.tokens.weight, jax.Array)
