"""What is easily wrong with large batches: means of means, masks that repeat, rows that move, records that are lost."""

from collections import Counter

import collectives
import jax
import numpy as np
import optax
import pytest

from encdec_eqx import AttentionConfig, FeedForwardConfig, init_train_state, make_mesh, make_train_step, with_mesh
from encdec_eqx.params.sharding import shard_batch
from encdec_eqx.training.data import Batches, Example
from encdec_eqx.training.evaluation import generate_ids, mean_loss
from encdec_eqx.training.rows_on_mesh import RowsOnMesh
from encdec_eqx.training.step import _split
from models import decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import ON_A_MESH

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
SGD = optax.sgd(0.1)
ROWS, SOURCE, TARGET = 16, 12, 9


def pair_with(dropout):
    attention = AttentionConfig(num_heads=8, head_dim=4, dropout=dropout)
    wide = FeedForwardConfig(size=64, dropout=dropout)
    encoder = encoder_config(32, attention=attention, feed_forward=wide)
    return tiny_pair(encoder, decoder_config(32, depth=2, attention=attention, feed_forward=wide)).with_layout(
        "scanned"
    )


@pytest.fixture(scope="module")
def pair():
    return pair_with(0.1)


@pytest.fixture(scope="module")
def batch():
    """Rows of one label beside full ones, and devices and micro-batches that have hardly any."""
    lengths = [9, 9, 9, 9, 1, 1, 1, 1, 0, 0, 0, 1, 9, 1, 0, 2]
    return {
        "input_ids": random_ids(0, ROWS, SOURCE),
        "attention_mask": right_mask([1 + length for length in lengths], SOURCE),
        "labels": np.where(right_mask(lengths, TARGET), random_ids(1, ROWS, TARGET), -100),
    }


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_is_divided_once_by_all_labels(pair, batch, sizes, parts):
    """Without dropout, as each micro-batch draws its own, so that the whole batch on one device is what to equal."""
    plain = pair_with(0.0)
    state, metrics = make_train_step(SGD)(init_train_state(plain, SGD), batch, None)
    mesh = make_mesh(*sizes)
    spread = init_train_state(with_mesh(plain, mesh), SGD)
    mine, found = make_train_step(SGD, accumulate_steps=parts)(spread, shard_batch(batch, mesh), None)
    assert metrics["tokens"] == found["tokens"] == 53
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(found[name], metrics[name], rtol=ON_A_MESH)
    for one, other in zip(jax.tree.leaves(mine.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=ON_A_MESH, rtol=0)
    # a mean of the rows' means would be another number
    means = [float(plain_loss(plain, batch, row)) for row in range(ROWS) if (batch["labels"][row] >= 0).any()]
    assert abs(np.mean(means) - metrics["loss"]) > 100 * ON_A_MESH


def plain_loss(model, batch, row):
    one = {name: value[row : row + 1] for name, value in batch.items()}
    return mean_loss(model, [one])


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_each_row_draws_dropout_of_its_own_as_on_one_device(pair, sizes):
    """All rows are the same, so that nothing but their masks can make them differ."""
    ids = np.repeat(random_ids(0, 1, SOURCE), ROWS, axis=0)
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :TARGET]}
    run = jax.jit(lambda model, given: model(**given, key=jax.random.key(5)).logits)
    mesh = make_mesh(*sizes)
    mine, theirs = run(with_mesh(pair, mesh), shard_batch(given, mesh)), run(pair, given)
    np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH, rtol=0)
    rows = np.asarray(mine).reshape(ROWS, -1)
    for one in range(ROWS):
        for other in range(one):
            assert np.abs(rows[one] - rows[other]).max() > 100 * ON_A_MESH
    plain = np.asarray(run(pair_with(0.0), given)).reshape(ROWS, -1)
    assert np.abs(plain - plain[:1]).max() <= ON_A_MESH


@pytest.mark.parametrize("number", [1, 5, 13])
def test_an_evaluation_neither_drops_nor_repeats_a_record(number):
    """The batch size and the number of records are multiples of nothing."""
    plain = pair_with(0.0)
    mesh = make_mesh(4, 2)
    spread, rows = with_mesh(plain, mesh), RowsOnMesh(mesh)
    random = np.random.default_rng(number)

    def ids(most):
        return random.integers(4, 40, random.integers(1, most)).astype(np.int32)

    examples = [Example(input_ids=ids(9), labels=ids(7)) for _ in range(number)]
    batches = Batches(examples, batch_size=rows.filled(3), max_shapes=1, shuffle=False)
    seen = [at for one in range(len(batches)) for at in batches.epoch(0).indices(one)]
    assert sorted(seen) == list(range(number))
    mine = mean_loss(spread, batches.epoch(0), rows=rows)
    labels = sum(len(one.labels) for one in examples)
    alone = sum(
        mean_loss(plain, Batches([one], batch_size=1, source_lengths=[9], target_lengths=[7]).epoch(0))
        * len(one.labels)
        for one in examples
    )
    np.testing.assert_allclose(mine, alone / labels, rtol=ON_A_MESH)
    unrolled = [model.with_layout("unrolled") for model in (spread, plain)]
    sources = [one.input_ids for one in examples]
    said = generate_ids(unrolled[0], sources, batch_size=3, max_new_tokens=4, rows=rows)
    assert said == generate_ids(unrolled[1], sources, batch_size=3, max_new_tokens=4)
    assert len(said) == number


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_micro_batches_are_cut_without_moving_rows(pair, batch, sizes):
    """A step of two parts moves what a step of one does, which where each device has the whole model is nothing."""
    mesh = make_mesh(*sizes)
    given = shard_batch({name: np.concatenate([rows, rows]) for name, rows in batch.items()}, mesh)
    state = init_train_state(with_mesh(pair, mesh), SGD)
    moved = []
    for parts in (1, 2):
        step = make_train_step(SGD, accumulate_steps=parts)
        text = step.lower(state, given, jax.random.key(0)).compile().compiled.as_text()
        kinds = Counter()
        for what, number in collectives.in_program(text).items():
            kinds[what.split()[0]] += number
        assert kinds["all-reduce"] > 0
        moved.append({kind: number for kind, number in kinds.items() if kind != "all-reduce"})
    assert moved[0] == moved[1]
    assert sizes[0] < 8 or not moved[0]


def test_the_cut_itself_sends_nothing_where_one_in_rows_would():
    rows = shard_batch({"ids": random_ids(0, ROWS, SOURCE)}, make_mesh(4, 2))["ids"]

    def in_a_loop(cut):
        def body(part):
            return jax.lax.with_sharding_constraint(part, rows.sharding)

        text = jax.jit(lambda x: jax.lax.map(body, cut(x))).lower(rows).compile().as_text() or ""
        return collectives.in_program(text)

    assert not in_a_loop(lambda x: _split(x, 2))
    assert in_a_loop(lambda x: x.reshape(2, ROWS // 2, SOURCE))
