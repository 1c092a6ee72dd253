"""Examples for a model, from whatever they were given as: paths, pairs, any iterable, or examples."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..decoder import Decoder
from ..encoder import token_config
from ..encoder_decoder import EncoderDecoder
from ..inputs.tokens import longest
from ..text import TokenizerPair
from .batch import MASKS, fitting
from .data import (
    Example,
    Examples,
    OnBad,
    Pairs,
    PairStream,
    StreamedExamples,
    encode_pairs,
    encode_stream,
    pairs_from,
    read_pairs,
)
from .data.streams import fields_seen
from .train_config import TrainConfig


def examples_for(
    model: EncoderDecoder, data: Any, config: TrainConfig, tokenizers: TokenizerPair | None, on_bad: OnBad
) -> Examples:
    """Examples for the model, checked against it and cut to what it can read; examples are taken as they are.

    Raises:
        BadRecordsError: There are records that cannot be used.
        ValueError: There is nothing to read, or text and no tokenizers, or segments or positions that the model has
            not.
    """
    examples = _examples(model, data, config, tokenizers, on_bad)
    _check_fields({name: rows.ids[None] for name, rows in examples.fields.items()}, model)
    return examples


def streamed_examples_for(
    model: EncoderDecoder, data: PairStream, config: TrainConfig, tokenizers: TokenizerPair | None, on_bad: OnBad
) -> StreamedExamples:
    """The same of a stream, whose files are indexed for it."""
    examples = encode_stream(data, tokenizers, **how_encoded(model, config), on_bad=on_bad)
    _check_fields(fields_seen(examples), model)
    return examples


def _check_fields(fields: Mapping[str, np.ndarray], model: EncoderDecoder) -> None:
    try:
        fitting({name: values for name, values in fields.items() if name not in MASKS}, model)
    except ValueError as error:
        raise ValueError(f"what the examples hold beside ids and labels does not fit the model: {error}") from None


def how_encoded(model: EncoderDecoder, config: TrainConfig) -> dict[str, Any]:
    """What decides which ids become of a record."""
    source = token_config(model.encoder)
    return {
        "max_source_length": config.max_source_length or _limit(model.encoder),
        "max_target_length": config.max_target_length or _limit(model.decoder),
        "vocab_sizes": (
            np.iinfo(np.int32).max if source is None else source.vocab_size,
            model.decoder.config.vocab_size,
        ),
    }


def _examples(
    model: EncoderDecoder, data: Any, config: TrainConfig, tokenizers: TokenizerPair | None, on_bad: OnBad
) -> Examples:
    if isinstance(data, Examples):
        return data
    if _all_are(Example, data):
        return Examples.of(data)
    if isinstance(data, Pairs):
        pairs = data
    elif isinstance(data, str | os.PathLike) or _all_are(str | os.PathLike, data):
        pairs = read_pairs(data, on_bad=on_bad)
    else:
        pairs = pairs_from(data, on_bad=on_bad)
    return encode_pairs(pairs, tokenizers, **how_encoded(model, config), on_bad=on_bad)


def _all_are(kind: Any, data: Any) -> bool:
    return isinstance(data, Sequence) and bool(data) and all(isinstance(one, kind) for one in data)


def _limit(piece: Any) -> int | None:
    """The longest sequence that a piece of the library has positions for."""
    config = piece.config if isinstance(piece, Decoder) else token_config(piece)
    return None if config is None else longest(config, None)


def digest(examples: Examples | StreamedExamples, *, references: bool = False) -> str:
    """A few characters that change with any id of any example and any number that goes with one (masks, positions).

    And with the texts that metrics compare to, if asked.
    """
    if isinstance(examples, StreamedExamples):
        return f"{len(examples)} streamed examples, {examples.digest}"
    hashed = hashlib.sha256()
    if references:
        hashed.update(repr([example.targets for example in examples]).encode())
    for name, rows in (("", examples.inputs), ("", examples.labels), *examples.fields.items()):
        hashed.update(name.encode())
        hashed.update(rows.ids.tobytes())
        hashed.update(rows.offsets.tobytes())
    return f"{len(examples)} examples, {hashed.hexdigest()[:16]}"
