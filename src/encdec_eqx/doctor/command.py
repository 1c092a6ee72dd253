"""The body of `encdec-eqx doctor`: diagnoses a saved model or a described run on some of its data."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..encoder_decoder import EncoderDecoder
from ..inputs.tokens import longest
from ..text import TokenizerPair
from ..text.texts import source_limit, source_pad
from ..training.data import Example, encode_pairs, encode_stream
from ..training.data.batches import from_all_over, sample
from ..training.data.records import Pairs
from ..training.job import ModelSource, TrainJob, read_job
from ..training.model_examples import how_encoded
from ..training.optim.optimizer import make_optimizer
from ..training.run_job import check_sources, load_model, load_tokenizers, pairs_of, speaking, stream_of
from ..training.toml import speaking_toml
from ..training.train_config import check_learning_rate
from .checks import diagnose
from .finding import show

_ROWS = 64


def run_doctor(
    path: str | Path,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    learning_rate: float | None = None,
    console: Any = None,
) -> int:
    """Diagnoses a saved pair, or the run that a TOML file describes, before its first step; prints what was found.

    Args:
        path: the folder (or Hub id) of a saved pair, or a `config.toml` as `encdec-eqx train` reads.
        data: pairs to look at, a file or several: JSONL, JSON, CSV, TSV or Parquet. Default: the training file of the
            TOML; without any data, the model's arrays and special tokens alone are looked at.
        source_column: name of the source in each record; default "source", or what the TOML says.
        target_column: name of the target in each record.
        learning_rate: highest rate of the schedule, to be tried; default: what the TOML says.
        console: a `rich.console.Console`; default: one on stdout.

    Returns:
        The exit status: 1 if there is an error among the findings, else 0.

    Raises:
        FileNotFoundError: something that is named is not there.
        ValueError: a file cannot be read, or no record can be used; or a rate is out of range, or was given without
            data to try it on.
        ImportError: rich is not installed.
    """
    if learning_rate is not None:
        check_learning_rate(learning_rate)
    described = Path(path).suffix == ".toml"
    with speaking_toml(speaking=described):
        job = _job(path, data, source_column, target_column)
        if learning_rate is not None and job.data.train_file is None:
            raise ValueError("learning_rate is tried on data, and none was given: add data=... (--data FILE).")
        check_sources(job.model, job.data)
        tokenizers = load_tokenizers(job.model)
        model = speaking(load_model(job.model), tokenizers)
        examples = None if job.data.train_file is None else _examples(model, tokenizers, job)
        few, batch = ([], None) if examples is None else sample(examples, _ROWS, source_pad(model))
        # the run's own, at the highest rate of its schedule
        tried = described and learning_rate is None and batch is not None
        optimizer = make_optimizer(job.train.at_constant_rate(), num_training_steps=1) if tried else None
        diagnosis = diagnose(
            model,
            batch,
            tokenizers=tokenizers,
            targets=[one.targets[0] for one in few if one.targets] if tokenizers is not None else None,
            optimizer=optimizer,
            learning_rate=learning_rate,
            trainable=job.train.trainable,
        )
        show(diagnosis, console)
    return 1 if diagnosis.of("error") else 0


def _job(path: str | Path, data: Any, source_column: str | None, target_column: str | None) -> TrainJob:
    """What is to be looked at, as a described run; options win over the file."""
    job = read_job(path) if Path(path).suffix == ".toml" else TrainJob(model=ModelSource(model_name_or_path=str(path)))
    job.model.check()
    files = (data,) if isinstance(data, str | os.PathLike) else data
    given: dict[str, Any] = {"train_file": tuple(map(Path, files)) if files else None}
    given |= {"source_column": source_column, "target_column": target_column}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(job, data=dataclasses.replace(job.data, **changes))


def _examples(model: EncoderDecoder, tokenizers: TokenizerPair | None, job: TrainJob) -> Sequence[Example] | None:
    """Records from all over the file; None if the tokenizers do not fit the model, which is a finding of its own."""
    data = job.data
    assert data.train_file is not None
    pairs = None if data.streaming else pairs_of(data, data.train_file, "report")
    try:
        fitting = None if tokenizers is None else tokenizers.for_model(model)
    except ValueError:
        return None
    if pairs is None:
        # as a run has it, whose index this is then
        return encode_stream(stream_of(data), fitting, **how_encoded(model, job.train), on_bad="report")
    return encode_pairs(
        Pairs([pairs[at] for at in from_all_over(len(pairs), _ROWS)], pairs.bad),
        fitting,
        max_source_length=job.train.max_source_length or source_limit(model),
        max_target_length=job.train.max_target_length or longest(model.decoder.config, None),
        on_bad="report",
    )
