"""Load on a server: many clients on loopback, what each gets compared with what it gets alone, throughput and latency.

`python -m benchmarks.serve` starts `encdec-eqx serve` with the package's own pronunciation model, `--model base` with a
random pair of base size, and asks it once as one client, then as many. Every answer is compared with the model's own,
token for token; the server must not compile meanwhile. Bounded in requests and in time.
"""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks import _harness, _models
from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB, SIZES
from encdec_eqx import EncoderDecoder
from encdec_eqx.demo.lexicon import fixed_sample, load_lexicon
from encdec_eqx.text import TextToText, TokenizerPair

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "beams": {"num_beams": 4},
}
MOST_SECONDS = 600


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load on a server.")
    parser.add_argument("--model", default="pronounce", choices=("pronounce", "base"))
    parser.add_argument("--ways", default=("greedy",), nargs="+", choices=WAYS, help="requests take turns with them")
    parser.add_argument("--clients", default=64, type=int)
    parser.add_argument("--requests", default=1024, type=int, help="of all clients together")
    parser.add_argument("--alone", default=128, type=int, help="requests of the one client")
    parser.add_argument("--new-tokens", default=24, type=int)
    parser.add_argument("--batch-sizes", default=(1, 4, 16), type=_harness.integers)
    return parser


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, compares, prints."""
    settings = options().parse_args(arguments)
    with tempfile.TemporaryDirectory() as room:
        folder, texts = (_pronounce if settings.model == "pronounce" else _base)(Path(room))
        requests = _requests(texts, settings)
        with _serving(folder, settings) as (address, warmup):
            alone = asyncio.run(_load(address, requests[: settings.alone], clients=1))
            together = asyncio.run(_load(address, requests, clients=settings.clients))
            metrics = httpx.get(f"{address}/metrics").text
        expected = _expected(TextToText.from_pretrained(folder), requests)
    answered = [*zip(requests, together["answers"], strict=True), *zip(requests, alone["answers"], strict=False)]
    wrong = sum(answer != expected[json.dumps(body)] for body, answer in answered)
    found = {
        "wrong": wrong,
        "compiled while serving": _metric(metrics, "encdec_eqx_compilations_since_warmup"),
        "warm-up, seconds": warmup,
        "sources a batch": _metric(metrics, "encdec_eqx_batch_rows_sum")
        / _metric(metrics, "encdec_eqx_batch_rows_count"),
        "one client": _summary(alone),
        f"{settings.clients} clients": _summary(together),
        "times as many": _summary(together)["requests/s"] / _summary(alone)["requests/s"],
    }
    print(json.dumps(found, indent=2))
    return found


def _pronounce(_: Path) -> tuple[Path, list[str]]:
    """The package's own model, and words it has not seen."""
    return Path(str(files("encdec_eqx.demo") / "assets" / "pronounce")), fixed_sample(load_lexicon().words("test"), 400)


def _base(room: Path) -> tuple[Path, list[str]]:
    """A random BERT + GPT-2 of base size, whose words are numbers; and sources of 10 to 60 of them."""
    size = SIZES["base"]
    encoder, decoder = _models.bert(size), _models.gpt2(size, tied=False)
    model = EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.key(1))
    end = _models.END_OF_TEXT
    model = model.with_special_tokens(eos_token_id=end, decoder_start_token_id=end, pad_token_id=end)
    folder = room / "base"
    tokenizers = TokenizerPair(_numbers(ENCODER_VOCAB, 0), _numbers(DECODER_VOCAB, end))
    TextToText(model, tokenizers).save_pretrained(folder)
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 61, 100)
    return folder, [" ".join(map(str, rng.integers(1, ENCODER_VOCAB, length))) for length in lengths]


def _numbers(size: int, special: int) -> Tokenizer:
    names = ["<special>" if id_ == special else str(id_) for id_ in range(size)]
    tokenizer = Tokenizer(models.WordLevel({name: id_ for id_, name in enumerate(names)}, unk_token="<special>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<special>"])
    return tokenizer


def _requests(texts: Sequence[str], settings: argparse.Namespace) -> list[dict[str, Any]]:
    made = []
    for at in range(settings.requests):
        parameters = {**WAYS[settings.ways[at % len(settings.ways)]], "max_new_tokens": settings.new_tokens}
        if parameters.get("do_sample"):
            parameters["seed"] = at
        made.append({"inputs": texts[at % len(texts)], "parameters": parameters})
    return made


@contextlib.contextmanager
def _serving(folder: Path, settings: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """The server's address, and how long it took to warm up."""
    sizes = [str(size) for size in settings.batch_sizes]
    words = [sys.executable, "-m", "encdec_eqx", "serve", str(folder), "--port", "0", "--batch-sizes", *sizes]
    words += ["--max-new-tokens", str(settings.new_tokens), "--max-queue", str(settings.clients + 1)]
    words += ["--timeout", str(MOST_SECONDS)]
    if settings.model == "base":
        words += ["--source-lengths", "64"]
    for way in settings.ways:
        words += [
            "--search",
            f"{way}={json.dumps({k: v for k, v in WAYS[way].items() if k in ('do_sample', 'num_beams')})}",
        ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said, begin = "", time.perf_counter()
        for line in process.stderr:
            said += line
            if line.startswith("ready"):
                break
        found = re.search(r"http://\S+", said)
        assert found, said
        try:
            yield found[0], time.perf_counter() - begin
        finally:
            process.terminate()


async def _load(address: str, requests: Sequence[dict[str, Any]], *, clients: int) -> dict[str, Any]:
    """All requests by so many clients, each of which asks again as soon as it is answered."""
    answers: list[Any] = [None] * len(requests)
    seconds: list[float] = []
    waiting = iter(enumerate(requests))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=MOST_SECONDS, limits=limits) as client:

        async def one() -> None:
            for at, body in waiting:
                begin = time.perf_counter()
                reply = await client.post("/generate", json=body)
                seconds.append(time.perf_counter() - begin)
                reply.raise_for_status()
                answers[at] = reply.json()["outputs"][0][0]["generated_text"]

        begin = time.perf_counter()
        async with asyncio.timeout(MOST_SECONDS):
            await asyncio.gather(*[one() for _ in range(clients)])
        return {"answers": answers, "seconds": seconds, "wall": time.perf_counter() - begin}


def _expected(speaker: TextToText, requests: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What the model says to each request alone; nothing is batched."""
    known = {}
    for body in requests:
        name = json.dumps(body)
        if name not in known:
            parameters = dict(body["parameters"])
            seed = parameters.pop("seed", None)
            key = None if seed is None else jax.random.key(seed)
            known[name] = speaker.generate([body["inputs"]], key=key, **parameters).texts[0][0]
    return known


def _summary(load: dict[str, Any]) -> dict[str, float]:
    p50, p95 = np.percentile(load["seconds"], [50, 95])
    return {"requests/s": len(load["seconds"]) / load["wall"], "p50, ms": p50 * 1e3, "p95, ms": p95 * 1e3}


def _metric(text: str, name: str) -> float:
    return float(re.findall(rf"^{name} (.*)$", text, re.MULTILINE)[0])


if __name__ == "__main__":
    raise SystemExit(main()["wrong"] > 0)
