"""Pictures of runs: what is drawn, read off the figures; that files are pictures and nothing else is touched."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.image import imread

from encdec_eqx.plotting import compare_curves, curves, loss_curve, series, smoothed


def _records(lines: int = 100, offset: float = 0.0, **metrics: float) -> list[dict[str, Any]]:
    steps = range(1, lines + 1)
    train = [{"event": "train", "step": s, "loss": 3.0 / s + offset, "learning_rate": s * 1e-5} for s in steps]
    evaluations = [
        {"event": "eval", "step": s, "loss": 3.5 / s + offset, **{name: value * s for name, value in metrics.items()}}
        for s in steps[9::10]
    ]
    return [*train, *evaluations, {"event": "checkpoint", "step": lines}, {"event": "note", "text": "x"}]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that are drawn."""
    drawn, save = [], curves.saved

    def keep(figure: Any, path: Any) -> Path:
        drawn.append(figure)
        return save(figure, path)

    monkeypatch.setattr(curves, "saved", keep)
    return drawn


def _line(axes: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line.get_xdata(), line.get_ydata()


def test_a_run_is_drawn_with_its_losses_metrics_and_learning_rate(tmp_path: Path, figures: list):
    path = loss_curve(_records(bleu=0.3, wer=0.5), tmp_path / "new" / "loss.png", title="A run")
    losses, metrics, rates = figures[0].axes
    steps, values = _line(losses, "evaluation")
    assert steps.tolist() == list(range(10, 101, 10))
    np.testing.assert_array_equal(values, [3.5 / s for s in range(10, 101, 10)])
    raw = losses.lines[0].get_ydata()
    np.testing.assert_array_equal(raw, [3.0 / s for s in range(1, 101)])
    _, smooth = _line(losses, "training, smoothed over 5 values")
    np.testing.assert_allclose(smooth[2:-2], np.convolve(raw, np.ones(5) / 5, "valid"), rtol=1e-12)
    assert _line(metrics, "bleu")[1][-1] == 30.0
    assert _line(metrics, "wer")[1][-1] == 50.0
    np.testing.assert_array_equal(rates.lines[0].get_ydata(), [s * 1e-5 for s in range(1, 101)])
    labels = [axes.get_ylabel() for axes in figures[0].axes]
    assert labels == ["loss (nats a token)", "metrics (%)", "learning\nrate"]
    assert rates.get_xlabel() == "optimiser steps"
    assert losses.get_title(loc="left") == "A run"
    image = imread(path)
    assert image.shape[1] == 1200 and image.min() < 0.5 < image.max()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("records", "panels"),
    [
        ([], 1),
        ([{"event": "train", "step": 1, "loss": 2.0}], 1),
        ([{"event": "train", "step": 1, "loss": 2.0, "learning_rate": 1e-3}], 2),
        ([{"event": "eval", "step": 1, "loss": math.nan, "bleu": math.inf}], 1),
        ([{"event": "eval", "step": 1, "bleu": 3.0}], 2),
    ],
)
def test_the_beginnings_of_a_run_can_be_drawn(tmp_path: Path, figures: list, records: list, panels: int):
    assert imread(loss_curve(records, tmp_path / "loss.png")).size
    assert len(figures[0].axes) == panels


def test_runs_are_compared_by_mean_and_spread_over_seeds(tmp_path: Path, figures: list):
    runs = {"warm": [_records(offset=x) for x in (0.0, 1.0, 2.0)], "cold": [_records(offset=5.0)]}
    compare_curves(runs, tmp_path / "both.png", title="Both")
    (axes,) = figures[0].axes
    steps, mean = _line(axes, "warm (3 seeds)")
    np.testing.assert_allclose(mean, 3.5 / steps + 1.0, rtol=1e-12)
    _, cold = _line(axes, "cold")
    np.testing.assert_allclose(cold, 3.5 / steps + 5.0, rtol=1e-12)
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    np.testing.assert_allclose([low, high], [mean.min() - 1.0, mean.max() + 1.0], rtol=1e-12)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimiser steps", "evaluation loss (nats a token)")


def test_seeds_are_compared_where_all_have_been_evaluated(tmp_path: Path, figures: list, caplog):
    runs = {"a": [_records(100), _records(60)]}
    compare_curves(runs, tmp_path / "a.png", label="loss")
    assert _line(figures[0].axes[0], "a (2 seeds)")[0].tolist() == [10, 20, 30, 40, 50, 60]
    assert "4 steps that only some seeds of 'a' have reached" in caplog.text
    assert figures[0].axes[0].get_ylabel() == "loss"


def test_runs_that_cannot_be_compared_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="runs 'a' have no 'eval' events with a number 'bleu'"):
        compare_curves({"a": [_records()]}, tmp_path / "a.png", field="bleu")
    with pytest.raises(ValueError, match="seeds of 'a' have no 'eval' event at the same step"):
        other = [{"event": "eval", "step": 7, "loss": 1.0}]
        compare_curves({"a": [_records(), other]}, tmp_path / "a.png")


@pytest.mark.parametrize("draw", [loss_curve, lambda nothing, path: compare_curves({}, path)])
def test_where_a_curve_goes_is_tried_first(tmp_path: Path, figures: list, draw):
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "is a folder; give a file"), (tmp_path / "file" / "a.png", "is a file")):
        with pytest.raises(ValueError, match=words):
            draw([], path)
    assert not figures


def test_series_skip_what_is_missing_or_not_finite():
    records = [{"event": "eval", "step": s, "loss": loss} for s, loss in ((1, 2.0), (2, None), (3, math.nan), (4, 1))]
    steps, values = series(
        [*records, {"event": "eval", "step": 5}, {"event": "train", "step": 6, "loss": 9}], "eval", "loss"
    )
    assert (steps.tolist(), values.tolist()) == ([1, 4], [2.0, 1.0])


def test_smoothing_keeps_lines_straight_and_the_ends_in_place():
    line = np.linspace(3.0, 1.0, 50)
    np.testing.assert_allclose(smoothed(line, 7), line, rtol=1e-12)
    noisy = line + np.random.default_rng(0).normal(size=50)
    result = smoothed(noisy, 7)
    assert (result[0], result[-1]) == pytest.approx((noisy[0], noisy[-1]))
    assert np.abs(np.diff(result))[3:-3].mean() < np.abs(np.diff(noisy)).mean() / 3


def test_the_users_backend_and_figures_are_left_alone(tmp_path: Path):
    code = (
        "import sys\n"
        "from encdec_eqx.plotting import loss_curve\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"loss_curve([{{'event': 'train', 'step': 1, 'loss': 1.0}}], {str(tmp_path / 'a.png')!r})\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install -e "\S*\[train\]"'):
        loss_curve([], tmp_path / "a.png")
