"""From what a user calls a checkpoint (a folder, a piece that ships with the package, or a Hub id) to a local folder.

`huggingface_hub` is imported only for an id that is no folder.
"""

import functools
import logging
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from ..._installing import install
from . import MissingFileError
from .folder import CONFIG, FLAX_WEIGHTS, GENERATION_CONFIG, INDEX, WEIGHTS

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_JSON = [CONFIG, GENERATION_CONFIG, INDEX]
_SAFETENSORS = [WEIGHTS, "model-*-of-*.safetensors"]

SHIPPED = ("letters", "phonemes")
"""A BERT that knows English spelling and a GPT-2 that knows English pronunciation, each with its tokenizer."""

_logger = logging.getLogger("encdec_eqx")


def local_folder(
    path: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a checkpoint, downloaded first if it is on the Hub.

    Args:
        path: a folder, or a Hub id such as `"gpt2"` or `"google-bert/bert-base-uncased"`. A folder of that name wins.
            "letters" and "phonemes" are the pieces that ship with the package.
        revision: a branch, tag or commit of the Hub repository.
        cache_dir: where downloads are kept; the Hub client's own default if not given.
        local_files_only: use what is in the cache, and never the network.
        token: access token of a private repository; True for the one stored by the Hub client.

    Returns:
        The folder.

    Raises:
        MissingFileError: there is no such folder, or the repository cannot be reached or has no such file.
        ImportError: the `hub` extra is needed and not installed.
    """
    folder = named_folder(path)
    return _download(os.fspath(path), revision, cache_dir, local_files_only, token) if folder is None else folder


def named_folder(path: str | os.PathLike) -> Path | None:
    """The folder that a name means on this machine; None for a Hub id, which can be downloaded.

    Raises:
        MissingFileError: it is neither.
        ImportError: it is a Hub id, and the `hub` extra is not installed.
    """
    folder = shipped_folder(path) or Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise MissingFileError(f"{folder} is a file; give the folder that holds it and its {CONFIG}.")
    text = os.fspath(path)
    if not isinstance(path, str) or text.startswith((".", "/", "~")) or not _ID.fullmatch(text):
        raise MissingFileError(
            f"there is no folder {text!r} (looked from {Path.cwd()}), and it is no Hub id either; expected an existing "
            "folder or an id such as 'gpt2' or 'google-bert/bert-base-uncased'."
        )
    _hub_client(text)
    return None


def _hub_client(repo: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            f"there is no folder {repo!r} (looked from {Path.cwd()}), and loading it as a Hub id needs "
            f"huggingface-hub, which is not installed: {install('hub')}"
        ) from None
    return huggingface_hub


def _download(
    repo: str,
    revision: str | None,
    cache_dir: str | os.PathLike | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    huggingface_hub = _hub_client(repo)
    from huggingface_hub import errors

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                token=token,
                allow_patterns=patterns,
            )
        )

    try:
        folder = fetch(_JSON + _SAFETENSORS)
        if not any(folder.glob("*.safetensors")):
            folder = fetch([*_JSON, FLAX_WEIGHTS])
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        how = "the cache holds no such checkpoint" if local_files_only else "is the id right, and the Hub reachable"
        raise MissingFileError(
            f"there is no folder {repo!r} (looked from {Path.cwd()}), and it could not be had from the Hub "
            f"({how}?): {type(error).__name__}: {reason}"
        ) from None
    return folder


def hub_file(repo: str, name: str) -> Path:
    """One file of a Hub repository, downloaded if the cache does not have it.

    Args:
        repo: the repository's id.
        name: the file's name.

    Raises:
        MissingFileError: it cannot be had (a FileNotFoundError).
        ImportError: the `hub` extra is needed and not installed.
    """
    huggingface_hub = _hub_client(repo)
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MissingFileError(
            f"there is no folder {repo!r} (looked from {Path.cwd()}), and no {name} of that name could be had from the "
            f"Hub: {reason}"
        ) from None


def shipped_folder(path: str | os.PathLike) -> Path | None:
    """The folder of a piece that ships with the package, if that is what a string names.

    What lies in the current folder under the same name wins, and that is logged. A repository of the Hub is not meant
    by such a name: it has its owner's in front.
    """
    if not isinstance(path, str) or path not in SHIPPED:
        return None
    if Path(path).exists():
        _say_who_wins(Path(path).absolute())
        return None
    return Path(str(resources.files("encdec_eqx").joinpath("demo", "assets", path)))


@functools.cache
def _say_who_wins(place: Path) -> None:
    """Once, however often the name is looked up."""
    _logger.warning("%r is read from %s, not from the package, which ships a piece of that name.", place.name, place)
