"""What `/metrics` says, in Prometheus' text format."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_COMPILED = "/jax/core/compile/backend_compile_duration"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class _Compilations:
    """Programs that this process has compiled, in whichever thread."""

    def __init__(self) -> None:
        self.programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: object) -> None:
        del duration_secs
        self.programs += event == _COMPILED


@functools.cache
def _compilations() -> _Compilations:
    """The one listener: jax has no way to take one away."""
    return _Compilations()


class ServerMetrics:
    """The counters of one server.

    Attributes:
        requests: by path and status.
        seconds: how long requests took, by path.
        batch_rows: sources in a batch, without what fills it up.
        tokens: generated, their ends included.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("encdec_eqx_requests", "Requests answered.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "encdec_eqx_request_seconds", "From a request to its answer's end.", ("path",), buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batch_rows = Histogram("encdec_eqx_batch_rows", "Sources in a batch.", buckets=_ROWS, registry=registry)
        self.tokens = Counter("encdec_eqx_generated_tokens", "Tokens generated, ends included.", registry=registry)
        self._waiting = Gauge("encdec_eqx_queue_rows", "Sources that wait.", registry=registry)
        self._running = Gauge("encdec_eqx_running_rows", "Sources that are generated from.", registry=registry)
        self._warmup = Gauge("encdec_eqx_warmup_seconds", "How long compiling ahead took.", registry=registry)
        self._warmed = Gauge("encdec_eqx_warmup_compilations", "Programs compiled ahead.", registry=registry)
        late = Gauge("encdec_eqx_compilations_since_warmup", "Programs compiled while serving.", registry=registry)
        late.set_function(lambda: self.compilations)
        self._base: int | None = None

    @property
    def compilations(self) -> int:
        """Programs that this process has compiled since the server was warm."""
        return 0 if self._base is None else _compilations().programs - self._base

    def watch(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Ask these for the queue whenever somebody looks."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        """Around the warm-up."""
        before, begin = _compilations().programs, time.perf_counter()
        yield
        self._base = _compilations().programs
        self._warmup.set(time.perf_counter() - begin)
        self._warmed.set(self._base - before)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
