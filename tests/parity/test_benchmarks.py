"""The train-step benchmark's two sides, on one checkpoint: they must do the same work."""

import numpy as np
import pytest
import torch
from benchmarks import _checkpoint, _contestants, _jax_side, _jax_training, _sizes, _torch_side, _torch_training
from transformers import EncoderDecoderModel

from tolerances import BENCHMARK_LOSSES

# the decoder's inputs are given, so that no mask is guessed from them
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")

SIDES = {"jax": (_jax_side, _jax_training), "torch": (_torch_side, _torch_training)}
SHAPE = {"batch": 3, "source": 16, "target": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pair")
    size = _sizes.Size(name="mini", layers=2, hidden=8, heads=2)
    EncoderDecoderModel(_checkpoint.configuration(size)).save_pretrained(path)
    return str(path)


@pytest.fixture
def prepared(folder):
    """Loads a contestant's side and prepares it; its module, and what it said."""

    def prepare(name, *, ragged=False):
        contestant = _contestants.CONTESTANTS[name]
        side, training = SIDES[contestant.side]
        side.state |= {"precision": "float32", "device": torch.device("cpu")}
        training.HANDLERS["load"](folder=folder)
        return training, training.prepare_training(**SHAPE, ragged=ragged, **contestant.options)

    return prepare


def _losses(training):
    """The first, and that after two more steps."""
    first = training.warm_up()["loss"]
    assert len(training.steps(settle=1, count=1)["steps"]) == 1
    return [first, training.warm_up()["loss"]]


def test_both_sides_and_recomputation_train_alike(prepared):
    ours = _losses(prepared("ours")[0])
    assert ours[0] > ours[1] > 0
    for name in ("torch", "torch_remat"):
        training, _ = prepared(name)
        np.testing.assert_allclose(_losses(training), ours, rtol=BENCHMARK_LOSSES)
        model = _torch_side.state["model"]
        layers = [*model.encoder.encoder.layer, *model.decoder.transformer.h]
        assert {layer.gradient_checkpointing for layer in layers} == {name == "torch_remat"}
    assert training.memory_of_step()["run_peak"] > 0


def test_both_sides_count_the_same_ragged_tokens(prepared):
    """Of a whole epoch, whatever the batches: every example once, padding and rows without labels never."""
    totals = {}
    for name, state in (("ours", _jax_side.state), ("torch", _torch_side.state)):
        _, about = prepared(name, ragged=True)
        assert 0 < about["padding_share"] < 0.5
        rows, totals[name] = 0, 0
        while rows < 4096:
            batch, tokens = next(state["batches"])
            labelled, read = np.asarray(batch["labels"]) != -100, np.asarray(batch["attention_mask"])
            real = labelled.any(axis=1)
            assert tokens == labelled.sum() + read[real].sum()
            rows, totals[name] = rows + real.sum(), totals[name] + tokens
        assert rows == 4096
    assert totals["ours"] == totals["torch"]


def test_a_padded_torch_batch_is_what_the_model_expects(prepared):
    prepared("torch", ragged=True)
    batch, _ = next(_torch_side.state["batches"])
    labels, inputs = (batch[name].numpy() for name in ("labels", "decoder_input_ids"))
    config = _torch_side.state["model"].config
    assert (inputs[:, 0] == config.decoder_start_token_id).all()
    kept = labels[:, :-1]
    np.testing.assert_array_equal(inputs[:, 1:], np.where(kept == -100, config.pad_token_id, kept))
    assert (labels != -100).any(axis=0).all() and batch["attention_mask"].numpy().any(axis=0).all(), "no idle column"
