"""JSON results to markdown tables, and into the README between its markers.

`python -m benchmarks.report benchmarks/results` rewrites the README's tables. Pure text; it measures nothing.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any

from benchmarks._contestants import CONTESTANTS

README = pathlib.Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]  # heads, lines


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.1f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _gigabytes(amount: float | None) -> str:
    return "-" if amount is None else f"{amount / 1e9:.2f}"


def _count(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.0f}"


def _megabytes(amount: float | None) -> str:
    return "-" if amount is None else f"{amount / 1e6:.1f}"


def _in(row: Row, *path: str) -> Any:
    """A value deep in a row, None where it, or what it would be in, is absent."""
    value: Any = row
    for name in path:
        value = None if value is None else value.get(name)
    return value


def _at(row: Row, side: str, *path: str) -> Any:
    """The same in one side of a row."""
    return _in(row, "sides", side, *path)


def _ratio(numerator: float | None, denominator: float | None, form: str = "{:.2f}x") -> str:
    return "-" if numerator is None or denominator is None else form.format(numerator / denominator)


def _programs(row: Row) -> float | None:
    """Seconds of tracing, lowering and compiling that JAX reported for the first call."""
    parts = row.get("compilation") if "compilation" in row else _at(row, "jax", "compilation")
    return sum(part["seconds"] for part in parts.values()) if parts else None


def _peak(row: Row, side: str) -> str:
    device = _at(row, side, "memory", "device_peak")
    return _gigabytes(device if device is not None else _at(row, side, "memory", "peak"))


def _speed(row: Row) -> list[str]:
    """The columns that generation and training share: both medians, their ratio, the floor."""
    ours, theirs = _at(row, "jax", "seconds", "median"), _at(row, "torch", "seconds", "median")
    return [
        _seconds(ours),
        _seconds(theirs),
        _ratio(theirs, ours),
        _seconds(row["floor_seconds"]),
        _ratio(row["floor_seconds"], ours, "{:.0%}"),
    ]


_SPEED = ["ours, s", "torch, s", "ratio", "floor, s", "floor/ours"]


def _generate(result: Row) -> Table:
    """How fast."""
    tokens = result["settings"]["new_tokens"]
    heads = [*_CELL, *_SPEED, "ours, tokens/s", "torch, tokens/s", "ours, ms/token", "torch, ms/token"]
    heads += ["encoder: ours, ms", "torch, ms", "same ids"]
    lines = []
    for row in result["rows"]:
        medians = [_at(row, side, "seconds", "median") for side in ("jax", "torch")]
        rates = [_ratio(tokens * row["batch"], median, "{:.0f}") for median in medians]
        each = [_milliseconds(None if median is None else median / tokens) for median in medians]
        encoders = [_milliseconds(_at(row, side, "encode_seconds", "median")) for side in ("jax", "torch")]
        lines.append([*_cell(row), *_speed(row), *rates, *each, *encoders, "yes" if row["same_tokens"] else "no"])
    return heads, lines


def _generate_starts_and_memory(result: Row) -> Table:
    """How soon, and in how much memory."""
    heads = [*_CELL, "compile, s"]
    heads += ["first token cold: ours, s", "torch, s", "first token warm: ours, ms", "torch, ms"]
    heads += ["temporary: encoder, MB", "cache, MB", "loop, MB", "our peak, GB", "torch peak, GB"]
    lines = []
    for row in result["rows"]:
        cold = [_seconds(_at(row, side, "first_token_cold")) for side in ("jax", "torch")]
        warm = [_milliseconds(_at(row, side, "first_token_warm", "median")) for side in ("jax", "torch")]
        temporary = [
            _megabytes(_at(row, "jax", "programs", name, "temporary")) for name in ("encoder", "cache", "loop")
        ]
        peaks = [_peak(row, side) for side in ("jax", "torch")]
        lines.append([*_cell(row), _seconds(_programs(row)), *cold, *warm, *temporary, *peaks])
    return heads, lines


_CELL = ["size", "batch", "beams", "source"]


def _cell(row: Row) -> list[str]:
    return [row["size"], *(str(row[name]) for name in _CELL[1:])]


def _contestant(row: Row) -> list[str]:
    return [row["size"], CONTESTANTS[row["contestant"]].title]


def _failed(row: Row, heads: list[str]) -> list[str]:
    """A line that says why there are no figures."""
    return [*_contestant(row), row["failed"].replace("|", "/"), *["-"] * (len(heads) - 3)]


def _equal_rows(result: Row) -> list[Row]:
    return [row for row in result["rows"] if row["data"] == "equal"]


def _peak_of_step(row: Row) -> str:
    device = _in(row, "memory", "device_run_peak")
    return _gigabytes(device if device is not None else _in(row, "memory", "run_peak"))


def _train_step(result: Row) -> Table:
    """How fast, in how much memory."""
    heads = ["size", "contestant", "a step, s", "least to most", "torch eager in turn, s", "ratio", "CPU, s"]
    heads += ["peak of a step, GB", "compile, s", "GFLOP/s", "MFU"]
    lines = []
    for row in _equal_rows(result):
        if "failed" in row:
            lines.append(_failed(row, heads))
            continue
        ours, theirs = (_in(row, whose, "median", "seconds") for whose in ("turns", "reference"))
        spread = " to ".join(_seconds(_in(row, "turns", which)) for which in ("least", "most"))
        speed = [_seconds(ours), spread, _seconds(theirs), _ratio(theirs, ours)]
        used = [_seconds(_in(row, "turns", "median", "cpu_seconds")), _peak_of_step(row)]
        rate = [f"{row['flops_per_second'] / 1e9:.0f}", f"{row['utilisation']:.0%}"]
        lines.append([*_contestant(row), *speed, *used, _seconds(row.get("compile_seconds")), *rate])
    return heads, lines


def _train_step_details(result: Row) -> Table:
    """What a reader needs who doubts a figure: how disturbed it was, and what the sums are made of."""
    heads = ["size", "contestant", "settling step, s", "user, s", "system, s", "faults a step", "preempted"]
    heads += ["anonymous peak of a step, GB", "peak of the process, GB", "temporary, GB"]
    heads += ["first step, s", "trace, s", "lower, s", "XLA, s", "first loss"]
    lines = []
    for row in _equal_rows(result):
        if "failed" in row:
            continue
        used = [_seconds(_in(row, "turns", "median", kind)) for kind in ("user_seconds", "system_seconds")]
        counts = [_count(_in(row, "turns", "median", kind)) for kind in ("minor_faults", "preempted")]
        memory = [_gigabytes(_in(row, "memory", kind)) for kind in ("anonymous_run_peak", "life_peak")]
        parts = [_seconds(_in(row, "compilation", part, "seconds")) for part in _COMPILATION]
        loss = "-" if row.get("loss") is None else f"{row['loss']:.4f}"
        lines.append([*_contestant(row), _seconds(_in(row, "turns", "first_of_turn")), *used, *counts, *memory])
        lines[-1] += [_gigabytes(_in(row, "memory", "program", "temporary")), _seconds(row["first_seconds"])]
        lines[-1] += [*parts, loss]
    return heads, lines


_COMPILATION = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


def _train_step_ragged(result: Row) -> Table:
    """Examples of unequal length, batched by each side's own way."""
    heads = ["size", "contestant", "ragged tokens/s", "torch eager in turn", "ratio", "CPU, ms a token"]
    heads += ["padding", "shapes", "compile, s"]
    lines = []
    for row in result["rows"]:
        if row["data"] != "ragged":
            continue
        if "failed" in row:
            lines.append(_failed(row, heads))
            continue
        ours, theirs = (_in(row, whose, "tokens_per_second") for whose in ("turns", "reference"))
        rates = [_count(ours), _count(theirs), _ratio(ours, theirs)]
        rates.append(_seconds(1000 * _in(row, "turns", "cpu_seconds_per_token")))
        more = [f"{row['padding_share']:.0%}", str(row.get("shapes", "-")), _seconds(row.get("compile_seconds"))]
        lines.append([*_contestant(row), *rates, *more])
    return heads, lines


def _load(result: Row) -> Table:
    heads = ["size", "GB"]
    for side in ("ours", "torch"):
        heads += [f"{side}, s", f"{side} and read, s", f"{side}: grown/bytes"]
    lines = []
    for row in result["rows"]:
        line = [row["size"], _gigabytes(max(side["bytes"] for side in row["sides"].values()))]
        for side in ("jax", "torch"):
            line += [_seconds(_at(row, side, name, "median")) for name in ("seconds", "touched_seconds")]
            line.append(_ratio(_at(row, side, "anonymous_growth"), _at(row, side, "bytes")))
        lines.append([*line, _seconds(row["floor_seconds"])])
    return [*heads, "floor, s"], lines


def _compile(result: Row) -> Table:
    heads = ["size", "what", "batch", "layout", "compile, s", "first call, s", "second call, s", "compiled again"]
    lines = [
        [
            *(row["size"], row["what"], str(row["batch"]), row["layout"], _seconds(_programs(row))),
            *(_seconds(row["first_seconds"]), _seconds(row["second_seconds"]), str(row["second"])),
        ]
        for row in result["rows"]
    ]
    return heads, lines


def _cache_moves(result: Row) -> Table:
    heads = ["size", "batch", "beams", "slots", "way", "ms a step", "to gather", "moved, MB a step"]
    heads += ["XLA's count, MB a step", "attention, MFLOP", "temporary, MB"]
    steps = result["settings"]["steps"]
    lines = []
    for row in result["rows"]:
        where = [row["size"], *(str(row[name]) for name in heads[1:4])]
        usual = row["ways"]["gather"]["seconds"]["median"]
        for name, way in row["ways"].items():
            median = way["seconds"]["median"]
            speed = [_milliseconds(median / steps), _ratio(median, usual)]
            amounts = [_megabytes(way[what]) for what in ("moved_bytes", "xla_bytes", "attention_flops", "temporary")]
            lines.append([*where, name, *speed, *amounts])
    return heads, lines


def _speculative(result: Row) -> Table:
    heads = ["size", "batch", "proposer", "ahead", "passes", "tokens a pass", "plain, s", "with proposals, s", "ratio"]
    heads += ["a pass in plain steps", "same ids"]
    lines = []
    for row in result["rows"]:
        plain, proposed = (row["seconds"][name]["median"] for name in ("plain", "proposed"))
        before, after = (row["passes"][name] for name in ("plain", "proposed"))
        what = [row["size"], str(row["batch"]), row["proposer"], str(row["ahead"]), str(after), f"{before / after:.2f}"]
        cost = (proposed / after) / (plain / before)
        speed = [_seconds(plain), _seconds(proposed), _ratio(plain, proposed), f"{cost:.2f}"]
        lines.append([*what, *speed, "yes" if row["same_tokens"] else "no"])
    return heads, lines


def _turns(result: Row) -> Table:
    """Every cell by the jax that ours ran on."""
    heads = ["cell", "jax", "alone: ours, s", "torch, s", "ratio", "in turns: ours, s", "torch, s", "ratio"]
    heads += ["turns cost ours", "torch", "compile, s"]
    lines = []
    for row in result["rows"]:
        cell = f"{row['size']}, b{row['batch']}, source {row['source']}, "
        if row["what"] == "generate":
            cell += "greedy" if row["beams"] == 1 else f"{row['beams']} beams"
        else:
            cell += f"target {row['target']}, training step"
        theirs = _at(row, "torch", "alone", "median")
        for name, side in row["sides"].items():
            if name == "torch":
                continue
            alone, turns, beside = (_in(side, how, "median") for how in ("alone", "turns", "beside"))
            line = [cell, name.removeprefix("jax "), _seconds(alone), _seconds(theirs), _ratio(theirs, alone)]
            line += [_seconds(turns), _seconds(beside), _ratio(beside, turns)]
            lines.append([*line, _ratio(turns, alone), _ratio(beside, theirs), _seconds(side["compile_seconds"])])
        if not row["sides"]:
            lines.append([cell, row["failed"], *["-"] * (len(heads) - 2)])
    return heads, lines


def _int8(result: Row) -> Table:
    heads = ["model", "batch", "source", "side", "s", "to float32", "tokens/s", "same places", "file, MB", "peak, MB"]
    lines = []
    usual = {(row["model"], row["batch"]): row for row in reversed(result["rows"])}
    for row in result["rows"]:
        median = row["seconds"]["median"]
        what = [row["model"], str(row["batch"]), str(row["source"]), row["side"], _seconds(median)]
        first = usual[row["model"], row["batch"]]["seconds"]["median"]
        speed = [_ratio(first, median), f"{row['batch'] * row['new_tokens'] / median:.0f}"]
        amounts = [f"{row['agreement']:.0%}", _megabytes(row["file"]), _megabytes(row["peak"])]
        lines.append([*what, *speed, *amounts])
    return heads, lines


TABLES: dict[str, tuple[Callable[[Row], Table], ...]] = {
    "generate": (_generate, _generate_starts_and_memory),
    "train_step": (_train_step, _train_step_details, _train_step_ragged),
    "load": (_load,),
    "compile": (_compile,),
    "cache_moves": (_cache_moves,),
    "speculative": (_speculative,),
    "int8": (_int8,),
    "turns": (_turns,),
}


def table(result: Row) -> str:
    """A result as markdown tables under a line that says where it was measured."""
    where = result["machine"]
    alone = where.get("alone", False)
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    about = ", ".join([where["processor"], *where.get("instructions", ())])
    about += f", {where['threads']} threads, {where['device']}, {where['precision']}"
    about += f"{', huge pages' if where['huge_pages'] else ''}; {versions}."
    if "floor" in result:
        floor = result["floor"]
        about += f" Best copy {floor['copy'] / 1e9:.1f} GB/s, read {floor['read'] / 1e9:.1f} GB/s, "
        about += f"matrix product {floor['matmul'] / 1e9:.0f} GFLOP/s."
    made = [make(result) for make in TABLES[result["benchmark"]]]
    if alone:
        made = [([head.replace("in turn", "alone") for head in heads], lines) for heads, lines in made]
    tables = [_markdown(heads, lines) for heads, lines in made if lines]
    title = f"**{result['benchmark']}**{', each side alone' if alone else ''}"
    return "\n\n".join([f"{title}: {about}", *tables])


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *lines])


def rewrite(readme: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts the tables of every result in `folder` between the markers of `readme`.

    Raises:
        ValueError: the file has no markers, or the folder no results.
    """
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} holds no {BEGIN} … {END} to write the tables between")
    names = (f"{name}{kind}.json" for name in TABLES for kind in ("", "_alone"))
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise ValueError(f"{folder} holds none of {', '.join(f'{name}.json' for name in TABLES)}: run the benchmarks")
    tables = "\n\n".join(table(json.loads(path.read_text())) for path in found)
    before, rest = text.split(BEGIN, 1)
    readme.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END, 1)[1]}")


def main(arguments: list[str] | None = None) -> None:
    """Rewrites the README's tables."""
    options = argparse.ArgumentParser(description="Rewrites the README's tables from JSON results.")
    options.add_argument("folder", type=pathlib.Path, nargs="?", default=README.parent / "results")
    rewrite(README, options.parse_args(arguments).folder)


if __name__ == "__main__":
    main()
