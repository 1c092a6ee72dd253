"""A heat map of cross-attention: the source's tokens across, the target's down, a cell for each pair."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._quoting import printable
from ..alignment import Alignment, align, layer_and_head, pair_of
from ..encoder_decoder import EncoderDecoder
from ..text import TextToText
from .canvas import GRID, INK, MUTED, check_place, new_figure, saved

_logger = logging.getLogger("encdec_eqx")

_KINDS: dict[str, Literal["png", "svg"]] = {".png": "png", ".svg": "svg"}
_CELL = (0.2, 0.42)
"""Inches of a cell: at least, so that words of 8 points stand side by side; at most, where there are few."""

_MANY, _SMALL_CELL, _SMALL_TYPE = 120, 0.13, 6.0
"""From so many tokens on cells are smaller, as a picture has to stay one."""

_LONGEST = 24
"""Letters of a token that are shown."""

_NO_LETTERS = ("Last Resort", "STIXNonUnicode")
"""Fonts whose glyphs are not those of the letters they claim to have."""

_MOST_VECTORS = 10_000
_MARGIN, _BAR, _GAP = 0.12, 0.1, 0.16


def alignment(
    model: TextToText | EncoderDecoder,
    source: Any,
    target: Any,
    path: str | Path | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
    title: str | None = None,
    attention_mask: Any = None,
    source_tokens: Sequence[str] | None = None,
    target_tokens: Sequence[str] | None = None,
    skip_special_tokens: bool = False,
) -> Any:
    """Draws what each token of a target attends to in its source: a dark cell says "much".

    A row is what the decoder read when it chose the row's token, before it had read the token itself. The numbers are
    those of `align(model, source, target).weights(layer, head)`.

    Args:
        model: a model with its tokenizers (`TextToText`), or a model alone, of which source and target are ids.
        source: a text, or one sequence of ids.
        target: a text, or ids: labels, or a row of `result.sequences`.
        path: where to; a PNG or an SVG file by its ending. Without one the figure is returned, as notebooks show it.
        layer: number of a layer, from 0, or from the last with -1; default the mean of all that have cross-attention.
        head: number of a head, likewise; default their mean.
        title: above the picture; default: none.
        attention_mask: with a source of ids, 0 at its padding, which is not shown; default all real.
        source_tokens: with a source of ids, what to write for each of them.
        target_tokens: the same of the target.
        skip_special_tokens: whether special tokens ([CLS], the end, …) are left out of the picture.

    Returns:
        The path, or without one matplotlib's figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: as `align`, or `layer` or `head` is no whole number.
        ValueError: as `align`; there is no such layer or head, or the layer has no cross-attention; the path has
            another ending, or nothing can be written there.
    """
    kind = None if path is None else _checked_kind(Path(path))
    figure = new_figure(1.0, 1.0)
    config = pair_of(model).decoder.config
    layer, head = layer_and_head(
        [spec.cross_attention for spec in config.layers], config.attention.num_heads, layer, head
    )
    found = align(
        model,
        source,
        target,
        attention_mask=attention_mask,
        source_tokens=source_tokens,
        target_tokens=target_tokens,
        skip_special_tokens=skip_special_tokens,
    )
    with _without_glyph_warnings():
        _draw(figure, found, found.weights(layer, head), _told(found, layer, head), title)
        return figure if path is None or kind is None else saved(figure, path, kind)


def _checked_kind(path: Path) -> Literal["png", "svg"]:
    """What kind of file it will be; the place is tried before any work is done."""
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"path is {printable(path)}; expected a name that ends with .png or .svg.")
    check_place(path)
    return kind


def _told(found: Alignment, layer: int | None, head: int | None) -> str:
    """Which weights these are, in words."""
    several = len(found.layers) > 1
    of_layer = f"layer {found.layers[0]}" if not several else f"mean of layers {_numbers(found.layers)}"
    of_layer = of_layer if layer is None else f"layer {layer}"
    return f"{of_layer}, {'mean of heads' if head is None else f'head {head}'}"


def _numbers(layers: Sequence[int]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _draw(figure: Any, found: Alignment, weights: np.ndarray, told: str, title: str | None) -> None:
    rows, columns = weights.shape
    cell, points = _sizes(max(rows, columns))
    width, height = columns * cell, rows * cell
    figure.set_size_inches(width + 2, height + 2)
    axes = _axes_at(figure, 1.0, 1.0, width, height)
    bar = _axes_at(figure, 1.0 + width + _GAP, 1.0, _BAR, height)
    mesh = axes.pcolormesh(
        weights,
        cmap=_colours(),
        vmin=0.0,
        vmax=max(float(weights.max()), 1e-6),
        edgecolors="white",
        linewidth=0.4 if cell > _SMALL_CELL else 0.0,
        rasterized=weights.size > _MOST_VECTORS,
    )
    _label_axes(axes, found, _families((*found.source_tokens, *found.target_tokens)), points)
    scale = figure.colorbar(mesh, cax=bar, ticks=[0.0, mesh.get_clim()[1]], format="%.2f")
    scale.outline.set_visible(False)
    bar.tick_params(colors=MUTED, labelsize=points - 1, length=0)
    what = "attention to the source, the target's left out" if found.merged else "attention to the source"
    bar.set_ylabel(what if height > len(what) * 0.07 else "attention", color=MUTED, fontsize=points - 1)
    below = axes.annotate(
        told, (0, 0), xycoords="axes fraction", xytext=(0, -6), textcoords="offset points", va="top", ha="left"
    )
    below.set(color=MUTED, fontsize=points - 1)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=points + 3, pad=10)
    _fit(figure, (axes, bar))


def _sizes(tokens: int) -> tuple[float, float]:
    """Inches of a cell and points of its label, for so many tokens on the longer side."""
    if tokens > _MANY:
        return _SMALL_CELL, _SMALL_TYPE
    cell = min(max(8.0 / tokens, _CELL[0]), _CELL[1])
    return cell, min(max(cell * 72 * 0.55, 8.0), 11.0)


def _label_axes(axes: Any, found: Alignment, families: list[str], points: float) -> None:
    style = {"parse_math": False, "fontfamily": families, "fontsize": points, "color": INK}
    across, down = ([_cut(token) for token in side] for side in (found.source_tokens, found.target_tokens))
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(across)) + 0.5, labels=across, **style)
    short = [len(token) <= 2 and points >= 8 for token in across]
    letters = 2 * sum(short) > len(short)  # then those alone that are longer are turned
    for label, is_short in zip(axes.get_xticklabels(), short, strict=True):
        label.set_rotation(0 if letters and is_short else 90)
    axes.set_yticks(np.arange(len(down)) + 0.5, labels=down, **style)
    axes.invert_yaxis()
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_color(GRID)
    axes.set_xlabel("source", color=MUTED, fontsize=points)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("target", color=MUTED, fontsize=points)


def _cut(token: str) -> str:
    return token if len(token) <= _LONGEST else token[: _LONGEST - 1] + "…"


def _axes_at(figure: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def _fit(figure: Any, panels: Sequence[Any]) -> None:
    """Makes the figure as large as what is in it: labels are as long as tokens are."""
    wide, high = figure.get_size_inches()
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    new_wide, new_high = box.width + 2 * _MARGIN, box.height + 2 * _MARGIN
    places = [panel.get_position() for panel in panels]
    figure.set_size_inches(new_wide, new_high)
    for panel, place in zip(panels, places, strict=True):
        left, bottom = place.x0 * wide - box.x0 + _MARGIN, place.y0 * high - box.y0 + _MARGIN
        inches = left / new_wide, bottom / new_high, place.width * wide / new_wide, place.height * high / new_high
        panel.set_position(inches)


def _colours() -> Any:
    """White for nothing, then blue, ever darker: in greyscale too, more is darker."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attention", ["#ffffff", "#c3d7ea", "#7ea6cc", "#3b6ea5", "#173a63"])


def _families(tokens: Sequence[str]) -> list[str]:
    """Fonts for the labels: matplotlib's own, then installed ones that have letters which that one lacks."""
    from matplotlib import font_manager

    own = "DejaVu Sans"
    families, letters = [own], {ord(letter) for token in tokens for letter in token}
    letters -= font_manager.get_font(font_manager.findfont(own)).get_charmap().keys()
    others = [entry for entry in font_manager.fontManager.ttflist if not entry.name.startswith(_NO_LETTERS)]
    for entry in others if letters else ():
        with contextlib.suppress(OSError, RuntimeError):  # a font file that is gone or damaged
            has = font_manager.get_font(entry.fname).get_charmap().keys() & letters
            families += [entry.name] if has else []
            letters -= has
        if not letters:
            break
    if letters:
        missing = "".join(map(chr, sorted(letters)[:20]))
        _logger.warning(
            "no font of this machine has %s: boxes stand for them in a PNG. Install one (such as Noto Sans CJK), or "
            "write an SVG, which leaves letters to whoever shows it.",
            printable(missing),
        )
    return families


@contextlib.contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """What matplotlib says of each missing letter has been said once, of all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield
