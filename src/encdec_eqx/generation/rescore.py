"""Scores of given sequences: checked, padded, one pass, counted. Knows no search."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..config import StackConfig
from ..inputs.tokens import longest
from . import checks, retrace
from .buckets import bucket
from .loop import DecoderStep
from .prompt import PositionRule
from .retrace import Rescored, Sequences
from .source import Source


def rescore(
    decoder: DecoderStep,
    config: StackConfig,
    project: Callable | None,
    source: Source,
    sequences: Any,
    prompt_mask: Any,
    *,
    prompt_length: int,
    eos_ids: tuple[int, ...],
    length_penalty: float,
) -> Rescored:
    """Log-probabilities of sequences; `EncoderDecoder.rescore` documents the arguments.

    Raises:
        TypeError: for a wrong shape or dtype.
        ValueError: for ids out of range, rows that are no multiple of the batch, or nothing to score.
    """
    ids = checks.ids("sequences", sequences, below=config.vocab_size, table="the decoder's token table")
    rows, width = ids.shape
    if rows % source.batch:
        raise ValueError(
            f"sequences have {rows} rows for {source.batch} sentences; expected a multiple, a sentence's rows side by "
            "side."
        )
    if not 1 <= prompt_length < width:
        raise ValueError(
            f"prompt_length is {prompt_length} and the sequences have {width} columns: there is nothing to score. It "
            "counts the start token or prompt, which is given."
        )
    most = longest(config, None)
    checks.length("sequences (but for the last token)", width - 1, longest=most, how="Leave longer ones out.")
    real = np.ones((rows, prompt_length), bool)
    if prompt_mask is not None:
        real = checks.mask("decoder_attention_mask", prompt_mask, shape=(rows, prompt_length), of="the prompts")
    given = Sequences(ids, real, prompt_length, rows // source.batch, bucket(source.batch))
    encoded = source.encode()
    shares = retrace.log_probs(decoder, project, encoded.states, encoded.mask, given, PositionRule.of(config))
    return retrace.counted(shares, ids[:, prompt_length:], eos_ids, length_penalty)
