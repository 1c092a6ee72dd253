"""The server that the browser's tests visit: in a thread, warm, and made slow or held where a test wants to look."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from encdec_eqx.serve import ServerSettings, make_app
from encdec_eqx.text import TextToText, constrain_to_texts

MOST_TOKENS = 24
LONGEST_SOURCE = 32
FEW_WORDS = ("D IH K OW D ER", "IH N K OW D", "D IY K OW D")


@dataclass
class Served:
    """A running server.

    Attributes:
        url: where it is.
        speaker: the model that it serves.
        server: what its routes share.
    """

    url: str
    speaker: TextToText
    server: Any

    @contextlib.contextmanager
    def slowed(self, seconds: float) -> Iterator[None]:
        """Has every step of the model take that much longer."""
        with self._before_each_step(lambda: time.sleep(seconds)):
            yield

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Has the model stand still."""
        gate = threading.Event()
        with self._before_each_step(gate.wait):
            try:
                yield
            finally:
                gate.set()

    @contextlib.contextmanager
    def _before_each_step(self, wait: Callable[[], Any]) -> Iterator[None]:
        offer = self.server.offer
        start = offer.start

        def waiting(*arguments: Any, **options: Any) -> Iterator[Any]:
            for chunk in start(*arguments, **options):
                wait()
                yield chunk

        offer.start = waiting
        try:
            yield
        finally:
            del offer.start


@contextlib.contextmanager
def serving(speaker: TextToText) -> Iterator[Served]:
    """A server on a free port until the block is left: one source at a time, and one that waits."""
    settings = ServerSettings(
        name="pronounce",
        batch_sizes=(1,),
        source_lengths=(LONGEST_SOURCE,),
        max_new_tokens=MOST_TOKENS,
        max_queue=1,
        searches={"greedy": {}, "sampling": {"do_sample": True}, "beams": {"num_beams": 4}},
        constraints={"few words": constrain_to_texts(speaker, FEW_WORDS)},
    )
    app = make_app(speaker, settings)
    runner = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        batcher = app.state.server.batcher
        while not (runner.started and (batcher.warm.is_set() or batcher.failure)):
            assert thread.is_alive()
            time.sleep(0.05)
        assert batcher.failure is None
        port = runner.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", speaker, app.state.server)
    finally:
        runner.should_exit = True
        thread.join()
