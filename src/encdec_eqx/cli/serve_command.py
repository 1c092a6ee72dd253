"""`encdec-eqx serve`: a saved pair behind HTTP, with a page to try it."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .arguments import above_zero, needed, whole_number

DESCRIPTION = (
    "Serves a saved pair and its tokenizers: POST /generate, streams of tokens, /info, /health, /metrics, and a page "
    "at /. Everything that is offered is compiled before the first request. Ctrl-C or SIGTERM stops it, when "
    "requests in flight are answered."
)

_SIZES = {"batch_sizes": "BATCH", "source_lengths": "TOKENS"}
_LIMITS = {
    "max_new_tokens": "most tokens that a request may ask for (default: 128, or what the decoder has positions for)",
    "max_inputs": "most sources in one request (default: 32)",
    "max_request_bytes": "size of a request's body (default: 262144)",
    "max_queue": "sources that may wait; a request beyond it gets status 429 (default: 256)",
}
_SECONDS = {
    "timeout": "seconds after which a request is given up with status 504 (default: 60)",
    "grace": "seconds that requests in flight have when the server is stopped (default: 30)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    number = whole_number(1, 2**20)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a saved pair, tokenizers beside it")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=8000, metavar="N", help="0 takes a free one (default: 8000)"
    )
    parser.add_argument("--name", help="what /info and the page call the model (default: the end of MODEL)")
    parser.add_argument(
        "--search",
        action="append",
        metavar="NAME=JSON",
        help="a search to offer, such as 'beams={\"num_beams\": 8}'; may be given several times (default: greedy "
        "search, sampling, and 4 beams)",
    )
    parser.add_argument(
        "--outputs",
        action="append",
        metavar="NAME=FILE",
        help="a constraint that a request may name: outputs are lines of this file; may be given several times",
    )
    parser.add_argument(
        "--pattern",
        action="append",
        metavar="NAME=REGEX",
        help="the same, where outputs match a regular expression (docs/constrained_decoding.md)",
    )
    parser.add_argument(
        "--batch-sizes", type=number, nargs="+", metavar="N", help="sources at once that are compiled (default: 1 4 16)"
    )
    parser.add_argument(
        "--source-lengths",
        type=number,
        nargs="+",
        metavar="N",
        help="tokens that sources are padded to; the largest is the longest source (default: what the encoder reads, "
        "at most 512, a quarter and a sixteenth of it)",
    )
    for name, said in _LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=number, metavar="N", help=said)
    for name, said in _SECONDS.items():
        parser.add_argument(f"--{name}", type=above_zero, metavar="SECONDS", help=said)


def run(chosen: argparse.Namespace) -> int:
    """Serve; 0 after SIGTERM, 130 after Ctrl-C."""
    for package in ("starlette", "uvicorn", "prometheus_client", "tokenizers"):
        needed(package, "serve")
    from ..serve import open_listener, run_server
    from ..serve.running import leave_busy

    searches = {name: _options(name, text) for name, text in _named("--search", chosen.search).items()}
    patterns, outputs = _named("--pattern", chosen.pattern), _named("--outputs", chosen.outputs)
    # before the model is loaded: a port that is taken is found out at once
    with open_listener(chosen.host, chosen.port) as listener:
        from ..serve import ServerSettings
        from ..text import TextToText, constrain_to_pattern, constrain_to_texts

        texts = {name: _lines("--outputs", file) for name, file in outputs.items()}
        with _speaking_options():
            speaker = TextToText.from_pretrained(chosen.model)
        constraints = {name: constrain_to_pattern(speaker, pattern) for name, pattern in patterns.items()}
        constraints |= {name: constrain_to_texts(speaker, lines) for name, lines in texts.items()}
        given: dict[str, Any] = {
            "name": chosen.name or Path(chosen.model).resolve().name,
            "constraints": constraints,
            **({"searches": searches} if searches else {}),
        }
        for name in (*_SIZES, *_LIMITS, *_SECONDS):
            if getattr(chosen, name) is not None:
                given[name] = getattr(chosen, name)
        with _speaking_options():
            status = run_server(speaker, ServerSettings(**given), listener=listener)
    leave_busy(status)
    return status


@contextlib.contextmanager
def _speaking_options() -> Iterator[None]:
    """Within it errors are in the command's words. Options of a search keep Python's names, as its JSON has them."""
    from .generation_options import SENTENCES

    try:
        yield
    except ValueError as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            text = error.args[0].replace("source_lengths has", "--source-lengths has")
            text = text.replace("max_new_tokens is", "--max-new-tokens is")
            for python, said in SENTENCES.items():
                text = text.replace(python, said)
            error.args = (text,)
        raise


def _lines(option: str, file: str) -> list[str]:
    from ..text.lines import LineReader

    with Path(file).open("rb") as opened:
        lines = LineReader(opened, file).texts()
    if not lines:
        raise ValueError(f"{option}: {file} has no output in it; expected one per line.")
    return lines


def _named(option: str, given: list[str] | None) -> dict[str, str]:
    """What stands behind the names of an option that may be given several times."""
    named: dict[str, str] = {}
    for word in given or ():
        name, equals, value = word.partition("=")
        if not (name.isidentifier() and equals and value):
            raise ValueError(f"{option} must be NAME=VALUE with a name of letters and digits, got {word[:60]!r}.")
        if name in named:
            raise ValueError(f"{option} has the name {name!r} twice.")
        named[name] = value
    return named


def _options(name: str, text: str) -> dict[str, Any]:
    from .._json import loads

    try:
        options = loads(text)
    except ValueError as error:
        raise ValueError(f"--search {name} must be a JSON object such as '{{\"num_beams\": 8}}': {error}.") from None
    if not isinstance(options, dict):
        raise ValueError(
            f"--search {name} must be a JSON object such as '{{\"num_beams\": 8}}', got {json.dumps(options)}."
        )
    return options
