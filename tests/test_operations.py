"""Every operation that messages and docs recommend, on models whose pieces share arrays: whole checkpoints, tied pairs.

A shared array stands in the decoder, an empty slot in the encoder: what forgets that loses a table, or a tie.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checkpoints import write_tied_pair
from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.training import (
    add_lora,
    diagnose,
    drop_lora,
    init_train_state,
    load_lora,
    make_train_step,
    merge_lora,
    save_lora,
    segmented,
    summarize_trainable,
    trainable,
    unmerge_lora,
)
from models import randomised
from tolerances import LORA_MERGED, SAME_MODEL

GOLDENS = Path(__file__).parent / "goldens" / "families"
NAMES = ("bart", "tied_pair")
LAYOUTS = ("unrolled", "scanned")
KEY = jax.random.key(0)
SOURCE = np.array([[4, 5, 6, 7], [8, 9, 4, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)
TARGET = np.array([[4, 8, 9], [5, 6, 7]], np.int32)
BATCH = {"input_ids": SOURCE, "attention_mask": MASK, "labels": TARGET}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EncoderDecoder]:
    tied = EncoderDecoder.from_pretrained(write_tied_pair(tmp_path_factory.mktemp("tied")))
    # saved here once: torch's notes on how a file came to be are not written back
    bart = _saved_and_loaded(EncoderDecoder.from_pretrained(GOLDENS / "bart"), tmp_path_factory.mktemp("bart"))
    return {"bart": bart, "tied_pair": tied}


@pytest.fixture(params=[("bart", "unrolled"), *(("tied_pair", layout) for layout in LAYOUTS)], ids="-".join)
def model(request: pytest.FixtureRequest, models: dict[str, EncoderDecoder]) -> EncoderDecoder:
    name, layout = request.param
    return models[name].with_layout(layout)


@pytest.fixture(params=NAMES)
def unrolled(request: pytest.FixtureRequest, models: dict[str, EncoderDecoder]) -> EncoderDecoder:
    return models[request.param]


@eqx.filter_jit
def _run(model: EncoderDecoder) -> jax.Array:
    return model(SOURCE, TARGET, attention_mask=MASK).logits


def _same(one: EncoderDecoder, other: EncoderDecoder, tolerance: float = SAME_MODEL) -> None:
    np.testing.assert_allclose(_run(one), _run(other), rtol=0, atol=tolerance)


def _keeps_what_is_shared(model: EncoderDecoder, like: EncoderDecoder) -> None:
    """The slots are empty, and everything that a model says of itself is as it was."""
    assert model.ties
    assert not {path.split(".")[0] for path in model.ties} - {"embeddings", "stack"}
    assert len(jax.tree.leaves(model.encoder)) < len(jax.tree.leaves(model.pieces()[0]))
    for field in ("model_type", "special_tokens", "generation_config"):
        assert getattr(model, field) == getattr(like, field), field


def _saved_and_loaded(model: EncoderDecoder, folder: Path, **options: Any) -> EncoderDecoder:
    model.save_pretrained(folder)
    return EncoderDecoder.from_pretrained(folder, **options)


def test_layouts_change_there_and_back(unrolled: EncoderDecoder) -> None:
    scanned = unrolled.with_layout("scanned", remat="keep_nothing")
    _keeps_what_is_shared(scanned, unrolled)
    _same(scanned, unrolled)
    assert eqx.tree_equal(scanned.with_layout("unrolled"), unrolled)
    assert eqx.tree_equal(unrolled.with_layout("unrolled"), unrolled)
    assert eqx.tree_equal(scanned.with_layout("scanned", remat=True), scanned)


def test_saved_and_loaded_it_is_the_same(model: EncoderDecoder, tmp_path: Path) -> None:
    again = _saved_and_loaded(model, tmp_path)
    assert eqx.tree_equal(again, model.with_layout("unrolled"))
    assert again.generation_config == model.generation_config


def test_special_tokens_change_and_are_saved(unrolled: EncoderDecoder, tmp_path: Path) -> None:
    other = unrolled.with_special_tokens(eos_token_id=[5, 6], decoder_start_token_id=7)
    assert (other.ties, other.generation_config) == (unrolled.ties, unrolled.generation_config)
    again = _saved_and_loaded(other, tmp_path)
    assert again.special_tokens.eos_token_id == (5, 6)
    assert again.special_tokens.decoder_start_token_id == 7


def test_dtypes_change_and_are_saved(model: EncoderDecoder, tmp_path: Path) -> None:
    half = model.astype(jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}
    _keeps_what_is_shared(half, model)
    _same(half.astype(jnp.float32), half, 0.2)
    again = _saved_and_loaded(half, tmp_path, dtype=None)
    assert eqx.tree_equal(again, half.with_layout("unrolled"))


def test_pieces_come_apart_join_again_and_are_saved_each(model: EncoderDecoder, tmp_path: Path) -> None:
    encoder, decoder = model.pieces()
    _same(EncoderDecoder.from_pieces(encoder, decoder), model)
    for kind, piece in ((Encoder, encoder), (Decoder, decoder)):
        piece.save_pretrained(tmp_path / kind.__name__)
        assert eqx.tree_equal(kind.from_pretrained(tmp_path / kind.__name__), piece.with_layout("unrolled"))
    with pytest.raises(ValueError, match=r"call `model\.encode"):
        model.encoder(SOURCE)
    states = eqx.filter_jit(lambda m: m.encode(SOURCE, attention_mask=MASK).last_hidden_state)(model)
    alone = eqx.filter_jit(lambda e: e(SOURCE, attention_mask=MASK).last_hidden_state)(encoder)
    np.testing.assert_allclose(states, alone, rtol=0, atol=SAME_MODEL)


def test_an_encoder_gets_arrays_of_its_own(model: EncoderDecoder, tmp_path: Path) -> None:
    """What the message about adapters on shared layers recommends."""
    apart = dataclasses.replace(model, encoder=model.pieces()[0], ties=())
    _same(apart, model)
    if model.model_type == "encoder-decoder":
        again = _saved_and_loaded(apart, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["tie_encoder_decoder"] is False
        assert eqx.tree_equal(again, apart.with_layout("unrolled"))
    adapted = add_lora(apart, "self_attention", rank=1, key=KEY)
    _same(adapted, model)


def test_a_decoder_loses_and_gets_cross_attention(models: dict[str, EncoderDecoder], tmp_path: Path) -> None:
    encoder, decoder = models["tied_pair"].pieces()
    decoder.save_pretrained(tmp_path)
    plain = Decoder.from_pretrained(tmp_path, add_cross_attention=False)
    with pytest.raises(ValueError, match=r"decoder\.with_cross_attention\(key=key\)"):
        EncoderDecoder.from_pieces(encoder, plain)
    joined = EncoderDecoder.from_pieces(encoder, plain.with_cross_attention(key=KEY))
    assert _run(joined).shape == _run(models["tied_pair"]).shape
    models["bart"].save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"add_cross_attention=False changes nothing of a bart decoder"):
        Decoder.from_pretrained(tmp_path, add_cross_attention=False)


def test_a_cache_decodes_what_a_call_does(model: EncoderDecoder) -> None:
    @eqx.filter_jit
    def in_two_steps(model: EncoderDecoder) -> jax.Array:
        encoded = model.encode(SOURCE, attention_mask=MASK)
        cache = model.init_cache(encoded, 3, encoder_attention_mask=MASK)
        first = model.decode(TARGET[:, :2], cache=cache)
        return jnp.concatenate([first.logits, model.decode(TARGET[:, 2:], cache=first.cache).logits], 1)

    np.testing.assert_allclose(in_two_steps(model), _run(model), rtol=0, atol=10 * SAME_MODEL)


def test_it_generates_streams_warms_up_and_scores(unrolled: EncoderDecoder) -> None:
    source: dict[str, Any] = {"input_ids": SOURCE, "attention_mask": MASK}
    greedy: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 3}
    unrolled.warmup(source_lengths=[4], batch_sizes=[2], **greedy)
    plain = unrolled.generate(**source, **greedy)
    chunks = list(unrolled.stream(**source, **greedy))
    np.testing.assert_array_equal(np.concatenate([chunk.tokens for chunk in chunks], 1), plain.sequences[:, 1:])
    drafted = unrolled.generate(**source, **greedy, assistant_model=unrolled)
    np.testing.assert_array_equal(drafted.sequences, plain.sequences)
    beams = unrolled.generate(**source, num_beams=2, num_return_sequences=2, length_penalty=1.0, max_new_tokens=3)
    again = unrolled.rescore(beams.sequences, **source, length_penalty=1.0)
    assert again.scores.shape == beams.scores.shape
    scanned = unrolled.with_layout("scanned").generate(**source, **greedy)
    np.testing.assert_array_equal(scanned.sequences, plain.sequences)


def test_equinoxs_own_serialisation(model: EncoderDecoder, tmp_path: Path) -> None:
    eqx.tree_serialise_leaves(tmp_path / "leaves", model)
    blank = jax.tree.map(jnp.zeros_like, model)
    assert eqx.tree_equal(eqx.tree_deserialise_leaves(tmp_path / "leaves", blank), model)


def test_a_doctor_reads_it(unrolled: EncoderDecoder) -> None:
    assert diagnose(unrolled, BATCH) is not None
    assert "shared" not in str(summarize_trainable(unrolled))


# --- what is trained


def _stepped(model: EncoderDecoder, selectors: Any = None) -> EncoderDecoder:
    optimizer = optax.sgd(0.1)
    state = init_train_state(model, optimizer, trainable=selectors)
    after, _ = make_train_step(optimizer)(state, BATCH, KEY)
    return after.model


@pytest.mark.usefixtures("standard_promotion")
def test_a_shared_array_is_trained_once_and_stays_shared(model: EncoderDecoder) -> None:
    after = _stepped(model)
    _keeps_what_is_shared(after, model)
    assert eqx.tree_equal(after.pieces()[0].embeddings.tokens.weight, after.decoder.embeddings.tokens.weight)
    assert np.abs(np.asarray(_run(after) - _run(model))).max() > 1e-4


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("selectors", ["cross_attention", "decoder.layers.1-"])
def test_only_what_is_picked_moves_in_either_layout(selectors: str, models: dict[str, EncoderDecoder]) -> None:
    unrolled = models["tied_pair"]
    one, other = _stepped(unrolled, selectors), _stepped(unrolled.with_layout("scanned"), selectors)
    _keeps_what_is_shared(other, unrolled)
    flat = other.with_layout("unrolled")
    picked = jax.tree.leaves(trainable(unrolled, selectors))
    leaves = [jax.tree.leaves(tree) for tree in (unrolled, one, flat)]
    for pick, before, after, same in zip(picked, *leaves, strict=True):
        np.testing.assert_allclose(after, same, rtol=0, atol=1e-5)
        assert pick or np.array_equal(before, after)
    assert flat.ties == unrolled.ties


def test_scanned_layers_that_are_shared_are_cut_alike(models: dict[str, EncoderDecoder]) -> None:
    scanned = models["tied_pair"].with_layout("scanned", remat="keep_linear")
    cut = segmented(scanned, "decoder.layers.1-")
    assert cut.encoder.stack.starts == cut.decoder.stack.starts == (0, 1)
    assert cut.decoder.stack.remat == cut.encoder.stack.remat == "keep_linear"
    _same(cut, scanned)
    assert eqx.tree_equal(cut.with_layout("unrolled"), models["tied_pair"])
    with pytest.raises(ValueError, match="is shared with the decoder"):
        segmented(scanned, "encoder.layers.1-")


# --- adapters

CROSS = ("cross_attention", "decoder.layers.0.cross_attention")


def _adapted(model: EncoderDecoder, selectors: str) -> EncoderDecoder:
    """With adapters whose B is not zero."""
    adapted = add_lora(model, selectors, rank=2, alpha=3.0, key=KEY)
    trained = trainable(adapted, "lora")
    return eqx.combine(randomised(eqx.filter(adapted, trained)), eqx.filter(adapted, trained, inverse=True))


@pytest.mark.parametrize("selectors", CROSS)
def test_cross_attention_is_not_shared_and_takes_adapters(
    selectors: str, model: EncoderDecoder, tmp_path: Path
) -> None:
    first = add_lora(model, selectors, rank=2, key=KEY)
    _keeps_what_is_shared(first, model)
    _same(first, model)
    adapted = _adapted(model, selectors)
    assert np.abs(np.asarray(_run(adapted) - _run(model))).max() > 1e-3
    assert eqx.tree_equal(drop_lora(adapted), model)
    merged = merge_lora(adapted)
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    _same(merged, adapted, LORA_MERGED)
    _same(unmerge_lora(merged, adapted), adapted, LORA_MERGED)

    save_lora(adapted, tmp_path / "adapters")
    assert eqx.tree_equal(load_lora(model, tmp_path / "adapters"), adapted)
    with pytest.raises(ValueError, match="merge_lora"):
        adapted.save_pretrained(tmp_path / "model")
    again = _saved_and_loaded(merged, tmp_path / "model")
    assert eqx.tree_equal(again, merged.with_layout("unrolled"))
    there_and_back = adapted.with_layout("scanned").with_layout("unrolled")
    assert eqx.tree_equal(there_and_back, adapted.with_layout("unrolled"))


@pytest.mark.usefixtures("standard_promotion")
def test_adapters_alone_are_trained(model: EncoderDecoder) -> None:
    adapted = add_lora(model, "decoder.layers.0.cross_attention", rank=2, key=KEY)
    after = _stepped(adapted, "lora")
    assert eqx.tree_equal(drop_lora(after), model)
    assert np.abs(np.asarray(_run(after) - _run(adapted))).max() > 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_that_are_shared_take_none(layout: Any, models: dict[str, EncoderDecoder], tmp_path: Path) -> None:
    model = models["tied_pair"].with_layout(layout)
    for selectors in ("decoder.layers.0.feed_forward.up", "decoder", "decoder.layers.1.self_attention | lm_head"):
        with pytest.raises(NotImplementedError, match=r"is shared by encoder and decoder.* 'cross_attention'"):
            add_lora(model, selectors, rank=1, key=KEY)
    with pytest.raises(ValueError, match="is shared with the decoder, which holds it"):
        add_lora(model, "encoder.layers.0", rank=1, key=KEY)
    apart = dataclasses.replace(model, encoder=model.pieces()[0], ties=())
    save_lora(add_lora(apart, "decoder.layers.0.feed_forward.up", rank=1, key=KEY), tmp_path)
    with pytest.raises(NotImplementedError, match="is shared by encoder and decoder"):
        load_lora(model, tmp_path)


def test_whole_checkpoints_share_a_table_only_so_every_layer_takes_one(models: dict[str, EncoderDecoder]) -> None:
    adapted = _adapted(models["bart"], "encoder | decoder")
    _same(merge_lora(adapted), adapted, LORA_MERGED)


CALLS: list[Callable[[EncoderDecoder], Any]] = [
    lambda m: m.with_layout("scanned"),
    lambda m: m.with_special_tokens(pad_token_id=1),
    lambda m: m.astype(jnp.float16).astype(jnp.float32),
    lambda m: m.resize_token_embeddings(40, key=KEY),
    lambda m: add_lora(m, "cross_attention", rank=1, key=KEY),
]


@pytest.mark.parametrize("first", [0, 3])
def test_they_can_follow_one_another(first: int, models: dict[str, EncoderDecoder], tmp_path: Path) -> None:
    model = models["tied_pair"]
    for call in CALLS[first:] + CALLS[:first]:
        model = call(model)
    again = _saved_and_loaded(merge_lora(model), tmp_path)
    assert again.decoder.config.vocab_size == 40
    assert again.special_tokens.pad_token_id == 1
    assert again.ties == models["tied_pair"].ties
    _same(again, model, LORA_MERGED)
