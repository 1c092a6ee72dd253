"""Bytes of a text file as text: in the encoding that its mark says, or the caller, or UTF-8.

Must not know formats. What cannot be decoded becomes lone surrogates, which are found in the field that has them.
"""

import codecs
import io
from pathlib import Path

from ..._quoting import printable, quoted

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_encoding(encoding: str) -> None:
    """Raise where Python knows no such encoding of text.

    Raises:
        ValueError: it does not.
    """
    try:
        "".encode(encoding)
        b"".decode(encoding)
    except (LookupError, ValueError, TypeError):
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8', 'utf-16' or 'cp1252', got {quoted(encoding)}."
        ) from None


def encoding_of(path: Path, head: bytes, asked: str | None) -> str:
    """The encoding to read with.

    Args:
        path: the file, for messages.
        head: its first four bytes.
        asked: the caller's choice.

    Raises:
        ValueError: no choice was made, and the file looks like UTF-16 without a mark.
    """
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if asked is not None:
        family = codecs.lookup(asked).name.replace("-le", "").replace("-be", "")
        return marked if marked is not None and marked.startswith(family) else asked
    if marked is not None:
        return marked
    if len(head) >= 2 and (head[0] == 0) != (head[1] == 0):
        guess = "utf-16-le" if head[1] == 0 else "utf-16-be"
        raise ValueError(
            f"{printable(path)} is not UTF-8: every other byte at its beginning is 0, as in UTF-16 without a mark. Say "
            f"encoding={guess!r}, or save it as UTF-8."
        )
    return "utf-8"


def as_text(file: io.BufferedReader, encoding: str, newline: str) -> io.TextIOWrapper:
    """The file as text; `newline` as for `open`: "" ends lines at any of the three ways and keeps it."""
    passes = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    return io.TextIOWrapper(
        file,
        encoding,
        errors="surrogatepass" if passes else "surrogateescape",
        newline=newline,
    )
