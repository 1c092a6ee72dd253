"""The page for users of transformers' trainer names every argument of its classes, and only ours on our side."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import DataCollatorForSeq2Seq, GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments

import encdec_eqx
from encdec_eqx.training import TrainConfig, fit
from encdec_eqx.training.job import DataSource

PAGE = Path(__file__).parents[2] / "docs" / "migrating_from_seq2seq_trainer.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
_OURS_ALONE = ("eval_data", "callbacks", "console", "optimizer", "tokenizers", "loss", "data")
THEIRS: dict[str, set[str]] = {
    "Seq2SeqTrainingArguments": {
        field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if not field.name.startswith("_")
    },
    "Seq2SeqTrainer": set(inspect.signature(Seq2SeqTrainer.__init__).parameters) - {"self"},
    "DataCollatorForSeq2Seq": {field.name for field in dataclasses.fields(DataCollatorForSeq2Seq)},
    "GenerationConfig": {name for name in GenerationConfig().to_dict() if not name.startswith("_")},
}


def _section(name: str) -> str:
    (found,) = [section for section in SECTIONS if section.startswith(f"`{name}`")]
    return found


def _columns(name: str) -> tuple[set[str], str]:
    """Names of the first column of a section's table, and the text of the second."""
    rows = [line.split("|")[1:3] for line in _section(name).splitlines() if line.startswith("| `")]
    return {word for first, _ in rows for word in re.findall(r"`(\w+)`", first)}, "\n".join(row[1] for row in rows)


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", ["Seq2SeqTrainingArguments", "Seq2SeqTrainer", "DataCollatorForSeq2Seq"])
def test_the_page_has_every_argument_of_theirs_and_no_other(name: str):
    listed, _ = _columns(name)
    if "**No counterpart.**" in _section(name):
        lost = _section(name).partition("**No counterpart.**")[2]
        lost_names = set(re.findall(r"`(\w+)`", lost)) - {"jax_default_matmul_precision"}
        assert not lost_names & listed
        assert not lost_names & _names(TrainConfig)
        listed |= lost_names
    assert listed == THEIRS[name]


def test_the_page_has_every_option_of_generation_that_is_not_ours():
    listed, _ = _columns("GenerationConfig")
    assert listed == THEIRS["GenerationConfig"] - _names(encdec_eqx.GenerationConfig)


def test_what_is_the_same_here_is_here():
    rows = [line for line in _section("Seq2SeqTrainingArguments").splitlines() if "the same" in line.split("|")[-2:][0]]
    same = {word for line in rows for word in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert len(same) > 25
    assert same <= _names(TrainConfig)


def test_what_the_page_says_of_ours_is_there():
    ours = _names(TrainConfig) | _names(DataSource) | set(inspect.signature(fit).parameters)
    _, said = _columns("Seq2SeqTrainingArguments")
    not_settings = {"encdec_eqx", "on_evaluation", "adamw", "adafactor", "lion", "muon", "sgd"}
    assert set(re.findall(r"`\"?([a-z_0-9]+)\"?`", said)) - not_settings <= ours
    _, said = _columns("Seq2SeqTrainer")
    assert set(re.findall(r"`([a-z_]+)`", said)) - {"key", "on_evaluation"} <= ours
    assert set(_OURS_ALONE) <= set(inspect.signature(fit).parameters)
