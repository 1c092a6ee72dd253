"""The train step on tiny pairs: what it updates, accumulation, dtypes, dropout keys, donation, compilations, errors."""

import dataclasses
import importlib.util
import re
import types
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from encdec_eqx import (
    Decoder,
    EncoderDecoder,
    EncoderOutput,
    HeadConfig,
    PositionsConfig,
    SpecialTokens,
    StackConfig,
    seq2seq_loss,
    shift_tokens_right,
)
from encdec_eqx.generation.result import counted
from encdec_eqx.training import init_train_state, make_train_step, trainable
from encdec_eqx.training.batch import KEYS
from models import VOCAB, decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import BF16_LOSS, SAME_STEP

SGD = optax.sgd(0.5)
KEY = jax.random.key(7)


def _batch(rows: int = 4, source: int = 6, target: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Ragged on both sides, with one label ignored inside a row."""
    lengths = [max(target - row, 2) for row in range(rows)]
    labels = np.where(right_mask(lengths, target) == 1, random_ids(seed, rows, target), -100)
    labels[0, 1] = -100
    return {
        "input_ids": random_ids(seed + 1, rows, source),
        "attention_mask": right_mask([max(source - row, 1) for row in range(rows)], source),
        "labels": labels,
    }


def _model(encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None) -> EncoderDecoder:
    """One layer a side, of different widths."""
    return tiny_pair(encoder_config(depth=1, **(encoder or {})), decoder_config(depth=1, **(decoder or {})))


@eqx.filter_jit
def _loss(model: Any, batch: dict[str, Any], **inputs: Any) -> jax.Array:
    """The mean loss, by the public pieces alone."""
    tokens = model.special_tokens
    ids = shift_tokens_right(batch["labels"], tokens.pad_token_id, tokens.decoder_start_token_id)
    logits = model(batch["input_ids"], ids, attention_mask=batch["attention_mask"], **inputs).logits
    total, weight = seq2seq_loss(logits, batch["labels"])
    return total / weight


_loss_and_grads = eqx.filter_jit(eqx.filter_value_and_grad(_loss))


def _with_dropout(rate: float) -> Any:
    return _model({"dropout": rate}, {"dropout": rate})


def _largest_difference(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


def _paths(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_step_is_gradient_descent_on_the_mean_loss_of_the_labels():
    model, batch = _model(), _batch()
    loss, grads = _loss_and_grads(model, batch)
    state, metrics = make_train_step(SGD)(init_train_state(model, SGD), batch, None)
    expected = jax.tree.map(lambda leaf, grad: leaf - 0.5 * grad, model, grads)
    assert _largest_difference(state.model, expected) < SAME_STEP
    np.testing.assert_allclose(metrics["loss"], loss, rtol=SAME_STEP)
    assert float(metrics["tokens"]) == (batch["labels"] != -100).sum()
    norm = np.sqrt(sum(float(jnp.sum(grad**2)) for grad in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=SAME_STEP)
    assert state.step == 1


def test_the_start_token_is_attended_even_if_it_equals_pad():
    """With pad = eos = start, the GPT-2 recipe, a mask from `ids == pad` would hide the start token."""
    model = _model().with_special_tokens(pad_token_id=2, eos_token_id=2, decoder_start_token_id=2)
    batch = _batch()
    _, metrics = make_train_step(SGD)(init_train_state(model, SGD), batch, None)
    np.testing.assert_allclose(metrics["loss"], _loss(model, batch), rtol=SAME_STEP)
    masked = shift_tokens_right(batch["labels"], 2, 2) != 2
    assert abs(float(_loss(model, batch, decoder_attention_mask=masked)) - float(metrics["loss"])) > 1e-3


def test_a_mask_of_the_padding_behind_the_last_label_changes_nothing():
    model, batch = _model(), _batch()
    labelled = np.flip(np.logical_or.accumulate(np.flip(batch["labels"] != -100, 1), axis=1), 1)
    assert not labelled.all()
    np.testing.assert_allclose(_loss(model, batch, decoder_attention_mask=labelled), _loss(model, batch), rtol=1e-6)


def test_every_leaf_that_is_read_gets_a_gradient_and_changes():
    model = _model()
    batch = {**_batch(rows=8), "token_type_ids": random_ids(5, 8, 6, low=0) % 2}
    state = init_train_state(model, SGD)
    carried = _paths(model) - _paths(state.params)
    assert carried == {".encoder.pooler.weight", ".encoder.pooler.bias"}
    before = jax.tree.map(np.asarray, state.params)
    after = make_train_step(SGD)(state, batch, None)[0].params
    same = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
        if np.array_equal(old, new)
    ]
    assert not same


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_what_is_only_carried_is_never_changed_not_even_by_weight_decay(layout):
    positions = PositionsConfig(max_positions=24, use="carried")
    model = _model({"positions": positions}).with_layout(layout)
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    state = init_train_state(model, optimizer)
    state, _ = make_train_step(optimizer)(state, _batch(), None)
    for part in (lambda m: m.encoder.pooler, lambda m: m.encoder.embeddings.positions):
        assert eqx.tree_equal(part(state.model), part(model))
        assert not jax.tree.leaves(part(state.params))
    assert not eqx.tree_equal(state.model.decoder.embeddings.positions, model.decoder.embeddings.positions)


def test_lookups_of_the_padding_row_give_it_no_gradient():
    """As in torch: none from lookups; a tied head still reaches the row through the logits."""
    embeddings = decoder_config().embeddings.__class__(padding_idx=0)
    batch = {**_batch(), "input_ids": np.where(_batch()["attention_mask"] == 1, _batch()["input_ids"], 0)}
    for tied in (False, True):
        config = decoder_config(depth=1, embeddings=embeddings, head=HeadConfig(tied=tied))
        grads = _loss_and_grads(tiny_pair(encoder_config(depth=1), config), batch)[1]
        assert (shift_tokens_right(batch["labels"], 0, 1) == 0).any()
        assert not grads.encoder.embeddings.tokens.weight[0].any()
        assert bool(grads.decoder.embeddings.tokens.weight[0].any()) == tied
        assert grads.decoder.embeddings.tokens.weight[1].any()


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_one_large_batch(parts):
    """Rows have different numbers of labels: a mean of the parts' means would differ."""
    model, batch, optimizer = _model(), _batch(), optax.adamw(1e-2)
    whole, whole_metrics = make_train_step(SGD, label_smoothing=0.1, z_loss=1e-3)(
        init_train_state(model, SGD), batch, None
    )
    step = make_train_step(SGD, label_smoothing=0.1, z_loss=1e-3, accumulate_steps=parts)
    split, split_metrics = step(init_train_state(model, SGD), batch, None)
    assert _largest_difference(split.params, whole.params) < SAME_STEP
    for name in whole_metrics:
        np.testing.assert_allclose(split_metrics[name], whole_metrics[name], rtol=SAME_STEP, err_msg=name)
    with pytest.raises(ValueError, match="accumulate_steps=3"):
        make_train_step(optimizer, accumulate_steps=3)(init_train_state(model, optimizer), batch, None)


def test_a_row_without_labels_weighs_nothing():
    model, batch = _model(), _batch()
    padding = {name: np.full_like(x[:2], -100 if name == "labels" else 0) for name, x in batch.items()}
    padded = {name: np.concatenate([x, padding[name]]) for name, x in batch.items()}
    one, metrics = make_train_step(SGD)(init_train_state(model, SGD), batch, None)
    other, padded_metrics = make_train_step(SGD)(init_train_state(model, SGD), padded, None)
    assert _largest_difference(one.params, other.params) < SAME_STEP
    assert metrics["tokens"] == padded_metrics["tokens"]


def test_a_batch_without_labels_moves_nothing():
    model, batch = _model(), _batch()
    batch["labels"] = np.full_like(batch["labels"], -100)
    state, metrics = make_train_step(SGD)(init_train_state(model, SGD), batch, None)
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 0, "tokens": 0, "grad_norm": 0}
    assert _largest_difference(state.model, model) == 0


def test_bfloat16_computes_on_a_copy_and_keeps_float32_masters():
    model, batch = _model(), _batch()
    optimizer = optax.adamw(1e-3)
    step = make_train_step(optimizer, compute_dtype=jnp.bfloat16, accumulate_steps=2)
    state, metrics = step(init_train_state(model, optimizer), batch, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert metrics["loss"] != _loss(model, batch)
    np.testing.assert_allclose(metrics["loss"], _loss(model, batch), rtol=BF16_LOSS)
    text = step.lower(state, batch, None).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and "tensor<" in line]
    assert sum("bf16" in line for line in products) > len(products) / 2


def test_every_step_and_micro_batch_has_its_own_dropout():
    """Equal rows, equal keys: the losses of two steps that learn nothing differ only if their masks do."""
    model, frozen = _with_dropout(0.5), optax.sgd(0.0)
    one_row = {name: x[:1] for name, x in _batch().items()}
    state, step = init_train_state(model, frozen), make_train_step(frozen)
    state, first = step(state, one_row, KEY)
    state, second = step(state, one_row, KEY)
    assert first["loss"] != second["loss"]
    again = step(init_train_state(model, frozen), one_row, KEY)[1]
    assert again["loss"] == first["loss"]


class _KeyReader(eqx.Module):
    """An encoder that writes down the keys that it is called with."""

    table: jax.Array
    seen: list = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True, default=16)

    def __call__(self, inputs, *, attention_mask=None, position_ids=None, key: Any = None):
        del attention_mask, position_ids
        jax.debug.callback(lambda data: self.seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return EncoderOutput(inputs @ self.table)


class _Seen(list):
    """A list that can stand in a static field."""

    __hash__: Any = object.__hash__


def test_micro_batches_get_different_keys_and_other_encoders_train():
    seen = _Seen()
    decoder = Decoder.init(decoder_config(depth=1), key=KEY)
    model = EncoderDecoder.from_pieces(_KeyReader(jnp.ones((3, 16)), seen), decoder, key=KEY)
    batch = {"input_ids": np.ones((4, 6, 3), np.float32), "labels": _batch()["labels"]}
    state = init_train_state(model, SGD)
    step = make_train_step(SGD, accumulate_steps=2)
    for _ in range(2):
        state, _ = step(state, batch, KEY)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 4
    assert not np.array_equal(state.model.encoder.table, model.encoder.table)


def test_dropout_without_a_key_is_an_error_that_says_what_to_do():
    model = _with_dropout(0.3)
    state = init_train_state(model, SGD)
    with pytest.raises(ValueError, match=r"rate 0.3.*jax.random.key"):
        make_train_step(SGD)(state, _batch(), None)
    make_train_step(SGD)(state, _batch(), KEY)


def test_only_the_state_is_donated():
    model, batch = _model(), jax.tree.map(jnp.asarray, _batch())
    state = init_train_state(model, SGD)
    make_train_step(SGD)(state, batch, None)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.step)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((model, state.frozen, batch)))


def test_equal_shapes_compile_once():
    model, batch, optimizer = _model(), _batch(), optax.adamw(optax.linear_schedule(1e-3, 0.0, 9))
    state, _ = make_train_step(optimizer)(init_train_state(model, optimizer), batch, KEY)
    other_key = jax.random.key(8)  # made here: seeding a key may compile a program of its own
    with counted() as count:
        state, _ = make_train_step(optimizer)(state, _batch(seed=3), KEY)
        state, _ = make_train_step(optimizer)(state, _batch(seed=4), other_key)
    assert count.programs == 0
    with counted() as count:
        make_train_step(optimizer)(state, _batch(target=7), KEY)
    assert count.programs > 0, "the count must see a compilation where there is one"


def test_remat_shrinks_the_memory_of_a_step():
    """That the gradients stay the same is a test of the stack."""
    model = tiny_pair(encoder_config(depth=6), decoder_config(depth=6))
    batch = _batch(rows=16, source=24, target=24)
    temporary = {}
    for remat in (False, True):
        state = init_train_state(model.with_layout("scanned", remat=remat), SGD)
        compiled = make_train_step(SGD).lower(state, batch, None).compile().compiled
        temporary[remat] = compiled.memory_analysis().temp_size_in_bytes
    assert temporary[True] < 0.8 * temporary[False]


def test_a_frozen_part_costs_no_optimiser_state_and_stays():
    model, optimizer = _model(), optax.adamw(0.1)
    everything = trainable(model)
    spec = eqx.tree_at(lambda m: m.encoder, everything, jax.tree.map(lambda _: False, everything.encoder))
    state = init_train_state(model, optimizer, trainable=spec)
    trained = sum(leaf.nbytes for leaf in jax.tree.leaves((model.decoder, model.enc_to_dec_proj)))
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * trained
    state, _ = make_train_step(optimizer)(state, _batch(), None)
    assert eqx.tree_equal(state.model.encoder, model.encoder)
    assert not eqx.tree_equal(state.model.decoder, model.decoder)


def test_half_precision_masters_and_nothing_to_train_are_errors():
    model = _model()
    with pytest.raises(TypeError, match=r"bfloat16 at .*compute_dtype"):
        init_train_state(model.astype(jnp.bfloat16), SGD)
    with pytest.raises(ValueError, match="nothing is trained"):
        init_train_state(model, SGD, trainable=jax.tree.map(lambda _: False, model))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"label_smoothing": 1.5}, ValueError),
        ({"z_loss": -1.0}, ValueError),
        ({"accumulate_steps": 0}, ValueError),
        ({"compute_dtype": jnp.int32}, ValueError),
        ({"compute_dtype": jnp.float16}, NotImplementedError),
    ],
)
def test_options_out_of_range_are_errors(options, error):
    name = next(iter(options))
    with pytest.raises(error, match="float16" if error is NotImplementedError else name):
        make_train_step(SGD, **options)


def _changed(**changes: Any) -> dict[str, Any]:
    return {**_batch(), **changes}


BAD_BATCHES = {
    "a misspelt name": (_changed(decoder_ids=random_ids(0, 4, 5)), ValueError, "did you mean 'decoder_input_ids'"),
    "an unknown name": (_changed(xyz=random_ids(0, 4, 5)), ValueError, "'xyz'"),
    "no labels": ({name: x for name, x in _batch().items() if name != "labels"}, ValueError, "no 'labels'"),
    "no inputs": ({"labels": _batch()["labels"]}, ValueError, "no 'input_ids'"),
    "a list": (_changed(labels=_batch()["labels"].tolist()), TypeError, "np.asarray"),
    "float labels": (_changed(labels=_batch()["labels"].astype(np.float32)), TypeError, "integers"),
    "a float mask": (_changed(attention_mask=np.ones((4, 6))), TypeError, "integers or bools"),
    "a mask of twos": (_changed(attention_mask=np.full((4, 6), 2)), ValueError, "attention_mask"),
    "flat labels": (_changed(labels=_batch()["labels"][0]), TypeError, "batch, target"),
    "fewer rows": (_changed(attention_mask=np.ones((3, 6), int)), ValueError, "numbers of rows"),
    "a label too large": (_changed(labels=np.full((4, 5), VOCAB)), ValueError, f"got {VOCAB}"),
    "a negative label": (_changed(labels=np.full((4, 5), -1)), ValueError, "got -1"),
    "an input id too large": (_changed(input_ids=np.full((4, 6), VOCAB)), ValueError, "input_ids"),
    "-100 as decoder input": (_changed(decoder_input_ids=_batch()["labels"]), ValueError, "shift_tokens_right"),
    "a narrow mask": (_changed(attention_mask=np.ones((4, 5), int)), TypeError, "attention_mask"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_is_an_error_that_names_the_fault(name):
    batch, error, words = BAD_BATCHES[name]
    model = _model()
    with pytest.raises(error, match=words):
        make_train_step(SGD)(init_train_state(model, SGD), batch, None)


def test_a_missing_start_token_is_named():
    model = _model(decoder={"bos_token_id": None})
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        make_train_step(SGD)(init_train_state(model, SGD), _batch(), None)
    batch = _changed(decoder_input_ids=random_ids(0, 4, 5))
    make_train_step(SGD)(init_train_state(model, SGD), batch, None)


def test_the_model_in_place_of_the_state_is_an_error():
    with pytest.raises(TypeError, match="init_train_state"):
        make_train_step(SGD)(_model(), _batch(), None)  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class _Sized:
    config: StackConfig


class _Recorder(eqx.Module):
    """In place of a pair: writes down the names of what it is called with."""

    bias: jax.Array
    names: list = eqx.field(static=True)
    decoder: _Sized = eqx.field(static=True, default=_Sized(decoder_config()))
    special_tokens: SpecialTokens = eqx.field(static=True, default=SpecialTokens())
    encoder: None = None

    def __call__(self, input_ids, decoder_input_ids, *, key, **inputs):
        self.names.extend(["input_ids", "decoder_input_ids", *inputs])
        logits = self.bias[None, None] * jnp.ones((*decoder_input_ids.shape, VOCAB))
        return types.SimpleNamespace(logits=logits)


def test_all_names_of_a_batch_reach_the_model():
    rows, source, target = 2, 6, 5
    batch = {
        **_batch(rows),
        "token_type_ids": random_ids(1, rows, source),
        "position_ids": random_ids(2, rows, source) % source,
        "decoder_input_ids": random_ids(3, rows, target),
        "decoder_attention_mask": right_mask([5, 3], target),
        "decoder_position_ids": random_ids(4, rows, target) % target,
    }
    assert set(batch) == set(KEYS)
    model = _Recorder(jnp.zeros(VOCAB), _Seen())
    make_train_step(SGD)(init_train_state(model, SGD), batch, None)
    assert set(model.names) == set(KEYS) - {"labels"}


def test_the_example_learns_to_spell_backwards(capsys):
    path = Path(__file__).parent.parent.parent / "examples" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main([])
    text = capsys.readouterr().out
    share = float(re.search(r"given those before: ([\d.]+)%", text)[1])  # pyright: ignore[reportOptionalSubscript]
    assert share > 95
    pairs = re.findall(r"  (\w+) -> (\w+)", text)
    assert len(pairs) == 4
    assert sum(said == source[::-1] for source, said in pairs) >= 3
    assert "scores the same: True" in text
