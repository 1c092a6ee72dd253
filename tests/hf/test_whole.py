"""Checkpoints of BART and kin that hold both pieces: what is shared, what is constant, and what is refused.

Their numbers are compared in `test_family_goldens` and, live, in `tests/parity/test_whole.py`.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.training import init_train_state, make_train_step, trainable
from encdec_eqx.training.batch import checked_batch

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
WHOLE = ["bart", "blenderbot", "blenderbot-small", "m2m_100", "marian", "mbart", "pegasus", "plbart", "t5", "umt5"]


def _copy(family: str, folder: Path, *, tensors: dict[str, Any] | None = None, **attributes: Any) -> Path:
    """A stored checkpoint with other attributes, and other tensors."""
    shutil.copytree(GOLDENS / family, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **attributes}))
    if tensors is not None:
        file = folder / "model.safetensors"
        save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", WHOLE)
def test_the_pieces_share_one_table_and_come_apart_whole(family: str) -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / family)
    assert (model.model_type, model.ties) == (family, ("embeddings.tokens.weight",))
    assert model.encoder.embeddings.tokens.weight is None
    with pytest.raises(ValueError, match=r"shares arrays with its decoder.* call `model\.encode"):
        model.encoder(np.array([[5, 6]], np.int32))
    encoder, decoder = model.pieces()
    assert encoder.embeddings.tokens.weight is decoder.embeddings.tokens.weight
    assert eqx.tree_equal(Encoder.from_pretrained(GOLDENS / family), encoder)
    assert eqx.tree_equal(Decoder.from_pretrained(GOLDENS / family), decoder)


@pytest.mark.parametrize(
    "call",
    [
        lambda t5, ids: t5.encode(ids, position_ids=ids),
        lambda t5, ids: t5.generate(ids, position_ids=ids, max_new_tokens=1),
        lambda t5, ids: t5(ids, ids, decoder_position_ids=ids),
        lambda t5, ids: checked_batch({"input_ids": ids, "labels": ids, "position_ids": ids}, t5),
        lambda t5, ids: checked_batch({"input_ids": ids, "labels": ids, "decoder_position_ids": ids}, t5),
    ],
)
def test_t5s_tokens_are_not_numbered(call: Any) -> None:
    """Positions that would change nothing are refused, wherever they are given."""
    t5 = EncoderDecoder.from_pretrained(GOLDENS / "t5")
    with pytest.raises(ValueError, match=r"position_ids` were given, but a t5 stack does not number .* Leave them out"):
        call(t5, np.array([[5, 6]], np.int32))


@pytest.mark.parametrize("family", WHOLE)
def test_a_pair_of_its_pieces_is_saved_as_a_pair(family: str, tmp_path: Path) -> None:
    pair = EncoderDecoder.from_pieces(*EncoderDecoder.from_pretrained(GOLDENS / family).pieces())
    pair.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "encoder-decoder"
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert eqx.tree_equal(again.encoder, pair.encoder)
    assert eqx.tree_equal(again.decoder, pair.decoder)


@pytest.mark.parametrize("family", WHOLE)
def test_layouts_keep_what_is_shared(family: str) -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / family)
    there = model.with_layout("scanned")
    assert (there.ties, there.model_type) == (model.ties, model.model_type)
    assert eqx.tree_equal(there.with_layout("unrolled"), model)


def test_constants_are_not_trained(standard_promotion: None, key: jax.Array) -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / "marian")
    trained = trainable(model)
    for piece in (trained.encoder, trained.decoder):
        assert not piece.embeddings.positions.weight
    assert not trained.decoder.head.bias
    assert trained.decoder.embeddings.tokens.weight
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    batch = {
        "input_ids": np.array([[5, 6, 7]], np.int32),
        "attention_mask": np.ones((1, 3), np.int32),
        "labels": np.array([[8, 9]], np.int32),
    }
    after, _ = make_train_step(optimizer)(init_train_state(model, optimizer), batch, key)
    for before, now in (
        (model.encoder.embeddings.positions.weight, after.model.encoder.embeddings.positions.weight),
        (model.decoder.embeddings.positions.weight, after.model.decoder.embeddings.positions.weight),
        (model.decoder.head.bias, after.model.decoder.head.bias),
    ):
        np.testing.assert_array_equal(before, now)
    moved = np.abs(np.asarray(after.model.decoder.embeddings.tokens.weight - model.decoder.embeddings.tokens.weight))
    assert (moved > 0).all()


def test_defaults_of_the_class_count_where_no_file_speaks(tmp_path: Path) -> None:
    folder = _copy("blenderbot", tmp_path)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    # null, which is what the stored config says, means none
    assert config.pop("forced_eos_token_id", None) is None
    (folder / "config.json").write_text(json.dumps(config))
    options = EncoderDecoder.from_pretrained(folder).generation_config
    assert options is not None
    assert (options.forced_eos_token_id, options.encoder_no_repeat_ngram_size) == ((2,), 3)
    (folder / "generation_config.json").write_text('{"max_length": 9}')
    options = EncoderDecoder.from_pretrained(folder).generation_config
    assert options is not None
    assert (options.forced_eos_token_id, options.encoder_no_repeat_ngram_size, options.max_length) == (None, None, 9)


def test_a_table_under_any_of_its_names_is_found(tmp_path: Path) -> None:
    expected = EncoderDecoder.from_pretrained(GOLDENS / "bart")
    file = _copy("bart", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    table = tensors.pop("model.shared.weight")
    for name in ("model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", "lm_head.weight"):
        save_file({**tensors, name: table}, file, metadata={"format": "pt"})
        assert eqx.tree_equal(EncoderDecoder.from_pretrained(tmp_path), expected)


def test_two_tables_where_nothing_is_tied_are_refused(tmp_path: Path) -> None:
    table = load_file(GOLDENS / "bart" / "model.safetensors")["model.shared.weight"]
    tensors = {"lm_head.weight": table, "model.encoder.embed_tokens.weight": table + 1}
    folder = _copy("bart", tmp_path, tie_word_embeddings=False, tensors=tensors)
    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight' differs .* expected one table for both"):
        EncoderDecoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"tie_encoder_decoder": True}, "tie_encoder_decoder is true; expected false"),
        ({"is_decoder": True}, "model_type is 'bart'; expected 'encoder-decoder', or a family with both pieces"),
        ({"model_type": "xglm"}, r"expected 'encoder-decoder', or a family with both pieces \(bart, blenderbot"),
        ({"tie_encoder_decoder": "false"}, "attribute 'tie_encoder_decoder' is 'false'; expected true or false"),
        ({"is_decoder": "false"}, "attribute 'is_decoder' is 'false'; expected true or false"),
        ({"max_position_embeddings": 10**6}, r"wrong shape of 'model\.encoder\.embed_positions\.weight'.*expected"),
        ({"decoder_layers": 2}, r"missing 'model\.decoder\.layers\.1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(attributes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderDecoder.from_pretrained(_copy("bart", tmp_path, **attributes))


def test_what_one_config_cannot_express_is_not_saved(tmp_path: Path) -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / "bart")
    config = dataclasses.replace(model.encoder.config, dropout=0.3)
    other = dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, config=config))
    with pytest.raises(ValueError, match="cannot express"):
        other.save_pretrained(tmp_path / "out")
    apart = dataclasses.replace(model, encoder=model.pieces()[0], ties=())
    with pytest.raises(ValueError, match="one token table for both pieces; these have one each"):
        apart.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decoder_in_a_whole_file_without_an_encoder_is_a_piece(tmp_path: Path) -> None:
    """SONAR's text decoder: its source is one state, the sentence's vector."""
    expected = Decoder.from_pretrained(GOLDENS / "m2m_100")
    file = _copy("m2m_100", tmp_path) / "model.safetensors"
    tensors = {name: one for name, one in load_file(file).items() if not name.startswith("model.encoder.")}
    save_file(tensors, file, metadata={"format": "pt"})
    decoder = Decoder.from_pretrained(tmp_path)
    assert eqx.tree_equal(decoder, expected)
    states = jnp.ones((2, 1, decoder.hidden_size))
    assert decoder(np.array([[2, 9], [2, 9]], np.int32), encoder_hidden_states=states).logits.shape == (2, 2, 61)
    with pytest.raises(ValueError, match=r"missing 'model\.encoder"):
        EncoderDecoder.from_pretrained(tmp_path)


def test_a_bias_that_says_something_is_kept_and_one_that_does_not_is_not_written(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(GOLDENS / "bart")
    decoder.save_pretrained(tmp_path / "biased")
    assert "final_logits_bias" in load_file(tmp_path / "biased" / "model.safetensors")
    assert eqx.tree_equal(Decoder.from_pretrained(tmp_path / "biased"), decoder)
    assert decoder.head.bias is not None
    plain = eqx.tree_at(lambda d: d.head.bias, decoder, jnp.zeros_like(decoder.head.bias))
    plain.save_pretrained(tmp_path / "plain")
    assert "final_logits_bias" not in load_file(tmp_path / "plain" / "model.safetensors")
    assert eqx.tree_equal(Decoder.from_pretrained(tmp_path / "plain"), plain)
