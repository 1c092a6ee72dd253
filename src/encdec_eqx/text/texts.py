"""Texts and the ids made of them, as lists: checked before they are encoded, counted where cut, batched by length."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from jaxtyping import Int

from .._quoting import quoted
from ..config import StackConfig
from ..encoder import token_config
from ..inputs.tokens import longest

_logger = logging.getLogger("encdec_eqx")


def check_texts(texts: Iterable[Any]) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: they are one string, or no texts; says which, and how many.
        ValueError: one holds half a surrogate pair, which no tokenizer can read.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, got one string; put it into a list.")
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, got {_describe(texts)}.{_hint(texts)}")
    made = list(texts)
    others = [at for at, text in enumerate(made) if not isinstance(text, str)]
    if others:
        first = made[others[0]]
        raise TypeError(
            f"text {others[0]}{_of(others, made)} is {_describe(first)}; expected a string.{_hint(first)}"
            " Texts are counted from 0."
        )
    halves = [at for at, text in enumerate(made) if half_pair(text) is not None]
    if halves:
        first = made[halves[0]]
        raise ValueError(
            f"text {halves[0]}{_of(halves, made)} holds half a surrogate pair at letter {half_pair(first)}: "
            f"{quoted(first)}; expected text that UTF-8 can write. Texts are counted from 0. "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') joins pairs, and marks halves that are "
            "left."
        )
    return made


def check_not_empty(texts: Sequence[str], encoded: Sequence[np.ndarray]) -> None:
    """Refuse texts from which nothing can be generated.

    Raises:
        ValueError: there are none, or one has no ids; says which.
    """
    if not len(encoded):
        raise ValueError("there is nothing to generate from: no texts were given.")
    for index, row in enumerate(encoded):
        if not len(row):
            raise ValueError(f"text {index} is empty: {quoted(texts[index])}.")


def half_pair(text: str) -> int | None:
    """Where a text holds a code point that UTF-8 has no bytes for: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _of(some: list[int], all_of_them: list[Any]) -> str:
    return f" (and {len(some) - 1} more of {len(all_of_them)})" if len(some) > 1 else ""


def _describe(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {quoted(value)}"


def _hint(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return " Decode bytes: text.decode('utf-8')."
    if isinstance(value, list | tuple):
        return " Texts are one flat list."
    if isinstance(value, int | float):
        return " A number is written by str(number)."
    return ""


class Encoded(list[np.ndarray]):
    """int32 ids, one array per text.

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


_REPORTING: ContextVar[bool] = ContextVar("reporting_cuts", default=True)


@contextlib.contextmanager
def cuts_not_reported() -> Iterator[None]:
    """Within it nothing is logged of texts that are cut: where they are counted and reported together."""
    token = _REPORTING.set(False)
    try:
        yield
    finally:
        _REPORTING.reset(token)


def report_cut(what: str, cut: int, of: int, max_length: int | None) -> None:
    """Log how many texts were cut, if any were."""
    if cut and _REPORTING.get():
        _logger.warning("%d of %d %ss are longer than %s tokens and were cut.", cut, of, what, max_length)


def by_length(sources: Sequence[Sequence[int] | np.ndarray], batch_size: int) -> Iterator[Int[np.ndarray, " rows"]]:
    """Indices of the sources, those of similar length together, at most `batch_size` at once."""
    order = np.argsort([len(source) for source in sources], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_rows(chosen: Int[np.ndarray, " rows"], rows: int) -> Int[np.ndarray, " padded"]:
    """The indices, the first one repeated after them up to `rows`: another number of rows is another program."""
    return np.concatenate([chosen, np.repeat(chosen[:1], max(0, rows - len(chosen)))])


def pad_sources(
    sources: Sequence[np.ndarray], pad: int, fields: Sequence[Mapping[str, np.ndarray]] | None = None
) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` of sources, padded on the right to the longest.

    `fields` are of each source what goes with its ids (the same names for all), a mask of its own among it.
    """
    lengths = np.array([len(source) for source in sources])
    real = np.arange(lengths.max()) < lengths[:, None]

    def joined(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
        array = np.full(real.shape, fill, np.int32)
        array[real] = np.concatenate(rows)
        return array

    batch = {"input_ids": joined(sources, pad), "attention_mask": real}
    for name in fields[0] if fields else ():
        field = joined([row[name] for row in fields or ()], 0)
        batch[name] = field.astype(bool) if name == "attention_mask" else field
    return batch


def source_config(model: Any) -> StackConfig | None:
    """The encoder's config, if the encoder says that it takes token ids."""
    return token_config(model.encoder)


def source_limit(model: Any) -> int | None:
    """Most ids of a source that the encoder has positions for, if it takes token ids."""
    config = source_config(model)
    return None if config is None else longest(config, None)


def source_pad(model: Any) -> int:
    """What pads a source. It is masked, so any id will do where the encoder's config names none."""
    config = source_config(model)
    return 0 if config is None else config.pad_token_id or 0
