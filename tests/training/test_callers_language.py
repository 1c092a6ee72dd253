"""Errors in the words of who reads them: a TOML file's for its author, a command's options for who typed them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from encdec_eqx.cli import main
from encdec_eqx.training.job import TrainJob, read_job
from encdec_eqx.training.toml import in_toml, speaking_of_options, translated

FIELDS = [
    (table, field.name)
    for table in ("model", "data", "train")
    for field in dataclasses.fields(getattr(TrainJob(), table))
]
WRONG: tuple[Any, ...] = (True, -1, 10**12, 1.5, "x", [1], {"a": 1}, [], 0, -0.5, 1e300)
PYTHON = re.compile(r"\w=[^=\s]|\bTrue\b|\bFalse\b|\bNone\b|\w\(\w|Config\b|Source\b")


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_written(one)}' for name, one in value.items())}}}"
    return f'"{value}"' if isinstance(value, str) else in_toml(value)


@pytest.mark.parametrize(("table", "name"), FIELDS)
def test_a_wrong_value_is_named_as_the_file_has_it(tmp_path: Path, table: str, name: str):
    refused = 0
    for value in WRONG:
        (tmp_path / "job.toml").write_text(f"[{table}]\n{name} = {_written(value)}\n")
        try:
            read_job(tmp_path / "job.toml")
        except (ValueError, TypeError) as error:
            refused += 1
            said = str(error).removeprefix(str(tmp_path))
            assert f"[{table}]" in said
            assert re.search(rf"(?<!\w){name}(?!\w)", said) or "there is no metric" in said, said
            assert not PYTHON.search(said), said
    assert refused


@pytest.mark.parametrize(("table", "name"), FIELDS)
def test_python_s_words_for_a_setting_become_the_file_s_or_the_option_s(table: str, name: str):
    option = f"--{name.replace('_', '-')}"
    assert translated(f"{name} must be at least 1, got 0.") == f"[{table}] {name} must be at least 1, got 0."
    assert translated(f"lower {name}=3 to 2") == f"lower [{table}] {name} = 3 to 2"
    assert translated(f"job.toml: [{table}]: {name} must be true") == f"job.toml: [{table}]: {name} must be true"
    assert translated(f"runs/{name}/x and {option} stay") == f"runs/{name}/x and {option} stay"
    with speaking_of_options({name}):
        assert translated(f"{name} must be at least 1, got 0.") == f"{option} must be at least 1, got 0."
        assert translated(f"lower {name}=3 to 2") == f"lower {option} 3 to 2"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--learning-rate", "-1"], "--learning-rate must be greater than 0, got -1.0."),
        (["--max-steps", "2", "--num-train-epochs", "3"], "--num-train-epochs 3.0 and --max-steps 2 are both given"),
        (["--pad-token-id", "-1"], "--pad-token-id must be at least 0"),
    ],
)
def test_who_typed_an_option_is_told_of_an_option(words: list[str], told: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(["train", *words])
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in said
    assert words[0].removeprefix("--").replace("-", "_") not in said


def test_without_a_file_nothing_is_said_of_tables(capsys: pytest.CaptureFixture):
    assert main(["train"]) == 1
    told = capsys.readouterr().err
    assert "give --model-name-or-path (a saved pair), or both --encoder-name-or-path and --decoder-name-or-path" in told


def test_an_option_beside_a_file_is_told_apart_from_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "pair").mkdir()
    (tmp_path / "train.jsonl").write_text('{"input_ids": [3], "labels": [2]}\n')
    pair, data = f'model_name_or_path = "{tmp_path / "pair"}"', f'train_file = "{tmp_path / "train.jsonl"}"'
    (tmp_path / "job.toml").write_text(f"[model]\n{pair}\n[data]\n{data}\n[train]\neval_steps = 3\n")
    job = str(tmp_path / "job.toml")
    assert main(["train", job]) == 1
    assert "[train] eval_steps would do nothing" in capsys.readouterr().err
    assert main(["train", job, "--eval-steps", "4"]) == 1
    assert "--eval-steps would do nothing" in capsys.readouterr().err
