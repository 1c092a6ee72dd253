"""LoRA: nothing changes at first, both layouts, training, merging and back, generation, files, and errors."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from encdec_eqx import EncoderDecoder, HeadConfig, LayerSpec
from encdec_eqx.hf.adapter import ADAPTER_SETTINGS, ADAPTER_WEIGHTS
from encdec_eqx.layers.linear import Linear, LowRank, WithLoRA
from encdec_eqx.training import (
    add_lora,
    drop_lora,
    init_train_state,
    load_lora,
    make_train_step,
    merge_lora,
    save_lora,
    summarize_trainable,
    trainable,
    unmerge_lora,
)
from models import decoder_config, encoder_config, random_ids, randomised, right_mask, tiny_pair
from tolerances import LORA_MERGED, SAME_GRADIENT, SAME_MODEL

KEY = jax.random.key(3)
LAYOUTS = ("unrolled", "scanned")
WHERE = "cross_attention | enc_to_dec_proj | encoder.layers.1-.self_attention.qkv | decoder.layers.0.feed_forward"


def _model(**decoder: Any) -> Any:
    return tiny_pair(encoder_config(depth=3), decoder_config(depth=3, **decoder))


def _adapted(model: Any, where: str = WHERE, rank: int = 2) -> Any:
    """With adapters whose B is not zero."""
    return _noisy(add_lora(model, where, rank=rank, alpha=3.0, key=KEY))


def _noisy(adapted: Any) -> Any:
    trained = trainable(adapted, "lora")
    return eqx.combine(randomised(eqx.filter(adapted, trained)), eqx.filter(adapted, trained, inverse=True))


def _batch() -> dict[str, np.ndarray]:
    return {
        "input_ids": random_ids(0, 3, 6),
        "attention_mask": right_mask([6, 4, 5], 6),
        "labels": random_ids(1, 3, 5),
    }


@eqx.filter_jit
def _run(model: Any, batch: dict[str, np.ndarray]) -> jax.Array:
    return model(batch["input_ids"], batch["labels"], attention_mask=batch["attention_mask"]).logits


def _logits(model: Any) -> np.ndarray:
    return np.asarray(_run(model, _batch()))


@pytest.mark.parametrize("where", [WHERE, "encoder | decoder | enc_to_dec_proj"])
def test_outputs_are_the_same_bit_for_bit_at_first(where: str) -> None:
    """Operation by operation; compiled programs may round in another order."""
    model = _model(head=HeadConfig(tied=False))
    adapted = add_lora(model, where, rank=2, key=KEY)
    assert len(jax.tree.leaves(adapted)) > len(jax.tree.leaves(model))
    ids = _batch()["input_ids"], _batch()["labels"]
    np.testing.assert_array_equal(adapted(*ids).logits, model(*ids).logits)
    np.testing.assert_allclose(_logits(adapted.with_layout("scanned")), _logits(model), rtol=0, atol=SAME_MODEL)


def test_an_adapter_adds_a_product_of_low_rank(key: jax.Array) -> None:
    linear = Linear.init(6, 3, 2, 4, scale=0.5, key=key)
    lora = LowRank(jax.random.normal(key, (6, 2)), jax.random.normal(key, (2, 3, 2, 4)), 1.5)
    x = jax.random.normal(jax.random.key(1), (5, 7, 6))
    matrix = 1.5 * np.einsum("ir,rpho->ipho", lora.a, lora.b)
    np.testing.assert_allclose(lora.product(), matrix, atol=SAME_MODEL)
    expected = np.asarray(linear(x)) + np.einsum("bti,ipho->btpho", x, matrix)
    np.testing.assert_allclose(WithLoRA(linear, lora)(x), expected, atol=SAME_MODEL, rtol=1e-6)
    np.testing.assert_allclose(WithLoRA(linear, lora).merged()(x), expected, atol=SAME_MODEL, rtol=1e-6)


def test_adapters_do_not_depend_on_the_layout() -> None:
    model = _model()
    one, other = add_lora(model, WHERE, rank=2, key=KEY), add_lora(model.with_layout("scanned"), WHERE, rank=2, key=KEY)
    assert eqx.tree_equal(one, other.with_layout("unrolled"))
    assert other.encoder.stack.starts == (0, 1)
    assert other.decoder.stack.starts == (0, 1)


def test_only_the_layers_that_are_picked_have_one() -> None:
    adapted = _adapted(_model())
    spec = trainable(adapted, "lora")
    paths = {jax.tree_util.keystr(path) for path, pick in jax.tree_util.tree_leaves_with_path(spec) if pick}
    block = ".decoder.stack.blocks[{}].cross_attention.{}"
    linears = {block.format(at, name) for at in range(3) for name in ("q", "kv", "out")}
    linears |= {f".encoder.stack.blocks[{at}].self_attention.qkv" for at in (1, 2)}
    linears |= {f".decoder.stack.blocks[0].feed_forward.{name}" for name in ("up", "down")} | {".enc_to_dec_proj"}
    assert paths == {f"{linear}.lora.{part}" for linear in linears for part in "ab"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_and_back(layout: Any) -> None:
    model = _model().with_layout(layout)
    adapted = _adapted(model)
    merged = merge_lora(adapted)
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    assert np.abs(_logits(merged) - _logits(model)).max() > 0.01
    np.testing.assert_allclose(_logits(merged), _logits(adapted), atol=LORA_MERGED, rtol=0)
    back = unmerge_lora(merged, adapted)
    assert jax.tree.structure(back) == jax.tree.structure(adapted)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(adapted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)
    assert eqx.tree_equal(drop_lora(adapted), model)
    assert eqx.tree_equal(drop_lora(unmerge_lora(merged, adapted)).enc_to_dec_proj.bias, model.enc_to_dec_proj.bias)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_moves_the_adapters_alone(layout: Any) -> None:
    model, optimizer = _model(), optax.adamw(0.05)
    adapted = add_lora(model.with_layout(layout), WHERE, rank=2, key=KEY)
    state = init_train_state(adapted, optimizer, trainable="lora")
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert (
        moments
        == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
        < 0.5 * sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    )
    step = make_train_step(optimizer)
    losses = []
    for _ in range(4):
        state, metrics = step(state, _batch(), None)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert eqx.tree_equal(drop_lora(state.model).with_layout("unrolled"), model)
    changed = jax.tree.map(lambda old, new: not np.array_equal(old, new), adapted, state.model)
    assert eqx.tree_equal(changed, trainable(adapted, "lora"))


def test_gradients_are_the_same_in_both_layouts() -> None:
    adapted = _adapted(_model())

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(params: Any, frozen: Any) -> jax.Array:
        return jnp.sum(jnp.square(eqx.combine(params, frozen)(_batch()["input_ids"], _batch()["labels"]).logits))

    results = []
    for layout in LAYOUTS:
        model = adapted.with_layout(layout)
        results.append(gradient(*eqx.partition(model, trainable(model, "lora"))).with_layout("unrolled"))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        largest = float(jnp.abs(one).max())
        assert largest > 0
        np.testing.assert_allclose(one, other, atol=SAME_GRADIENT * max(largest, 1.0), rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_with_adapters_generates_what_the_merged_one_does(layout: Any) -> None:
    everywhere = "encoder | decoder | enc_to_dec_proj"
    adapted = _adapted(_model(head=HeadConfig(tied=False)), everywhere).with_layout(layout)
    options: Any = {"max_new_tokens": 6, "num_beams": 2}
    ours = adapted.generate(_batch()["input_ids"], **options)
    theirs = merge_lora(adapted).generate(_batch()["input_ids"], **options)
    plain = drop_lora(adapted).generate(_batch()["input_ids"], **options)
    np.testing.assert_array_equal(ours.sequences, theirs.sequences)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=LORA_MERGED, rtol=0)
    assert np.abs(ours.scores - plain.scores).max() > 100 * LORA_MERGED


def test_half_precision_weights_under_adapters_of_full_precision() -> None:
    model = _model().astype(jnp.bfloat16)
    adapted = _noisy(add_lora(model, "encoder | decoder | enc_to_dec_proj", rank=2, key=KEY))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(adapted)} == {"bfloat16", "float32"}
    state = init_train_state(adapted, optax.sgd(0.1), trainable="lora")
    _, metrics = make_train_step(optax.sgd(0.1))(state, _batch(), None)
    assert np.isfinite(metrics["loss"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(merge_lora(adapted))} == {"bfloat16"}


def test_layers_that_share_weights_share_an_adapter() -> None:
    model: Any = tiny_pair(encoder_config(layers=(LayerSpec(weights=0),) * 3))
    adapted = _adapted(model, "encoder.layers.*.feed_forward")
    assert len(jax.tree.leaves(eqx.filter(adapted, trainable(adapted, "lora")))) == 4
    scanned = adapted.with_layout("scanned")
    np.testing.assert_allclose(_logits(scanned), _logits(adapted), atol=SAME_MODEL, rtol=0)
    assert eqx.tree_equal(scanned.with_layout("unrolled"), adapted)


def test_the_summary_has_a_line_for_adapters() -> None:
    summary = summarize_trainable(_adapted(_model()), "lora")
    parts = {part.name: part for part in summary.parts}
    both = parts["encoder layers 1-2 self_attention lora"]
    assert both.trained == both.total == 2 * (16 * 2 + 2 * 48)
    assert parts["encoder layers 1-2 self_attention"].trained == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_are_saved_apart_and_loaded(layout: Any, tmp_path: Path) -> None:
    model = _model()
    adapted = _adapted(model)
    save_lora(adapted.with_layout(layout), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ADAPTER_WEIGHTS, ADAPTER_SETTINGS}
    assert (tmp_path / ADAPTER_WEIGHTS).stat().st_size < 0.5 * sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    assert eqx.tree_equal(load_lora(model, tmp_path), adapted)
    scanned = model.with_layout("scanned", remat="keep_nothing")
    loaded = load_lora(scanned, tmp_path)
    assert loaded.decoder.stack.remat == "keep_nothing"
    assert eqx.tree_equal(loaded.with_layout("unrolled"), adapted)
    merged = merge_lora(adapted)
    back = unmerge_lora(merged, load_lora(merged, tmp_path))
    np.testing.assert_allclose(_logits(drop_lora(back)), _logits(model), atol=LORA_MERGED, rtol=0)


def test_a_model_with_adapters_is_saved_only_when_they_are_merged(tmp_path: Path) -> None:
    adapted = _adapted(_model())
    for part in (adapted, adapted.encoder, adapted.decoder):
        with pytest.raises(ValueError, match=r"LoRA.*merge_lora.*save_lora"):
            part.save_pretrained(tmp_path / "model")
    merged = merge_lora(adapted)
    merged.save_pretrained(tmp_path / "model")
    loaded = EncoderDecoder.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(_logits(loaded), _logits(merged))


ADDING = {
    "no such layer": ("qvk", {}, r"nearest names are 'qkv'"),
    "an array instead of a layer": ("qkv.weight", {}, "matches no array"),
    "the pooler": ("pooler", {}, "carried without being read"),
    "rank 0": ("qkv", {"rank": 0}, "rank must be at least 1"),
    "alpha 0": ("qkv", {"alpha": 0.0}, "alpha must be above 0"),
}


@pytest.mark.parametrize("name", ADDING)
def test_adapters_that_cannot_be_meant_are_errors(name: str) -> None:
    where, options, words = ADDING[name]
    with pytest.raises(ValueError, match=words):
        add_lora(_model(), where, **{"rank": 2, "key": KEY, **options})


def test_one_adapter_a_layer() -> None:
    adapted = add_lora(_model(), "qkv", rank=2, key=KEY)
    with pytest.raises(ValueError, match="has an adapter already: merge it first"):
        add_lora(adapted, "qkv", rank=2, key=KEY)
    more = add_lora(adapted, "feed_forward", rank=3, key=KEY)
    assert eqx.tree_equal(drop_lora(more), _model())


@pytest.mark.parametrize("function", [merge_lora, drop_lora, lambda m: save_lora(m, "nowhere")])
def test_there_must_be_adapters(function: Any) -> None:
    with pytest.raises(ValueError, match="no low-rank adapter"):
        function(_model())
    assert not Path("nowhere").exists()


def test_layers_shared_by_the_pieces_get_none() -> None:
    config = {"layers": (LayerSpec(),) * 2, "pooler": False, "embeddings": encoder_config().embeddings}
    model = tiny_pair(encoder_config(**config), decoder_config(16, layers=(LayerSpec(cross_attention=True),) * 2))
    tied = EncoderDecoder(
        encoder=eqx.tree_at(lambda e: e.stack.blocks[0].feed_forward.up.weight, model.encoder, None),
        decoder=model.decoder,
        enc_to_dec_proj=None,
        special_tokens=model.special_tokens,
        ties=("stack.blocks.0.feed_forward.up.weight",),
    )
    with pytest.raises(ValueError, match="shared with the decoder"):
        add_lora(tied, "encoder.layers.0.feed_forward.up", rank=2, key=KEY)
    with pytest.raises(NotImplementedError, match=r"model\.pieces"):
        add_lora(tied, "decoder.layers.0.feed_forward.up", rank=2, key=KEY)


def test_files_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no lora\.safetensors"):
        load_lora(_model(), tmp_path)
    save_lora(_adapted(_model()), tmp_path)
    with pytest.raises(ValueError, match=r"'encoder.layers.1.self_attention.qkv' is "):
        load_lora(tiny_pair(encoder_config(20, depth=3), decoder_config(depth=3)), tmp_path)
    with pytest.raises(ValueError, match=r"no linear layer 'decoder.layers.2.cross_attention.kv'"):
        load_lora(tiny_pair(encoder_config(depth=3), decoder_config(depth=2)), tmp_path)
    with pytest.raises(ValueError, match="has an adapter already"):
        load_lora(_adapted(_model()), tmp_path)
    with pytest.raises(ValueError, match="different linear layers"):
        unmerge_lora(_model(), _adapted(tiny_pair()))
    settings = json.loads((tmp_path / ADAPTER_SETTINGS).read_text())
    del settings["scales"]["enc_to_dec_proj"]
    (tmp_path / ADAPTER_SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="disagree, for example on 'enc_to_dec_proj"):
        load_lora(_model(), tmp_path)
    (tmp_path / ADAPTER_SETTINGS).write_text("{}")
    with pytest.raises(ValueError, match="not what save_lora writes"):
        load_lora(_model(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        save_lora(_adapted(_model()), tmp_path / "file")


@pytest.mark.parametrize("scale", ["1.5", True, None, [1.0], float("nan"), float("inf"), 10**400, 1e300])
def test_a_factor_that_is_no_number_is_named_with_its_file(tmp_path: Path, scale: object) -> None:
    save_lora(_adapted(_model(), "enc_to_dec_proj"), tmp_path)
    settings = json.loads((tmp_path / ADAPTER_SETTINGS).read_text())
    settings["scales"]["enc_to_dec_proj"] = scale
    (tmp_path / ADAPTER_SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"the adapter of 'enc_to_dec_proj' in .* is damaged: its factor is") as caught:
        load_lora(_model(), tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda a: a.view(np.int32), "A holds int32, B float32; expected one floating-point dtype"),
        (lambda a: a.astype(np.float16), "A holds float16, B float32"),
        (lambda a: a.T, r"A is \(2, 16\), B is \(2, 12\)"),
    ],
    ids=["integers", "two dtypes", "turned"],
)
def test_damaged_factors_are_named_with_their_file(tmp_path: Path, changed: Any, says: str) -> None:
    save_lora(_adapted(_model(), "enc_to_dec_proj"), tmp_path)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    first = "enc_to_dec_proj.lora.a"
    save_file({**tensors, first: np.ascontiguousarray(changed(tensors[first]))}, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(ValueError, match=rf"{tmp_path} is damaged: {says}"):
        load_lora(_model(), tmp_path)
