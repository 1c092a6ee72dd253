"""From what a user calls a checkpoint (a folder, a piece that ships with the package, or a Hub id) to a local folder.

`huggingface_hub` is imported only for an id that is no folder.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..._installing import install
from . import MissingFileError
from .folder import CONFIG, FLAX_WEIGHTS, GENERATION_CONFIG, INDEX, WEIGHTS, gguf_advice

REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What names a repository of the Hub."""

_JSON = [CONFIG, GENERATION_CONFIG, INDEX]
_SAFETENSORS = [WEIGHTS, "model-*-of-*.safetensors"]
_OTHERS = ["model.int8*.safetensors", "model.int8*.index.json", FLAX_WEIGHTS]

SHIPPED = ("letters", "phonemes", "pronounce")
"""A BERT that knows English spelling and a GPT-2 that knows English pronunciation, each with its tokenizer; and a pair
that was trained to the end."""

_logger = logging.getLogger("encdec_eqx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Where and how to look for a checkpoint on the Hub: arguments of every `from_pretrained`.

    Attributes:
        revision: a branch, tag or commit of the Hub repository.
        cache_dir: where downloads are kept; the Hub client's own default if not given.
        local_files_only: use what is in the cache, and never the network.
        token: access token of a private repository; True for the one stored by the Hub client.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def folder(self, path: str | os.PathLike, files: Sequence[str] | None = None) -> Path:
        """The folder of a checkpoint, downloaded first if it is on the Hub.

        Args:
            path: a folder, or a Hub id such as `"gpt2"` or `"google-bert/bert-base-uncased"`. A folder of that name
                wins. "letters" and "phonemes" are the pieces that ship with the package.
            files: what to download, by name, as far as it is there; default: the configs and the weights.

        Raises:
            MissingFileError: there is no such folder, or the repository cannot be reached or has no such file.
            ImportError: the `hub` extra is needed and not installed.
        """
        folder = named_folder(path)
        return _download(os.fspath(path), self, files) if folder is None else folder


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
        advice = gguf_advice([folder.name])
        raise MissingFileError(f"{folder} is a file; give the folder that holds it and its {CONFIG}.{advice}")
    text = os.fspath(path)
    if not isinstance(path, str) or text.startswith((".", "/", "~")) or not REPO_ID.fullmatch(text):
        raise MissingFileError(
            f"there is no folder {text!r} (looked from {Path.cwd()}), and it is no Hub id either; expected an existing "
            "folder or an id such as 'gpt2' or 'google-bert/bert-base-uncased'."
        )
    _hub_client(text)
    return None


def hub_id(name: str) -> str | None:
    """The name, if it can only be meant as a Hub id: nothing of this machine goes by it."""
    return name if REPO_ID.fullmatch(name) and name not in SHIPPED and not Path(name).exists() else None


def _hub_client(repo: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            f"there is no folder {repo!r} (looked from {Path.cwd()}), and loading it as a Hub id needs "
            f"huggingface-hub, which is not installed: {install('hub')}"
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def _reachable(repo: str, what: str) -> Iterator[Any]:
    """The Hub client, whose errors become one.

    Raises:
        MissingFileError: what was asked for cannot be had.
    """
    huggingface_hub = _hub_client(repo)
    from huggingface_hub import errors

    try:
        yield huggingface_hub
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise MissingFileError(
            f"there is no folder {repo!r} (looked from {Path.cwd()}), and {what}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None


def _download(repo: str, options: HubOptions, files: Sequence[str] | None) -> Path:
    how = "the cache holds no such checkpoint" if options.local_files_only else "is the id right, and the Hub reachable"
    given = {**dataclasses.asdict(options), "cache_dir": options.cache_dir and Path(options.cache_dir)}
    with _reachable(repo, f"it could not be had from the Hub ({how}?)") as hub:
        if files is not None:
            return Path(hub.snapshot_download(repo, **given, allow_patterns=list(files)))
        folder = Path(hub.snapshot_download(repo, **given, allow_patterns=_JSON + _SAFETENSORS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(hub.snapshot_download(repo, **given, allow_patterns=[*_JSON, *_OTHERS]))
    return folder


def hub_file(repo: str, name: str) -> Path:
    """One file of a Hub repository, downloaded if the cache does not have it.

    Raises:
        MissingFileError: it cannot be had (a FileNotFoundError).
        ImportError: the `hub` extra is needed and not installed.
    """
    with _reachable(repo, f"no {name} of that name could be had from the Hub") as hub:
        return Path(hub.hf_hub_download(repo, name))


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
