"""What every attempt to read something must obey: right values or an error that teaches, soon, in bounded memory.

Knows nothing of what is read.
"""

import dataclasses
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Most processor time that a refusal or a load may take."""

MEBIBYTES = 300
"""Most memory that reading a file of a few hundred kilobytes may take beside what was there before."""

DOCUMENTED = (ValueError, TypeError, OSError, NotImplementedError)
"""What the library says it raises for a wrong file; its own errors are kinds of these."""

MOST_LINES, MOST_CHARACTERS = 30, 4_000
"""Longest message: a screen's worth."""


@dataclasses.dataclass
class Attempt:
    """What came of one call.

    Attributes:
        value: what it returned.
        error: what it raised.
        faults: what was wrong about how it went.
    """

    value: Any = None
    error: Exception | None = None
    faults: list[str] = dataclasses.field(default_factory=list)


class _TooLongError(BaseException):
    """Raised where a call has taken far too long, so that the process lives on."""


def _give_up(number: int, frame: object) -> None:
    del number, frame
    raise _TooLongError("and was ended")


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def attempt(
    call: Callable[[], Any],
    *,
    names: Iterable[str] = (),
    unchanged: Iterable[Path] = (),
    also: tuple[type[Exception], ...] = (),
    seconds: float = SECONDS,
) -> Attempt:
    """Call something, and say what was wrong about how it went.

    Args:
        call: what to do.
        names: words of which an error must have at least one: the files', usually.
        unchanged: folders that must stay as they are.
        also: errors that are documented besides the usual ones.
        seconds: most processor time.
    """
    result = Attempt()
    before = [snapshot(folder) for folder in unchanged]
    kept, logger = _Kept(), logging.getLogger("encdec_eqx")
    logger.addHandler(kept)
    start, had = time.process_time(), _reset_peak()
    signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, 3 * seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("error", UserWarning)
            result.value = call()
    except (*DOCUMENTED, *also) as error:
        result.error = error
        result.faults += complaints(error, names)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.error = error if isinstance(error, Exception) else RuntimeError(str(error))
        result.faults.append(f"raised {type(error).__name__} in {where.name} ({where.filename}): {error!s:.300}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        logger.removeHandler(kept)
    if result.error is not None:
        result.error.__traceback__ = None
    took, grown = time.process_time() - start, _peak() - had
    if took > seconds:
        result.faults.append(f"took {took:.1f} s of processor time; at most {seconds} are wanted")
    if grown > MEBIBYTES:
        result.faults.append(f"took {grown:.0f} MiB of memory; at most {MEBIBYTES} are wanted")
    result.faults += [f"logged text that {fault}" for text in kept.said for fault in unprintable(text)]
    for folder, was in zip(unchanged, before, strict=True):
        if (now := snapshot(folder)) != was:
            result.faults.append(f"changed {folder}: {sorted(set(now) ^ set(was))[:5] or 'the files themselves'}")
    return result


def complaints(error: Exception, names: Iterable[str]) -> list[str]:
    """What is wrong about the message of an error."""
    text = str(error)
    names = list(names)
    faults = [f"raised {type(error).__name__} with a message that {fault}" for fault in unprintable(text)]
    if not text.strip():
        faults.append(f"raised {type(error).__name__} without a message")
    if text.startswith("[Errno"):
        faults.append(f"raised the system's bare words: {text:.200}")
    if "beartype" in text or "jaxtyping" in text:
        faults.append(f"raised a type checker's words: {text:.200}")
    if text.count("\n") >= MOST_LINES or len(text) > MOST_CHARACTERS:
        faults.append(f"raised {text.count(chr(10)) + 1} lines, {len(text)} characters: {text[:200]!r} ...")
    if names and not any(name in text for name in names):
        faults.append(f"raised {type(error).__name__} that names none of {names}: {text:.300}")
    return faults


def unprintable(text: str) -> list[str]:
    """Why a text must not reach a terminal."""
    odd = sorted(
        {c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or "\ud800" <= c < "\ue000"}
    )
    odd += sorted({c for c in text if c in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"})
    return [f"has the characters {odd[:5]!a}: {text[:200]!a}"] if odd else []


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """What lies in a folder, and what would show that it was touched."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _reset_peak() -> float:
    """Forget the highest use of memory so far; MiB in use now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _peak()


def _peak() -> float:
    """Highest use of memory in MiB, 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
