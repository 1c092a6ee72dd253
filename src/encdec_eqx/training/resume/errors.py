"""What can go wrong with the checkpoints of a run, and the words for it.

Knows messages only; must not know how checkpoints are written.
"""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointNotWrittenError(RuntimeError):
    """A checkpoint could not be written; earlier ones are as they were."""


class NoUsableCheckpointError(RuntimeError):
    """There are checkpoints, and every one of them is damaged."""


class FolderInUseError(RuntimeError):
    """Another run holds the folder of checkpoints."""


class DamagedCheckpointError(RuntimeError):
    """One checkpoint's files are not those that were written. Says which file, and how it differs."""


def not_written(folder: Path, step: int, kept: Sequence[int], error: BaseException) -> CheckpointNotWrittenError:
    """The one message about a failed save: why, what is safe, how to go on."""
    code = _no_room(error)
    reason = f"{type(error).__name__}: {_first_line(error)}" if code is None else f"no room ({os.strerror(code)})"
    if kept:
        safe = f"Checkpoints that are safe: {', '.join(f'step {step}' for step in kept)}. "
        where = f"goes on from step {kept[-1]}"
    else:
        safe, where = "There is no earlier checkpoint. ", "starts from the beginning"
    fix = "Mend that" if code is None else "Free some space"
    return CheckpointNotWrittenError(
        f"the checkpoint of step {step} could not be written to {folder}: {reason}. "
        f"{safe}What was half written has been removed. {fix}, then run again with resume=True (--resume), "
        f"which {where}."
    )


def _no_room(error: BaseException) -> int | None:
    """The system's code if there was no room: from an `OSError`, or the text of an error of the array library."""
    codes = [getattr(error, "errno", None), *map(int, re.findall(r"os_error_code='(\d+)'", str(error)))]
    return next((code for code in codes if code in _FULL), None)


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or ["no details"])[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"
