"""`encdec-eqx inspect`: what a checkpoint is, as tables or as JSON."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inspection import CheckpointSummary, Part

DESCRIPTION = (
    "Says what a checkpoint is (a pair, a whole checkpoint such as BART's, an encoder or a decoder), from its configs "
    "and the headers of its files: its arrays are not loaded. Exit status 1 if it could not be loaded, and why."
)

_KINDS = {"pair": "a pair", "whole": "a whole encoder-decoder", "encoder": "an encoder", "decoder": "a decoder"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", metavar="PATH", help="folder or Hub id (which is downloaded)")
    parser.add_argument("--role", choices=("encoder", "decoder"), help="what to take a piece for that may be either")
    parser.add_argument("--names", action="store_true", help="name the tensors that are new or ignored, too")
    parser.add_argument("--json", action="store_true", help="write one JSON object")


def run(chosen: argparse.Namespace) -> int:
    """Inspect."""
    from ..inspection import inspect_checkpoint

    summary = inspect_checkpoint(chosen.path, role=chosen.role)
    if chosen.json:
        print(json.dumps(summary.to_dict(), indent=2))
    else:
        print("\n".join(_lines(summary, named=chosen.names)))
    return 0


def _lines(summary: "CheckpointSummary", *, named: bool) -> Iterator[str]:
    from .._quoting import printable
    from ..hf.report import size_in_words

    total = summary.total
    families = " and ".join(str(piece["family"]) for piece in summary.pieces.values())
    yield (
        f"{printable(summary.path)}: {_KINDS[summary.kind]} ({families}), {total.parameters:,} parameters, "
        f"{size_in_words(total.nbytes)} as they are, {size_in_words(4 * total.parameters)} in float32"
    )
    if summary.also:
        yield f"(the same family can be {_KINDS[summary.also]}: --role {summary.also})"
    yield ""
    names = next(iter(summary.pieces.values()))
    table = [["", *summary.pieces]]
    table += [[name, *(_said(piece[name]) for piece in summary.pieces.values())] for name in names]
    yield from _columns(table)
    if summary.projection:
        yield f"projection: from width {summary.projection[0]} to {summary.projection[-1]}"
    if summary.ties:
        yield f"shared by both pieces: {', '.join(map(printable, summary.ties))}"
    yield ""
    rows = [["part", "parameters", "bytes", "dtype", ""], *map(_row, summary.parts), _row(total)]
    yield from _columns(rows, numbers=(1, 2))
    yield ""
    tokens = (f"{name} {_token(value, summary)}" for name, value in summary.special_tokens.items())
    yield f"special tokens: {', '.join(tokens) or 'none'}"
    if summary.kind in ("pair", "whole"):
        options = {name: value for name, value in summary.generation.items() if name not in summary.special_tokens}
        said = (f"{name} = {printable(json.dumps(value))}" for name, value in options.items())
        yield f"generation defaults: {', '.join(said) or 'none'}"
    yield f"tokenizer files: {', '.join(map(printable, summary.tokenizers)) or 'none'}"
    files = (f"{printable(name)} ({size_in_words(size)})" for name, size in summary.files.items())
    yield f"weights: {', '.join(files) or 'none'}"
    yield "what loading it would say:"
    text = summary.report.verbose() if named else str(summary.report)
    yield from (f"  {line}" for line in text.splitlines())


def _said(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _row(part: "Part") -> list[str]:
    new = "" if not part.new else "new" if part.new == part.parameters else f"{part.new:,} new"
    return [part.name, f"{part.parameters:,}", f"{part.nbytes:,}", ", ".join(part.dtypes), new]


def _token(value: Any, summary: "CheckpointSummary") -> str:
    from .._quoting import quoted

    ids = value if isinstance(value, list) else [value]
    return " ".join(f"{one}{f' {quoted(name)}' if (name := summary.token_names.get(one)) else ''}" for one in ids)


def _columns(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Iterator[str]:
    """Rows of cells under each other; columns of numbers end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(
            cell.rjust(width) if at in numbers else cell.ljust(width) for at, (cell, width) in enumerate(cells)
        ).rstrip()
