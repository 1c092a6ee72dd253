"""Which layers of a stack see a window alone, as configs say it: `sliding_window` and `layer_types`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .._quoting import quoted
from ..config import StackConfig
from .attributes import Attribute, write_only

FULL, SLIDING = "full_attention", "sliding_attention"


def window_row(default: int | None) -> Attribute:
    """The row of `sliding_window`, which a function of the family reads."""
    return Attribute("sliding_window", (), default, write_only(window_of), kinds=(int, type(None)))


def _types(config: StackConfig) -> list[str]:
    return [FULL if layer.window is None else SLIDING for layer in config.layers]


LAYER_TYPES = Attribute("layer_types", (), None, write_only(_types), kinds=(list, type(None)))
"""The row of `layer_types`, which a function of the family reads; written, it is said of every layer."""


def window_of(config: StackConfig) -> int | None:
    """The window of the layers that have one, or None."""
    return next((layer.window for layer in config.layers if layer.window is not None), None)


def with_windows(config: StackConfig, hf: Mapping[str, Any], *, usual: Sequence[bool]) -> StackConfig:
    """The config with `sliding_window` in the layers that slide.

    Args:
        config: of layers without windows.
        hf: all attributes; `layer_types` wins, as in torch.
        usual: which layers slide where there are no `layer_types`.

    Raises:
        ValueError: `layer_types` has not one known word a layer, or layers are to slide and no window is given.
    """
    slides, window = list(usual), hf["sliding_window"]
    if (said := hf.get("layer_types")) is not None:
        if len(said) != len(config.layers) or not all(word in (FULL, SLIDING) for word in said):
            raise ValueError(
                f"layer_types is {quoted(said)}; expected {FULL!r} or {SLIDING!r} for each of the "
                f"{len(config.layers)} layers"
            )
        slides = [word == SLIDING for word in said]
    if any(slides) and window is None:
        raise ValueError("layer_types has layers that slide, and sliding_window is null; expected a number of tokens")
    layers = tuple(
        dataclasses.replace(layer, window=window) if slide else layer
        for layer, slide in zip(config.layers, slides, strict=True)
    )
    return config.replace(layers=layers)
