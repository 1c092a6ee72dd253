"""Every encoder with every decoder: the whole matrix, traced but not run. `docs/families.md` shows it."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from compositions import DECODERS, ENCODERS, LIVE, RUN, STORED, joined_by_torch, stored_config
from encdec_eqx import Decoder, Encoder, EncoderDecoder, EncoderOutput, StackConfig

ROOT = Path(__file__).parent.parent
SOURCE = jax.ShapeDtypeStruct((2, 6), jnp.int32)


@functools.cache
def _shapes(role: str, family: str) -> Any:
    """A piece of shapes, of the family's stored tiny config cut to one layer."""
    config = StackConfig.from_hf(stored_config(role, family))
    kind = Encoder if role == "encoder" else Decoder
    return eqx.filter_eval_shape(kind.init, config.replace(layers=config.layers[:1]), key=jax.random.key(0))


@functools.cache
def _encoded(encoder: str) -> EncoderOutput:
    return eqx.filter_eval_shape(lambda piece, source: piece(source), _shapes("encoder", encoder), SOURCE)


@functools.cache
def _joined(encoder: str) -> dict[str, EncoderDecoder]:
    """An encoder joined to each decoder, in one trace."""
    pieces = [_shapes("decoder", decoder) for decoder in DECODERS]
    join = lambda one, others: [EncoderDecoder.from_pieces(one, other) for other in others]  # noqa: E731
    return dict(zip(DECODERS, eqx.filter_eval_shape(join, _shapes("encoder", encoder), pieces), strict=True))


@functools.cache
def _logits(encoder: str, decoder: str) -> jax.ShapeDtypeStruct:
    decode = lambda model, encoded: model.decode(jnp.zeros((2, 4), jnp.int32), encoded)  # noqa: E731
    return eqx.filter_eval_shape(decode, _joined(encoder)[decoder], _encoded(encoder)).logits


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_composes_with_every_decoder(encoder: str) -> None:
    """All that a decoder meets of an encoder is its states: one trace of a decoder serves encoders of one width."""
    piece, states = _shapes("encoder", encoder), _encoded(encoder).last_hidden_state
    assert states.shape == (2, 6, piece.hidden_size)
    alike = next(name for name in ENCODERS if _encoded(name).last_hidden_state == states)
    for decoder, pair in _joined(encoder).items():
        other = _shapes("decoder", decoder)
        assert (pair.encoder, pair.decoder) == (piece, other)
        assert (pair.enc_to_dec_proj is not None) == (piece.hidden_size != other.hidden_size)
        assert pair.enc_to_dec_proj == _joined(alike)[decoder].enc_to_dec_proj
        assert _logits(alike, decoder).shape == (2, 4, other.config.vocab_size)


@pytest.mark.parametrize(
    ("way", "chosen"), [("live", LIVE), ("stored", STORED), ("run", RUN)], ids=["live", "stored", "run"]
)
def test_each_way_of_checking_meets_every_family(way: str, chosen: list[tuple[str, str]]) -> None:
    for at, (role, every) in enumerate((("encoder", ENCODERS), ("decoder", DECODERS))):
        assert {pair[at] for pair in chosen} == (set(every) if way == "run" else joined_by_torch(role, way))


def test_each_piece_is_run_with_two_others() -> None:
    run = {*LIVE, *RUN}
    assert all(len({d for e, d in run if e == encoder}) >= 2 for encoder in ENCODERS)
    assert all(len({e for e, d in run if d == decoder}) >= 2 for decoder in DECODERS)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_families", ROOT / "docs" / "make_families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_families_is_what_its_generator_writes() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert page == _generator().page(), "run `python docs/make_families.py`"
