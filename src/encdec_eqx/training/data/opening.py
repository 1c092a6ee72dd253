"""A file opened for reading: decompressed, with an end to how much a small file may grow to, and decoded as text."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._quoting import printable, quoted

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
"""By the ending of a file's name."""

_DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError)
"""What reading a damaged compressed file raises; bz2 says it by OSError."""

MOST_GROWTH = 200
"""Bytes that one compressed byte may stand for. Text shrinks to a third or a twentieth, ids padded with zeros to a
fiftieth; a file made to fill the memory to a thousandth (gz) or a millionth (bz2)."""

FREE_GROWTH = 1 << 26
"""Bytes (64 MiB) that any file may grow to: a small one may repeat a line as often as it likes."""

_PORTION = 1 << 16


class GrowthError(ValueError):
    """A small file grows too large."""


class DamageError(Exception):
    """What came out of a file so far is all that can: it says why, and not which file."""


def open_file(path: Path) -> io.BufferedReader:
    """The file's bytes, decompressed as its name says.

    Raises:
        DamageError: it cannot be decompressed any further, found while it is read.
        GrowthError: it grows beyond `MOST_GROWTH`, found when it is opened or while it is read.
    """
    opener = OPENERS.get(path.suffix)
    if opener is None:
        return path.open("rb")
    _look_ahead(path, opener)
    return io.BufferedReader(_Growing(path, opener), _PORTION)


class _Growing(io.RawIOBase):
    """A decompressed file that counts what goes in and what comes out."""

    def __init__(self, path: Path, opener: Callable[..., Any]):
        self._packed = path.open("rb")
        self._file = opener(self._packed, "rb")
        self.grown = Grown(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            read = self._file.readinto(buffer)
        except _DAMAGE as error:
            raise DamageError(str(error)) from None
        self.grown.to(self.packed, read)
        return read

    @property
    def packed(self) -> int:
        """Bytes of the file itself that have been read so far."""
        return self._packed.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()


class Grown:
    """How much has come out of a file so far."""

    def __init__(self, path: Path):
        self._path = path
        self.bytes = 0

    def to(self, packed: int, more: int) -> None:
        """So many bytes were read from the file, so many more came out.

        Raises:
            GrowthError: they are too many.
        """
        self.bytes += more
        if self.bytes > FREE_GROWTH and self.bytes > MOST_GROWTH * max(packed, 1):
            raise GrowthError(
                f"{printable(self._path)} grows to more than {MOST_GROWTH} times its size ({self.bytes} bytes from "
                f"{packed}), as files do that are made to fill the memory. If this one is honest, decompress it first "
                "and read the plain file."
            )


def _look_ahead(path: Path, opener: Callable[..., Any]) -> None:
    """Decompress the beginning, and drop it: making records of `FREE_GROWTH` bytes may take a minute, this does not.

    Up to where no file has grown too far, if it has not yet; so honest files are looked at for milliseconds.
    """
    with _Growing(path, opener) as file, contextlib.suppress(DamageError):
        buffer = bytearray(_PORTION)
        while file.packed <= FREE_GROWTH // MOST_GROWTH and file.readinto(buffer):
            pass


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_encoding(encoding: str) -> None:
    """Raise where Python knows no such encoding of text."""
    try:
        "".encode(encoding)
        b"".decode(encoding)
    except (LookupError, ValueError, TypeError):
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8', 'utf-16' or 'cp1252', got {quoted(encoding)}."
        ) from None


def encoding_of(path: Path, head: bytes, choice: str | None) -> str:
    """The encoding to read with: the caller's choice, or what the file's first four bytes say.

    Raises:
        ValueError: no choice was made, and the file looks like UTF-16 without a mark.
    """
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if choice is not None:
        family = codecs.lookup(choice).name.replace("-le", "").replace("-be", "")
        return marked if marked is not None and marked.startswith(family) else choice
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
    errors = "surrogatepass" if passes else "surrogateescape"
    return io.TextIOWrapper(file, encoding, errors=errors, newline=newline)
