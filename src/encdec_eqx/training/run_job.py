"""A described job carried out: the model and its tokenizers are loaded, the data named, and `fit` called.

Knows where models and tokenizers come from; must not know the command line.
"""

from pathlib import Path
from typing import Any

import jax

from ..encoder_decoder import EncoderDecoder
from ..text import TokenizerPair
from .data import OnBad, Pairs, read_pairs
from .fitting import FitResult, fit
from .in_toml import speaking_toml
from .job import DataSource, ModelSource, TrainJob
from .preflight import check_job


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
        pairs = pairs_of(data, data.train_file, on_bad)
        held_out = pairs_of(data, data.validation_file, on_bad) if data.validation_file else None
        return fit(
            load_model(job.model),
            pairs,
            job.train,
            eval_data=held_out,
            tokenizers=tokenizers,
            on_bad_records=on_bad,
            on_diagnosed_errors="report" if data.ignore_diagnosed_errors else "error",
            console=console,
        )


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


def load_tokenizers(source: ModelSource) -> TokenizerPair | None:
    """The tokenizers that a job names, or those beside its model; None if there are none: data must be encoded then.

    Raises:
        FileNotFoundError: A tokenizer that is named is not there, or only one of the two can be found.
    """
    named = source.source_tokenizer is not None or source.target_tokenizer is not None
    pair = source.model_name_or_path
    if pair is not None and not named and Path(pair).is_dir():
        return TokenizerPair.load(pair) if any(Path(pair).glob("*tokenizer.json")) else None
    encoder = source.source_tokenizer or source.encoder_name_or_path or pair
    decoder = source.target_tokenizer or source.decoder_name_or_path or pair
    assert encoder is not None
    assert decoder is not None
    if not named and _bare_folder(encoder) and _bare_folder(decoder):
        return None
    return TokenizerPair.from_pretrained(encoder, decoder)


def _bare_folder(name: str) -> bool:
    """Whether a piece lies in a folder of this machine, without a tokenizer."""
    return Path(name).is_dir() and not (Path(name) / "tokenizer.json").is_file()


def pairs_of(data: DataSource, files: Path | tuple[Path, ...], on_bad: OnBad) -> Pairs:
    """The records of some of a job's files, read as the job says."""
    return read_pairs(
        files, source=data.source_column, target=data.target_column, encoding=data.encoding, on_bad=on_bad
    )
