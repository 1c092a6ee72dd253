"""Lines of a file or a pipe of any length, in portions of what is there, in bounded memory."""

import contextlib
import os
import select
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

LONGEST = 2**24
"""Most bytes of a line: what reads a stream without line ends would otherwise fill the memory."""

_CHUNK = 2**16
_PATIENCE = 0.05  # seconds that more lines of a pipe are waited for


class LineReader:
    """Reads UTF-8 lines; their ends (LF or CRLF) are taken off.

    Attributes:
        consumed: bytes read so far.
        size: bytes in all, of a file; None if that is not known.
    """

    def __init__(self, stream: BinaryIO, name: str):
        """Read a stream, which messages call `name`."""
        self._fd, self._name = stream.fileno(), name
        self._lines: list[bytes] = []
        self._begun: list[bytes] = []  # parts of a line that has not ended
        self._held = 0
        self._ended = False
        self._count = 0
        self.consumed = 0
        about = os.fstat(self._fd)
        self.size = about.st_size if stat.S_ISREG(about.st_mode) else None

    def texts(self) -> list[str]:
        """All lines that are not blank, at once."""
        return [line for portion in self.portions(2**16) for line in portion if line.strip()]

    def portions(self, most: int) -> Iterator[list[str]]:
        """Up to `most` lines at once: fewer at the end, and where a pipe gives no more for a moment.

        So what writes line by line and waits for answers gets them.

        Raises:
            ValueError: a line is no UTF-8, or longer than `LONGEST`; names it.
        """
        while True:
            deadline = None
            while len(self._lines) < most and not self._ended:
                if self._lines:
                    deadline = deadline or time.monotonic() + _PATIENCE
                    if not self._is_ready(deadline - time.monotonic()):
                        break
                self._read()
            if not self._lines:
                return
            portion, self._lines = self._lines[:most], self._lines[most:]
            yield [self._decoded(line) for line in portion]

    def _is_ready(self, seconds: float) -> bool:
        with contextlib.suppress(OSError, ValueError):  # of files that cannot be waited for there is always more
            return bool(select.select([self._fd], [], [], max(0.0, seconds))[0])
        return True

    def _read(self) -> None:
        chunk = os.read(self._fd, _CHUNK)
        self.consumed += len(chunk)
        first, *others = chunk.split(b"\n")
        self._begun.append(first)
        self._held += len(first)
        if others or not chunk:
            self._lines += [b"".join(self._begun), *others[:-1]] if chunk or self._held else []
            self._begun = others[-1:]
            self._held = sum(map(len, self._begun))
            self._ended = not chunk
        if self._held > LONGEST:
            at = self._count + len(self._lines) + 1
            raise ValueError(f"{self._name}, line {at} has more than {LONGEST:,} bytes; expected a text per line.")

    def _decoded(self, line: bytes) -> str:
        self._count += 1
        encoding = "utf-8-sig" if self._count == 1 else "utf-8"
        try:
            return line.removesuffix(b"\r").decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._name}, line {self._count}: not UTF-8 (byte {error.start} of the line is "
                f"0x{line[error.start]:02x}); convert it first, as by iconv -f latin1 -t utf-8."
            ) from None
