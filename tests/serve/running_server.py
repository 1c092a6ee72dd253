"""A server of a tiny model on loopback, in a thread of this process."""

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from encdec_eqx.generation.constraints import from_sequences
from encdec_eqx.serve import ServerSettings, make_app, open_listener
from encdec_eqx.text import TextToText, TokenizerPair
from models import decoder_config, encoder_config, randomised, tiny_pair
from tokenizers_of import CLS, PAD, SEP, word_pieces

WORDS = ["the cat sat on the mat", "hello", "a dog said hello world", "who?", "the dog", "and down the mat sat who"]
NEW = 12
NAMES = from_sequences([[40, 41], [42], [43, 44, 45]], eos_token_id=SEP, vocab_size=53)
SETTINGS = ServerSettings(
    name="tiny",
    batch_sizes=(1, 4),
    source_lengths=(16,),
    max_new_tokens=NEW,
    constraints={"names": NAMES},
    max_queue=64,
)


def speaker() -> TextToText:
    """Weights so large that what is said depends on what is read."""
    tokens = {"eos_token_id": SEP, "bos_token_id": CLS, "pad_token_id": PAD}
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **tokens))
    return TextToText(randomised(pair, seed=5, spread=2.5), TokenizerPair(word_pieces(), word_pieces()))


@dataclasses.dataclass
class Running:
    """A server, and a client of it."""

    app: Starlette
    server: uvicorn.Server
    client: httpx.Client

    def post(self, path: str = "/generate", **body: Any) -> httpx.Response:
        """A request of JSON."""
        return self.client.post(path, json=body)

    def events(self, **body: Any) -> list[tuple[str, Any]]:
        """What a stream sends, to its end."""
        text = self.post(stream=True, **body).text
        return [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]

    def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        [line] = re.findall(rf"^{re.escape(name)} (.*)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(line)


@contextlib.contextmanager
def running(text_to_text: TextToText, settings: ServerSettings = SETTINGS, *, warm: bool = True) -> Iterator[Running]:
    """A server, warm; it is gone afterwards."""
    app = make_app(text_to_text, settings, report=lambda line: None)
    listener = open_listener("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            while warm and client.get("/health").status_code != 200:
                assert app.state.server.batcher.failure is None
                time.sleep(0.05)
            yield Running(app, server, client)
    finally:
        server.should_exit = True
        thread.join()
