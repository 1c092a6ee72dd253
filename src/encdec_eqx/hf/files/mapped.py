"""Reading views of a mapped file a few megabytes at a time: no more of it is in memory than what is at work."""

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

_AT_ONCE = 2**21
"""Bytes of a file between two points at which its pages are let go."""


def copy_mapped(target: np.ndarray, source: np.ndarray) -> None:
    """Copy a view, converting the dtype; what it brings into memory of a mapped file is let go on the way."""
    for cut in _cuts(source):
        target[cut] = source[cut]
        _let_go(source[cut])


def equal_mapped(one: np.ndarray, other: np.ndarray) -> bool:
    """`np.array_equal` of two views, likewise."""
    if one.shape != other.shape:
        return False
    for cut in _cuts(one):
        equal = np.array_equal(one[cut], other[cut])
        _let_go(one[cut])
        _let_go(other[cut])
        if not equal:
            return False
    return True


def _cuts(view: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Cuts across the axis that is outermost in memory."""
    if not view.ndim:
        yield (...,)
        return
    axis = int(np.argmax(np.abs(view.strides)))
    step = max(1, _AT_ONCE // max(1, abs(view.strides[axis])))
    for start in range(0, view.shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step), ...)


def _let_go(view: np.ndarray) -> None:
    """Give back what a view has brought into memory of its mapped file, which the system goes on to cache.

    A view of other memory keeps it, and so do systems without `madvise`.
    """
    root = view
    while isinstance(root, np.ndarray | memoryview):
        root = root.base if isinstance(root, np.ndarray) else root.obj
    if not isinstance(root, mmap.mmap) or not hasattr(root, "madvise") or not math.prod(view.shape):
        return
    begin, end = np.lib.array_utils.byte_bounds(view)
    origin = np.frombuffer(root, np.uint8).ctypes.data
    first = (begin - origin) // mmap.PAGESIZE * mmap.PAGESIZE
    root.madvise(mmap.MADV_DONTNEED, first, end - origin - first)
