"""The one thread that runs the model: what waits is put into batches, and batches of different options take turns.

A batch is as many sources as wait with the same options. While one runs, others with other options may be begun; each
goes on by a few tokens at a time, so that a long output holds nobody up.
"""

import atexit
import contextlib
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._quoting import quoted
from ..generation.result import StreamChunk
from ..targets import TargetForm
from .offer import TOKENS_AT_A_TIME, Offer, PreparedRequest
from .refusals import not_now, queue_full
from .server_metrics import ServerMetrics

_logger = logging.getLogger("encdec_eqx")

THREAD = "encdec_eqx model"
"""The name of the model's thread."""

_AT_ONCE = 4
"""Batches of different options that take turns."""


@dataclass(frozen=True)
class Token:
    """A token of a stream, and the text so far."""

    token: str
    text: str


@dataclass(frozen=True)
class Done:
    """The outputs of one source."""

    index: int
    outputs: list[dict[str, Any]]


@dataclass(frozen=True)
class Failed:
    """Nothing more will come."""

    error: Exception


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        prepared: what is asked for.
        deliver: takes what has come, and is called in the model's thread.
        gone: whether nobody waits for it any more.
    """

    prepared: PreparedRequest
    deliver: Callable[[Token | Done | Failed], None]
    gone: bool = False


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of the model for one request, between two steps of the batches.

    Attributes:
        make: makes the answer.
        deliver: takes it, or what went wrong, and is called in the model's thread.
        gone: whether nobody waits for it any more.
    """

    make: Callable[[], dict[str, Any]]
    deliver: Callable[[dict[str, Any] | Exception], None]
    gone: Callable[[], bool]


@dataclass(frozen=True, eq=False)
class _Row:
    """One source of a request."""

    job: Job
    index: int

    @property
    def ids(self) -> np.ndarray:
        return self.job.prepared.rows[self.index]


@dataclass(eq=False)
class _Batch:
    """Sources that are generated from at once, and those whose outputs are still to come."""

    rows: list[_Row]
    chunks: Iterator[StreamChunk]
    form: TargetForm
    each: int
    open: set[int]
    begun: float = field(default_factory=time.perf_counter)
    said: dict[int, np.ndarray] = field(default_factory=dict)
    shown: dict[int, str] = field(default_factory=dict)
    done: dict[int, tuple[np.ndarray, float, bool]] = field(default_factory=dict)

    @property
    def group(self) -> str:
        return self.rows[0].job.prepared.group


class Batcher:
    """The queue and the thread.

    Attributes:
        warm: set when everything is compiled.
        failure: what the warm-up failed with.
    """

    def __init__(
        self,
        offer: Offer,
        metrics: ServerMetrics,
        report: Callable[[str], None],
        warm_too: Callable[[Callable[[str], None]], None],
    ):
        self._offer, self._metrics, self._report, self._warm_too = offer, metrics, report, warm_too
        self._passes: deque[Pass] = deque()
        self._waiting: deque[_Row] = deque()
        self._batches: list[_Batch] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_a_batch = 1.0
        self.warm = threading.Event()
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._live, name=THREAD, daemon=True)
        metrics.watch(self.waiting, self.running)

    def start(self) -> None:
        """Begin to compile, and then to serve."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Take nothing more; whether the thread has ended within so many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            # a thread that compiles while the interpreter ends would crash the process
            atexit.register(self._thread.join)
        return not self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Put a request's sources into the queue.

        Raises:
            RefusalError: the queue is full, or the server is not warm or is stopping.
        """
        with self._changed:
            new = len(job.prepared.rows)
            self._check_room(new)
            self._waiting += [_Row(job, index) for index in range(new)]
            self._changed.notify()

    def submit_pass(self, one: Pass) -> None:
        """Put a pass into the queue.

        Raises:
            RefusalError: as `submit`.
        """
        with self._changed:
            self._check_room(1)
            self._passes.append(one)
            self._changed.notify()

    def _check_room(self, new: int) -> None:
        if self._stopping or not self.warm.is_set():
            raise not_now("the server is shutting down." if self._stopping else "the server is warming up.")
        self._forget()
        if self.waiting() + new > self._offer.settings.max_queue:
            batches = math.ceil(self.waiting() / self._offer.settings.batch_sizes[-1])
            raise queue_full(self.waiting(), max(1, min(math.ceil(batches * self._seconds_a_batch), 60)))

    def waiting(self) -> int:
        """Sources in the queue, and passes."""
        return len(self._waiting) + len(self._passes)

    def running(self) -> int:
        """Sources that are generated from."""
        return sum(len(batch.open) for batch in self._batches)

    def _live(self) -> None:
        try:
            with self._metrics.warming():
                self._offer.warm(self._report)
                self._warm_too(self._report)
        except Exception as error:
            self.failure = error
            _logger.exception("the server could not be warmed up")
            return
        self.warm.set()
        while self._wait():
            self._begin()
            for batch in [*self._batches]:
                self._go_on(batch)
            if self._passes:
                self._make(self._passes.popleft())

    def _wait(self) -> bool:
        """Until there is something to do; False when it is over."""
        with self._changed:
            while not (self._batches or self.waiting() or self._stopping):
                self._changed.wait()
            return not self._stopping

    def _make(self, one: Pass) -> None:
        if one.gone():
            return
        try:
            answer: dict[str, Any] | Exception = one.make()
        except Exception as error:  # noqa: BLE001 (the server lives on)
            answer = error
        with contextlib.suppress(RuntimeError):  # its event loop may be closed
            one.deliver(answer)

    def _begin(self) -> None:
        """Begin batches of what waits longest, of options that no batch has yet."""
        while len(self._batches) < _AT_ONCE and (rows := self._take()):
            try:
                batch = self._batch(rows)
            except Exception as error:  # noqa: BLE001 (the server lives on)
                self._fail(rows, error)
                continue
            self._batches.append(batch)

    def _take(self) -> list[_Row]:
        with self._changed:
            self._forget()
            running = {batch.group for batch in self._batches}
            counts = Counter(row.job.prepared.group for row in self._waiting)
            group = next((name for name in counts if name not in running), None)
            if group is None:
                return []
            alike = [row for row in self._waiting if row.job.prepared.group == group]
            taken = alike[: self._offer.size_for(len(alike))]
            chosen = set(map(id, taken))
            self._waiting = deque(row for row in self._waiting if id(row) not in chosen)
            return taken

    def _forget(self) -> None:
        """Drop sources that nobody waits for any more."""
        if any(row.job.gone for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if not row.job.gone)

    def _batch(self, rows: list[_Row]) -> _Batch:
        first = rows[0].job.prepared
        keys = None if first.keys is None else [(row.job.prepared.keys or [])[row.index] for row in rows]
        watched = any(row.job.prepared.streams for row in rows)
        ids, constraint = [row.ids for row in rows], first.constraint
        tokens = 1 if watched else TOKENS_AT_A_TIME
        chunks = self._offer.start(ids, keys, first.options, constraint, tokens_at_a_time=tokens)
        self._metrics.batch_rows.observe(len(rows))
        form = TargetForm.of(self._offer.speaker.model, first.options)
        return _Batch(rows, chunks, form, first.plan.num_return_sequences, set(range(len(rows))))

    def _go_on(self, batch: _Batch) -> None:
        """A few more tokens, and whoever has all of theirs is told."""
        batch.open -= {at for at in batch.open if batch.rows[at].job.gone}
        chunk = None
        if batch.open:
            try:
                chunk = next(batch.chunks)
                self._deliver(batch, chunk)
            except Exception as error:  # noqa: BLE001 (the server lives on)
                self._fail([batch.rows[at] for at in batch.open], error)
                batch.open.clear()
        if not batch.open or (chunk is not None and chunk.result is not None):
            self._batches.remove(batch)
            self._seconds_a_batch += 0.2 * (time.perf_counter() - batch.begun - self._seconds_a_batch)

    def _deliver(self, batch: _Batch, chunk: StreamChunk) -> None:
        for place, ids in chunk.done.items():
            batch.done[place] = (ids, chunk.scores[place], chunk.truncated[place])
        for at in sorted(batch.open):
            row = batch.rows[at]
            if row.job.prepared.streams:
                self._stream(batch, at, chunk)
            places = range(at * batch.each, (at + 1) * batch.each)
            if all(place in batch.done for place in places):
                outputs = [self._output(batch, *batch.done[place]) for place in places]
                self._metrics.tokens.inc(sum(len(batch.done[place][0]) for place in places))
                batch.open.discard(at)
                row.job.deliver(Done(row.index, outputs))

    def _stream(self, batch: _Batch, at: int, chunk: StreamChunk) -> None:
        """Tell of new tokens, one by one; half a letter of several bytes is not shown."""
        before = batch.said.get(at, np.zeros(0, np.int32))
        so_far = np.concatenate([before, chunk.tokens[at]]) if at not in chunk.done else chunk.done[at]
        batch.said[at] = so_far
        for end in range(len(before) + 1, len(so_far) + 1):
            said = self._content(batch, so_far[:end])
            if len(said) <= len(self._content(batch, so_far[: end - 1])):
                continue
            text = self._text(batch, so_far[:end])
            if not text.endswith("\ufffd"):
                batch.shown[at] = text
            batch.rows[at].job.deliver(Token(self._tokens(said[-1:])[0], batch.shown.get(at, "")))

    def _output(self, batch: _Batch, ids: np.ndarray, score: float, truncated: bool) -> dict[str, Any]:
        return {
            "generated_text": self._text(batch, ids),
            "tokens": self._tokens(self._content(batch, ids)),
            "score": score if math.isfinite(score) else None,
            "finish_reason": "length" if truncated else "eos",
        }

    def _text(self, batch: _Batch, ids: np.ndarray) -> str:
        return self._offer.speaker.tokenizers.decode_target([ids], form=batch.form)[0]

    def _content(self, batch: _Batch, ids: np.ndarray) -> np.ndarray:
        return batch.form.content(ids)

    def _tokens(self, ids: np.ndarray) -> list[str]:
        target = self._offer.speaker.tokenizers.target
        return [target.id_to_token(int(id_)) or "" for id_ in ids]

    def _fail(self, rows: list[_Row], error: Exception) -> None:
        _logger.error("a batch of %d sources failed: %s", len(rows), quoted(str(error)), exc_info=error)
        for row in rows:
            with contextlib.suppress(RuntimeError):  # its event loop may be closed
                row.job.deliver(Failed(error))
