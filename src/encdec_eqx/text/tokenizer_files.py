"""Tokenizer files: of a saved model, or of one piece in its folder or Hub repository, checked before they are read.

The library allocates room for every id up to the largest one: a file of a few lines with an id of 2³¹ would end the
process.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._installing import install
from .._json import loads
from .._quoting import printable, quoted
from .._writing import write_whole
from ..hf.files.folder import CONFIG as MODEL_CONFIG
from ..hf.files.hub import hub_file, shipped_folder
from .byte_tokenizer import CLASS as BYTES
from .byte_tokenizer import EXTRA_IDS, byte_file, extra_tokens
from .rust_errors import as_value_error
from .sentencepiece_files import MODEL, read_slow

BOTH, SOURCE, TARGET = "tokenizer.json", "source_tokenizer.json", "target_tokenizer.json"
CONFIG = "tokenizer_config.json"


def copy_bare(tokenizer: Any) -> Any:
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
    there = shipped_folder(path) or Path(path).expanduser()
    if there.is_file():
        return read(there)
    if there.is_dir():
        tokenizer = _read_from(there)
        if tokenizer is None:
            raise FileNotFoundError(
                f"{there} has no {BOTH}. transformers writes one: "
                f"AutoTokenizer.from_pretrained({os.fspath(path)!r}).save_pretrained({os.fspath(path)!r})"
            )
        return tokenizer
    try:
        return read(hub_file(os.fspath(path), BOTH))
    except FileNotFoundError:
        _library()
        slow = read_slow(lambda name: _of_the_hub(os.fspath(path), name), read_config(path))
        made = _of_bytes(path) if slow is None else slow
        if made is None:
            raise
        return made


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds one tokenizer, or one for each side."""
    return any(folder.glob(f"*{BOTH}")) or (folder / MODEL).is_file() or _class_of_bytes(folder) is not None


def _read_from(folder: Path) -> Any:
    """The one tokenizer of a folder, None if it has none: `tokenizer.json`, or what is in its place."""
    if (folder / BOTH).is_file():
        return read(folder / BOTH)
    _library()
    slow = read_slow(lambda name: folder / name if (folder / name).is_file() else None, read_config(folder))
    return _of_bytes(folder) if slow is None else slow


def _of_the_hub(repo: str, name: str) -> Path | None:
    try:
        return hub_file(repo, name)
    except FileNotFoundError:
        return None


def byte_tokenizer(extra_ids: int = EXTRA_IDS) -> Any:
    """ByT5's tokenizer, which has no file: the id of a byte is the byte and 3; pad is 0, `</s>` 1, `<unk>` 2.

    It is a `tokenizers.Tokenizer` that puts `</s>` behind a text. Decoding leaves out bytes that are no UTF-8, as
    transformers does, and U+FFFD, by which the library marks them.

    Args:
        extra_ids: how many tokens `<extra_id_0>`, … follow the bytes, from id 259 on.

    Raises:
        ImportError: tokenizers is not installed.
        ValueError: `extra_ids` is no number of tokens.
    """
    return _library().Tokenizer.from_str(byte_file(extra_tokens({"extra_ids": extra_ids})))


def _class_of_bytes(path: str | os.PathLike) -> dict[str, Any] | None:
    """What a folder or a repository says of its tokenizer, if that is ByT5's."""
    config = read_config(path)
    if config.get("tokenizer_class") is None:
        config = {**read_config(path, MODEL_CONFIG), **config}
    return config if config.get("tokenizer_class") == BYTES else None


def _of_bytes(path: str | os.PathLike) -> Any | None:
    """ByT5's tokenizer, if a folder or a repository without a tokenizer file says that its tokenizer is one.

    Raises:
        ValueError: it says so, and tokens that cannot be.
    """
    config = _class_of_bytes(path)
    if config is None:
        return None
    try:
        return _library().Tokenizer.from_str(byte_file(extra_tokens(config)))
    except ValueError as error:
        raise ValueError(f"the {BYTES} of {printable(os.fspath(path))} cannot be made: {error}.") from None


def read_config(path: str | os.PathLike, name: str = CONFIG) -> dict[str, Any]:
    """What `tokenizer_config.json` says beside the tokenizer of a folder or a Hub repository; empty without one.

    `name` is that of another such file.

    Raises:
        ValueError: it is no JSON object.
    """
    there = shipped_folder(path) or Path(path).expanduser()
    if there.is_file():
        return {}
    file = there / name if there.is_dir() else _of_the_hub(os.fspath(path), name)
    return object_of(file) if file is not None and file.is_file() else {}


def object_of(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds something else.
    """
    try:
        said = loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{printable(file)} is not JSON: {printable(str(error), 300)}.") from None
    if not isinstance(said, dict):
        raise ValueError(f"{printable(file)} holds {quoted(said)}; expected an object.")
    return said


def read_folder(folder: Path) -> tuple[Any, Any]:
    """The source's and the target's tokenizer from the folder of a saved model.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: the folder has both one tokenizer for all and separate ones, or a file is damaged.
    """
    there = [name for name in (BOTH, SOURCE, TARGET) if (folder / name).is_file()]
    if there in ([BOTH], []) and (tokenizer := _read_from(folder)) is not None:
        return tokenizer, tokenizer
    if there == [SOURCE, TARGET]:
        return read(folder / SOURCE), read(folder / TARGET)
    if BOTH in there:
        raise ValueError(f"{folder} has {' and '.join(there)}; expected {BOTH} alone, or {SOURCE} and {TARGET}.")
    raise FileNotFoundError(
        f"{folder} has {there[0] if there else 'no tokenizer'}; expected {BOTH}, or {SOURCE} and {TARGET}. "
        "TokenizerPair.from_pretrained(encoder_folder, decoder_folder) reads the pieces' own."
    )


def write_folder(folder: Path, source: Any, target: Any, config: Mapping[str, Any] | None = None) -> None:
    """Save both: one file if they are the same. Another number of files there, from an earlier save, is removed.

    Args:
        folder: made if it does not exist.
        source: the source's tokenizer.
        target: the target's.
        config: what to write beside them as `tokenizer_config.json`; nothing, if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    same = source.to_str() == target.to_str()
    files = {BOTH: source} if same else {SOURCE: source, TARGET: target}
    for name, tokenizer in files.items():
        write_whole(folder / name, tokenizer.to_str(pretty=True).encode())
    for name in {BOTH, SOURCE, TARGET} - set(files):
        (folder / name).unlink(missing_ok=True)
    if config is not None:
        write_whole(folder / CONFIG, json.dumps(config, indent=2).encode())


def put_around(tokenizer: Any, before: list[str], after: list[str]) -> None:
    """Make a tokenizer put these of its tokens around every text."""
    special = [(token, tokenizer.token_to_id(token)) for token in (*before, *after)]
    with as_value_error(f"the tokenizer cannot put {before} and {after} around a text"):
        tokenizer.post_processor = _library().processors.TemplateProcessing(
            single=[*before, "$A", *after], special_tokens=special
        )


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(f"tokenizers is not installed, which reads tokenizers: {install('hub')}") from None
    return tokenizers


MOST_UNUSED = 1_000_000
"""Ids below the largest that no token has. Honest files have none or some hundreds; a million takes 4 MB of room."""


def check_ids(content: bytes, path: Path) -> None:
    """Raise where an id is far beyond the number of tokens.

    Raises:
        ValueError: the file is no JSON object, an id is no whole number, negative or too large, or two tokens have one.
    """
    try:
        file = loads(content)
    except ValueError as error:
        raise ValueError(f"{printable(path)} is no tokenizer.json: not JSON: {printable(str(error), 300)}.") from None
    if not isinstance(file, dict):
        raise ValueError(f"{printable(path)} is no tokenizer.json: it holds {quoted(file)}; expected an object.")
    vocabulary, added = _get(file.get("model"), "vocab"), file.get("added_tokens")
    tokens = sum(len(part) for part in (vocabulary, added) if isinstance(part, dict | list))
    for token, given in _ids(vocabulary, added, file.get("post_processor")):
        if type(given) is not int or not 0 <= given < tokens + MOST_UNUSED:
            raise ValueError(
                f"{printable(path)} gives the token {quoted(token)} the id {quoted(given)}; expected a whole number "
                f"from 0 to {tokens + MOST_UNUSED - 1} (the file has {tokens} tokens). Copy or make the file again."
            )
    if isinstance(vocabulary, dict):
        _check_distinct(vocabulary, path)


def _check_distinct(vocabulary: dict[str, int], path: Path) -> None:
    """Two tokens of one id: once such a tokenizer has been saved and read again, one of them is gone."""
    if len(set(vocabulary.values())) == len(vocabulary):
        return
    first: dict[int, str] = {}
    for token, given in vocabulary.items():
        if first.setdefault(given, token) != token:
            raise ValueError(
                f"{printable(path)} gives the tokens {quoted(first[given])} and {quoted(token)} one id, {given}; "
                "expected an id for each. Copy or make the file again."
            )


def _ids(vocabulary: Any, added: Any, processor: Any) -> Iterator[tuple[Any, Any]]:
    """Each token with its id, wherever the file has one; parts of an unknown form are left to the library."""
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and "id" in token:
            yield token.get("content"), token["id"]
    for pair in (_get(processor, "sep"), _get(processor, "cls")):
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0], pair[1]
    special = _get(processor, "special_tokens")
    for name, token in special.items() if isinstance(special, dict) else ():
        ids = _get(token, "ids")
        for one in ids if isinstance(ids, list) else ():
            yield name, one


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
