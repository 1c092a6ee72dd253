"""How to get a part of the package that is not installed: the one place that says `pip install`.

The package is on no index, so the command installs from the clone that this one came from.
"""

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = "encdec-eqx"


def install(extra: str) -> str:
    """What to type in a shell to get an extra, in the environment that is running, such as `pip install -e ".[train]"`.

    Args:
        extra: a name of `[project.optional-dependencies]`.
    """
    clone = _clone()
    if clone is None:
        return f'{_pip()} install -e ".[{extra}]" (in the folder of your clone of encdec_eqx)'
    if _same(clone, Path.cwd()):
        return f'{_pip()} install -e ".[{extra}]"'
    return f'{_pip()} install -e "{clone}[{extra}]"'


def _clone() -> Path | None:
    """The folder that the package was installed from, or is imported from, if it is there."""
    beside = Path(__file__).resolve().parents[2]
    for folder in (beside, _installed_from()):
        if folder is not None and (folder / "pyproject.toml").is_file() and (folder / "src" / "encdec_eqx").is_dir():
            return folder
    return None


def _installed_from() -> Path | None:
    """What pip wrote down about where the package came from."""
    try:
        text = importlib.metadata.distribution(PACKAGE).read_text("direct_url.json")
        url = json.loads(text or "{}").get("url", "")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    return Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None


def _pip() -> str:
    """The running environment's pip: by its name if that is what a shell would find."""
    found = shutil.which("pip")
    if found is not None and _same(Path(found).parent, Path(sys.executable).parent):
        return "pip"
    return f"{shlex.quote(_from_here(sys.executable))} -m pip"


def _from_here(path: str) -> str:
    """A path as short as it can be said from the current folder: `.venv/bin/python`."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
