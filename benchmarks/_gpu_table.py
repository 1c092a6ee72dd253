"""Tables of `benchmarks.gpu`. Pure text; it measures nothing."""

import statistics
from typing import Any

from benchmarks._gpu_cells import PARTS

Row = dict[str, Any]
REFERENCE = "torch eager"


def text(head: Row, rows: list[Row]) -> str:
    """All that is known so far, as markdown: where, at which rates, a table a part, a table a profile.

    Args:
        head: `machine`, `rates` by worker, `missing`, `tiny`.
        rows: of cells and of tests, as they came.
    """
    where = head["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [f"**{where['processor']}**; Python {where['python']}, {versions}."]
    lines += ["Tiny sizes: a trial of the script, not a measurement."] if head["tiny"] else []
    lines += [f"Missing: {line}." for line in head["missing"]]
    best = best_rates(head["rates"])
    if best:
        lines.append(f"Copies {best['copy'] / 1e12:.3g} TB/s, multiplies {best['matmul'] / 1e12:.3g} TFLOP/s at best.")
    parts = [(part, [row for row in rows if row["part"] == part]) for part in PARTS]
    tables = [
        f"### {part}\n\n{_tests(found) if part == 'tests' else _cells(found, rows, best)}"
        for part, found in parts
        if found
    ]
    profiles = [_profile(row) for row in rows if "profile" in row]
    return "\n\n".join([" ".join(lines), *tables, *profiles]) + "\n"


def best_rates(rates: dict[str, Row]) -> Row:
    """The better of both sides' rates, kind by kind."""
    kinds = ("copy", "matmul")
    return {kind: max(of_side[kind] for of_side in rates.values()) for kind in kinds} if rates else {}


def short(row: Row) -> str:
    """A row in a few words."""
    if "seconds" in row:
        return f"{1000 * statistics.median(row['seconds']):.4g} ms"
    return str(row.get("passed", ""))


def _cells(found: list[Row], rows: list[Row], best: Row) -> str:
    heads = ["cell", "side", "ms", "least", "ms a token", "to torch eager", "compile, s", "TFLOP/s", "of peak"]
    heads += ["TB/s", "of copy", "peak memory, GB"]
    lines = []
    for row in found:
        if "failed" in row:
            lines.append([row["name"], row["side"], row["failed"].replace("|", "/"), *["-"] * (len(heads) - 3)])
            continue
        seconds = statistics.median(row["seconds"])
        tokens = row["arguments"].get("new_tokens")
        each = f"{1000 * seconds / tokens:.3f}" if tokens else "-"
        theirs = [other for other in rows if other["name"] == row["name"] and other["side"] == REFERENCE]
        ratio = "-"
        if theirs and "seconds" in theirs[0]:
            ratio = f"{statistics.median(theirs[0]['seconds']) / seconds:.2f}x"
        compiled = f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-"
        line = [row["name"], row["side"], f"{1000 * seconds:.4g}", f"{1000 * min(row['seconds']):.4g}", each, ratio]
        line += [compiled, *_share(row["flops"], seconds, best.get("matmul"))]
        lines.append([*line, *_share(row["bytes"], seconds, best.get("copy")), _peak(row)])
    return _markdown(heads, lines)


def _share(amount: float | None, seconds: float, best: float | None) -> list[str]:
    """A rate in tera, and which share it is of the best one."""
    if amount is None:
        return ["-", "-"]
    return [f"{amount / seconds / 1e12:.3g}", f"{amount / seconds / best:.1%}" if best else "-"]


def _peak(row: Row) -> str:
    memory = row.get("memory", {})
    peak = memory.get("device_peak", memory.get("peak"))
    return "-" if peak is None else f"{peak / 1e9:.2f}"


def _tests(found: list[Row]) -> str:
    heads = ["tests", "command", "result", "s"]
    lines = [
        [row["name"], f"`{row['command']}`", row.get("failed") or row["passed"], f"{row.get('took', 0):.0f}"]
        for row in found
    ]
    return _markdown(heads, lines)


def _profile(row: Row) -> str:
    """Where one call's time goes on the device."""
    profile, units, unit = row["profile"], row["profiled_units"], row["unit"]
    kinds = ", ".join(f"{count / units:.2f} {name}" for name, count in profile["copies_by_kind"].items()) or "none"
    about = f"### Profile: {row['name']}, {row['side']}\n\n"
    about += f"{profile['kernels'] / units:.1f} kernels a {unit}, {profile['copies'] / units:.2f} copies and fills "
    about += f"({kinds}); the device is busy {1000 * profile['busy_seconds'] / units:.4g} ms a {unit} of "
    about += f"{1000 * sum(row['seconds']) / units:.4g}."
    heads = ["kernel", f"times a {unit}", f"ms a {unit}", "of busy"]
    lines = [
        [
            f"`{kernel['name'][:80].replace('|', '/')}`",
            f"{kernel['count'] / units:.2f}",
            f"{1000 * kernel['seconds'] / units:.4g}",
            f"{kernel['seconds'] / profile['busy_seconds']:.1%}",
        ]
        for kernel in profile["top"]
    ]
    return f"{about}\n\n{_markdown(heads, lines)}"


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *lines])
