"""What loading a checkpoint did, in a few lines, and what was chosen where a folder or a file holds two of a thing."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._quoting import LONGEST, printable, quoted
from .files.folder import CONFIG, FLAX_WEIGHTS, INDEX, WEIGHTS, Tensors, shard_names

_logger = logging.getLogger("encdec_eqx")

_SHOWN = 20
_LONGEST_NAME = 60

UNUSED_POOLER = "the pooler (which nothing uses: it is kept for saving)"
"""How a report describes a new pooler, which is nothing to warn of."""

_OTHERS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
"""Weights of formats that are not read, and adapters of PEFT, which a model beside them does without."""


@dataclasses.dataclass
class Loaded:
    """What `load` did, for the report.

    Attributes:
        names: the checkpoint's tensors that were read.
        nbytes: bytes of the arrays made of them.
        new: arrays that are new and the group they belong to.
        ignored: tensors left aside, and why.
        notes: anything else worth knowing.
        dropped: tensors left aside for others that differ from them, the others, and the attribute of the config that
            ties the two.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    nbytes: int = 0
    new: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    ignored: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    dropped: list[tuple[str, str, str | None]] = dataclasses.field(default_factory=list)


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
        return self._text(named=False)

    def verbose(self) -> str:
        """The same with the names of all arrays and tensors."""
        return self._text(named=True)

    def _text(self, *, named: bool) -> str:
        if not self.source and not self.new:
            return "Not loaded from a checkpoint."
        loaded = f"{len(self.loaded)} tensors loaded ({size_in_words(self.loaded_bytes)})"
        lines = [f"{self.what} from {printable(self.source)}: {loaded}."]
        lines += [f"  {not_understood(self.unknown)}"] if self.unknown else []
        lines += [f"  warning: {line}" for line in self.warnings]
        lines += [f"  new: {line}" for line in by_reason(self.new, "array", named=named)]
        lines += [f"  ignored: {line}" for line in by_reason(self.ignored, "tensor", named=named)]
        if self.tied:
            example = f", such as {self.tied[0][0]} = {self.tied[0][1]}" if named else ""
            lines.append(f"  tied: {_count(len(self.tied), 'array')} of the encoder, to the decoder's{example}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def join_reports(
    encoder: LoadReport, decoder: LoadReport, *, new: tuple[tuple[str, str], ...] = (), notes: tuple[str, ...] = ()
) -> LoadReport:
    """The report of a pair made of two pieces: theirs, what is new by joining them, and notes on the pair."""
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


def choices(folder: Path, tensors: Tensors, loaded: Loaded, *, argument: bool) -> tuple[str, ...]:
    """What was chosen where a folder or a file holds two of a thing, and how to choose otherwise.

    `argument` says whether attributes of the config are arguments of `from_pretrained`.
    """
    told = [text] if (text := _other_sets(folder, tensors.path)) is not None else []
    by_setting: dict[str | None, list[tuple[str, str]]] = {}
    for name, original, setting in loaded.dropped:
        by_setting.setdefault(setting, []).append((name, original))
    for setting, pairs in by_setting.items():
        name, original = (printable(text, LONGEST) for text in pairs[0])
        names = name if len(pairs) == 1 else f"{name} and {len(pairs) - 1} more tensors"
        how = "as in transformers"
        if setting is not None:
            *inside, attribute = setting.split(".")
            under = "".join(f" under {part!r}" for part in inside)
            how = f"because {attribute} is true; to use what is left out, set {attribute} to false{under} in {CONFIG}"
            how += f", or pass {attribute}=False" if argument else ""
        told.append(f"left out {names}: the values differ from those of {original}, which are used, {how}")
    return tuple(told)


def _other_sets(folder: Path, chosen: Path) -> str | None:
    """What is to be said of the weights that lie beside those that are read, or None if there are none.

    Which are read is transformers' choice (4.57): `model.safetensors`, then shards with an index, then other formats.
    """
    found = [name for name in (WEIGHTS, FLAX_WEIGHTS, *_OTHERS) if (folder / name).is_file() and name != chosen.name]
    if chosen.name != INDEX and (folder / INDEX).is_file():
        shards = shard_names(folder / INDEX)
        if shards and all((folder / name).is_file() for name in shards):
            found.insert(0, f"{INDEX} with its {len(shards)} shards")
    if not found:
        return None
    return (
        f"{', '.join(found)} {'lies' if len(found) == 1 else 'lie'} beside {chosen.name}, which is the one that was "
        f"read (transformers chooses the same). If it is not the newest, move it out of {printable(folder)} and load "
        "again"
    )


def by_reason(items: Iterable[tuple[str, str]], noun: str, *, named: bool) -> Iterator[str]:
    """One line for all names with the same explanation: how many there are, and which."""
    groups: dict[str, list[str]] = {}
    for name, why in items:
        groups.setdefault(why, []).append(name)
    for why, names in groups.items():
        which = f" ({', '.join(map(printable, names))})" if named else ""
        yield f"{_count(len(names), noun)}{which}: {why}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def size_in_words(count: int) -> str:
    """A number of bytes, to three digits."""
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
