"""`encdec-eqx export`: texts in, texts out, as `generate` has them, where jax alone and tokenizers are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from encdec_eqx import EncoderDecoder, cli
from encdec_eqx.generation.source_and_prompt import longest_sequence
from encdec_eqx.hf.files.hub import shipped_folder
from encdec_eqx.text import TextToText
from models import tiny_pair

MODEL = str(shipped_folder("pronounce"))
SIZES = ("--batch=2", "--source=16", "--max-new-tokens=12", "--platforms=cpu")
WORDS = ["hello", "decoder", "a"]


def test_a_folder_says_what_the_model_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "exported"
    assert cli.main(["export", MODEL, str(folder), *SIZES, "--num-beams=2"]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: beams search for cpu" in said
    assert f"run it with: python {folder / 'run.py'} 'some text'" in said
    command = [sys.executable, str(folder / "run.py"), "--json", *WORDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert texts == TextToText.from_pretrained(MODEL)(WORDS, max_new_tokens=12, num_beams=2)
    done = subprocess.run([*command[:2]], input=b"hello\nna\xefve\n", capture_output=True, check=False)
    assert done.returncode == 1 and b"run.py: 'utf-8' codec can't decode byte 0xef" in done.stderr
    done = subprocess.run([*command[:2], "--ids", "a b"], capture_output=True, check=False)
    assert done.returncode == 1 and b"run.py: 'a b' must be token ids, such as '5 6 7'." in done.stderr


def test_a_source_is_by_default_what_the_encoder_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pair().save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--max-new-tokens=2", "--platforms=cpu"]
    assert cli.main(command) == 0
    sizes = json.loads((tmp_path / "out" / "manifest.json").read_text())["sizes"]
    assert sizes["source"] == longest_sequence(tiny_pair().encoder.config) < 128
    capsys.readouterr()
    assert cli.main([*command, "--source=999"]) == 1
    assert "Lower --source." in capsys.readouterr().err


def test_without_tokenizers_it_is_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pair().save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--source=4", "--max-new-tokens=2"]
    assert cli.main([*command, "--do-sample", "--platforms=cpu"]) == 0
    said = capsys.readouterr().out
    assert "the program takes and gives token ids" in said
    assert "--seed 0 --ids '5 6 7'" in said


def test_what_is_wrong_is_found_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(TextToText, "from_pretrained", loaded)
    monkeypatch.setattr(EncoderDecoder, "from_pretrained", loaded)
    file = tmp_path / "file"
    file.write_text("kept")
    for words, message in (
        ([MODEL, str(file), "--max-new-tokens=2"], "is a file; give a folder"),
        ([MODEL, str(tmp_path / "out")], "--max-new-tokens is needed"),
        ([MODEL, str(tmp_path / "out"), "--max-new-tokens=2", "--num-beams=0"], "--num-beams"),
    ):
        assert cli.main(["export", *words]) == 1
        assert message in capsys.readouterr().err
    assert file.read_text() == "kept"
