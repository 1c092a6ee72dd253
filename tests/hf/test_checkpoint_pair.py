"""Whole pairs: what is stored where, special tokens, shared tensors, and saving all or nothing."""

import json
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from checkpoints import (
    BERT_CONFIG,
    GPT2_CONFIG,
    HIDDEN,
    Tensors,
    bert_head,
    bert_tensors,
    gpt2_tensors,
    pair_config,
    pair_tensors,
    read_back,
    same_tensors,
    write,
    write_shards,
)
from encdec_eqx import Decoder, Encoder, EncoderDecoder, EncoderOutput, StackConfig
from encdec_eqx.hf import save as save_module
from encdec_eqx.hf.files import MissingFileError
from tolerances import EXACT

SOURCE = np.array([[3, 4, 5, 6], [7, 8, 9, 1]], np.int32)
TARGET = np.array([[5, 2, 3], [5, 9, 8]], np.int32)
TIED_CONFIG = {
    "model_type": "encoder-decoder",
    "encoder": BERT_CONFIG,
    "decoder": {**BERT_CONFIG, "is_decoder": True, "add_cross_attention": True},
    "tie_encoder_decoder": True,
}


def _tied_tensors() -> Tensors:
    decoder = bert_tensors("decoder.bert.", pooler=False, cross=True) | bert_head()
    pooler = {name: array for name, array in bert_tensors("encoder.").items() if "pooler" in name}
    return {(name if name.startswith("decoder.") else f"decoder.{name}"): t for name, t in decoder.items()} | pooler


def _logits(model: EncoderDecoder) -> np.ndarray:
    return np.asarray(model(SOURCE, TARGET).logits)


@pytest.mark.parametrize("store", [write, write_shards])
def test_a_pair_loads_and_saves_with_every_byte(tmp_path: Path, store: Any):
    tensors = pair_tensors()
    model = EncoderDecoder.from_pretrained(store(tmp_path / "in", pair_config(), tensors), dtype=None)
    assert model.enc_to_dec_proj is None
    assert len(model.load_report.loaded) == len(tensors)
    model.save_pretrained(tmp_path / "out")
    assert same_tensors(read_back(tmp_path / "out"), tensors)
    again = EncoderDecoder.from_pretrained(tmp_path / "out", dtype=None)
    assert np.abs(_logits(model) - _logits(again)).max() <= EXACT
    assert again.special_tokens == model.special_tokens


def test_a_pairs_saved_config_is_torchs(tmp_path: Path):
    folder = write(tmp_path / "in", pair_config(max_length=30, torch_dtype="float32"), pair_tensors())
    EncoderDecoder.from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["is_encoder_decoder"]) == ("encoder-decoder", True)
    assert config["architectures"] == ["EncoderDecoderModel"]
    assert config["tie_encoder_decoder"] is False
    assert config["dtype"] == "bfloat16"
    assert config["max_length"] == 30
    assert (config["bos_token_id"], config["eos_token_id"]) == (5, 5)
    assert (config["decoder"]["is_decoder"], config["decoder"]["add_cross_attention"]) == (True, True)
    assert (config["encoder"]["is_decoder"], config["encoder"]["add_cross_attention"]) == (False, False)
    assert (config["encoder"]["architectures"], config["decoder"]["architectures"]) == (
        ["BertModel"],
        ["GPT2LMHeadModel"],
    )


def test_a_projection_is_stored_as_torch_stores_it(tmp_path: Path):
    narrow = {**GPT2_CONFIG, "n_embd": 4}
    weight = np.arange(4 * HIDDEN, dtype=np.float32).reshape(4, HIDDEN)
    encoder = Encoder.from_pretrained(write(tmp_path / "e", BERT_CONFIG, bert_tensors()))
    shapes = eqx.filter_eval_shape(lambda: Decoder.init(_decoder_config(narrow), key=jax.random.key(0)))
    decoder = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    model = EncoderDecoder.from_pieces(encoder, decoder)
    assert dict(model.load_report.new)["enc_to_dec_proj"].startswith("projection between the widths; drawn")
    model = eqx.tree_at(lambda m: m.enc_to_dec_proj.weight, model, jnp.asarray(weight.T))
    model.save_pretrained(tmp_path / "pair")
    stored = read_back(tmp_path / "pair")
    assert np.array_equal(stored["enc_to_dec_proj.weight"], weight)
    assert stored["enc_to_dec_proj.bias"].shape == (4,)
    again = EncoderDecoder.from_pretrained(tmp_path / "pair")
    assert np.array_equal(again.enc_to_dec_proj.weight, weight.T)
    del stored["enc_to_dec_proj.weight"]
    write(tmp_path / "pair", None, stored)
    with pytest.raises(ValueError, match=r"missing 'enc_to_dec_proj\.weight': expected shape \(4, 8\)"):
        EncoderDecoder.from_pretrained(tmp_path / "pair")


def _decoder_config(hf: dict[str, Any]) -> StackConfig:
    return StackConfig.from_hf({**hf, "is_decoder": True, "add_cross_attention": True})


def test_special_tokens_come_from_the_strongest_place(tmp_path: Path):
    folder = write(
        tmp_path,
        pair_config(decoder_start_token_id=7, pad_token_id=8),
        pair_tensors(),
        generation_config={"pad_token_id": 9, "max_length": 12, "num_beams": 1},
    )
    model = EncoderDecoder.from_pretrained(folder)
    tokens = model.special_tokens
    assert (tokens.pad_token_id, tokens.decoder_start_token_id, tokens.eos_token_id) == (9, 7, (5,))
    assert dict(tokens.sources) == {
        "pad_token_id": "generation_config.json",
        "decoder_start_token_id": "config.json",
        "eos_token_id": "the decoder's config",
        "bos_token_id": "the decoder's config",
    }
    assert model.generation_config is not None
    assert model.generation_config.max_length == 12


def test_changed_special_tokens_and_options_survive_a_round_trip(tmp_path: Path):
    folder = write(
        tmp_path / "in", pair_config(), pair_tensors(), generation_config={"max_length": 12, "length_penalty": 2.0}
    )
    model = EncoderDecoder.from_pretrained(folder).with_special_tokens(decoder_start_token_id=3, eos_token_id=[4, 6])
    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoder.from_pretrained(tmp_path / "out")
    assert again.special_tokens == model.special_tokens
    assert again.generation_config == model.generation_config
    stored = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (stored["eos_token_id"], stored["decoder_start_token_id"], stored["max_length"]) == ([4, 6], 3, 12)


def test_nothing_may_be_new_in_a_pair(tmp_path: Path):
    tensors = pair_tensors()
    without = {name: array for name, array in tensors.items() if "cross" not in name}
    with pytest.raises(ValueError, match=r"missing 'decoder\.transformer\.h\.0\.ln_cross_attn\.weight'"):
        EncoderDecoder.from_pretrained(write(tmp_path / "a", pair_config(), without))
    without = {name: array for name, array in tensors.items() if "pooler" not in name}
    with pytest.raises(ValueError, match=r"2 problems\): missing 'encoder\.pooler\.dense\.weight'"):
        EncoderDecoder.from_pretrained(write(tmp_path / "b", pair_config(), without))
    with pytest.raises(ValueError, match=r"unexpected 'enc_to_dec_proj\.bias'"):
        extra = {**tensors, "enc_to_dec_proj.bias": np.ones(HIDDEN, np.float32)}
        EncoderDecoder.from_pretrained(write(tmp_path / "d", pair_config(), extra))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BERT_CONFIG, "model_type is 'bert'; expected 'encoder-decoder'"),
        ({"model_type": "encoder-decoder", "decoder": GPT2_CONFIG}, "no object 'encoder'"),
        ({"model_type": "encoder-decoder", "encoder": BERT_CONFIG}, "no object 'decoder'"),
        (pair_config(encoder={"hidden_size": 8}), "'encoder': model_type is None"),
        (
            pair_config(decoder={**GPT2_CONFIG, "model_type": "codegen"}),
            "'decoder': model_type is 'codegen'; expected one of",
        ),
        (
            pair_config(tie_encoder_decoder="false"),
            "attribute 'tie_encoder_decoder' is 'false'; expected true or false",
        ),
        (pair_config(decoder={**GPT2_CONFIG, "cross_attention_hidden_size": 6}), "cross_attention_hidden_size is 6"),
    ],
)
def test_a_pairs_config_that_does_not_fit_is_named(tmp_path: Path, config: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EncoderDecoder.from_pretrained(write(tmp_path, config, pair_tensors()))


@pytest.mark.parametrize(
    ("generation_config", "message"),
    [
        ({"eos_token_id": "x"}, r"generation_config\.json: eos_token_id must be an integer"),
        ({"temperature": -1}, r"generation_config\.json: temperature must be above 0"),
    ],
)
def test_a_generation_config_that_makes_no_sense_is_named(tmp_path: Path, generation_config: dict, message: str):
    folder = write(tmp_path, pair_config(), pair_tensors(), generation_config=generation_config)
    with pytest.raises(ValueError, match=message) as error:
        EncoderDecoder.from_pretrained(folder)
    assert str(tmp_path) in str(error.value)


def test_absent_files_of_a_pair_are_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match="there is no folder"):
        EncoderDecoder.from_pretrained(tmp_path / "absent")
    folder = write(tmp_path / "a", pair_config(), pair_tensors())
    (folder / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"no config\.json in"):
        EncoderDecoder.from_pretrained(folder)


def test_the_old_model_type_is_read(tmp_path: Path):
    model = EncoderDecoder.from_pretrained(write(tmp_path, pair_config(model_type="encoder_decoder"), pair_tensors()))
    assert _logits(model).shape == (2, 3, 17)


def test_tied_pieces_store_each_tensor_once(tmp_path: Path):
    tensors = _tied_tensors()
    model = EncoderDecoder.from_pretrained(write(tmp_path / "in", TIED_CONFIG, tensors), dtype=None)
    assert model.encoder.embeddings.tokens.weight is None
    assert len(model.load_report.tied) == len(model.ties) > 0
    encoder, decoder = model.pieces()
    assert encoder.embeddings.tokens.weight is decoder.embeddings.tokens.weight
    model.save_pretrained(tmp_path / "out")
    assert same_tensors(read_back(tmp_path / "out"), tensors)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_encoder_decoder"] is True
    again = EncoderDecoder.from_pretrained(tmp_path / "out")
    assert np.abs(_logits(model) - _logits(again)).max() <= EXACT


def test_a_tied_pair_equals_the_same_pair_untied(tmp_path: Path):
    tensors = _tied_tensors()
    spelled_out = dict(tensors)
    for name, array in tensors.items():
        if name.startswith("decoder.bert.") and "crossattention" not in name:
            spelled_out["encoder." + name.removeprefix("decoder.bert.")] = array.copy()
    tied = EncoderDecoder.from_pretrained(write(tmp_path / "tied", TIED_CONFIG, tensors))
    untied_config = {**TIED_CONFIG, "tie_encoder_decoder": False}
    untied = EncoderDecoder.from_pretrained(write(tmp_path / "untied", untied_config, spelled_out))
    assert np.abs(_logits(tied) - _logits(untied)).max() <= EXACT
    # a file that holds the shared tensors twice is one that older versions wrote
    twice = EncoderDecoder.from_pretrained(write(tmp_path / "twice", TIED_CONFIG, spelled_out))
    assert np.abs(_logits(tied) - _logits(twice)).max() <= EXACT
    assert sum("second copy" in why for _, why in twice.load_report.ignored) == len(spelled_out) - len(tensors)


def test_pieces_of_different_shapes_cannot_be_tied(tmp_path: Path):
    config = {**TIED_CONFIG, "encoder": {**BERT_CONFIG, "vocab_size": 30}}
    with pytest.raises(ValueError, match=r"the pieces differ in vocabulary \(30 and 17\)"):
        EncoderDecoder.from_pretrained(write(tmp_path, config, _tied_tensors()))


def _as_flax(tensors: Tensors) -> dict[str, Any]:
    """The tree that the old Flax class keeps the same tensors in."""
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *above, last = name.split(".")
        if last == "weight":
            owner = above[-1]
            is_norm = owner == "LayerNorm" or owner.startswith("ln_")
            is_table = "embeddings" in owner or owner in ("wte", "wpe")
            last = "scale" if is_norm else "embedding" if is_table else "kernel"
            array = array if is_norm or is_table else array.T
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        payload = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
        branch[last] = msgpack.ExtType(1, payload)
    return tree


def test_the_old_flax_class_is_read(tmp_path: Path):
    tensors = pair_tensors()
    torch_folder = write(tmp_path / "torch", pair_config(), tensors)
    flax_folder = tmp_path / "flax"
    flax_folder.mkdir()
    (flax_folder / "config.json").write_text(json.dumps(pair_config()))
    content: Any = msgpack.packb(_as_flax(tensors), use_bin_type=True)
    (flax_folder / "flax_model.msgpack").write_bytes(content)
    model = EncoderDecoder.from_pretrained(flax_folder, dtype=None)
    assert np.abs(_logits(model) - _logits(EncoderDecoder.from_pretrained(torch_folder))).max() <= EXACT
    model.save_pretrained(tmp_path / "out")
    assert same_tensors(read_back(tmp_path / "out"), tensors)


def test_two_checkpoints_become_a_pair(tmp_path: Path):
    encoder = write(tmp_path / "e", BERT_CONFIG, bert_tensors())
    decoder = write(tmp_path / "d", GPT2_CONFIG, gpt2_tensors())
    model = EncoderDecoder.from_encoder_decoder_pretrained(
        encoder,
        decoder,
        key=jax.random.key(1),
        dtype="bfloat16",
        encoder_hidden_dropout_prob=0.0,
        decoder_attn_pdrop=0.5,
        decoder_dtype="float32",
    )
    assert (model.encoder.config.dropout, model.decoder.config.attention.dropout) == (0.0, 0.5)
    assert model.encoder.embeddings.tokens.weight.dtype == jnp.bfloat16
    assert model.decoder.embeddings.tokens.weight.dtype == jnp.float32
    assert str(encoder) in str(model.load_report)
    assert "cross-attention" in str(model.load_report)
    same = EncoderDecoder.from_encoder_decoder_pretrained(encoder, decoder, key=jax.random.key(1))
    other = EncoderDecoder.from_encoder_decoder_pretrained(encoder, decoder, key=jax.random.key(2))
    assert not np.array_equal(
        same.decoder.stack.blocks[0].cross_attention.q.weight, other.decoder.stack.blocks[0].cross_attention.q.weight
    )
    with pytest.raises(TypeError, match="got the option 'revision'"):
        EncoderDecoder.from_encoder_decoder_pretrained(encoder, decoder, revision="main")
    with pytest.raises(TypeError, match="got 'surprise'"):
        EncoderDecoder.from_encoder_decoder_pretrained(encoder, decoder, decoder_surprise=1)


def test_cross_attention_of_the_encoders_width_survives_a_round_trip(tmp_path: Path):
    encoder = Encoder.from_pretrained(write(tmp_path / "e", BERT_CONFIG, bert_tensors()))
    config = _decoder_config({**GPT2_CONFIG, "n_embd": 4, "cross_attention_hidden_size": HIDDEN})
    shapes = eqx.filter_eval_shape(Decoder.init, config, key=jax.random.key(0))
    decoder = jax.tree.map(lambda leaf: jnp.linspace(-1, 1, leaf.size).reshape(leaf.shape), shapes)
    model = EncoderDecoder.from_pieces(encoder, decoder)
    assert model.enc_to_dec_proj is None
    model.save_pretrained(tmp_path / "pair")
    again = EncoderDecoder.from_pretrained(tmp_path / "pair")
    assert again.decoder.config == config
    assert np.abs(_logits(model) - _logits(again)).max() <= EXACT


class _Own(eqx.Module):
    weight: jax.Array

    @property
    def hidden_size(self) -> int:
        return HIDDEN

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        return EncoderOutput(self.weight)


def test_a_users_own_encoder_has_no_format_to_save_in(tmp_path: Path):
    decoder = Decoder.from_pretrained(write(tmp_path / "d", GPT2_CONFIG, gpt2_tensors()))
    model = EncoderDecoder.from_pieces(_Own(jnp.ones((1, 2, HIDDEN))), decoder)
    with pytest.raises(TypeError, match="the encoder is a _Own, which has no Hugging Face format") as caught:
        model.save_pretrained(tmp_path / "out")
    assert "give it a method `save_pretrained(self, folder)`" in str(caught.value)
    assert not (tmp_path / "out").exists()


class _Letters(eqx.Module):
    """An encoder of the user's own that says how it is saved: a table, and which rows of it are shown."""

    table: jax.Array
    shown: int = eqx.field(static=True, default=3)

    @property
    def hidden_size(self) -> int:
        return self.table.shape[1]

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        return EncoderOutput(self.table[jnp.asarray(inputs)][:, : self.shown])

    def save_pretrained(self, folder: Path) -> None:
        (folder / "shown.json").write_text(json.dumps(self.shown))
        np.save(folder / "table.npy", self.table)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "_Letters":
        return cls(jnp.asarray(np.load(folder / "table.npy")), json.loads((folder / "shown.json").read_text()))


def _listener(tmp_path: Path, width: int, seed: int = 0) -> EncoderDecoder:
    decoder = Decoder.from_pretrained(write(tmp_path / "d", GPT2_CONFIG, gpt2_tensors()), key=jax.random.key(1))
    encoder = _Letters(jax.random.normal(jax.random.key(seed), (20, width)))
    model = EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.key(2))
    return model.with_special_tokens(decoder_start_token_id=5, eos_token_id=2, pad_token_id=0)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("width", [HIDDEN, HIDDEN + 3], ids=["as wide", "projected"])
def test_a_users_own_encoder_saves_itself(tmp_path: Path, width: int, layout: Any):
    model = _listener(tmp_path, width).with_layout(layout)
    assert (model.enc_to_dec_proj is None) == (width == HIDDEN)
    for folder in (tmp_path / "pair", tmp_path / "d", tmp_path / "pair"):  # new, of another model, and its own
        model.save_pretrained(folder)
        encoder = _Letters.from_pretrained(folder / "encoder")
        again = EncoderDecoder.from_pretrained(folder, encoder=encoder)
        assert again.encoder is encoder
        assert np.array_equal(_logits(model.with_layout("unrolled")), _logits(again))
        options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 2}
        expected = model.with_layout("unrolled").generate(SOURCE, **options)
        assert np.array_equal(expected.sequences, again.generate(SOURCE, **options).sequences)
        assert again.special_tokens.to_hf() == model.special_tokens.to_hf()
        assert again.load_report.what == "a _Letters to gpt2 pair"
    assert {path.name for path in (tmp_path / "pair").rglob("*")} == {
        *("config.json", "generation_config.json", "model.safetensors", "encoder", "shown.json", "table.npy"),
        "README.md",
    }
    assert all(name.startswith(("decoder.", "enc_to_dec_proj.")) for name in read_back(tmp_path / "pair"))


def test_a_users_own_encoder_replaces_what_an_older_one_saved(tmp_path: Path):
    _listener(tmp_path, HIDDEN).save_pretrained(tmp_path / "pair")
    (tmp_path / "pair" / "encoder" / "stale").touch()
    model = _listener(tmp_path, HIDDEN, seed=3)
    model.save_pretrained(tmp_path / "pair")
    assert not (tmp_path / "pair" / "encoder" / "stale").exists()
    encoder = _Letters.from_pretrained(tmp_path / "pair" / "encoder")
    assert np.array_equal(encoder.table, model.encoder.table)


def test_an_own_encoder_that_fails_to_save_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _listener(tmp_path, HIDDEN).save_pretrained(tmp_path / "pair")
    before = _snapshot(tmp_path)

    def fail(self: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(_Letters, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        _listener(tmp_path, HIDDEN, seed=3).save_pretrained(tmp_path / "pair")
    assert _snapshot(tmp_path) == before


def test_an_own_encoder_is_given_where_one_was_saved_and_only_there(tmp_path: Path):
    _listener(tmp_path, HIDDEN + 3).save_pretrained(tmp_path / "pair")
    encoder = _Letters.from_pretrained(tmp_path / "pair" / "encoder")
    wanted = rf"a _Letters of hidden_size {HIDDEN + 3}; got"
    with pytest.raises(ValueError, match=rf"{wanted} no encoder\. Load it from .*pair/encoder.*encoder=encoder"):
        EncoderDecoder.from_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match=rf"{wanted} a _Letters of hidden_size {HIDDEN}\."):
        EncoderDecoder.from_pretrained(tmp_path / "pair", encoder=_Letters(encoder.table[:, :HIDDEN]))
    folder = write(tmp_path / "other", pair_config(), pair_tensors())
    with pytest.raises(TypeError, match=r"encoder=_Letters\(\.\.\.\), but .* has a 'bert' encoder.*from_pieces"):
        EncoderDecoder.from_pretrained(folder, encoder=encoder)


@pytest.mark.usefixtures("unchecked")
def test_the_folder_of_an_own_encoder_is_not_the_encoder(tmp_path: Path):
    _listener(tmp_path, HIDDEN).save_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match=r"got a str, which has no hidden_size\. Load it from"):
        EncoderDecoder.from_pretrained(tmp_path / "pair", encoder=cast(Any, "pair/encoder"))


@pytest.fixture
def model(tmp_path: Path) -> EncoderDecoder:
    return EncoderDecoder.from_pretrained(write(tmp_path / "model", pair_config(), pair_tensors()))


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("step", ["write_file", "write_json", "_move_into_place"])
def test_a_failed_save_changes_nothing(
    tmp_path: Path, model: EncoderDecoder, monkeypatch: pytest.MonkeyPatch, step: str
):
    before = _snapshot(tmp_path)

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(save_module, step, fail)
    for target in (tmp_path / "model", tmp_path / "new"):
        with pytest.raises(OSError, match="no space left"):
            model.save_pretrained(target)
    assert _snapshot(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_saving_keeps_other_files_and_drops_old_shards(tmp_path: Path, model: EncoderDecoder):
    folder = write_shards(tmp_path / "target", pair_config(), pair_tensors())
    (folder / "tokenizer.json").write_text("{}")
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_saving_makes_the_folders_above(tmp_path: Path, model: EncoderDecoder):
    model.save_pretrained(tmp_path / "a" / "b")
    assert np.abs(_logits(model) - _logits(EncoderDecoder.from_pretrained(str(tmp_path / "a" / "b")))).max() <= EXACT


def test_a_file_is_no_place_to_save(tmp_path: Path, model: EncoderDecoder):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="it is a file; expected a folder"):
        model.save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_arrays_without_a_name_cannot_be_saved(tmp_path: Path, model: EncoderDecoder):
    strange = eqx.tree_at(lambda m: m.decoder.stack.shared.final_norm, model, (jnp.ones(2), jnp.ones(2)))
    with pytest.raises(ValueError, match=r"got arrays it has no name for .*lacks ones it must hold .*final_norm"):
        strange.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
