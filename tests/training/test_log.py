"""The record of a run: the log and its resumption, signals, and what the terminal shows."""

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from encdec_eqx.training import graceful_stop
from encdec_eqx.training.reporting import progress as progress_module
from encdec_eqx.training.reporting.log import RunLog, read_log
from encdec_eqx.training.reporting.progress import progress


def test_what_was_written_is_read_in_order_and_each_line_is_strict_json(tmp_path: Path):
    path = tmp_path / "run" / "log.jsonl"
    with RunLog(path) as log:
        log.write("train", step=10, loss=2.5, learning_rate=1e-4, tokens_per_second=1234.5)
        log.write("eval", step=10, loss=np.float32(0.1), bleu=jnp.asarray(3), texts=["Größe", None])
        assert read_log(path) == log.records()  # each line is there at once
    assert read_log(path) == [
        {"event": "train", "step": 10, "loss": 2.5, "learning_rate": 1e-4, "tokens_per_second": 1234.5},
        {"event": "eval", "step": 10, "loss": float(np.float32(0.1)), "bleu": 3, "texts": ["Größe", None]},
    ]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["train", "eval"]
    assert "Größe" in lines[1]


def test_numbers_that_are_not_finite_survive_although_json_has_none(tmp_path: Path):
    with RunLog(tmp_path / "log") as log:
        log.write("eval", step=1, values=[math.inf, -math.inf], loss=np.float32("nan"))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for line in (tmp_path / "log").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    (record,) = read_log(tmp_path / "log")
    assert record["values"] == [math.inf, -math.inf]
    assert math.isnan(record["loss"])


def _log_of(path: Path, steps: range) -> bytes:
    with RunLog(path) as log:
        for step in steps:
            log.write("train", step=step, loss=1 / step)
            if step % 2 == 0:
                log.write("eval", step=step, loss=0.5)
        log.write("note", text="no step")
    return path.read_bytes()


def test_resuming_removes_the_later_steps_and_nothing_else(tmp_path: Path):
    whole = _log_of(tmp_path / "whole", range(1, 9))
    _log_of(tmp_path / "log", range(1, 6))
    with RunLog(tmp_path / "log", resume_from=4) as log:
        assert [record.get("step") for record in log.records()] == [1, 2, 2, 3, 4, 4, None]
        for step in range(5, 9):
            log.write("train", step=step, loss=1 / step)
            if step % 2 == 0:
                log.write("eval", step=step, loss=0.5)
    kept = [line for line in (tmp_path / "log").read_bytes().splitlines() if b"note" not in line]
    assert kept == [line for line in whole.splitlines() if b"note" not in line]


def test_a_new_log_takes_the_place_of_an_old_one(tmp_path: Path):
    _log_of(tmp_path / "log", range(1, 3))
    with RunLog(tmp_path / "log") as log:
        assert log.records() == []
    with RunLog(tmp_path / "none yet", resume_from=3) as log:
        assert log.records() == []


def test_a_line_that_a_crash_cut_short_is_no_event(tmp_path: Path):
    _log_of(tmp_path / "log", range(1, 3))
    whole = read_log(tmp_path / "log")
    content = (tmp_path / "log").read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(content)):
        (tmp_path / "log").write_bytes(content[:cut])
        assert read_log(tmp_path / "log") == whole[:-1]
    with RunLog(tmp_path / "log", resume_from=2) as log:
        log.write("note", text="after")
    assert read_log(tmp_path / "log") == [*whole[:-1], {"event": "note", "text": "after"}]


SPOILED = [
    b"{nonsense}", b"[1]", b'{"event": "train"', b"\0" * 40, b'{"event": "note", "text": "\xff\xfe"}', b"",
    b"[" * 100_000, b'{"event": "train", "step": "3"}', b'{"event": "train", "step": true}', b'{"step": 3}',
    b'{"event": "train"}\0',
]  # fmt: skip


@pytest.mark.parametrize("line", SPOILED, ids=lambda line: repr(line[:20]))
@pytest.mark.parametrize("followed", [True, False], ids=["followed", "last"])
def test_a_resumed_log_is_cut_at_the_first_line_that_cannot_be_read(tmp_path: Path, line: bytes, followed: bool):
    path = tmp_path / "log"
    whole = _log_of(path, range(1, 6)).splitlines(keepends=True)
    spoiled = [*whole[:3], line + b"\n", *(whole[3:] if followed else [])]
    path.write_bytes(b"".join(spoiled))
    with RunLog(path, resume_from=4) as log:
        assert path.read_bytes() == b"".join(whole[:3])
        log.write("train", step=5, loss=0.2)
    assert [record["step"] for record in read_log(path)] == [1, 2, 2, 5]
    (note,) = log.notes
    assert note.startswith("line 4 of log ")
    assert ("and what follows, 6 lines in all, are removed" if followed else "it is removed") in note
    assert note.isprintable()


def test_a_log_that_is_whole_or_ends_in_half_a_line_says_so(tmp_path: Path):
    whole = _log_of(tmp_path / "log", range(1, 3))
    with RunLog(tmp_path / "log", resume_from=2) as log:
        assert log.notes == ()
    (tmp_path / "log").write_bytes(whole + b'{"event": "tr')
    with RunLog(tmp_path / "log", resume_from=2) as log:
        assert log.notes == ("line 5 of log has no end: it is removed, and the run goes on.",)
    assert (tmp_path / "log").read_bytes() == whole


def test_events_of_the_step_itself_can_be_taken_back(tmp_path: Path):
    _log_of(tmp_path / "log", range(1, 5))
    with RunLog(tmp_path / "log", resume_from=4, without=("eval",)) as log:
        assert [(record["event"], record.get("step")) for record in log.records()] == [
            ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4), ("note", None),
        ]  # fmt: skip


def test_a_log_that_is_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "log").mkdir()
    with pytest.raises(ValueError, match="is a folder: move it away"):
        RunLog(tmp_path / "log", resume_from=2)


@pytest.mark.parametrize("line", [b"{nonsense}", b"[1]", b'{"event": "train"'])
def test_any_other_damage_is_an_error_that_names_the_line(tmp_path: Path, line: bytes):
    (tmp_path / "log").write_bytes(b'{"event": "note"}\n' + line + b'\n{"event": "note"}\n')
    with pytest.raises(ValueError, match=r"log:2 is not JSON|log:2 is not a JSON object"):
        read_log(tmp_path / "log")


def test_a_full_disk_leaves_only_whole_lines(tmp_path: Path):
    code = """
        import resource, sys
        from encdec_eqx.training.reporting.log import RunLog, read_log
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with RunLog(sys.argv[1]) as log:
            for step in range(9):
                try:
                    log.write("train", step=step, loss=0.25)
                except OSError as error:
                    print(error.errno, step)
                    break
        print(len(read_log(sys.argv[1])), open(sys.argv[1], "rb").read()[-1:])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.ENOSPC), "2", "2", "b'\\n'"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_sets_the_flag_and_the_old_handlers_come_back(
    number: signal.Signals, capfd: pytest.CaptureFixture
):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with graceful_stop() as stop:
        assert (stop.requested, stop.signal) == (False, None)
        os.kill(os.getpid(), number)
        assert (stop.requested, stop.signal) == (True, number.name)
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may send several
        assert stop.signal == number.name
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert ("Ctrl-C again" in capfd.readouterr().err) == (number == signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_interrupts_at_once(first: signal.Signals):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), graceful_stop():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run() -> None:
        with graceful_stop() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


class _Clock:
    """A second passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def _show(console: Console | None, clock: _Clock, steps: int = 40) -> None:
    """A run that was resumed at step 10: a second a step, a line of the log every 2, an evaluation every 10."""
    with progress(steps, start=10, console=console) as bar:
        for step in range(11, steps + 1):
            clock.now += 1
            if step % 2:
                bar.update(step)
            else:
                bar.update(step, loss=2.0 / step, learning_rate=3e-5, tokens_per_second=12345.6)
            if step % 10 == 0:
                bar.evaluating()
                bar.evaluated(step, {"loss": 1.2345678, "bleu": 31.234})
        bar.note("a [note]")


@pytest.mark.parametrize("given", [True, False])
def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    given: bool, clock: _Clock, capsys: pytest.CaptureFixture[str]
):
    stream = io.StringIO()
    _show(Console(file=stream, width=40) if given else None, clock)
    text = stream.getvalue() if given else capsys.readouterr().err
    assert text.replace("\n", "").isprintable()
    assert text.splitlines() == [
        "step 12/40  loss 0.1667  lr 3.0e-05  12,346 tok/s  ETA 0:00:28",
        "step 20/40  eval loss 1.2346  bleu 31.23",
        "step 22/40  loss 0.0909  lr 3.0e-05  12,346 tok/s  ETA 0:00:18",
        "step 30/40  eval loss 1.2346  bleu 31.23",
        "step 32/40  loss 0.0625  lr 3.0e-05  12,346 tok/s  ETA 0:00:08",
        "step 40/40  eval loss 1.2346  bleu 31.23",
        "a [note]",
        "step 40/40  loss 0.0500  lr 3.0e-05  12,346 tok/s  ETA 0:00:00",
    ]


@pytest.mark.parametrize(
    ("width", "numbers"),
    [
        (40, "loss 0.0500"),
        (60, "loss 0.0500  lr 3.0e-05"),
        (80, "loss 0.0500  lr 3.0e-05  12,346 tok/s"),
        (100, "loss 0.0500  lr 3.0e-05  12,346 tok/s"),
        (140, "loss 0.0500  lr 3.0e-05  12,346 tok/s  eval loss 1.2346  bleu 31.23"),
    ],
)
def test_a_terminal_of_any_width_shows_a_bar_that_fits_and_every_evaluation(width: int, numbers: str, clock: _Clock):
    shown = _shown_on(width, lambda console: _show(console, clock))
    last = [line for line in shown if "40/40" in line and "loss 0.0500" in line][-1]
    assert numbers in last and last.endswith("ETA 0:00:00")
    assert last.count("  ") == numbers.count("  ")
    assert max(len(line) for line in shown) <= width
    for step in (20, 30, 40):
        assert f"step {step}/40  eval loss 1.2346  bleu 31.23" in shown
    assert "a [note]" in shown


@pytest.mark.parametrize("width", [60, 80, 100])
def test_many_metrics_and_large_numbers_are_seen_on_narrow_terminals(width: int, clock: _Clock):
    values = {"loss": 1.2345, "rouge1": 31.2, "rouge2": 12.3, "rougeL": 25.1, "exact_match": 0.0, "bleu": 9.0}

    def show(console: Console) -> None:
        with progress(1_000_000, start=123_456, console=console) as bar:
            bar.update(123_457, loss=1.0, learning_rate=1e-5, tokens_per_second=1_234_567.0)
            bar.evaluating()
            bar.evaluated(123_457, values)

    shown = _shown_on(width, show)
    text = " ".join(" ".join(shown).split())
    for name, value in values.items():
        assert f"{name} {value:.2f}" in text or f"{name} {value:.4f}" in text
    assert max(len(line) for line in shown) <= width


def _shown_on(width: int, show: Callable[[Console], None]) -> list[str]:
    """The lines that a terminal of this width shows."""
    stream = io.StringIO()
    show(Console(file=stream, force_terminal=True, width=width, color_system=None))
    return [line.strip() for line in stream.getvalue().replace("\x1b[2K", "\n").splitlines()]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_was_compiled_is_said_and_takes_no_part_in_the_estimate(terminal: bool, clock: _Clock):
    """Two shapes of batches take 60 s each to compile, an evaluation 100 s, its later ones 5 s; a step takes 1 s."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None)
    left = []
    with progress(121, console=console) as bar:
        for step in range(1, 41):
            if step in (1, 3):
                bar.compiling()
                clock.now += 60
            clock.now += 1
            bar.update(step, done=step < 9 or step % 10 == 0)
            left.append(bar._left())
            if step % 10 == 0:
                bar.evaluating()
                clock.now += 100 if step == 10 else 5
                bar.evaluated(step, {"loss": 1.0})
    assert left[0] == "ETA -:--:--"
    assert left[1] == "ETA 0:01:59"  # after step 2, whatever the first took
    assert left[2] == "ETA 0:01:58"
    assert left[9] == "ETA 0:01:51"
    assert left[10] == "ETA 0:01:50"  # counted down between two measures
    # the evaluations from the second on are in the pace: 38 steps and 10 s of them
    assert left[39] == f"ETA 0:0{round(48 / 38 * 81) // 60}:{round(48 / 38 * 81) % 60:02}"
    text = stream.getvalue()
    assert "compiling eval" in text if terminal else text.startswith("compiling the first step\n")
    assert ("compiling" in text.replace("compiling eval", "")) and text.count("compiling the first step") <= 1
