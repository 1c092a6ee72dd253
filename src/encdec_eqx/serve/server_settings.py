"""What a server compiles, and the limits it holds its clients to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._inputs import whole
from .._quoting import quoted
from ..generation.constraints.constraint import AbstractConstraint

FILTERS = ("temperature", "top_k", "top_p")
"""What every sampling request may set: their programs hold all three, and a neutral value changes nothing."""

_MOST_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of a server; what it compiles grows with searches x constraints x `source_lengths` x `batch_sizes`.

    Attributes:
        name: what `/info` calls the model.
        searches: by name the options that decide a program, such as `{"beams": {"num_beams": 8}}`; default greedy
            search, sampling, and beam search with 4 beams.
        constraints: automata from `encdec_eqx.generation.constraints` that a request may name.
        batch_sizes: how many sources are generated from at once. Fewer that wait fill up the next size.
        source_lengths: sizes that sources are padded to, in tokens; the largest one is the longest source accepted.
            Default: what the encoder reads, at most 512, a quarter and a sixteenth of it.
        max_new_tokens: the most that a request may ask for, and the default of requests that do not say. Default: 128,
            or what the decoder has positions for.
        max_inputs: sources in one request.
        max_request_bytes: size of a request's body.
        max_queue: sources that wait; a request beyond it is refused with status 429.
        timeout: seconds from a request's arrival after which it is given up with status 504.
        grace: seconds that requests in flight have to finish in when the server is stopped.
    """

    name: str = "model"
    searches: Mapping[str, Mapping[str, Any]] | None = None
    constraints: Mapping[str, AbstractConstraint] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    source_lengths: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    max_inputs: int = 32
    max_request_bytes: int = 2**18
    max_queue: int = 256
    timeout: float | int = 60.0
    grace: float | int = 30.0

    def __post_init__(self):
        limits = {"max_new_tokens": 2**20, "max_inputs": 2**16, "max_request_bytes": 2**30, "max_queue": 2**20}
        for name, most in limits.items():
            if (value := getattr(self, name)) is not None or name != "max_new_tokens":
                object.__setattr__(self, name, whole(name, value, least=1, most=most))
        object.__setattr__(self, "batch_sizes", _sizes("batch_sizes", self.batch_sizes))
        if self.source_lengths is not None:
            object.__setattr__(self, "source_lengths", _sizes("source_lengths", self.source_lengths))
        for name in ("timeout", "grace"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MOST_SECONDS:
                raise ValueError(f"{name} must be seconds above 0 and up to a day, got {quoted(seconds)}.")
        for name, kind in (("searches", Mapping), ("constraints", AbstractConstraint)):
            for key, value in (getattr(self, name) or {}).items():
                if not isinstance(value, kind):
                    what = "a mapping from options to values" if kind is Mapping else "a constraint, from "
                    what += "" if kind is Mapping else "encdec_eqx.generation.constraints"
                    raise TypeError(f"{name}[{key!r}] must be {what}, got {quoted(value)}.")


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    """The sizes in ascending order, each once."""
    made = sorted({whole(name, size, least=1, most=2**20) for size in sizes})
    if not made:
        raise ValueError(f"{name} is empty: pass at least one size.")
    return tuple(made)
