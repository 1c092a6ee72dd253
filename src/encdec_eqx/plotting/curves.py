"""Curves of runs: one run's losses and metrics over its steps, and several runs compared."""

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .canvas import GRID, INK, MUTED, check_place, new_figure, saved

_logger = logging.getLogger("encdec_eqx")

Records = Iterable[Mapping[str, Any]]
Series = tuple[np.ndarray, np.ndarray]

_TRAIN, _EVAL = "#3b6ea5", "#d1495b"
_CYCLE = ("#3b6ea5", "#d1495b", "#2e8b6f", "#e0a030", "#7d5ba6", "#5c6670")
_METRICS = ("#2e8b6f", "#e0a030", "#7d5ba6", "#5c6670")
_NOT_METRICS = ("event", "step", "loss", "epoch", "seconds")


def loss_curve(records: Records, path: str | Path, *, title: str | None = None) -> Path:
    """Draws one run into a PNG file: training and evaluation loss, the metrics of evaluations, the learning rate.

    Args:
        records: The events of a log, as `read_log` gives them: `"train"` events with `step`, `loss` and perhaps
            `learning_rate`, `"eval"` events with `step`, perhaps `loss`, and metrics.
        path: Where to.
        title: Above the plot; default: none.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The path is a folder, or cannot be written to.
    """
    check_place(Path(path))
    records = list(records)
    metrics = _metrics(records)
    rates = series(records, "train", "learning_rate")
    figure, axes = _figure([3.2, *([2.0] if metrics else []), *([0.8] if rates[0].size else [])])
    panels = iter(axes)
    _draw_losses(next(panels), series(records, "train", "loss"), series(records, "eval", "loss"))
    if metrics:
        _draw_metrics(next(panels), metrics)
    if rates[0].size:
        _draw_rates(next(panels), rates)
    if title:
        axes[0].set_title(title, loc="left", color=INK, fontsize=12, pad=10)
    axes[-1].set_xlabel("optimiser steps")
    return saved(figure, path)


def compare_curves(
    runs: Mapping[str, Sequence[Records]],
    path: str | Path,
    *,
    event: str = "eval",
    field: str = "loss",
    label: str | None = None,
    title: str | None = None,
) -> Path:
    """Draws several runs into a PNG file: for each name the mean over its seeds, and their standard deviation.

    Only steps that all seeds of a name have are drawn; a warning says how many others there are.

    Args:
        runs: By name, the logs of the same run with different seeds (or one log).
        path: Where to.
        event: Which events to draw: "eval" or "train".
        field: Which of their numbers.
        label: What the numbers are, with their unit; default: from `event` and `field`.
        title: Above the plot; default: none.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: A run has no such numbers, or the path is a folder, or cannot be written to.
    """
    check_place(Path(path))
    figure, (axes,) = _figure([4.2])
    for index, (name, seeds) in enumerate(runs.items()):
        color = _CYCLE[index % len(_CYCLE)]
        steps, values = _on_common_steps(name, [series(records, event, field) for records in seeds], event, field)
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
        shown = f"{name} ({len(values)} seeds)" if len(values) > 1 else name
        axes.plot(steps, mean, color=color, label=shown)
        if len(values) > 1:
            axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
    axes.set_xlabel("optimiser steps")
    where = "training" if event == "train" else "evaluation"
    axes.set_ylabel(label or (f"{where} loss (nats a token)" if field == "loss" else field))
    axes.legend(frameon=False)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=12, pad=10)
    return saved(figure, path)


def series(records: Records, event: str, field: str) -> Series:
    """Steps and values of one number, where it is there and finite.

    Args:
        records: events of a log.
        event: which of them count: "train" or "eval".
        field: the number, such as "loss".
    """
    points = [
        (record["step"], record[field])
        for record in records
        if record.get("event") == event and isinstance(record.get(field), int | float) and math.isfinite(record[field])
    ]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over a window around each value that shrinks at both ends, so that it lags behind at neither.

    Args:
        values: one axis.
        width: values that the window holds.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(width // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """What evaluations measured beside the loss, in the order of its coming."""
    names = {name: None for record in records if record.get("event") == "eval" for name in record}
    curves = {name: series(records, "eval", name) for name in names if name not in _NOT_METRICS}
    return {name: curve for name, curve in curves.items() if curve[0].size}


def _draw_losses(axes: Any, train: Series, evaluated: Series) -> None:
    steps, values = train
    width = len(values) // 20 | 1
    if width > 1:
        axes.plot(steps, values, color=_TRAIN, alpha=0.3, linewidth=1)
        axes.plot(steps, smoothed(values, width), color=_TRAIN, label=f"training, smoothed over {width} values")
    elif steps.size:
        axes.plot(steps, values, color=_TRAIN, label="training", **_markers(values))
    steps, values = evaluated
    if steps.size:
        axes.plot(steps, values, color=_EVAL, label="evaluation", **_markers(values))
        best = int(values.argmin())
        axes.annotate(
            f"{values[best]:.3f}",
            (steps[best], values[best]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=_EVAL,
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
        )
    axes.set_ylabel("loss (nats a token)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _draw_metrics(axes: Any, curves: Mapping[str, Series]) -> None:
    for (name, (steps, values)), color in zip(curves.items(), itertools.cycle(_METRICS), strict=False):
        axes.plot(steps, values, color=color, label=name, **_markers(values))
    axes.set_ylabel("metrics (%)")
    axes.legend(frameon=False)


def _markers(values: np.ndarray) -> dict[str, Any]:
    """Dots where there are few values."""
    return {"marker": "o", "markersize": 4} if len(values) <= 40 else {}


def _draw_rates(axes: Any, rates: Series) -> None:
    axes.plot(*rates, color=MUTED, **(_markers(rates[0]) if len(rates[0]) < 3 else {}))
    axes.set_ylabel("learning\nrate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)


def _on_common_steps(name: str, runs: Sequence[Series], event: str, field: str) -> Series:
    """Steps that all seeds of a run have, and one row of values per seed."""
    if not runs or not all(steps.size for steps, _ in runs):
        raise ValueError(f"the runs {name!r} have no {event!r} events with a number {field!r} in one of their logs.")
    shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in runs)))
    if not shared:
        raise ValueError(f"the seeds of {name!r} have no {event!r} event at the same step: log them at equal steps.")
    left_out = set().union(*(steps.tolist() for steps, _ in runs)) - set(shared)
    if left_out:
        _logger.warning("%d steps that only some seeds of %r have reached are not drawn.", len(left_out), name)
    rows = [dict(zip(steps.tolist(), values.tolist(), strict=True)) for steps, values in runs]
    return np.array(shared), np.array([[row[step] for step in shared] for row in rows])


def _figure(heights: Sequence[float]) -> tuple[Any, list[Any]]:
    """A figure of panels above each other that share their steps."""
    figure = new_figure(8.0, sum(heights) + 0.8)
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for panel in axes:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(True, color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GRID)
        panel.tick_params(colors=INK, labelsize=9, length=0)
    return figure, list(axes)
