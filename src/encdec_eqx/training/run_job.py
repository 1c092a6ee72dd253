"""A described job: checked before anything is loaded, then carried out: model and data loaded, `fit` called."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from .._installing import install
from ..encoder_decoder import EncoderDecoder
from ..hf.files.hub import named_folder
from ..params.sharding import MeshConfig
from ..text import TokenizerPair
from ..text.open_with_tokenizers import tokenizer_folder
from ..text.tokenizer_files import has_tokenizer
from .callbacks import FitResult
from .data import OnBad, Pairs, PairStream, read_pairs, stream_pairs
from .data.formats import check_format, format_of
from .fitting import fit
from .job import DataSource, ModelSource, TrainJob
from .metrics import NEEDS
from .reporting.run_folder import Output
from .reporting.trackers import PACKAGES
from .toml import speaking_toml
from .training_run import check_settings


def run_job(job: TrainJob, *, console: Any = None) -> FitResult:
    """Carries out a job.

    Args:
        job: What to train, on what, and how.
        console: A `rich.console.Console` for the progress; default: one on stderr.

    Raises:
        ValueError: The job names no model or no data, parts of it do not fit together, or the diagnosis of some
            examples finds errors that the job does not ignore. Advice is in the words of a TOML file.
        FileNotFoundError: Something that it names is not there.
    """
    with speaking_toml():
        check_job(job)
        data, on_bad = job.data, job.data.on_bad_records
        assert data.train_file is not None
        tokenizers = load_tokenizers(job.model)
        pairs = stream_of(data) if data.streaming else pairs_of(data, data.train_file, on_bad)
        held_out = pairs_of(data, data.validation_file, on_bad) if data.validation_file else None
        return fit(
            speaking(load_model(job.model), tokenizers),
            pairs,
            job.train,
            eval_data=held_out,
            tokenizers=tokenizers,
            on_bad_records=on_bad,
            on_diagnosed_errors="report" if data.ignore_diagnosed_errors else "error",
            console=console,
            mesh=mesh_of_job(job),
        )


def mesh_of_job(job: TrainJob) -> Mesh | None:
    """The mesh that a job trains on; None for one device.

    Raises:
        ValueError: There are more or fewer devices.
    """
    return None if job.mesh == MeshConfig() else job.mesh.make()


def load_model(source: ModelSource) -> EncoderDecoder:
    """The model that a job starts from: a saved pair, or two pieces joined, with the job's special tokens."""
    if source.model_name_or_path is not None:
        model = EncoderDecoder.from_pretrained(source.model_name_or_path)
    else:
        assert source.encoder_name_or_path is not None
        assert source.decoder_name_or_path is not None
        model = EncoderDecoder.from_encoder_decoder_pretrained(
            source.encoder_name_or_path, source.decoder_name_or_path, key=jax.random.key(source.model_seed)
        )
    names = ("pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
    given = {name: getattr(source, name) for name in names if getattr(source, name) is not None}
    return model.with_special_tokens(**given) if given else model


def speaking(model: EncoderDecoder, tokenizers: TokenizerPair | None) -> EncoderDecoder:
    """The model, told the language of the tokenizers' targets."""
    return model if tokenizers is None else tokenizers.configure(model)


def load_tokenizers(source: ModelSource) -> TokenizerPair | None:
    """The tokenizers that a job names, or those beside its model; None if there are none: data must be encoded then.

    Raises:
        FileNotFoundError: A tokenizer that is named is not there, or only one of the two can be found.
        ValueError: A language is named, and there is no tokenizer, or one that does not know it.
    """
    tokenizers = _find_tokenizers(source)
    if source.src_lang is None and source.tgt_lang is None:
        return tokenizers
    if tokenizers is None:
        raise ValueError("[model] src_lang and tgt_lang are languages of a tokenizer, and there is none: name one.")
    with _naming("[model] src_lang, tgt_lang"):
        return tokenizers.with_languages(source.src_lang, source.tgt_lang)


def _find_tokenizers(source: ModelSource) -> TokenizerPair | None:
    named = source.source_tokenizer is not None or source.target_tokenizer is not None
    pair = source.model_name_or_path
    if pair is not None and not named:
        folder = tokenizer_folder(pair)
        if has_tokenizer(folder):
            return TokenizerPair.load(folder)
        if named_folder(pair) is not None:
            return None
    encoder = source.source_tokenizer or source.encoder_name_or_path or pair
    decoder = source.target_tokenizer or source.decoder_name_or_path or pair
    assert encoder is not None
    assert decoder is not None
    if not named and _bare_folder(encoder) and _bare_folder(decoder):
        return None
    return TokenizerPair.from_pretrained(encoder, decoder)


def _bare_folder(name: str) -> bool:
    """Whether a piece lies in a folder of this machine, without a tokenizer."""
    return Path(name).is_dir() and not has_tokenizer(Path(name))


def pairs_of(data: DataSource, files: Path | tuple[Path, ...], on_bad: OnBad) -> Pairs:
    """The records of some of a job's files, read as the job says."""
    return read_pairs(
        files, source=data.source_column, target=data.target_column, encoding=data.encoding, on_bad=on_bad
    )


def stream_of(data: DataSource) -> PairStream:
    """The files that a job streams."""
    assert data.train_file is not None
    return stream_pairs(data.train_file, source=data.source_column, target=data.target_column, cache_dir=data.cache_dir)


def check_job(job: TrainJob) -> None:
    """Raises where a run cannot come to its end.

    Raises:
        FileNotFoundError: A file or a folder that the job names is not there.
        ImportError: A package is missing.
        ValueError: Something is not of the kind it should be, or cannot be written to.
    """
    job.check()
    check_sources(job.model, job.data)
    check_settings(job.train, evaluates=job.data.validation_file is not None, mesh=mesh_of_job(job))
    needed = {"matplotlib": "train"} | {NEEDS[name]: "eval" for name in job.train.metrics if name in NEEDS}
    needed |= {PACKAGES[name]: name for name in job.train.report_to}
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"this run needs {package}, which is not installed: {install(extra)}")
    Output.check(job.train)


def check_sources(model: ModelSource, data: DataSource) -> None:
    """Raises where a model, a tokenizer or a file of records that is named is not there.

    Raises:
        FileNotFoundError: It is not there.
        ImportError: It must be fetched from the Hub, and the client is not installed.
        ValueError: It is a folder where a file is wanted, or the other way round.
    """
    if data.streaming and data.train_file:
        with _naming("[data] train_file"):
            stream_of(data)
    for name, file in _files(data):
        if not file.exists():
            raise FileNotFoundError(f"[data] {name}: there is no file {os.fspath(file)!r} (looked from {Path.cwd()}).")
        if file.is_dir():
            raise ValueError(f"[data] {name}: {file} is a folder; give a file of records.")
        with _naming(f"[data] {name}"):
            kind = format_of(file)
        with _naming("[data] encoding"):
            check_format(kind, data.encoding)
    pieces = ("model_name_or_path", "encoder_name_or_path", "decoder_name_or_path")
    for name in (*pieces, "source_tokenizer", "target_tokenizer"):
        path = getattr(model, name)
        if path is not None and (name in pieces or not Path(path).is_file()):
            with _naming(f"[model] {name}"):
                named_folder(path)


def _files(data: DataSource) -> Iterator[tuple[str, Path]]:
    for name in ("validation_file",) if data.streaming else ("train_file", "validation_file"):
        value = getattr(data, name)
        for one in (value,) if isinstance(value, str | os.PathLike) else value or ():
            yield name, Path(one)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the name of a setting in front of an error."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if error.args:
            error.args = (f"{name}: {error.args[0]}",)
        raise
