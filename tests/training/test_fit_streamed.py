"""`fit` on a stream: the numbers of the same batches held in memory, resumed anywhere, from Python and from TOML."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from encdec_eqx import EncoderDecoder
from encdec_eqx.cli import main
from encdec_eqx.doctor.command import run_doctor
from encdec_eqx.training import Callback, TrainConfig, fit, init_train_state, make_train_step, stream_pairs
from encdec_eqx.training.data import Batches, encode_pairs, read_pairs
from encdec_eqx.training.training_run import prepare
from models import VOCAB, decoder_config, encoder_config, tiny_pair

STEPS = 14
"""Of 10 an epoch."""


def _pair() -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two shards of targets that are their sources backwards."""
    rng = np.random.default_rng(0)
    made = [tmp_path / f"shard-{at}.jsonl" for at in range(2)]
    for file in made:
        sources = [rng.integers(3, VOCAB, rng.integers(2, 7)).tolist() for _ in range(36)]
        file.write_text("".join(json.dumps({"input_ids": ids, "labels": [*ids[::-1], 2]}) + "\n" for ids in sources))
    return made


def _config(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"max_steps": STEPS, "max_shapes": 2, "learning_rate": 1e-2, "logging_steps": 1}
    return TrainConfig(output_dir=folder, **{**settings, **changes})


def _same(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


class _StopAt(Callback):
    def __init__(self, step: int):
        self._step = step

    def on_step(self, event: Any) -> bool:
        return event.step == self._step


def test_a_stream_trains_as_the_same_batches_held_in_memory_do(tmp_path: Path, files: list[Path]):
    model, settings = _pair(), _config(tmp_path / "run")
    result = fit(model, stream_pairs(files), settings)
    ready = prepare(model, stream_pairs(files), settings)
    held = Batches(encode_pairs(read_pairs(files)), batch_size=8, max_shapes=2)
    assert held.shapes == ready.batches.shapes
    step = make_train_step(ready.optimizer)
    state = init_train_state(model.with_layout("scanned"), ready.optimizer)
    losses = []
    for number in range(STEPS):
        epoch, index = divmod(number, len(held))
        plan = ready.batches.epoch(
            epoch
        )  # which says the order: the examples of every batch by their place in the files
        state, metrics = step(state, held.batch(plan.shape(index), plan.indices(index)), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert [line["loss"] for line in result.log if line["event"] == "train"] == losses
    assert _same(result.model, state.model.with_layout("unrolled"))
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| training | 72 | `shard-0.jsonl`, `shard-1.jsonl` |" in card


@pytest.mark.parametrize("stop", [4, 10, 12])
def test_a_run_that_is_resumed_within_an_epoch_ends_with_the_same_bits(tmp_path: Path, files: list[Path], stop: int):
    model, stream = _pair(), stream_pairs(files)
    undisturbed = fit(model, stream, _config(tmp_path / "whole"))
    assert fit(model, stream, _config(tmp_path / "run"), callbacks=[_StopAt(stop)]).ending == "stopped"
    resumed = fit(model, stream, _config(tmp_path / "run", resume=True))
    assert (resumed.step, resumed.ending) == (STEPS, "finished")
    assert _same(resumed.model, undisturbed.model)


def test_other_data_than_before_is_refused(tmp_path: Path, files: list[Path]):
    model = _pair()
    fit(model, stream_pairs(files), _config(tmp_path / "run", max_steps=2, lr_scheduler_type="constant"))
    again = _config(tmp_path / "run", max_steps=3, lr_scheduler_type="constant", resume=True)
    with pytest.raises(ValueError, match=r"examples: 72 streamed examples, .* in the checkpoint, 72 examples"):
        fit(model, files, again)
    text = files[0].read_text()
    files[0].write_text(text.replace("[", "[5, ", 1))
    with pytest.raises(ValueError, match=r"examples: 72 streamed examples, .* now"):
        fit(model, stream_pairs(files), again)
    files[0].write_text(text)
    assert fit(model, stream_pairs(files), again).step == 3


def test_what_is_evaluated_on_is_not_streamed(tmp_path: Path, files: list[Path]):
    with pytest.raises(ValueError, match=r"eval_data is held in memory and cannot be a stream: .* eval_data=\['"):
        fit(_pair(), stream_pairs(files), _config(tmp_path / "run"), eval_data=stream_pairs(files[0]))


def test_ids_that_the_model_has_not_are_bad_records_or_errors(tmp_path: Path, files: list[Path]):
    row = {"input_ids": [4, 5], "labels": [2], "token_type_ids": [0, 7]}
    files[0].write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"what the examples hold beside ids and labels does not fit the model: .*7"):
        fit(_pair(), stream_pairs(files[0]), _config(tmp_path / "run"))
    files[0].write_text(json.dumps({"input_ids": [4, 99], "labels": [2]}) + "\n")
    with pytest.raises(ValueError, match=r"shard-0\.jsonl:1: the source holds the id 99; its vocabulary has 53"):
        fit(_pair(), stream_pairs(files), _config(tmp_path / "run"))
    result = fit(_pair(), stream_pairs(files), _config(tmp_path / "run", max_steps=1), on_bad_records="report")
    assert "| training | 36 |" in (result.output_dir / "model" / "README.md").read_text()


# --- from TOML


def _job(folder: Path, data: str, steps: int = 2) -> Path:
    if not (folder / "pair").exists():
        _pair().save_pretrained(folder / "pair")
    (folder / "job.toml").write_text(
        f'[model]\nmodel_name_or_path = "{folder}/pair"\n[data]\n{data}\n[train]\noutput_dir = "{folder}/run"\n'
        f"max_steps = {steps}\n"
    )
    return folder / "job.toml"


def test_a_job_streams_the_files_that_match(tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]):
    job = _job(tmp_path, f'train_file = ["{tmp_path}/shard-*.jsonl"]\nstreaming = true\ncache_dir = "{tmp_path}/kept"')
    assert main(["train", str(job)]) == 0
    assert "| training | 72 |" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert len(list((tmp_path / "kept").iterdir())) == len(files)
    capsys.readouterr()
    assert run_doctor(job) in (0, 1)
    assert "measured: loss" in capsys.readouterr().out
    assert len(list((tmp_path / "kept").iterdir())) == len(files)  # it used the same indices


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('train_file = "none-*.jsonl"\nstreaming = true', "[data] train_file: no file matches 'none-*.jsonl'"),
        ('train_file = "SHARD"\ncache_dir = "kept"', "[data] cache_dir would do nothing: it is for streaming = true"),
        ('train_file = "SHARD"\nstreaming = true\nencoding = "cp1252"',
         '[data] encoding = "cp1252" cannot be read by streaming = true, which reads UTF-8'),
        ('train_file = "FOLDER/a.csv"\nstreaming = true', "a.csv is CSV; a stream reads JSON Lines"),
        ('train_file = "SHARD"\nstreaming = 1', "streaming must be true or false, got 1"),
    ],
    ids=["nothing matches", "cache_dir alone", "encoding", "csv", "kind"],
)  # fmt: skip
def test_jobs_that_cannot_be_are_told_in_tomls_words(
    tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str], data: str, told: str
):
    (tmp_path / "a.csv").write_text("source,target\na,b\n")
    job = _job(tmp_path, data.replace("SHARD", str(files[0])).replace("FOLDER", str(tmp_path)))
    assert main(["train", str(job)]) != 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
