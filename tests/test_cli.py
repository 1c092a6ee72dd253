"""The command `encdec-eqx`: what it accepts, what it says, how it fails. The demo itself is replaced or tiny."""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from encdec_eqx import _installing, cli
from encdec_eqx.demo import run


def test_help_names_the_demo(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    assert "demo" in capsys.readouterr().out


def test_help_does_not_import_jax():
    code = "import sys, runpy; sys.argv = ['encdec-eqx', 'demo', '--help']\n"
    code += f"try: runpy.run_path({str(Path(cli.__file__))!r}, run_name='__main__')\n"
    code += "except SystemExit: print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"
    assert "--words" in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["sing"], ["demo", "--steps", "0"], ["demo", "--steps", "x"], ["demo", "more"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: encdec-eqx" in capsys.readouterr().err


@pytest.fixture
def calls(monkeypatch):
    """Records how the demo was called, and does not run it."""
    made = []

    def run_demo(output, **given):
        made.append(("demo", output, given))
        return SimpleNamespace(reload_agrees=True)

    monkeypatch.setattr(run, "run_demo", run_demo)
    monkeypatch.setattr(run, "say_words", lambda words, output, **given: made.append(("words", words, output, given)))
    return made


def test_demo_gets_its_arguments(calls, tmp_path):
    assert cli.main(["demo", "--output", str(tmp_path), "--cold", "--steps", "7", "--seed", "3"]) == 0
    [(name, output, given)] = calls
    assert (name, output, given["cold"], given["seed"]) == ("demo", tmp_path, True, 3)
    assert (given["recipe"].steps, given["recipe"].seed) == (7, 3)


def test_the_demo_leaves_the_packages_messages_as_they_were(calls, tmp_path):
    logger = logging.getLogger("encdec_eqx")
    before = logger.level
    assert cli.main(["demo", "--output", str(tmp_path)]) == 0
    assert cli.main(["demo", "--words", "hello"]) == 0
    assert logger.level == before


def test_words_are_split_at_spaces_and_said_by_the_packages_model(calls, tmp_path):
    assert cli.main(["demo", "--words", "hello  big world"]) == 0
    assert cli.main(["demo", "--words", "hello", "--output", str(tmp_path)]) == 0
    said = [(name, words, output) for name, words, output, _ in calls]
    assert said == [("words", ["hello", "big", "world"], None), ("words", ["hello"], tmp_path)]


@pytest.mark.parametrize(
    ("option", "told"),
    [(["--cold"], "do not go together"), (["--steps", "3"], "of the training"), (["--seed", "1"], "of the training")],
)
def test_options_of_training_and_words_do_not_go_together(calls, capsys, option, told):
    assert cli.main(["demo", *option, "--words", "hello"]) == 1
    assert told in capsys.readouterr().err
    assert not calls


def test_unreadable_words_are_one_line_on_stderr(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "none"), "--words", "hello w0rld"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "'w0rld'" in told
    assert "'0'" in told
    assert "letters a-z and the apostrophe" in told
    assert not (tmp_path / "none").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert "give an empty or new folder" in capsys.readouterr().err


def test_without_rich_the_demo_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "rich" else find(name, *rest))
    assert cli.main(["demo"]) == 1
    assert 'pip install -e "' in (told := capsys.readouterr().err)
    assert '[demo]"' in told


def test_what_to_install_is_said_from_the_clone_that_this_is(monkeypatch, tmp_path):
    clone = Path(cli.__file__).parents[2]
    monkeypatch.chdir(clone)
    assert _installing.install("train").endswith('pip install -e ".[train]"')
    monkeypatch.chdir(tmp_path)
    assert _installing.install("train").endswith(f'pip install -e "{clone}[train]"')
    monkeypatch.setenv("PATH", str(tmp_path))  # a shell finds another pip, or none
    assert _installing.install("train") == f'{sys.executable} -m pip install -e "{clone}[train]"'


def test_an_installed_package_remembers_its_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(_installing, "__file__", str(tmp_path / "lib" / "encdec_eqx" / "_installing.py"))
    clone = tmp_path / "a clone"
    wheel = SimpleNamespace(read_text=lambda _: json.dumps({"url": clone.as_uri(), "dir_info": {}}))
    monkeypatch.setattr(_installing.importlib.metadata, "distribution", lambda _: wheel)
    assert _installing.install("hub").endswith('install -e ".[hub]" (in the folder of your clone of encdec_eqx)')
    (clone / "src" / "encdec_eqx").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    assert _installing.install("hub").endswith(f'install -e "{clone}[hub]"')


def test_no_message_or_page_installs_from_an_index():
    root = Path(cli.__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "examples").rglob("*.py")]
    texts = [*pages, *Path(cli.__file__).parent.rglob("*.py")]
    assert not [path for path in texts if "install" in (text := path.read_text()) and "encdec-eqx[" in text]


def test_interruption_is_quiet(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_demo", interrupted)
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_doctor_gets_its_arguments_and_gives_the_status(monkeypatch, tmp_path):
    from encdec_eqx.training.diagnosis import command

    made = []
    monkeypatch.setattr(command, "run_doctor", lambda path, **given: made.append((path, given)) or 1)
    words = ["doctor", "pair", "--data", "d.jsonl", "--source-column", "text", "--learning-rate", "1e-3"]
    assert cli.main(words) == 1
    given = {"data": Path("d.jsonl"), "source_column": "text", "target_column": None, "learning_rate": 1e-3}
    assert made == [("pair", given)]


@pytest.mark.parametrize("rate", ["-3", "0", "nan", "inf", "-inf", "1e999", "fast"])
def test_a_rate_that_cannot_be_tried_is_refused_before_anything_is_loaded(rate, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", "nowhere", f"--learning-rate={rate}"])
    assert caught.value.code == 2
    assert "is not a finite number greater than 0" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["0", "-1", "1.5", "1_0", "\u0663", "\u00b2", "9" * 5000])
def test_steps_are_whole_numbers_of_some_size(steps, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", f"--steps={steps}"])
    assert caught.value.code == 2
    assert "is not a whole number from 1 to" in capsys.readouterr().err


def test_errors_that_are_not_the_librarys_keep_their_trace(monkeypatch):
    from encdec_eqx.training.diagnosis import command

    def broken(*_, **__):
        raise RuntimeError("a fault of the runtime")

    monkeypatch.setattr(command, "run_doctor", broken)
    with pytest.raises(RuntimeError, match="a fault of the runtime"):
        cli.main(["doctor", "pair"])
