"""The worker of `int8` for one type of CTranslate2's, which rounds the weights when it loads them."""

import json
import pathlib
import time
from typing import Any

import ctranslate2
import numpy as np

from benchmarks import _harness
from benchmarks._memory import memory

_state: dict[str, Any] = {}


def start(*, device: str, precision: str, threads: int) -> dict[str, Any]:
    """Keeps the number of threads."""
    _state["threads"] = threads
    return {}


def prepare(*, model: str, dtype: str) -> dict[str, Any]:
    """Loads the converted model; the bytes of its file, which holds float32 whatever the type."""
    folder = pathlib.Path(model) / "ct2"
    _state["words"] = json.loads((folder / "words.json").read_text())
    _state["model"] = ctranslate2.Translator(
        str(folder), device="cpu", compute_type=dtype, inter_threads=1, intra_threads=_state["threads"]
    )
    return {"file": (folder / "model.bin").stat().st_size}


def generate(*, batch: int, source: int, new_tokens: int) -> dict[str, Any]:
    """So many tokens for each row, from words to words."""
    ids = np.random.default_rng(0).integers(5, 30000, (batch, source))
    words = [[_state["words"][at] for at in row] for row in ids]
    begin = time.perf_counter()
    results = _state["model"].translate_batch(
        words, beam_size=1, max_decoding_length=new_tokens, min_decoding_length=new_tokens, max_input_length=0
    )
    seconds = time.perf_counter() - begin
    numbers = {word: at for at, word in enumerate(_state["words"])}
    return {
        "seconds": seconds,
        "tokens": [[numbers[word] for word in result.hypotheses[0]] for result in results],
        **memory(),
    }


if __name__ == "__main__":
    _harness.serve({handler.__name__: handler for handler in (start, prepare, generate)})
