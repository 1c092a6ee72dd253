"""Where tokenizers lie: in the folder of a saved model, or one in a folder or Hub repository of its own.

The only file that imports `tokenizers`. Knows nothing of models.
"""

import os
from pathlib import Path
from typing import Any

from .._installing import install
from .._quoting import printable
from .._writing import aside_of
from ..hf.files.hub import hub_file, shipped
from .ids_in_file import check_ids
from .rust_errors import as_value_error

BOTH, SOURCE, TARGET = "tokenizer.json", "source_tokenizer.json", "target_tokenizer.json"


def copied(tokenizer: Any) -> Any:
    """A copy without the padding and truncation that its file may ask for: lengths are the caller's affair.

    Raises:
        TypeError: it is no `tokenizers.Tokenizer`.
        ValueError: it has parts written in Python, which cannot be saved.
    """
    library = _library()
    if not isinstance(tokenizer, library.Tokenizer):
        inner = " (of a transformers tokenizer, pass .backend_tokenizer)" if hasattr(tokenizer, "vocab_size") else ""
        raise TypeError(f"expected a tokenizers.Tokenizer, got {type(tokenizer).__name__}{inner}.")
    with as_value_error("the tokenizer cannot be saved, so it cannot be kept with a model"):
        text = tokenizer.to_str()
    with as_value_error("the tokenizer cannot be read again once it is saved, so it cannot be kept with a model"):
        copy = library.Tokenizer.from_str(text)
    copy.no_padding()
    copy.no_truncation()
    return copy


def read(path: Path) -> Any:
    """A tokenizer from its file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r} (looked from {Path.cwd()}).")
    library = _library()
    content = path.read_bytes()
    check_ids(content, path)
    with as_value_error(f"{printable(path)} is no tokenizer of the tokenizers library"):
        return library.Tokenizer.from_str(content.decode("utf-8-sig"))


def read_pretrained(path: str | os.PathLike) -> Any:
    """The tokenizer of one piece: from its folder, from a file, or from the Hub.

    Raises:
        FileNotFoundError: it cannot be found.
        ValueError: its file is damaged.
    """
    place = shipped(path) or Path(path).expanduser()
    if place.is_file():
        return read(place)
    if place.is_dir():
        if not (place / BOTH).is_file():
            raise FileNotFoundError(
                f"{place} has no {BOTH}. transformers writes one: "
                f"AutoTokenizer.from_pretrained({os.fspath(path)!r}).save_pretrained({os.fspath(path)!r})"
            )
        return read(place / BOTH)
    return read(hub_file(os.fspath(path), BOTH))


def read_folder(folder: Path) -> tuple[Any, Any]:
    """The source's and the target's tokenizer from the folder of a saved model.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: the folder has both one tokenizer for all and separate ones, or a file is damaged.
    """
    there = [name for name in (BOTH, SOURCE, TARGET) if (folder / name).is_file()]
    if there == [BOTH]:
        tokenizer = read(folder / BOTH)
        return tokenizer, tokenizer
    if there == [SOURCE, TARGET]:
        return read(folder / SOURCE), read(folder / TARGET)
    if BOTH in there:
        raise ValueError(f"{folder} has {' and '.join(there)}; expected {BOTH} alone, or {SOURCE} and {TARGET}.")
    raise FileNotFoundError(
        f"{folder} has {there[0] if there else 'no tokenizer'}; expected {BOTH}, or {SOURCE} and {TARGET}. "
        "TokenizerPair.from_pretrained(encoder_folder, decoder_folder) reads the pieces' own."
    )


def write_folder(folder: Path, source: Any, target: Any) -> None:
    """Save both: one file if they are the same. Another number of files there, from an earlier save, is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    same = source.to_str() == target.to_str()
    files = {BOTH: source} if same else {SOURCE: source, TARGET: target}
    for name, tokenizer in files.items():
        _replace(folder / name, tokenizer.to_str(pretty=True))
    for name in {BOTH, SOURCE, TARGET} - set(files):
        (folder / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    new = aside_of(path)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(f"tokenizers is not installed, which reads tokenizers: {install('hub')}") from None
    return tokenizers
