"""Every encoder with every decoder: the whole matrix, traced but not run. `docs/families.md` shows it."""

import functools
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from compositions import DECODERS, ENCODERS, LIVE, RUN, STORED
from encdec_eqx import Decoder, Encoder, EncoderDecoder, EncoderOutput, StackConfig

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens" / "families"
SOURCE = jax.ShapeDtypeStruct((2, 6), jnp.int32)


@functools.cache
def _shapes(role: str, family: str) -> Any:
    """A piece of shapes, of the family's stored tiny config cut to one layer."""
    at = 0 if role == "encoder" else 1
    folder = next(f for f in GOLDENS.iterdir() if "+" in f.name and f.name.split("+")[at] == family)
    hf = json.loads((folder / "config.json").read_text())[role]
    if role == "decoder":
        hf |= {"is_decoder": True, "add_cross_attention": True}
    config = StackConfig.from_hf(hf)
    kind = Encoder if role == "encoder" else Decoder
    return eqx.filter_eval_shape(kind.init, config.replace(layers=config.layers[:1]), key=jax.random.key(0))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_composes_with_every_decoder(encoder: str) -> None:
    piece = _shapes("encoder", encoder)
    encoded = eqx.filter_eval_shape(lambda e, s: e(s), piece, SOURCE)
    assert encoded.last_hidden_state.shape == (2, 6, piece.hidden_size)
    for decoder in DECODERS:
        other = _shapes("decoder", decoder)
        out = eqx.filter_eval_shape(_joined, piece, other, encoded)
        assert out.logits.shape == (2, 4, other.config.vocab_size)


def _joined(encoder: Encoder, decoder: Decoder, encoded: EncoderOutput) -> Any:
    model = EncoderDecoder.from_pieces(encoder, decoder)
    assert (model.enc_to_dec_proj is not None) == (encoder.hidden_size != decoder.hidden_size)
    return model.decode(jnp.zeros((2, 4), jnp.int32), encoded)


@pytest.mark.parametrize("chosen", [LIVE, STORED, RUN], ids=["live", "stored", "run"])
def test_each_way_of_checking_meets_every_family(chosen: list[tuple[str, str]]) -> None:
    assert {encoder for encoder, _ in chosen} == set(ENCODERS)
    assert {decoder for _, decoder in chosen} == set(DECODERS)


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
