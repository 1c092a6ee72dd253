"""The command itself: bare, its versions, its three doors, and completion in a real shell."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import encdec_eqx
from encdec_eqx import cli
from encdec_eqx.cli.main import COMMANDS, SHELLS, make_parser

FOLDER = Path(cli.__file__).parent


def _output(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout


def test_called_bare_it_shows_its_commands(capsys):
    assert cli.main([]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("usage: encdec-eqx")
    assert all(re.search(rf"^    {verb} ", told.out, re.MULTILINE) for verb in COMMANDS)
    assert not told.err


@pytest.mark.parametrize("module", ["encdec_eqx", "encdec_eqx.cli"])
def test_it_is_a_module_too_and_says_its_versions(module):
    import jax

    version = f"encdec-eqx {encdec_eqx.__version__} (jax {jax.__version__}, Python {sys.version.split()[0]})\n"
    assert _output("-m", module, "--version") == version


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["demo", "--help"], ["doctor", "--help"]])
def test_what_only_tells_does_not_wait_for_jax(words):
    code = f"import sys\nfrom encdec_eqx.cli import main\ntry: main({words})\nexcept SystemExit: pass\n"
    assert _output("-c", code + "print('jax' in sys.modules)").splitlines()[-1] == "False"


def test_every_command_is_a_file_and_every_file_a_command():
    assert {path.stem for path in FOLDER.glob("*_command.py")} == {f"{verb}_command" for verb in COMMANDS}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: encdec-eqx {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_has_every_command_and_option(shell, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert all(word in script for word in [*COMMANDS, "print-completion", "steps", "learning-rate", "num-train-epochs"])


def test_train_completes_the_options_that_it_takes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    taken = set(re.findall(r"--[a-z][a-z0-9-]+(?:\.[a-z]+)?", capsys.readouterr().out))
    parser = make_parser(["train"])
    [commands] = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    assert set(commands["train"]._option_string_actions) - {"-h", "--help"} <= taken


def test_bash_completes_a_command_and_an_option(tmp_path):
    assert shutil.which("bash")
    (tmp_path / "script").write_text(_output("-m", "encdec_eqx", "--print-completion", "bash"))
    code = f"source {tmp_path / 'script'}; "
    code += 'COMP_WORDS=(encdec-eqx "$@"); COMP_CWORD=$#; _shtab_encdec_eqx; echo "${COMPREPLY[@]}"'

    def completed(*words: str) -> list[str]:
        done = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("doc") == ["doctor"]
    assert completed("demo", "--st") == ["--steps"]
    assert completed("train", "--num-train-e") == ["--num-train-epochs"]


def test_without_shtab_completion_says_what_to_install(monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert cli.main(["--print-completion", "bash"]) == 1
    assert '[completion]"' in capsys.readouterr().err
