"""Encoded texts, and which of them were cut. Knows no tokenizer."""

import logging
from collections.abc import Iterable, Mapping

import numpy as np

_logger = logging.getLogger("encdec_eqx")


class Encoded(list[np.ndarray]):
    """int32 ids, one array a text.

    Attributes:
        truncated: indices of the texts that were cut.
        bad: indices of the texts that cannot be encoded, and why; their ids are empty.
    """

    def __init__(
        self, ids: Iterable[np.ndarray], truncated: tuple[int, ...] = (), bad: Mapping[int, str] | None = None
    ):
        super().__init__(ids)
        self.truncated = truncated
        self.bad = dict(bad or {})


def report_cut(what: str, cut: int, of: int, max_length: int | None) -> None:
    """Log how many texts were cut, if any were."""
    if cut:
        _logger.warning("%d of %d %ss are longer than %s tokens and were cut.", cut, of, what, max_length)
