"""`LoadReport`: what loading a checkpoint did, in a few lines; what is said of attributes that nobody knows."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._quoting import printable, quoted

_logger = logging.getLogger("encdec_eqx")

_SHOWN = 20
_LONGEST_NAME = 60

UNUSED_POOLER = "the pooler (which nothing uses: it is kept for saving)"
"""How a report describes a new pooler, which is nothing to warn of."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoadReport:
    """What was loaded, what is new, and what was left aside and why.

    As a text it is short; `verbose()` names the arrays, too. A model carries its report as a static field, so all
    reports are equal: two models that differ only in where they came from share their compiled functions.

    Attributes:
        source: the folder or Hub id.
        what: the kind of model, in words.
        loaded: names of the checkpoint's tensors that were read.
        loaded_bytes: their size as arrays of the model, in bytes.
        new: arrays that the checkpoint does not have, and how each was made.
        ignored: tensors of the checkpoint that are not used, and why.
        tied: arrays that share another's values: the one without, the one with.
        notes: anything else worth knowing.
        warnings: choices between weights that may not be the ones meant, and how to choose otherwise.
        unknown: attributes of the checkpoint's config that nothing is known of.
        attributes: attributes of the checkpoint's config that the model does not use, as JSON; written back on saving.
    """

    source: str = ""
    what: str = ""
    loaded: tuple[str, ...] = ()
    loaded_bytes: int = 0
    new: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    attributes: str = "{}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadReport)

    def __hash__(self) -> int:
        return hash(LoadReport)

    @property
    def loud(self) -> bool:
        """Whether it has something to warn of: what is used is new, was not understood, or was chosen."""
        return bool(self.unknown or self.warnings) or any(not why.startswith(UNUSED_POOLER) for _, why in self.new)

    def __str__(self) -> str:
        return self._text(_counted)

    def verbose(self) -> str:
        """The same with the names of all arrays and tensors."""
        return self._text(_named)

    def _text(self, grouped: Callable[[Iterable[tuple[str, str]], str], list[str]]) -> str:
        if not self.source and not self.new:
            return "Not loaded from a checkpoint."
        loaded = f"{len(self.loaded)} tensors loaded ({_size(self.loaded_bytes)})"
        lines = [f"{self.what} from {printable(self.source)}: {loaded}."]
        lines += [f"  {not_understood(self.unknown)}"] if self.unknown else []
        lines += [f"  warning: {line}" for line in self.warnings]
        lines += [f"  new: {line}" for line in grouped(self.new, "array")]
        lines += [f"  ignored: {line}" for line in grouped(self.ignored, "tensor")]
        if self.tied:
            example = f", such as {self.tied[0][0]} = {self.tied[0][1]}" if grouped is _named else ""
            lines.append(f"  tied: {_count(len(self.tied), 'array')} of the encoder, to the decoder's{example}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def joined(
    encoder: LoadReport,
    decoder: LoadReport,
    *,
    new: tuple[tuple[str, str], ...] = (),
    notes: tuple[str, ...] = (),
) -> LoadReport:
    """The report of a pair made of two pieces.

    Args:
        encoder: the encoder's report.
        decoder: the decoder's.
        new: what joining them added.
        notes: what is worth knowing of the pair besides.
    """
    named = (("encoder", encoder), ("decoder", decoder))
    return LoadReport(
        source=" and ".join(report.source or "newly initialised weights" for _, report in named),
        what="a pair",
        loaded=tuple(f"{piece}.{name}" for piece, report in named for name in report.loaded),
        loaded_bytes=encoder.loaded_bytes + decoder.loaded_bytes,
        new=tuple((f"{piece}.{name}", why) for piece, report in named for name, why in report.new) + new,
        ignored=tuple((f"{piece}.{name}", why) for piece, report in named for name, why in report.ignored),
        tied=encoder.tied + decoder.tied,
        notes=tuple(f"{piece}: {note}" for piece, report in named for note in report.notes) + notes,
        warnings=tuple(f"{piece}: {line}" for piece, report in named for line in report.warnings),
        unknown=tuple(f"{piece}.{name}" for piece, report in named for name in report.unknown),
    )


def _counted(items: Iterable[tuple[str, str]], noun: str) -> list[str]:
    """One line for all names with the same explanation: how many there are."""
    return [f"{_count(len(names), noun)}: {why}" for why, names in _by_reason(items).items()]


def _named(items: Iterable[tuple[str, str]], noun: str) -> list[str]:
    """The same with the names."""
    return [
        f"{_count(len(names), noun)} ({', '.join(printable(name) for name in names)}): {why}"
        for why, names in _by_reason(items).items()
    ]


def _by_reason(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, why in items:
        groups.setdefault(why, []).append(name)
    return groups


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count = count / 1000  # pyright: ignore[reportAssignmentType]
    return f"{count:.3g} GB"


def not_understood(names: Iterable[str]) -> str:
    """The sentence that a report and a warning say: all names at once."""
    return (
        f"not understood: {_some(printable(name, _LONGEST_NAME) for name in names)}; if it changes numbers, so does "
        "leaving it out (strict_config=True makes this an error)"
    )


def refuse_unknown(place: object, attributes: Mapping[str, Any]) -> None:
    """What `strict_config=True` does.

    Raises:
        ValueError: there are attributes that nothing is known of; it names them all.
    """
    if not attributes:
        return
    named = (f"{printable(name, _LONGEST_NAME)} = {quoted(value)}" for name, value in attributes.items())
    raise ValueError(
        f"{printable(str(place))}: not understood: {_some(named)}. strict_config=True makes this an error: without it "
        "they are left out, and saved again. Or remove them from the config, if they change no number."
    )


def warn_of_unknown(place: object, attributes: Mapping[str, Any], *, strict: bool) -> None:
    """Refuse the attributes, or name them all in one warning.

    Raises:
        ValueError: `strict`, and there are any.
    """
    if strict:
        refuse_unknown(place, attributes)
    if attributes:
        _logger.warning("%s: %s", printable(str(place)), not_understood(attributes))


def _some(items: Iterable[str]) -> str:
    found = list(items)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
