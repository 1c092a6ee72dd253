"""`encdec-eqx verify`: passes where numbers are right, fails where products are rounded, and says what it did."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import cli, verification
from encdec_eqx.layers.linear import Linear
from encdec_eqx.verification import MODELS, Check, build, example_batch, stored_numbers, verify_device

NAME = "bert to gpt2"


@pytest.fixture
def one_model(monkeypatch):
    """Only one of the pairs: another one is another half minute."""
    stored = stored_numbers()
    stored["models"] = {NAME: stored["models"][NAME]}
    monkeypatch.setattr(verification, "stored_numbers", lambda: stored)
    return stored["models"][NAME]


def test_a_right_device_passes(one_model, capsys):
    assert cli.main(["verify"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"device: {jax.devices()[0].platform} (")
    assert f"jax {jax.__version__}; jax_default_matmul_precision: " in told
    assert "float32, highest" in told and "bfloat16" in told and "WRONG" not in told
    assert "passed: 9 checks against torch" in told


def test_a_device_that_rounds_what_it_multiplies_fails(one_model, monkeypatch, capsys):
    plain = Linear.__call__

    def rounded(self, x):
        return plain(self, x.astype(jnp.bfloat16).astype(x.dtype))

    monkeypatch.setattr(Linear, "__call__", rounded)
    anew = eqx.filter_jit(lambda model, batch: verification._compute(model, batch))
    monkeypatch.setattr(verification, "_computed", anew)
    seen: list[Check] = []
    found = verify_device(report=seen.append)
    assert not found.passed and found.checks == tuple(seen)
    wrong = {(check.what, check.setting) for check in found.checks if not check.passed}
    assert ("logits", "float32, highest") in wrong and ("gradient norms", "float32, highest") in wrong
    assert not any(setting == "bfloat16" for _, setting in wrong)
    monkeypatch.setattr(verification, "verify_device", lambda *, report: [report(check) for check in seen] and found)
    assert cli.main(["verify"]) == 1
    told = capsys.readouterr().out
    assert "WRONG" in told and f"FAILED: {len(wrong)} of 9 checks" in told


def test_wrong_ids_are_counted(one_model, monkeypatch):
    one_model["greedy ids"][0][3] += 1
    one_model["loss"] = float("nan")
    failed = {check.what: check.error for check in verify_device().checks if not check.passed}
    assert failed["greedy ids"] == 1
    assert np.isnan(failed["loss"])
    assert set(failed) == {"greedy ids", "loss"}


def test_every_model_is_stored_with_all_its_numbers():
    stored = stored_numbers()["models"]
    assert set(stored) == set(MODELS)
    for numbers in stored.values():
        assert np.shape(numbers["logits"]) == (2, verification.TARGET, 48)
        assert np.shape(numbers["greedy ids"]) == np.shape(numbers["beam ids"]) == (2, 1 + verification.NEW_TOKENS)


def test_weights_are_those_that_were_stored_for_and_the_same_in_bfloat16():
    """The formula may never change: what is stored belongs to it."""
    hashed = [1319716484, 3195426427, 620686515]
    assert verification._hashed("input_ids", 3).tolist() == hashed
    assert example_batch()["input_ids"][0, :3].tolist() == [3 + one % 45 for one in hashed] == [47, 10, 33]
    for name in MODELS:
        for leaf in jax.tree.leaves(build(name)):
            assert leaf.dtype == jnp.float32
            np.testing.assert_array_equal(leaf, leaf.astype(jnp.bfloat16).astype(jnp.float32))
            assert len(np.unique(leaf)) > 1


def test_a_model_that_is_not_there_has_no_table(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 1
    told, error = capsys.readouterr()
    assert "no config.json" in error and "tolerance" not in told


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_torch_a_model_cannot_be_compared(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["verify", "pronounce"]) == 1
    told = capsys.readouterr().err
    assert "comparing a model needs torch and transformers" in told and '[parity]"' in told
