"""The settings of a run and the file that describes one: ranges, contradictions, unknown names, wrong types."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from encdec_eqx.training.config import TrainConfig
from encdec_eqx.training.job import DataSource, ModelSource, TrainJob, read_job
from encdec_eqx.training.standing import Standing

WRONG = [
    ({"learning_rate": 0.0}, ValueError, "learning_rate must be greater than 0, got 0.0"),
    ({"learning_rate": "1e-4"}, TypeError, "learning_rate must be a number, got '1e-4'"),
    ({"learning_rate": math.nan}, ValueError, "learning_rate must be greater than 0, got nan"),
    ({"max_steps": 2.5}, TypeError, "max_steps must be a whole number, got 2.5"),
    ({"max_steps": True}, TypeError, "max_steps must be a whole number"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"adam_beta2": 1.0}, ValueError, "adam_beta2 must be at least 0 and less than 1"),
    ({"warmup_ratio": 1.5}, ValueError, "warmup_ratio must be at least 0 and at most 1"),
    ({"bf16": 1}, TypeError, "bf16 must be True or False"),
    ({"metrics": "bleu"}, TypeError, "metrics must be a sequence of names"),
    ({"output_dir": 3}, TypeError, "output_dir must be a path"),
    ({"learning_rates": {"encoder": 0}}, ValueError, r"learning_rates\['encoder'\] must be greater than 0"),
    ({"num_train_epochs": 1.0, "max_steps": 5}, ValueError, "num_train_epochs=1.0 and max_steps=5 are both given"),
    ({"per_device_train_batch_size": 8, "tokens_per_batch": 99}, ValueError, "are both given: leave one out"),
    ({"warmup_ratio": 0.1, "warmup_steps": 5}, ValueError, "are both given: leave one out"),
    ({"remat": "keep"}, ValueError, "remat must be one of keep_all, keep_products"),
    ({"lora_rank": 4}, ValueError, "lora_rank would do nothing: set lora"),
    ({"gradient_accumulation_steps": 3}, ValueError, "cannot be split into gradient_accumulation_steps=3"),
    ({"metrics": ("bleu",), "predict_with_generate": False}, ValueError, "predict_with_generate is False"),
    ({"metric_for_best_model": "bleu"}, ValueError, "add it to metrics"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_says_what_is_expected(settings: dict, kind: type, message: str):
    with pytest.raises(kind, match=message):
        TrainConfig(**settings)


def test_defaults_depend_on_what_is_given():
    assert TrainConfig().epochs == 3.0
    assert TrainConfig(max_steps=7).epochs is None
    assert TrainConfig().batch_size == 8
    assert TrainConfig(tokens_per_batch=512).batch_size is None
    assert TrainConfig().best_by == "loss"
    assert TrainConfig(metrics=["rouge1", "bleu"]).best_by == "rouge1"
    assert TrainConfig(metrics=["rouge1"]).generates
    assert not TrainConfig().generates


def test_a_config_is_made_again_from_its_plain_values():
    config = TrainConfig(output_dir="a", metrics=["per"], learning_rates={"decoder": 1e-3}, max_grad_norm=None)
    plain = json.loads(json.dumps(config.to_dict()))
    again = TrainConfig(**plain, max_grad_norm=None)
    assert again == config
    assert dataclasses.replace(config, seed=1) != config


def _job(tmp_path: Path, text: str) -> TrainJob:
    file = tmp_path / "job.toml"
    file.write_text(text)
    return read_job(file)


def test_a_job_is_read_with_numbers_paths_and_lists_as_its_fields_want_them(tmp_path: Path):
    job = _job(
        tmp_path,
        """
        [model]
        encoder_name_or_path = "bert"
        decoder_name_or_path = "gpt2"
        [data]
        train_file = "train.jsonl"
        [train]
        learning_rate = 1
        metrics = ["bleu"]
        remat = "keep_nothing"
        bf16 = true
        learning_rates = {cross_attention = 1e-3}
        """,
    )
    assert job.model == ModelSource(encoder_name_or_path="bert", decoder_name_or_path="gpt2")
    assert job.data == DataSource(train_file=Path("train.jsonl"))
    assert job.train == TrainConfig(
        learning_rate=1.0, metrics=("bleu",), remat="keep_nothing", bf16=True, learning_rates={"cross_attention": 1e-3}
    )
    assert isinstance(job.train.learning_rate, float)
    job.check()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[train]\nlerning_rate = 1", ValueError, r"\[train\] holds 'lerning_rate'.*Did you mean 'learning_rate'"),
        ("[trian]\nseed = 1", ValueError, "holds 'trian'.*Did you mean 'train'"),
        ("[train]\nlearning_rate = 'x'", TypeError, r"\[train\] learning_rate must be float, got 'x'"),
        ("[train]\nmax_steps = 0", ValueError, r"job.toml: \[train\]: max_steps must be at least 1"),
        ("[train]\nresume = 1", TypeError, r"resume must be bool, got 1"),
        ("[data]\non_bad_records = 'skip'", TypeError, "on_bad_records must be .*'error', 'report'.*got 'skip'"),
        ("train = 3", TypeError, "must be a table, got 3"),
        ("[train", ValueError, "is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path: Path, text: str, kind: type, message: str):
    with pytest.raises(kind, match=message):
        _job(tmp_path, text)


def test_a_job_without_model_or_data_says_which_names_to_give():
    with pytest.raises(ValueError, match="no model is named: give model_name_or_path"):
        TrainJob(data=DataSource(train_file=Path("x"))).check()
    with pytest.raises(ValueError, match="no data is named: give train_file"):
        TrainJob(model=ModelSource(model_name_or_path="x")).check()
    with pytest.raises(ValueError, match="names a whole pair"):
        ModelSource(model_name_or_path="x", encoder_name_or_path="y")


def test_patience_runs_out_and_small_gains_do_not_help():
    standing = Standing(metric="loss", greater_is_better=False, threshold=0.1, patience=2)
    for step, (loss, best, waited) in enumerate([(3.0, 3.0, 0), (2.0, 2.0, 0), (1.95, 1.95, 1), (2.5, 1.95, 2)], 1):
        assert not standing.exhausted
        standing = standing.after(step, {"loss": loss, "bleu": 0.0})
        assert (standing.best, standing.waited) == (best, waited)
    assert standing.exhausted
    assert standing.best_step == 3
    fresh = Standing(metric="loss", greater_is_better=False, threshold=0.1, patience=2)
    assert fresh.restored(json.loads(json.dumps(standing.state()))) == standing


def test_more_can_be_better_and_nan_never_is():
    standing = Standing(metric="bleu", greater_is_better=True).after(1, {"bleu": math.nan})
    assert standing.best is None
    standing = standing.after(2, {"bleu": 3.0}).after(3, {"bleu": 2.0}).after(4, {"bleu": math.nan})
    assert (standing.best, standing.best_step, standing.waited) == (3.0, 2, 2)
