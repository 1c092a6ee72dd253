"""What `docs/commands.md` shows runs as written, from its top, in an empty folder, and says what the page says."""

import re
import subprocess
import sys
from pathlib import Path

from encdec_eqx.cli.main import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_BLOCK = re.compile(r"(\*Fragment: [^*]+\*\n\n)?```bash\n(.*?)```", re.DOTALL)


def test_the_page_names_every_command():
    named = re.findall(r"^\| `encdec-eqx (\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == list(COMMANDS)


def test_the_page_runs_from_its_top(tmp_path: Path):
    code = f'set -eo pipefail\nencdec-eqx() {{ {sys.executable} -m encdec_eqx "$@"; }}\n'
    blocks = [block for mark, block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if not mark]
    # `verify` has tests of its own, and takes longest
    code += "".join(block for block in blocks if block != "encdec-eqx verify\n")
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith("HH EH L OW\nW ER L D\n")
    assert (tmp_path / "phonemes.txt").read_text() == "HH EH L OW\nEH N K OW D ER\nD IH K OW D ER\n"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("words.txt", "phonemes.txt", "choices.txt", "phonemes.json"),
    }
