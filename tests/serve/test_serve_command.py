"""`encdec-eqx serve`: what it accepts, what it says, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from running_server import WORDS, speaker

from encdec_eqx import cli
from encdec_eqx.serve import open_listener

SMALL = ("--port", "0", "--batch-sizes", "1", "--source-lengths", "16", "--max-new-tokens", "12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "pair"
    speaker().save_pretrained(folder)
    (folder.parent / "outputs.txt").write_text("the cat\nwho\n")
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "greedy"], "--search must be NAME=VALUE"),
        (["--search", "a={", "--search", "b={}"], "--search a must be a JSON object.*Expecting"),
        (["--search", "a=[1]"], r"--search a must be a JSON object.*got \[1\]"),
        (["--search", "a={}", "--search", "a={}"], "--search has the name 'a' twice"),
        (["--search", "a={}", "--outputs", "x=no/such/file"], "no/such/file: No such file"),
        (["--search", "a={}", "--pattern", "x=(a"], r"\(a"),
        (["--search", 'wide={"num_beams": 0}'], "search 'wide': num_beams must be at least 1"),
        (["--search", "a={}", "--outputs", f"x={os.devnull}"], "--outputs: /dev/null has no output in it"),
        (["--source-lengths", "99"], "--source-lengths has 99, but the encoder reads at most 24"),
        (["--max-new-tokens", "4000"], "--max-new-tokens is 4000, but the decoder has positions for"),
        (["--host", "nowhere.invalid"], "--host 'nowhere.invalid' is no address"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit_is_one_line(folder, capsys, words, said):
    assert cli.main(["serve", str(folder), *SMALL, *words]) == 1
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("model", "end"),
    [("letters", "Generating needs both pieces, saved together."), ("no/such/model", "is no Hub id either")],
)
def test_a_model_that_is_none_is_told_of_in_the_commands_words(capsys, model, end):
    assert cli.main(["serve", model, "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert end in error and "from_pretrained" not in error


def test_a_port_in_use_is_found_out_before_the_model_is_looked_for(capsys):
    with open_listener("127.0.0.1", 0) as taken:
        assert cli.main(["serve", "no/such/model", "--port", str(taken.getsockname()[1])]) == 1
    assert "is in use: stop what listens there, or pass another --port" in capsys.readouterr().err


def _start(folder: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "encdec_eqx", "serve", str(folder), *SMALL, *more]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)


def _lines_until(process: subprocess.Popen, words: str) -> Sequence[str]:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_server_whose_lines_nobody_reads_any_more_ends_all_the_same(folder):
    with _start(folder, "--search", "greedy={}") as process:
        try:
            _lines_until(process, "ready.")
            assert process.stderr is not None
            process.stderr.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_server_starts_is_called_as_it_says_and_ends_at_sigterm(folder):
    """Its lines are those that a person reads: the curl command is run as printed."""
    names = f"names={folder.parent / 'outputs.txt'}"
    with _start(folder, "--search", "greedy={}", "--outputs", names, "--pattern", "word=c?at") as process:
        try:
            said = "".join([*_lines_until(process, "ready."), next(iter(process.stderr or []))])
            address = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
            assert "searches: greedy; constraints: word, names" in said
            assert "1 of" in said
            curl = said.strip().splitlines()[-1].strip()
            assert curl == f'curl -s {address}/generate -d \'{{"inputs": "..."}}\''
            # what the command sends, form-encoded by its own account
            headers = {"content-type": "application/x-www-form-urlencoded"}
            assert httpx.post(f"{address}/generate", content=b'{"inputs": "..."}', headers=headers).status_code == 200
            for name, expected in (("names", {"the cat", "who"}), ("word", {"cat", "at"})):
                body = {"inputs": WORDS[0], "parameters": {"constraint": name}}
                [[output]] = httpx.post(f"{address}/generate", content=json.dumps(body)).json()["outputs"]
                assert output["generated_text"] in expected
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            left = process.stderr.read() if process.stderr else ""
            assert left == "stopping.\n"
        finally:
            process.kill()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_it_compiles_ends_it_without_a_trace(folder, times):
    with _start(folder) as process:
        try:
            _lines_until(process, "compiling ahead")
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(0.05)
            assert process.wait(20) == 130
            left = process.stderr.read() if process.stderr else ""
            assert "Traceback" not in left
            assert "stopping." in left
        finally:
            process.kill()
