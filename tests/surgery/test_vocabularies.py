"""Other numbers of token ids for pairs and whole checkpoints: what is shared, tied, constant or said stays so.

`tests/parity/test_resizing.py` has torch read the results.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import write_tied_pair
from encdec_eqx import EncoderDecoder, EncoderOutput, HeadConfig
from encdec_eqx.training import add_lora
from models import VOCAB, decoder_config, tiny_pair

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
WHOLE = ["bart", "blenderbot", "marian", "mbart", "pegasus"]
LAYOUTS = ["unrolled", "scanned"]


@pytest.fixture(scope="session")
def tied_pair(tmp_path_factory: pytest.TempPathFactory) -> EncoderDecoder:
    return EncoderDecoder.from_pretrained(write_tied_pair(tmp_path_factory.mktemp("tied")))


def _model(name: str, tied_pair: EncoderDecoder) -> EncoderDecoder:
    return tied_pair if name == "tied_pair" else EncoderDecoder.from_pretrained(GOLDENS / name)


@eqx.filter_jit
def _logits(model: EncoderDecoder) -> Any:
    return model(np.array([[4, 5, 6, 7]], np.int32), np.array([[4, 8, 9]], np.int32)).logits


@pytest.mark.parametrize(
    ("name", "layout"),
    [*((name, "unrolled") for name in WHOLE), *(("tied_pair", layout) for layout in LAYOUTS)],
)
def test_one_shared_table_grows_for_both(name: str, layout: Any, tied_pair: EncoderDecoder, key, tmp_path) -> None:
    model = _model(name, tied_pair).with_layout(layout)
    before = model.decoder.config.vocab_size
    grown = model.resize_token_embeddings(before + 3, key=key)
    assert grown.encoder.embeddings.tokens.weight is None
    assert grown.decoder.embeddings.tokens.weight.shape[0] == before + 3
    assert grown.encoder.config.vocab_size == grown.decoder.config.vocab_size == before + 3
    for field in ("ties", "model_type", "special_tokens", "generation_config", "load_report"):
        assert getattr(grown, field) == getattr(model, field), field
    np.testing.assert_allclose(_logits(grown)[..., :before], _logits(model), atol=1e-6)
    assert _logits(grown).shape[-1] == before + 3
    if model.decoder.head.fixed_bias:
        assert grown.decoder.head.fixed_bias
        np.testing.assert_array_equal(grown.decoder.head.bias[before:], 0.0)
    grown.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == ("encoder-decoder" if name == "tied_pair" else name)
    again = EncoderDecoder.from_pretrained(tmp_path)
    for piece in ("encoder", "decoder"):
        assert eqx.tree_equal(getattr(again, piece), getattr(grown.with_layout("unrolled"), piece))
    assert (again.special_tokens, again.ties) == (model.special_tokens, model.with_layout("unrolled").ties)
    said, before_said = (
        {name: value for name, value in m.generation_config.to_hf().items() if not name.startswith("_")}
        for m in (again, model)
    )
    assert said == before_said
    # back again: the rows that are kept are the same bits
    assert eqx.tree_equal(grown.resize_token_embeddings(before, key=key), model)


@pytest.mark.parametrize("tied", [True, False])
def test_two_tables_of_one_size_both_grow_and_of_two_sizes_one_is_named(tied: bool, key: jax.Array) -> None:
    model = tiny_pair(decoder=decoder_config(head=HeadConfig(tied=tied, bias=True)))
    grown = model.resize_token_embeddings(VOCAB + 2, key=key)
    tables = grown.encoder.embeddings.tokens.weight, grown.decoder.embeddings.tokens.weight
    assert [table.shape[0] for table in tables] == [VOCAB + 2, VOCAB + 2]
    assert not np.allclose(tables[0][-2:, :12], tables[1][-2:, :12]), "drawn with a key each"
    np.testing.assert_allclose(_logits(grown)[..., :VOCAB], _logits(model), atol=1e-6)

    one = model.resize_encoder_token_embeddings(VOCAB + 4, key=key)
    assert (one.encoder.config.vocab_size, one.decoder.config.vocab_size) == (VOCAB + 4, VOCAB)
    assert one.decoder is model.decoder
    other = one.resize_decoder_token_embeddings(VOCAB + 9, key=key)
    assert (other.encoder.config.vocab_size, other.decoder.config.vocab_size) == (VOCAB + 4, VOCAB + 9)
    assert _logits(other).shape[-1] == VOCAB + 9
    assert (other.decoder.head.projection is None) == tied
    with pytest.raises(ValueError, match="vocabularies of their own") as caught:
        other.resize_token_embeddings(90, key=key)
    text = str(caught.value)
    assert f"the encoder's has {VOCAB + 4} ids, the decoder's has {VOCAB + 9} ids" in text
    assert "model.resize_encoder_token_embeddings(90, key=key)" in text
    assert "model.resize_decoder_token_embeddings(90, key=key)" in text


@pytest.mark.parametrize("name", ["marian", "tied_pair"])
def test_one_side_of_a_shared_table_is_not_resized_alone(name: str, tied_pair: EncoderDecoder, key) -> None:
    model = _model(name, tied_pair)
    for method in (model.resize_encoder_token_embeddings, model.resize_decoder_token_embeddings):
        with pytest.raises(ValueError, match=r"share one token table.* model\.resize_token_embeddings\(99, key=key\)"):
            method(99, key=key)


def test_marians_two_vocabularies_grow_apart_and_are_saved_so(key: jax.Array, tmp_path: Path) -> None:
    shared = EncoderDecoder.from_pretrained(GOLDENS / "marian")
    size = shared.decoder.config.vocab_size
    model = dataclasses.replace(shared, encoder=shared.pieces()[0], ties=())
    model = model.resize_encoder_token_embeddings(size + 1, key=key).resize_decoder_token_embeddings(size + 2, key=key)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["decoder_vocab_size"]) == (size + 1, size + 2)
    assert config["share_encoder_decoder_embeddings"] is False
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert eqx.tree_equal((again.encoder, again.decoder), (model.encoder, model.decoder))


def test_special_tokens_are_not_cut_off(tied_pair: EncoderDecoder, key: jax.Array) -> None:
    model = tiny_pair().with_special_tokens(eos_token_id=[2, VOCAB - 1])
    with pytest.raises(ValueError, match=rf"no room for the model's eos_token_id, which is {VOCAB - 1}: keep at least"):
        model.resize_token_embeddings(VOCAB - 1, key=key)
    with pytest.raises(ValueError, match="no room for the model's eos_token_id"):
        model.resize_decoder_token_embeddings(VOCAB - 1, key=key)
    # an id that lies beyond the table is why it is to grow
    beyond = tiny_pair().with_special_tokens(eos_token_id=VOCAB + 5)
    assert beyond.resize_token_embeddings(VOCAB + 6, key=key).decoder.config.vocab_size == VOCAB + 6
    with pytest.raises(ValueError, match="vocab_size is 0"):
        tied_pair.resize_token_embeddings(0, key=key)


def test_new_rows_have_the_spread_of_a_new_model(key: jax.Array) -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / "bart").astype(jnp.bfloat16)
    size, scale = model.decoder.config.vocab_size, model.decoder.config.initializer_range
    table = model.resize_token_embeddings(size + 400, key=key).decoder.embeddings.tokens.weight
    assert table.dtype == jnp.bfloat16
    assert float(table[size:].astype(jnp.float32).std()) == pytest.approx(scale, rel=0.05)


class Patches(eqx.Module):
    """An encoder without a vocabulary."""

    hidden_size: int = eqx.field(static=True, default=12)

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        return EncoderOutput(inputs)


def test_what_cannot_be_resized_says_what_can(key: jax.Array) -> None:
    custom = EncoderDecoder.from_pieces(Patches(), tiny_pair().decoder, key=key)
    with pytest.raises(ValueError, match=r"Patches, has no token table.* model\.resize_decoder_token_embeddings"):
        custom.resize_token_embeddings(60, key=key)
    with pytest.raises(ValueError, match="nothing to resize but the decoder's"):
        custom.resize_encoder_token_embeddings(60, key=key)
    assert custom.resize_decoder_token_embeddings(60, key=key).decoder.config.vocab_size == 60

    untied = tiny_pair(decoder=decoder_config(head=HeadConfig(tied=False)))
    adapted = add_lora(untied, "lm_head.projection", rank=1, key=key)
    with pytest.raises(TypeError, match=r"merge adapters first: encdec_eqx.training.merge_lora"):
        adapted.resize_token_embeddings(60, key=key)


def test_a_number_that_is_none_is_a_type_error(key: jax.Array) -> None:
    with pytest.raises(TypeError, match="argument `new_num_tokens`"):
        tiny_pair().resize_token_embeddings(cast(Any, 60.0), key=key)
