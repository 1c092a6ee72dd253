"""The command `encdec-eqx`: what it accepts, what it says, how it fails. The demo itself is replaced or tiny."""

import importlib.util
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import encdec_eqx
from encdec_eqx import _installing, _writing, cli
from encdec_eqx.demo import run


def test_help_names_the_demo(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    assert "demo" in capsys.readouterr().out


def test_help_does_not_import_jax():
    code = "import sys, runpy; sys.argv = ['encdec-eqx', 'demo', '--help']\n"
    code += "try: runpy.run_module('encdec_eqx', run_name='__main__')\n"
    code += "except SystemExit: print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"
    assert "--words" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    # an abbreviation that is one today may be two options' tomorrow
    [
        ["sing"],
        ["demo", "--steps", "0"],
        ["demo", "--steps", "x"],
        ["demo", "more"],
        ["demo", "--step", "2"],
        ["--vers"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: encdec-eqx" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "x", str(2**32), str(2**64), "9" * 5000, "1.5", "²"])
def test_a_seed_that_is_none_is_refused_by_name(seed, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", f"--seed={seed}"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "argument --seed" in told
    assert "is not a whole number from 0 to 4294967295" in told
    assert len(told) < 600


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


def test_words_that_can_be_read_are_said_and_the_others_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "load_trained", lambda: None)
    monkeypatch.setattr(run, "pronounce", lambda model, words: [("P", word.upper()) for word in words])
    assert cli.main(["demo", "--words", "café hello R2"]) == 0
    told = capsys.readouterr().out
    assert "P HELLO" in told
    assert "P CAFÉ" not in told
    assert "cannot pronounce 'café': character 4 is 'é'" in told
    assert "cannot pronounce 'R2': character 2 is '2'" in told


def test_unreadable_words_are_one_line_on_stderr(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "none"), "--words", "w0rld"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "'w0rld'" in told
    assert "'0'" in told
    assert "letters a-z and the apostrophe" in told
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("inside", ["", "deep/er"])
def test_an_output_that_cannot_be_made_is_found_before_the_run(calls, tmp_path, capsys, inside):
    (tmp_path / "notes").write_text("mine")
    output = tmp_path / "notes" / inside
    assert cli.main(["demo", "--output", str(output)]) == 1
    told = capsys.readouterr().err
    assert f"--output {output}" in told
    assert "is a file; give a folder" in told
    assert not calls


@pytest.mark.parametrize("output", ["/proc/demo", "x" * 300])
def test_an_output_that_cannot_be_written_to_is_found_before_the_run(calls, tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--output", output]) == 1
    told = capsys.readouterr().err
    assert f"--output {output} cannot be written to (" in told
    assert "Errno" not in told
    assert not calls
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_early_is_no_error():
    code = f"{sys.executable} -m encdec_eqx.cli demo --words hello | head -0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert "Errno" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout in ("0\n", "1\n", "141\n")  # rich leaves with 1


def test_trying_an_output_leaves_nothing_behind(tmp_path):
    _writing.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_the_demo_ends_with_commands_that_can_be_typed(calls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path(cli.__file__))])
    assert cli.main(["demo", "--output", str(tmp_path / "my demo")]) == 0
    told = capsys.readouterr().out
    assert f"-m encdec_eqx.cli demo --words \"encoder decoder\" --output '{tmp_path / 'my demo'}'" in told
    assert "train --help" in told


@pytest.mark.parametrize("busy", ["time.sleep(60)", "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"])
def test_ctrl_c_ends_a_command_at_once_whatever_it_does(busy):
    """The second one is a call without a bytecode in it, as compiling is: no handler of Python's runs."""
    code = "import hashlib, time\nfrom encdec_eqx._signals import leaving_at_ctrl_c\nprint('in', end='')\n"
    code += f"with leaving_at_ctrl_c('left'):\n  import sys; print('go', file=sys.stderr, flush=True); {busy}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"go\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"in", b"\nleft\n")


def test_a_first_ctrl_c_is_left_to_what_saves_and_a_second_one_ends_the_process():
    code = "import time\nfrom encdec_eqx._signals import leaving_at_ctrl_c\n"
    code += "from encdec_eqx.training import graceful_stop\n"
    code += "with leaving_at_ctrl_c('left'), graceful_stop() as flag:\n"
    code += "  print('go', flush=True)\n"
    code += "  while not flag.requested: time.sleep(0.01)\n"
    code += "  print('asked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for said in (b"go\n", b"asked\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


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
    clone = Path(encdec_eqx.__file__).parents[2]
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
    root = Path(encdec_eqx.__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "examples").rglob("*.py")]
    texts = [*pages, *Path(encdec_eqx.__file__).parent.rglob("*.py")]
    assert not [path for path in texts if "install" in (text := path.read_text()) and "encdec-eqx[" in text]


def test_interruption_is_quiet(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_demo", interrupted)
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_doctor_gets_its_arguments_and_gives_the_status(monkeypatch, tmp_path):
    from encdec_eqx.doctor import command

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
    from encdec_eqx.doctor import command

    def broken(*_, **__):
        raise RuntimeError("a fault of the runtime")

    monkeypatch.setattr(command, "run_doctor", broken)
    with pytest.raises(RuntimeError, match="a fault of the runtime"):
        cli.main(["doctor", "pair"])
