"""Values of other people's making in messages: one line, not longer, safe to print, at once whatever their size."""

import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx._quoting import LONGEST, printable, quoted


@pytest.mark.parametrize("value", ["a  b", "it's", 3, -1.5, None, True, [1, "b"], {"dtype": {}}, (1,), b"\x00", "é漢"])
def test_short_values_are_quoted_as_repr_does(value):
    assert quoted(value) == repr(value)


def test_control_characters_never_come_through():
    hostile = "a\x1b[2J\x9b31m\r\n\u202e\x07\ud800"
    assert quoted(hostile) == r"'a\x1b[2J\x9b31m\r\n\u202e\x07\ud800'"
    assert printable(hostile) == r"a\x1b[2J\x9b31m\r\n\u202e\x07\ud800"
    assert printable(Path("données") / "plain file.txt") == "données/plain file.txt"

    class Odd:
        def __repr__(self):
            return "first\n   second \x1b[31m"

    assert quoted(Odd()) == r"first second \x1b[31m"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        b"\x00" * 10**7,
        10**50_000,
        [10**50_000],
        [["x" * 1000] * 1000] * 1000,
        {str(i): {"a": [i] * 100} for i in range(20_000)},
        np.zeros((10**4, 10**3)),
        jnp.zeros(10**5),
    ],
    ids=type,
)
def test_long_values_are_cut_to_a_line_without_being_written_out(value):
    start = time.perf_counter()
    text = quoted(value)
    assert len(text) <= LONGEST and text.isprintable()
    assert time.perf_counter() - start < 1.0


def test_what_is_cut_is_marked_and_paths_are_not_cut():
    assert quoted("x" * 1000) == repr("x" * 96)[:97] + "..."
    assert quoted(list(range(1000)), 20) == "[0, 1, 2, 3, 4, 5..."
    assert printable("y" * 1000) == "y" * 1000
    assert printable("y" * 1000, 10) == "yyyyyyy..."


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
_VALUES = st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner))


@given(_VALUES, st.integers(4, 2 * LONGEST))
def test_a_quoted_value_is_one_printable_line_and_no_longer_than_said(value, longest: int):
    text = quoted(value, longest)
    assert len(text) <= longest and text.isprintable()


@given(st.text())
def test_an_escaped_name_is_printable_and_tells_apart_what_it_stands_for(name: str):
    text = printable(name)
    assert text.isprintable()
    assert text == name if name.isprintable() else text != name
    assert printable(text) == text
