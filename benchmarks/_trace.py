"""What `jax.profiler.trace` wrote, as counts: kernels, copies, and which of them take the time.

Pure reading of the trace's JSON; it must not import JAX.
"""

import collections
import gzip
import json
import pathlib
import re
from typing import Any

_CONTAINERS = ("while", "call", "conditional")
"""Operations of the CPU backend whose time is that of the operations in them."""


def counted(folder: pathlib.Path, *, top: int = 20) -> dict[str, Any]:
    """Counts the one trace below a folder.

    On a GPU what ran on its streams counts: kernels, and copies and fills by their kind. Kernels of a command buffer
    appear one by one. On a CPU, which has neither, it is XLA's operations.

    Args:
        folder: what `jax.profiler.trace` was given.
        top: how many names to list.

    Returns:
        `kernels` and `copies` (how many), `busy_seconds` (the sum of all of them), `copies_by_kind`, and `top`: name,
        count and seconds of those that take longest together, numbers at a name's end left out.

    Raises:
        ValueError: there is not one trace, or nothing ran on a device in it.
    """
    files = sorted(folder.rglob("*.trace.json.gz"))
    if len(files) != 1:
        raise ValueError(f"{folder} holds {len(files)} files *.trace.json.gz, expected the one of a single trace")
    with gzip.open(files[0]) as file:
        events = _device_events(json.load(file)["traceEvents"])
    if not events:
        raise ValueError("nothing in the trace ran on a device")
    copies = collections.Counter(name for name, _ in events if _is_copy(name))
    counts = collections.Counter(_family(name) for name, _ in events)
    seconds = dict.fromkeys(counts, 0.0)
    for name, taken in events:
        seconds[_family(name)] += taken
    longest = sorted(seconds, key=lambda name: -seconds[name])[:top]
    return {
        "kernels": len(events) - copies.total(),
        "copies": copies.total(),
        "copies_by_kind": dict(copies),
        "busy_seconds": sum(taken for _, taken in events),
        "top": [{"name": name, "count": counts[name], "seconds": seconds[name]} for name in longest],
    }


def _device_events(events: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Name and seconds of everything that ran on a GPU's streams; where there is no GPU, of XLA's operations."""
    named = [event for event in events if event.get("ph") == "M" and "name" in event.get("args", {})]
    devices = {event["pid"] for event in named if str(event["args"]["name"]).startswith("/device:GPU")}
    streams = {
        (event["pid"], event["tid"])
        for event in named
        if event["name"] == "thread_name"
        and event["pid"] in devices
        and str(event["args"]["name"]).startswith("Stream")
    }
    ran = [event for event in events if event.get("ph") == "X"]
    if devices:
        chosen = [event for event in ran if (event["pid"], event["tid"]) in streams]
    else:
        chosen = [
            event for event in ran if "hlo_op" in event.get("args", {}) and _family(event["name"]) not in _CONTAINERS
        ]
    return [(event["name"], event.get("dur", 0.0) / 1e6) for event in chosen]


def _is_copy(name: str) -> bool:
    """Whether CUPTI reports it as a copy between host and device, within the device, or as a fill."""
    return name.startswith(("Memcpy", "Memset"))


def _family(name: str) -> str:
    """A kernel's name without the number that tells it from its siblings."""
    return re.sub(r"([._]\d+)+$", "", name)
