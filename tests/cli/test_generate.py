"""`encdec-eqx generate`: what Python's calls make of the same texts, from anywhere, in order and in small memory."""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from encdec_eqx import GenerationConfig, cli
from encdec_eqx.cli import generate_command
from encdec_eqx.cli.generation_options import add_generation_options, given_options, in_options
from encdec_eqx.hf.files.hub import shipped_folder
from encdec_eqx.text import TextToText, constrain_to_pattern, constrain_to_texts
from encdec_eqx.text.lines import LONGEST, LineReader

MODEL = str(shipped_folder("pronounce"))
WORDS = ["hello", "a", "encoder", "supercalifragilistic", "cat", "do", "decoder", "house", "tree", "be"]
SHORT = "--max-new-tokens=24"


@pytest.fixture(scope="module")
def speaker() -> TextToText:
    return TextToText.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def expected(speaker) -> list[str]:
    return speaker(WORDS, max_new_tokens=24, batch_size=4)


@pytest.fixture
def piped(monkeypatch):
    """Makes stdin a pipe that holds these bytes."""
    opened = []

    def feed(content: bytes) -> None:
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        opened.append(os.fdopen(reader))
        monkeypatch.setattr(sys, "stdin", opened[-1])

    yield feed
    for stream in opened:
        stream.close()


@pytest.fixture
def unloaded(monkeypatch):
    """Fails if a model is loaded: what is wrong must be found before."""
    monkeypatch.setattr(generate_command, "_load", lambda chosen: pytest.fail("the model was loaded first"))


def test_arguments_a_file_and_a_pipe_say_the_same_in_their_order(expected, tmp_path, capsys, piped):
    (tmp_path / "words").write_bytes(("\ufeff" + "\r\n".join(WORDS)).encode())
    piped("\n".join(WORDS).encode())
    for source in (WORDS, ["--input", str(tmp_path / "words")], ["--input", "-"]):
        assert cli.main(["generate", MODEL, SHORT, "--batch-size=4", *source]) == 0
        assert capsys.readouterr().out.splitlines() == expected


def test_an_option_may_stand_before_the_texts(expected, capsys):
    assert cli.main(["generate", MODEL, SHORT, WORDS[0], "--num-beams", "1", *WORDS[1:4]]) == 0
    assert capsys.readouterr().out.splitlines() == expected[:4]


def test_blank_lines_stay_where_they_are(expected, capsys, piped):
    piped(f"\n \n{WORDS[0]}\n\n{WORDS[1]}\n\n".encode())
    assert cli.main(["generate", MODEL, SHORT, "--batch-size=4"]) == 0
    assert capsys.readouterr().out.split("\n") == ["", "", expected[0], "", expected[1], "", ""]


def test_json_has_the_scores_of_every_output(speaker, tmp_path):
    output = tmp_path / "out.jsonl"
    options = ["--num-beams=3", "--num-return-sequences=2", "--max-new-tokens=6", "--batch-size=4"]
    assert cli.main(["generate", MODEL, *WORDS, *options, "--jsonl", "--output", str(output)]) == 0
    asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
    result = speaker.generate(WORDS, batch_size=4, **asked)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [list(record) for record in records] == [
        ["index", "source", "generated_text", "score", "finish_reason"]
    ] * 20
    assert [(record["index"], record["source"]) for record in records] == [(i // 2, WORDS[i // 2]) for i in range(20)]
    assert [record["generated_text"] for record in records] == [text for texts in result.texts for text in texts]
    assert [record["score"] for record in records] == pytest.approx(result.scores.ravel().tolist(), rel=1e-6)
    ends = ["length" if unfinished else "eos" for unfinished in result.unfinished.ravel()]
    assert [record["finish_reason"] for record in records] == ends
    assert {"length", "eos"} == set(ends)
    assert list(tmp_path.iterdir()) == [output]


def test_a_source_that_was_cut_says_so(capsys):
    assert cli.main(["generate", MODEL, "encoder", "a", SHORT, "--max-source-length=4", "--jsonl"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["source_truncated" in record for record in records] == [True, False]


@pytest.mark.parametrize("batches", [1, 2])
def test_samples_do_not_depend_on_the_portions(speaker, capsys, monkeypatch, piped, batches):
    monkeypatch.setattr(generate_command, "_BATCHES", batches)
    piped("\n".join(WORDS).encode())
    assert cli.main(["generate", MODEL, SHORT, "--do-sample", "--seed=5", "--batch-size=4"]) == 0
    once = speaker(WORDS, max_new_tokens=24, do_sample=True, key=jax.random.key(5), batch_size=4)
    assert capsys.readouterr().out.splitlines() == once


def test_portions_of_any_size_share_few_programs(speaker, expected):
    sizes = iter(speaker.generate_in_portions([WORDS[:3], WORDS[3:8], WORDS[8:]], max_new_tokens=24, batch_size=4))
    assert [text for result in sizes for [text] in result.texts] == expected


def test_only_what_a_list_or_a_pattern_allows(speaker, tmp_path, capsys):
    choices = ["HH EH L OW", "K AE T", "W ER L D"]
    (tmp_path / "choices").write_text("\n".join([*choices, ""]))
    for said in (f"choices:{tmp_path / 'choices'}", "regex:(HH|K|W)( [A-Z]{2}){2}"):
        assert cli.main(["generate", MODEL, *WORDS, "--max-new-tokens=5", "--constraint", said]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0] == ("HH EH L OW" if said[0] == "c" else out[0])
        if said[0] == "c":
            assert set(out) <= set(choices)
        else:
            assert all(len(line.split()) == 3 and line.split()[0] in ("HH", "K", "W") for line in out)
    with pytest.raises(ValueError, match="cannot write"):
        constrain_to_texts(speaker, ["?"])
    with pytest.raises(ValueError, match="vocabulary"):
        constrain_to_pattern(speaker, "[0-9]+")


def test_an_assistant_changes_nothing_but_the_time(expected, capsys):
    assert cli.main(["generate", MODEL, *WORDS[:4], SHORT, "--assistant-model", MODEL, "--num-assistant-tokens=2"]) == 0
    assert capsys.readouterr().out.splitlines() == expected[:4]


def test_every_option_of_python_is_one_here():
    parser = argparse.ArgumentParser()
    add_generation_options(parser)
    names = {action.dest for action in parser._actions} - {"help"}
    assert names == {field.name for field in dataclasses.fields(GenerationConfig)} - {"others"}
    words = "--num-beams 4 --early-stopping never --top-p .5 --no-do-sample --eos-token-id [1,2] --bad-words-ids [[3]]"
    given = given_options(parser.parse_args(words.split()))
    assert given == {
        "num_beams": 4,
        "early_stopping": "never",
        "top_p": 0.5,
        "do_sample": False,
        "eos_token_id": [1, 2],
        "bad_words_ids": [[3]],
    }
    assert "`" not in parser.format_help()


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        ("pass max_new_tokens=64, or max_length.", "pass --max-new-tokens 64, or --max-length."),
        ("do_sample=True, do_sample=False", "--do-sample, --no-do-sample"),
        ("generation_config.json; SpecialTokens.eos_token_id", "generation_config.json; SpecialTokens.eos_token_id"),
    ],
)
def test_messages_are_in_the_words_that_are_typed(python, typed):
    assert in_options(python) == typed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num-beams=0", "a"], "--num-beams must be at least 1, got 0"),
        (["--max-length=3", "--max-new-tokens=3", "a"], "both --max-length 3 and --max-new-tokens 3 are given"),
        (["a", "--input", "x"], "two sources: leave one out"),
        (["a", " "], "is blank"),
        (["--input", "/nowhere/x"], "/nowhere/x: No such file"),
        (["a", "--output", "/nowhere/x"], "--output /nowhere/x cannot be written to (No such file or directory)"),
        (["a", "--output", "/"], "--output / is a folder; give a file"),
        (["a", "--source-tokenizer", "letters"], "go together"),
        (["a", "--constraint", "lines:x"], "expected choices:FILE or regex:PATTERN"),
        (["a", "--constraint", f"choices:{os.devnull}"], "has no output in it"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(words, told, unloaded, capsys):
    assert cli.main(["generate", MODEL, *words]) == 1
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "option", ["--num-beams=x", "--top-p=x", "--early-stopping=x", "--bad-words-ids=x", "--seed=-1"]
)
def test_a_value_of_another_kind_is_refused_by_name(option, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", MODEL, "a", option])
    assert caught.value.code == 2
    assert f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "neither --max-new-tokens nor --max-length is given"),
        (["a", SHORT, "--seed=3"], "--seed draws nothing without sampling"),
        (["a", SHORT, "--top-k=3"], "--top-k 3 (argument) would do nothing"),
        (["a", SHORT, "--num-assistant-tokens=3"], "it belongs to --assistant-model, which is not given"),
    ],
)
def test_what_only_the_model_shows_is_said_in_options_too(words, told, capsys):
    assert cli.main(["generate", MODEL, *words]) == 1
    assert told in capsys.readouterr().err


def test_a_model_without_tokenizers_is_told_how_to_name_them(expected, tmp_path, capsys):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(Path(MODEL) / name, tmp_path)
    assert cli.main(["generate", str(tmp_path), WORDS[0], SHORT]) == 1
    told = capsys.readouterr().err
    assert "has no tokenizers" in told and "--source-tokenizer" in told and "--target-tokenizer" in told
    named = ["--source-tokenizer=letters", "--target-tokenizer=phonemes"]
    assert cli.main(["generate", str(tmp_path), WORDS[0], SHORT, *named]) == 0
    assert capsys.readouterr().out.splitlines() == expected[:1]


def test_what_fails_leaves_the_old_output(tmp_path, capsys):
    output = tmp_path / "out"
    output.write_text("old")
    (tmp_path / "in").write_bytes(b"hello\nbad \xff\n")
    assert cli.main(["generate", MODEL, SHORT, "--input", str(tmp_path / "in"), "--output", str(output)]) == 1
    assert "line 2: not UTF-8" in capsys.readouterr().err
    assert output.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_what_was_written_before_an_error_is_kept_aside(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate_command, "_BATCHES", 1)
    output = tmp_path / "out"
    (tmp_path / "in").write_bytes(b"hello\nhello\nbad \xff\n")
    words = ["--input", str(tmp_path / "in"), "--output", str(output), "--batch-size=2"]
    assert cli.main(["generate", MODEL, SHORT, *words]) == 1
    assert "line 3: not UTF-8" in capsys.readouterr().err
    assert not output.exists()
    assert (tmp_path / "out.partial").read_text() == "HH EH L OW\n" * 2


def test_an_endless_pipe_and_a_reader_that_leaves():
    command = f"yes hello | {sys.executable} -m encdec_eqx generate {MODEL} {SHORT} --batch-size 4"
    code = f"set -o pipefail; {command} | head -40; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["HH EH L OW"] * 40 + ["141 141 0"]
    assert not done.stderr


def test_lines_come_when_they_are_there_and_not_in_portions_only():
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as stream:
        portions = LineReader(stream, "it").portions(3)
        os.write(theirs, b"a\nb\nha")
        assert next(portions) == ["a", "b"]
        os.write(theirs, b"lf\n1\n2\n3\n")
        assert next(portions) == ["half", "1", "2"]
        os.close(theirs)
        assert list(portions) == [["3"]]


def test_a_stream_without_line_ends_does_not_fill_the_memory(tmp_path):
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(20 * LONGEST)
    with (tmp_path / "zeros").open("rb") as file:
        reader = LineReader(file, "zeros")
        with pytest.raises(ValueError, match="zeros, line 1 has more than 16,777,216 bytes"):
            next(reader.portions(8))
        assert reader.consumed < 2 * LONGEST
