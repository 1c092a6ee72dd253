"""`LoadReport`: what loading a checkpoint did, in a few lines. Knows nothing of how it was done."""

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoadReport:
    """What was loaded, what is new, and what was left aside and why.

    A model carries its report as a static field, so all reports are equal: two models that differ only in where they
    came from share their compiled functions.

    Attributes:
        source: the folder or Hub id.
        what: the kind of model, in words.
        loaded: names of the checkpoint's tensors that were read.
        loaded_bytes: their size as arrays of the model, in bytes.
        new: arrays that the checkpoint does not have, and how each was made.
        ignored: tensors of the checkpoint that are not used, and why.
        tied: arrays that share another's values: the one without, the one with.
        notes: anything else worth knowing.
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
    attributes: str = "{}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadReport)

    def __hash__(self) -> int:
        return hash(LoadReport)

    def __str__(self) -> str:
        if not self.source and not self.new:
            return "Not loaded from a checkpoint."
        lines = [f"{self.what} from {self.source}: {len(self.loaded)} tensors loaded ({_size(self.loaded_bytes)})."]
        lines += [f"  new: {line}" for line in _grouped(self.new)]
        lines += [f"  ignored: {line}" for line in _grouped(self.ignored)]
        if self.tied:
            lines.append(f"  tied: {len(self.tied)} arrays, such as {self.tied[0][0]} = {self.tied[0][1]}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def joined(encoder: LoadReport, decoder: LoadReport, *, new: tuple[tuple[str, str], ...] = ()) -> LoadReport:
    """The report of a pair made of two pieces.

    Args:
        encoder: the encoder's report.
        decoder: the decoder's.
        new: what joining them added.
    """
    named = (("encoder", encoder), ("decoder", decoder))
    return LoadReport(
        source=" and ".join(report.source or "fresh weights" for _, report in named),
        what="a pair",
        loaded=tuple(f"{piece}.{name}" for piece, report in named for name in report.loaded),
        loaded_bytes=encoder.loaded_bytes + decoder.loaded_bytes,
        new=tuple((f"{piece}.{name}", why) for piece, report in named for name, why in report.new) + new,
        ignored=tuple((f"{piece}.{name}", why) for piece, report in named for name, why in report.ignored),
        tied=encoder.tied + decoder.tied,
        notes=tuple(f"{piece}: {note}" for piece, report in named for note in report.notes),
    )


def _grouped(items: tuple[tuple[str, str], ...]) -> list[str]:
    """One line for all names with the same explanation."""
    groups: dict[str, list[str]] = {}
    for name, why in items:
        groups.setdefault(why, []).append(name)
    return [f"{_names(names)}: {why}" for why, names in groups.items()]


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} items ({names[0]}, …, {names[-1]})"


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count = count / 1000  # pyright: ignore[reportAssignmentType]
    return f"{count:.3g} GB"
