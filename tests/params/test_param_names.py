"""Names of arrays and selectors: properties over many selectors, and how often names are made."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from encdec_eqx.params import param_names
from encdec_eqx.params.param_names import places
from encdec_eqx.params.selectors import select
from encdec_eqx.training import (
    init_train_state,
    make_optimizer,
    make_train_step,
    segmented,
    summarize_trainable,
    trainable,
)
from models import decoder_config, encoder_config, random_ids, tiny_pair

MODEL = tiny_pair(encoder_config(depth=3), decoder_config(depth=3))
SCANNED = MODEL.with_layout("scanned")
NAMES = [place.names[0] for place in places(MODEL)]
CARRIED = {name for name in NAMES if name.startswith("encoder.pooler.")}


@st.composite
def parts(draw: st.DrawFn) -> str:
    """A run of components of some array's name."""
    words = draw(st.sampled_from(NAMES)).split(".")
    start = draw(st.integers(0, len(words) - 1))
    return ".".join(words[start : draw(st.integers(start + 1, len(words)))])


def _picked(selectors: str, model: Any = MODEL) -> set[str]:
    found = places(model)
    return {
        name
        for place, pick in zip(found, select(selectors, [place.names for place in found]), strict=True)
        if pick
        for name in place.names
    }


def _holds(part: str, name: str) -> bool:
    return f".{part}." in f".{name}."


@given(st.lists(parts(), min_size=1, max_size=4))
def test_parts_pick_the_union_of_the_names_that_hold_them(some: list[str]) -> None:
    assert _picked(" | ".join(some)) == {name for name in NAMES if any(_holds(part, name) for part in some)}


@given(parts(), parts())
def test_an_exclamation_mark_takes_away_wherever_it_stands(one: str, other: str) -> None:
    kept = {name for name in NAMES if _holds(one, name) and not _holds(other, name)}
    if not _picked(one) & _picked(other):
        with pytest.raises(ValueError, match="takes nothing away"):
            _picked(f"{one} | !{other}")
    else:
        assert _picked(f"{one} | !{other}") == _picked(f"!{other} | {one}") == kept
    assert _picked(f"!{one}") == set(NAMES) - _picked(one)


@given(st.sampled_from(["encoder", "decoder"]), st.integers(0, 2), st.integers(0, 2))
def test_a_range_of_layers_takes_in_both_ends(piece: str, first: int, last: int) -> None:
    if first > last:
        with pytest.raises(ValueError, match="counts backwards"):
            _picked(f"{piece}.layers.{first}-{last}")
        return
    expected = {name for at in range(first, last + 1) for name in NAMES if name.startswith(f"{piece}.layers.{at}.")}
    assert _picked(f"{piece}.layers.{first}-{last}") == expected


@settings(max_examples=10)  # cuts and names a model each
@given(parts())
def test_a_selector_means_the_same_in_both_layouts(part: str) -> None:
    assert _picked(part, SCANNED) == _picked(part)
    hypothesis.assume(_picked(part) - CARRIED)
    cut = segmented(SCANNED, part)
    flags = jax.tree.leaves(trainable(cut, part))
    names = {name for place in places(cut) if flags[place.leaf] for name in place.names}
    assert names == _picked(part) - CARRIED


def _calls_that_name(function: Callable[[], Any]) -> int:
    """Python calls of a function that make names of arrays."""
    made = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal made
        code = frame.f_code
        made += event == "call" and (code.co_filename, code.co_name) == (param_names.__file__, "named")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return made


def test_names_are_made_once_for_each_structure() -> None:
    optimizer = make_optimizer(num_training_steps=9, weight_decay=0.1, learning_rates={"decoder": 1e-3}, optim="muon")
    batch = {"input_ids": random_ids(0, 2, 5), "labels": np.asarray(random_ids(1, 2, 4))}

    def before_a_step() -> None:
        summarize_trainable(SCANNED, "decoder", optimizer=optimizer)
        state = init_train_state(SCANNED, optimizer, trainable="decoder")
        make_train_step(optimizer).lower(state, batch, None)

    param_names._of_structure.cache_clear()
    structures = 3  # the model, what is trained of it, and of that the matrices inside
    assert 0 < _calls_that_name(before_a_step) <= structures * (len(NAMES) + 1)
    assert param_names._of_structure.cache_info().misses <= structures
    assert _calls_that_name(before_a_step) == 0
