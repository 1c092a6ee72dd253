"""JSON and TOML of other people's making: marks in front, numbers without end, nests."""

import sys

import pytest

from encdec_eqx._json import loads
from encdec_eqx.training.job import read_job

DIGITS = "9" * 5000


def test_what_json_loads_reads_is_read():
    assert loads('{"a": [1, 2.5, null, true]}') == {"a": [1, 2.5, None, True]}
    assert loads(b'\xef\xbb\xbf{"a": "\xc3\xbc"}') == {"a": "ü"}
    assert loads("9" * 4000) == int("9" * 4000)
    assert loads('{"a": 1, "a": 2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting property name"),
        (b"\xff\xff", "codec can't decode byte"),
        ("[" * 100_000, "it nests too deeply"),
        (DIGITS, f"a whole number of more than {sys.get_int_max_str_digits()} digits"),
        ('{"a": [1, ' + DIGITS + "]}", "a whole number of more than"),
    ],
)
def test_every_refusal_is_a_value_error_in_one_line(text, says):
    for hook in (None, dict):
        with pytest.raises(ValueError, match=says) as caught:
            loads(text, object_pairs_hook=hook)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 200


def test_a_hook_s_own_error_passes_through():
    def refuse(pairs):
        raise ValueError("twice")

    with pytest.raises(ValueError, match="twice"):
        loads('{"a": 1}', object_pairs_hook=refuse)


def test_a_job_with_a_mark_in_front_is_read_and_one_with_endless_digits_is_named(tmp_path):
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\nmax_steps = 3\n")
    assert read_job(path).train.max_steps == 3
    path.write_text(f"[train]\nmax_steps = {DIGITS}\n")
    with pytest.raises(ValueError, match=r"job\.toml cannot be read: it holds a whole number of more than 4300 digits"):
        read_job(path)
