"""What a server does under pressure and at its end: queue, timeouts, clients that leave, hostile requests, shutdown."""

import asyncio
import concurrent.futures
import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from running_server import SETTINGS, WORDS, Running, running, speaker

from encdec_eqx.serve import ServerSettings, open_listener


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    settings = ServerSettings(
        searches={"greedy": {}}, batch_sizes=(1, 2), source_lengths=(16,), max_new_tokens=12, max_queue=3, timeout=20
    )
    with running(speaker(), settings) as server:
        yield server


class Held:
    """Holds batches up until they are let go, and counts them."""

    def __init__(self, served: Running, monkeypatch: pytest.MonkeyPatch):
        self.go, self.begun, self.taken = threading.Event(), 0, 0
        offer = served.app.state.server.offer
        start = offer.start

        def held(*arguments, **options):
            self.begun += 1
            for chunk in start(*arguments, **options):
                assert self.go.wait(20)
                self.taken += 1
                yield chunk

        monkeypatch.setattr(offer, "start", held)


@pytest.fixture
def held(served, monkeypatch) -> Iterator[Held]:
    made = Held(served, monkeypatch)
    yield made
    made.go.set()
    _until(lambda: _idle(served))


def _idle(served: Running) -> bool:
    batcher = served.app.state.server.batcher
    return not (batcher.waiting() or batcher.running() or served.app.state.server.in_flight)


def _until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def _sent(served: Running, *bodies) -> Iterator[list[concurrent.futures.Future]]:
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        yield [pool.submit(served.post, **body) for body in bodies]


def test_a_full_queue_refuses_and_says_when_to_come_back(served, held):
    batcher = served.app.state.server.batcher
    with _sent(served, {"inputs": WORDS[0]}) as first:
        _until(lambda: batcher.running() == 1)
        with _sent(served, *[{"inputs": WORDS[0]}] * 3) as others:
            _until(lambda: batcher.waiting() == 3)
            reply = served.post(inputs=WORDS[0])
            assert reply.status_code == 429
            assert reply.json()["error"]["type"] == "QueueFull"
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            held.go.set()
            assert [one.result().status_code for one in (*first, *others)] == [200] * 4
    assert served.post(inputs=WORDS[0]).status_code == 200


def test_who_waits_together_is_generated_from_together(served, held):
    batcher = served.app.state.server.batcher
    with _sent(served, {"inputs": WORDS[0]}) as first:
        _until(lambda: batcher.running() == 1)
        with _sent(served, {"inputs": WORDS[1]}, {"inputs": WORDS[2]}) as others:
            _until(lambda: batcher.waiting() == 2)
            held.go.set()
            together = [_said(one.result()) for one in (*first, *others)]
    assert held.begun == 2
    assert together == [_said(served.post(inputs=word)) for word in WORDS[:3]]
    assert len(set(map(str, together))) == 3


def _said(reply: httpx.Response) -> list[str]:
    [[output]] = reply.json()["outputs"]
    return [output["finish_reason"], *output["tokens"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(served, held, stream):
    batcher = served.app.state.server.batcher
    with httpx.Client(base_url=served.client.base_url, timeout=0.3) as hasty, pytest.raises(httpx.ReadTimeout):
        hasty.post("/generate", json={"inputs": WORDS[0], "stream": stream}).read()
    _until(lambda: not served.app.state.server.in_flight)
    held.go.set()
    _until(lambda: not batcher.running())
    # looked at once more at the most, instead of running to its end
    assert held.taken <= 1


def test_what_takes_too_long_is_given_up(served, held, monkeypatch):
    object.__setattr__(served.app.state.server.offer.settings, "timeout", 0.2)
    try:
        reply = served.post(inputs=WORDS[0])
        events = served.events(inputs=WORDS[0])
    finally:
        object.__setattr__(served.app.state.server.offer.settings, "timeout", 20)
    assert reply.status_code == 504
    assert reply.json()["error"]["type"] == "TimeoutError"
    assert "0.2 s" in reply.json()["error"]["message"]
    assert [name for name, _ in events] == ["error"]
    assert events[0][1] == reply.json()


def test_a_body_that_does_not_come_is_given_up(served):
    object.__setattr__(served.app.state.server.offer.settings, "timeout", 0.2)
    try:
        with socket.create_connection((served.client.base_url.host, served.client.base_url.port), timeout=10) as raw:
            raw.sendall(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            assert raw.recv(100).startswith(b"HTTP/1.1 504")
    finally:
        object.__setattr__(served.app.state.server.offer.settings, "timeout", 20)


def test_a_batch_that_fails_is_told_and_the_server_lives(served, monkeypatch, caplog):
    offer = served.app.state.server.offer

    def broken(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: secret of the house")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(offer, "start", broken)
        reply = served.post(inputs=WORDS[0])
        events = served.events(inputs=WORDS[0])
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["error"]["type"] == "InternalError"
    assert events == [("error", reply.json())]
    assert "RESOURCE_EXHAUSTED" in caplog.text
    assert WORDS[0] not in caplog.text
    assert served.post(inputs=WORDS[0]).status_code == 200


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"inputs": "\xff"}',
    b'{"inputs": "\\ud800"}',
    b"[" * 100_000,
    b'{"inputs": ' + b'{"a":' * 30_000,
    b'{"inputs": "a", "parameters": {"temperature": NaN, "do_sample": true}}',
    b'{"inputs": "a", "parameters": {"temperature": 1e999, "do_sample": true}}',
    b'{"inputs": "a", "parameters": {"max_new_tokens": ' + b"9" * 5000 + b"}}",
    b'{"inputs": "a", "parameters": {"max_new_tokens": 99999999999999999999}}',
    b'{"inputs": "a", "parameters": {"num_beams": 1e3}}',
    b'{"inputs": "a", "parameters": {"num_beams": 1024, "num_return_sequences": 1024}}',
    b'{"inputs": "a", "parameters": {"bad_words_ids": [[1], [], ["x"]]}}',
    b'{"inputs": "a", "parameters": {"force_words_ids": [[[[[1]]]]], "num_beams": 4}}',
    b'{"inputs": "a", "parameters": {"sequence_bias": {"a": 1}}}',
    b'{"inputs": "a", "parameters": {"eos_token_id": -5}}',
    b'{"inputs": "a", "parameters": {"eos_token_id": [1, 2, 3, 4, 5, 6, 7, 8, 9]}}',
    b'{"inputs": "a", "parameters": {"decoder_start_token_id": [1, 2]}}',
    b'{"inputs": "a", "parameters": {"constraint": null, "seed": {}}}',
    b'{"inputs": "a", "parameters": {"assistant_model": "gpt2"}}',
    b'{"inputs": "a", "parameters": {"decoder_input_ids": [[1]]}}',
    b'{"inputs": "a", "parameters": {"generation_config": {}}}',
    b'{"inputs": "a", "parameters": {"key": 1}}',
    b'{"inputs": "a", "parameters": {"": 1}}',
    b'{"inputs": "a", "parameters": {"src_lang": 7}}',
    b'{"inputs": "a", "inputs": ["b"], "parameters": {"tgt_lang": []}}',
]


@pytest.mark.parametrize("path", ["/generate", "/alignment"])
@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
def test_hostile_requests_get_json(served, body, path):
    reply = served.client.post(path, content=body)
    _check_refused(reply)


def test_damaged_requests_get_json_and_the_server_lives(served):
    """Requests with letters changed, dropped and repeated: an answer or an error, always JSON, and never status 500."""
    rng = random.Random(0)
    whole = b'{"inputs": ["the cat", "hello"], "parameters": {"max_new_tokens": 3, "num_beams": 1}, "stream": false}'
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + rng.randint(0, 3)] = bytes(
                rng.choices(b'{}[]",:\\0123456789.eE-ntf\xc3\x00 ', k=rng.randint(0, 3))
            )
        reply = served.client.post("/generate", content=bytes(body))
        if reply.status_code != 200:
            _check_refused(reply)
    assert served.post(inputs=WORDS[0]).status_code == 200
    assert served.metric("encdec_eqx_compilations_since_warmup") == 0


def _check_refused(reply: httpx.Response) -> None:
    assert 400 <= reply.status_code < 500, reply.text
    error = reply.json()["error"]
    assert error.keys() == {"type", "message"}
    assert error["message"]
    assert len(error["message"]) < 1500


def test_the_library_says_nothing_of_what_is_asked(served, caplog):
    caplog.set_level("DEBUG", logger="encdec_eqx")
    served.post(inputs="hello secret")
    served.post(inputs="hello secret", parameters={"num_beams": 77})
    assert "secret" not in caplog.text


def test_at_its_end_a_server_finishes_what_is_in_flight_and_refuses_what_is_new(monkeypatch):
    settings = ServerSettings(searches={"greedy": {}}, batch_sizes=(1,), source_lengths=(16,), max_new_tokens=12)
    with running(speaker(), settings) as served:
        held = Held(served, monkeypatch)
        server = served.app.state.server
        with _sent(served, {"inputs": WORDS[0]}) as (sent,), concurrent.futures.ThreadPoolExecutor() as pool:
            _until(lambda: server.batcher.running() == 1)
            draining = pool.submit(lambda: asyncio.run(server.drain()))
            _until(lambda: server.stopping)
            assert served.client.get("/health").status_code == 503
            reply = served.post(inputs=WORDS[0])
            assert reply.status_code == 503
            assert "shutting down" in reply.json()["error"]["message"]
            assert not draining.done()
            held.go.set()
            assert sent.result().status_code == 200
            assert draining.result() is True
    assert server.ended


def test_a_server_that_is_not_warm_says_so(monkeypatch):
    from encdec_eqx.serve.offer import Offer

    go = threading.Event()
    monkeypatch.setattr(Offer, "warm", lambda self, report: go.wait(20) and None)
    monkeypatch.setattr("encdec_eqx.serve.aligner.Aligner.warm", lambda self, report: None)
    with running(speaker(), SETTINGS, warm=False) as served:
        reply = served.client.get("/health")
        assert (reply.status_code, reply.json()) == (503, {"status": "warming up"})
        assert served.post(inputs="a").status_code == 503
        assert served.client.get("/info").status_code == 200
        go.set()
        _until(lambda: served.client.get("/health").status_code == 200)


def test_a_warm_up_that_fails_is_told(monkeypatch, caplog):
    from encdec_eqx.serve.offer import Offer

    def broken(self, report):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Offer, "warm", broken)
    with running(speaker(), SETTINGS, warm=False) as served:
        _until(lambda: served.app.state.server.batcher.failure is not None)
        assert "could not be warmed up" in served.client.get("/health").json()["status"]
    assert "no memory" in caplog.text


def test_ports_and_addresses_that_cannot_be_had():
    with open_listener("127.0.0.1", 0) as taken, pytest.raises(OSError, match="is in use: stop what listens there"):
        open_listener("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(OSError, match="'no such host' is no address of this machine"):
        open_listener("no such host", 8000)
    with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1"):
        open_listener("192.0.2.1", 8000)
