"""What a profile says: every layer and part of a model, and every phase, has its name in the compiled programs."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from encdec_eqx import LayerSpec
from encdec_eqx.generation import engine
from models import decoder_config, random_ids, tiny_pair

SPECS = (LayerSpec(cross_attention=True), LayerSpec(), LayerSpec(cross_attention=True), LayerSpec())


def _names(lowered: Any) -> set[str]:
    """The paths of all operations of the compiled program."""
    return set(re.findall(r'op_name="([^"]+)"', lowered.compile().as_text()))


def _has(names: set[str], *parts: str) -> bool:
    pattern = ".*".join(f"(?:^|/){re.escape(part)}(?=/|$)" for part in parts)
    return any(re.search(pattern, name) for name in names)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_pair(decoder=decoder_config(layers=SPECS))


def _forward(model: Any) -> set[str]:
    ids, target = random_ids(0, 2, 7), random_ids(1, 2, 5)
    return _names(jax.jit(lambda m: m(ids, target).logits).lower(eqx.filter(model, eqx.is_array)))


def test_an_unrolled_layer_says_its_number_and_part(model: Any) -> None:
    names = _forward(model)
    for piece, part in (("encoder", "self_attention"), ("decoder", "cross_attention"), ("decoder", "feed_forward")):
        assert _has(names, piece, "layer_0", part)
    assert _has(names, "decoder", "layer_3", "self_attention")
    assert not _has(names, "decoder", "layer_3", "cross_attention")
    for piece, part in (("encoder", "embeddings"), ("decoder", "embeddings"), ("decoder", "head")):
        assert _has(names, piece, part)
    assert _has(names, "decoder", "final_norm")


def test_a_scanned_layer_says_its_run_and_part(model: Any) -> None:
    names = _forward(model.with_layout("scanned"))
    assert _has(names, "encoder", "layers_0_to_1", "self_attention")
    assert _has(names, "decoder", "layers_0_to_3", "place_0", "cross_attention")
    assert _has(names, "decoder", "layers_0_to_3", "place_1", "feed_forward")


def test_generation_says_its_phases(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: set[str] = set()
    run: Any = engine.advance_until

    def watched(fixed: Any, state: Any) -> Any:
        texts.update(_names(run.lower(fixed, state).lowered))
        return run(fixed, state)

    monkeypatch.setattr(engine, "advance_until", watched)
    options = {"max_new_tokens": 3, "decoder_start_token_id": 1, "repetition_penalty": 1.2}
    model.generate(random_ids(0, 1, 5), **options)
    assert _has(texts, "decode_step", "decoder", "layer_0", "self_attention")
    assert _has(texts, "decode_step", "decoder", "head")
    assert _has(texts, "decode_step", "processors")


def test_gradients_keep_the_names(model: Any) -> None:
    ids, target = random_ids(0, 2, 7), random_ids(1, 2, 5)
    loss = jax.grad(lambda m: jnp.sum(m(ids, target).logits))
    text = jax.jit(loss).lower(eqx.filter(model, eqx.is_array)).as_text(debug_info=True)
    assert re.search(r"transpose\(jvp\(.*decoder.*layer_3.*feed_forward", text)
