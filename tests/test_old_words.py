"""Words of the old Flax class meet an error that says the new way; signatures and `hasattr` are as without it."""

import inspect
import re
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
import pytest

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx._old_words import _ATTRIBUTES, _METHODS
from models import tiny_pair

IDS = np.array([[3, 4, 5]])


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return tiny_pair()


CALLS = [
    (lambda model: model(IDS, IDS, labels=IDS), "labels", "seq2seq_loss"),
    (lambda model: model(IDS, IDS, train=True), "train", "key="),
    (lambda model: model(IDS, IDS, dropout_rng=jax.random.key(0)), "dropout_rng", "key="),
    (lambda model: model(IDS, IDS, params={}), "params", "the model itself is the pytree"),
    (lambda model: model(IDS, IDS, return_dict=True), "return_dict", "objects with named fields"),
    (lambda model: model.encode(IDS, train=True), "train", "key="),
    (lambda model: model.decode(IDS, None, past_key_values={}), "past_key_values", "cache="),
    (lambda model: model.decode(IDS, None, params={}), "params", "the model itself is the pytree"),
    (lambda model: model.init_cache(1, 8, None), None, r"init_cache\(encoder_outputs, max_length\)"),
    (lambda model: model.init_cache(batch_size=1, max_length=8), "batch_size", r"init_cache\(encoder_outputs"),
    (lambda model: model.generate(IDS, prng_key=jax.random.key(0), max_new_tokens=2), "prng_key", "key="),
    (lambda model: model.generate(IDS, params={}, max_new_tokens=2), "params", "the model itself is the pytree"),
    (lambda model: next(model.stream(IDS, params={}, max_new_tokens=2)), "params", "the model itself is the pytree"),
    (lambda model: model.save_pretrained("x", params={}), "params", "the model itself is the pytree"),
    (lambda model: model.save_pretrained("x", push_to_hub=True), "push_to_hub", "upload_folder"),
    (lambda model: model.decoder.save_pretrained("x", params={}), "params", "the model itself is the pytree"),
    (lambda model: model.encoder(IDS, train=True), "train", "key="),
    (lambda model: model.decoder(IDS, train=True), "train", "key="),
    (lambda _: EncoderDecoder.from_pretrained("x", **cast(Any, {"from_pt": True})), "from_pt", r"model\.safetensors"),
    (lambda _: Encoder.from_pretrained("x", from_pt=True), "from_pt", r"model\.safetensors"),
    (lambda _: Decoder.from_pretrained("x", config=None), "config", r"config\.json"),
    (lambda _: Encoder.from_pretrained("x", torch_dtype="auto"), "torch_dtype", "dtype="),
    (
        lambda _: EncoderDecoder.from_encoder_decoder_pretrained("x", "y", encoder_from_pt=True),
        "encoder_from_pt",
        r"model\.safetensors",
    ),
    (lambda _: EncoderDecoder.from_encoder_decoder_pretrained("x", "y", from_pt=True), "from_pt", "safetensors"),
]


@pytest.mark.parametrize(("call", "word", "said"), CALLS, ids=[f"{at}-{word}" for at, (_, word, _) in enumerate(CALLS)])
def test_an_old_argument_says_the_new_way(model: EncoderDecoder, call, word: str | None, said: str):
    with pytest.raises(TypeError, match=said) as caught:
        call(model)
    assert "docs/migrating_from_flax.md" in str(caught.value)
    if word is not None:
        assert f"takes no {word}=" in str(caught.value)


@pytest.mark.parametrize("name", sorted(_ATTRIBUTES))
def test_an_old_attribute_says_the_new_way_and_is_still_absent(model: EncoderDecoder, name: str):
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=rf"EncoderDecoder has no attribute '{name}': .* docs/migrating"):
        getattr(model, name)


def test_other_names_are_plain_errors(model: EncoderDecoder):
    with pytest.raises(AttributeError, match=r"^EncoderDecoder has no attribute 'nothing'$"):
        model.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"out\.cache"):
        model(IDS, IDS).past_key_values  # noqa: B018
    with pytest.raises(AttributeError, match="pytree"):
        model.decoder.params  # noqa: B018
    assert model.decoder.config.vocab_size > 0


def test_signatures_are_the_methods_own(model: EncoderDecoder):
    assert "decoder_position_ids" in inspect.signature(model.decode).parameters
    assert "labels" not in inspect.signature(model.__call__).parameters
    assert isinstance(model.generate, eqx.Module)  # as every method of a module: a pytree that jit can take


def test_no_old_word_is_an_argument_today():
    for owner in (EncoderDecoder, Encoder, Decoder):
        for name, words in _METHODS.items():
            method = getattr(owner, name, None)
            if method is not None and "_typing" in getattr(method, "__globals__", {}).get("__name__", ""):
                assert not set(words) & set(inspect.signature(method).parameters)


def test_the_migration_page_and_the_errors_know_the_same_words():
    """What the page's table calls old is met by an error."""
    page = (Path(__file__).parent.parent / "docs" / "migrating_from_flax.md").read_text(encoding="utf-8")
    known = {*_ATTRIBUTES, *(word for words in _METHODS.values() for word in words)}
    table = page[page.index("| before | now |") : page.index("## Results that change")]
    old = set()
    for line in table.splitlines()[2:]:
        before = line.split("|")[1] if line.count("|") > 2 else ""
        old |= set(re.findall(r"\b(\w+)=(?!=)", before)) | set(re.findall(r"(?<!\w)model\.(\w+)(?:\(\))?`", before))
    assert {"train", "dropout_rng", "from_pt", "prng_key", "params", "labels"} <= old
    assert old <= known
