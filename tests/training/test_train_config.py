"""The settings of a run and the file that describes one: ranges, contradictions, unknown names, wrong types."""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, cast

import pytest

from encdec_eqx.training.job import DataSource, ModelSource, TrainJob, giving_way, read_job
from encdec_eqx.training.reporting.tracking import BestTracker
from encdec_eqx.training.resume.same_run import check_schedule, schedule_of
from encdec_eqx.training.train_config import TrainConfig

WRONG = [
    ({"learning_rate": 0.0}, ValueError, "learning_rate must be greater than 0, got 0.0"),
    ({"learning_rate": "1e-4"}, TypeError, "learning_rate must be a number, got '1e-4'"),
    ({"learning_rate": math.nan}, ValueError, "learning_rate must be greater than 0, got nan"),
    ({"learning_rate": math.inf}, ValueError, r"learning_rate must be at most 3.4e\+38, the largest float32, got inf"),
    ({"learning_rate": 1e300}, ValueError, "the largest float32"),
    ({"learning_rate": 1e-50}, ValueError, "at least 1.18e-38: float32 has nothing between 0 and that, got 1e-50"),
    ({"adam_epsilon": 1e-46}, ValueError, "adam_epsilon must be at least 1.18e-38"),
    ({"num_train_epochs": math.inf}, ValueError, "num_train_epochs must be at most"),
    ({"weight_decay": math.inf}, ValueError, "weight_decay must be at most"),
    ({"per_device_train_batch_size": 10**9}, ValueError, "per_device_train_batch_size must be at most 1048576"),
    ({"tokens_per_batch": 2**31}, ValueError, "tokens_per_batch must be at most 67108864"),
    ({"max_steps": 2**31}, ValueError, "max_steps must be at most 2147483647, got 2147483648"),
    ({"max_steps": 10**500}, ValueError, "max_steps must be at most 2147483647, got a whole number of 1661 bits"),
    ({"adam_beta1": 1 - 1e-12}, ValueError, "adam_beta1 must be at least 0 and less than 1"),
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
    ({"unroll": 0}, ValueError, "unroll must be at least 1, got 0"),
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


def test_lists_of_names_are_kept_as_tuples_and_configs_are_equal_either_way():
    one, other = TrainConfig(metrics=["per", "cer"]), TrainConfig(metrics=("per", "cer"))
    assert one.metrics == ("per", "cer")
    assert one == other


def test_an_option_takes_the_place_of_what_says_the_same_in_another_way():
    job = TrainJob(
        model=ModelSource(model_name_or_path="pair"),
        train=TrainConfig(num_train_epochs=5.0, tokens_per_batch=99, warmup_ratio=0.1),
    )
    assert giving_way(job, {"seed"}) == job
    assert giving_way(job, {"max_steps", "per_device_train_batch_size"}).train == TrainConfig(warmup_ratio=0.1)
    assert giving_way(job, {"warmup_steps"}).train == dataclasses.replace(job.train, warmup_ratio=0.0)
    assert giving_way(job, {"encoder_name_or_path"}).model == ModelSource()
    both = giving_way(job, {"num_train_epochs", "max_steps"})
    assert both == job  # given together, they stay a contradiction
    steps = TrainJob(train=TrainConfig(max_steps=7))
    assert giving_way(steps, {"num_train_epochs"}).train == TrainConfig()


def test_a_config_is_made_again_from_its_plain_values():
    config = TrainConfig(
        output_dir=cast(Any, "a"), metrics=cast(Any, ["per"]), learning_rates={"decoder": 1e-3}, max_grad_norm=None
    )
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
        (
            "[train]\nlearning_rate = 'x'",
            TypeError,
            r"\[train\] learning_rate must be a number, got 'x': write learning_rate = 1e-4",
        ),
        ("[train]\nmax_steps = 0", ValueError, r"job.toml: \[train\]: max_steps must be at least 1"),
        ("[train]\nresume = 1", TypeError, r"resume must be true or false, got 1: write resume = true"),
        (
            "[train]\nmetrics = 'bleu'",
            TypeError,
            r"metrics must be a list, .* got 'bleu': write .* = \[\"bleu\"\]",
        ),
        ("[train]\nmetrics = [3]", TypeError, r"metrics must be a list, each a text in quotes, got \[3\]"),
        ("[train]\nlearning_rates = 1", TypeError, r"learning_rates must be a table, got 1: write .* = \{cross_att"),
        ("[train]\nmax_steps = true", TypeError, r"max_steps must be a whole number, got true"),
        ("[train]\nlearning_rate = [1.0]", TypeError, r"learning_rate must be a number, got \[1.0\]"),
        ("[train]\noutput_dir = 1979-05-27", TypeError, r"output_dir must be a path in quotes, got datetime"),
        ("[train]\nmetrics = ['bleu']\npredict_with_generate = false", ValueError, "predict_with_generate is false"),
        ("[model]\neos_token_id = {a = 1}", TypeError, "eos_token_id must be a whole number, got a table with 'a'"),
        ("[data]\non_bad_records = 'skip'", TypeError, "on_bad_records must be .*'error', 'report'.*got 'skip'"),
        ("train = 3", TypeError, r"\[train\] must be a table, with its names below it; got 3"),
        ("[train", ValueError, "is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path: Path, text: str, kind: type, message: str):
    with pytest.raises(kind, match=message):
        _job(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 50_000 + " = 1",
        "[" + "a." * 50_000 + "a]",
        "[train]\na = " + "[" * 20_000 + "]" * 20_000,
        "[train]\na = " + "{a = " * 20_000 + "1" + "}" * 20_000,
        "\n".join(f"[train.a{'.a' * (at % 900)}]" for at in range(2_000)),
        "# " + "x" * 2**20,
        "[train]\nseed = " + "9" * 100_000,
        '[train]\na = """' + '"' * 500_000,
        "[train]\na = [" + "'''" * 100_000,
        "[train]\n" + "a = {b = '" * 50_000,
        "\n".join(f"train.lora{at}.x = 1" for at in range(20_000)),
        "train = [" + "[], " * 100_000 + "]",
    ],
    ids=lambda text: text[:20],
)
def test_toml_that_would_take_for_ever_is_refused_at_once(tmp_path: Path, text: str):
    start = time.process_time()
    with pytest.raises((ValueError, TypeError), match=r"job\.toml") as caught:
        _job(tmp_path, text)
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 1200  # the known names are listed


def test_limits_of_toml_are_far_from_what_is_of_use(tmp_path: Path):
    text = "[train]\n" + "\n".join(f"# {'a.' * 99} [[[[" for _ in range(99)) + f"\nlora = '{'a.b | ' * 999}a'\n"
    text += "learning_rates = {" + ", ".join(f"'decoder.layers.{at}' = 1.5e-3" for at in range(999)) + "}"
    assert len(_job(tmp_path, text).train.learning_rates) == 999
    assert _job(tmp_path, f'[train]\ntrainable = """{"[a.b.c{" * 99}"""').train.trainable == "[a.b.c{" * 99


def test_paths_that_hold_no_toml_are_sentences(tmp_path: Path):
    with pytest.raises(ValueError, match="is a folder; give a TOML file"):
        read_job(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.toml \(looked from "):
        read_job(tmp_path / "none.toml")


def test_a_job_without_model_or_data_says_which_names_to_give():
    with pytest.raises(ValueError, match="no model is named: give model_name_or_path"):
        TrainJob(data=DataSource(train_file=Path("x"))).check()
    with pytest.raises(ValueError, match="no data is named: give train_file"):
        TrainJob(model=ModelSource(model_name_or_path="x")).check()
    with pytest.raises(ValueError, match="names a whole pair"):
        ModelSource(model_name_or_path="x", encoder_name_or_path="y")


@pytest.mark.parametrize(
    ("shape", "more", "goes_on"),
    [
        ("constant", {}, True),
        ("constant_with_warmup", {"warmup_steps": 3}, True),
        ("inverse_sqrt", {"warmup_steps": 3}, True),
        ("warmup_stable_decay", {"lr_scheduler_kwargs": {"num_decay_steps": 2}}, False),
        ("linear", {}, False),
        ("linear", {"warmup_steps": 3}, False),
        ("cosine", {}, False),
        ("polynomial", {}, False),
        ("constant_with_warmup", {"warmup_ratio": 0.5}, False),
    ],
)
def test_a_run_goes_on_longer_if_the_rates_of_its_steps_do_not_change(shape: str, more: dict, goes_on: bool):
    then, now = (
        schedule_of(TrainConfig(lr_scheduler_type=shape, max_steps=steps, **more), steps) for steps in (10, 20)
    )
    again = json.loads(json.dumps(then))
    check_schedule(again, then, step=10, output_dir=Path("run"))
    with contextlib.nullcontext() if goes_on else pytest.raises(ValueError, match="cannot go on with another schedule"):
        check_schedule(again, now, step=10, output_dir=Path("run"))
    # a warm-up and a plateau of a run that was stopped before its decay are as they would have been
    if shape in ("warmup_stable_decay", "linear") and (more or shape != "linear"):
        check_schedule(again, now, step=3, output_dir=Path("run"))


def test_patience_runs_out_and_small_gains_do_not_help():
    standing = BestTracker(metric="loss", greater_is_better=False, threshold=0.1, patience=2)
    for step, (loss, best, waited) in enumerate([(3.0, 3.0, 0), (2.0, 2.0, 0), (1.95, 1.95, 1), (2.5, 1.95, 2)], 1):
        assert not standing.exhausted
        standing = standing.after(step, {"loss": loss, "bleu": 0.0})
        assert (standing.best, standing.waited) == (best, waited)
    assert standing.exhausted
    assert standing.best_step == 3
    assert standing.best_values == {"loss": 1.95, "bleu": 0.0}
    fresh = BestTracker(metric="loss", greater_is_better=False, threshold=0.1, patience=2)
    assert fresh.restored(json.loads(json.dumps(standing.state()))) == standing


def test_more_can_be_better_and_nan_never_is():
    standing = BestTracker(metric="bleu", greater_is_better=True).after(1, {"bleu": math.nan})
    assert standing.best is None
    standing = standing.after(2, {"bleu": 3.0}).after(3, {"bleu": 2.0}).after(4, {"bleu": math.nan})
    assert (standing.best, standing.best_step, standing.waited) == (3.0, 2, 2)


def test_of_equal_values_the_lower_loss_is_best_then_the_later_step():
    standing = BestTracker(metric="exact_match", greater_is_better=True, patience=9)
    losses = {1: 0.5, 2: 0.7, 3: 0.4, 4: 0.4, 5: math.nan, 6: 0.41}
    expected = {1: 1, 2: 1, 3: 3, 4: 4, 5: 4, 6: 4}
    for step, loss in losses.items():
        standing = standing.after(step, {"loss": loss, "exact_match": 0.0})
        assert standing.best_step == expected[step]
    assert standing.waited == 5  # an equal value is no improvement
    alone = BestTracker(metric="loss", greater_is_better=False).after(1, {"loss": 0.5}).after(2, {"loss": 0.5})
    assert alone.best_step == 2


@pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"])
def test_token_ids_that_no_vocabulary_has_are_refused_before_a_model_is_loaded(name: str):
    for token in (-1, 2**31):
        with pytest.raises(ValueError, match=f"{name} must be at least 0 and below"):
            ModelSource(**dict[str, Any]({name: token}))


def test_model_seeds_beyond_32_bits_are_refused():
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="model_seed must be at least 0 and below"):
            ModelSource(model_seed=seed)
