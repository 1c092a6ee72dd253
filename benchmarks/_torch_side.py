"""The torch side: transformers' EncoderDecoderModel, run eagerly, float32, with its own defaults for attention.

A worker of `_harness` that loads, generates and measures the machine; `_torch_training` adds training. It must not know
JAX or the library.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import EncoderDecoderModel

from benchmarks import _harness, _inputs
from benchmarks._memory import AnonymousPeak, memory

state: dict[str, Any] = {}
"""What a worker keeps between questions."""


def start(*, device: str, precision: str, threads: int) -> dict[str, Any]:
    """Chooses device, threads and the precision of matrix products."""
    torch.set_num_threads(threads)
    state["precision"] = precision
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    if device == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("--device gpu was asked for, and torch finds no CUDA device")
    state["device"] = torch.device("cuda" if device == "gpu" else "cpu")
    return {}


def finish() -> None:
    """Waits for what a GPU still has to do."""
    if state["device"].type == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, with what the device still has to do, and what it returned."""
    finish()
    begin = time.perf_counter()
    result = run()
    finish()
    return time.perf_counter() - begin, result


def tensor(array: Any) -> torch.Tensor:
    """A NumPy array on the device."""
    return torch.from_numpy(array).to(state["device"])


def load(*, folder: str, touch: bool = False) -> dict[str, Any]:
    """Loads the checkpoint and keeps it; with `touch`, reads every parameter once within the time."""

    def run() -> EncoderDecoderModel:
        model = EncoderDecoderModel.from_pretrained(folder).to(state["device"])
        if touch:
            sum(float(parameter.sum()) for parameter in model.parameters())
        return model

    state.pop("model", None)
    with AnonymousPeak() as watch:
        seconds, model = timed(run)
    state["model"] = model.eval()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {"seconds": seconds, "grown": watch.grown, "bytes": size, "attention": model.config._attn_implementation}


def generate(*, batch: int, source: int, new_tokens: int, beams: int = 1) -> dict[str, Any]:
    """Greedy or beam search with the KV cache, from host ids to host tokens. Beams are kept from ending early."""
    ids, mask = _inputs.sources(batch=batch, source=source)
    options = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": beams}
    if beams > 1:
        options["min_new_tokens"] = new_tokens

    def run() -> list[list[int]]:
        with torch.inference_mode():
            return state["model"].generate(tensor(ids), attention_mask=tensor(mask), **options).tolist()

    seconds, tokens = timed(run)
    return {"seconds": seconds, "tokens": tokens}


def first_token(*, batch: int, source: int, new_tokens: int) -> dict[str, Any]:
    """A greedy call that asks for one token: what an endless one does until its first."""
    del new_tokens
    answer = generate(batch=batch, source=source, new_tokens=1)
    return answer | {"tokens": [row[1:] for row in answer["tokens"]]}


def encode(*, batch: int, source: int) -> dict[str, Any]:
    """The encoder alone."""
    ids, mask = _inputs.sources(batch=batch, source=source)

    def run() -> None:
        with torch.inference_mode():
            state["model"].encoder(tensor(ids), attention_mask=tensor(mask))

    seconds, _ = timed(run)
    return {"seconds": seconds}


def peak() -> dict[str, Any]:
    """Memory of this process, and of the device where that is a GPU."""
    answer: dict[str, Any] = dict(memory())
    if state["device"].type == "cuda":
        answer["device_peak"] = torch.cuda.max_memory_allocated()
    return answer


def compilation() -> dict[str, Any]:
    """Nothing is compiled."""
    return {}


def copy(*, megabytes: int) -> dict[str, Any]:
    """Copies an array; bytes read plus bytes written."""
    array = torch.ones(megabytes * 2**18, device=state["device"])
    target = torch.empty_like(array)
    target.copy_(array)
    seconds, _ = timed(lambda: target.copy_(array))
    return {"seconds": seconds, "amount": 2 * array.numel() * 4}


def read(*, megabytes: int) -> dict[str, Any]:
    """Multiplies a matrix by a vector, which reads the matrix once: what a decoding step does all the time."""
    matrix = torch.ones(megabytes * 2**8, 1024, device=state["device"])
    vector = torch.ones(1024, device=state["device"])
    torch.mv(matrix, vector)
    seconds, _ = timed(lambda: torch.mv(matrix, vector))
    return {"seconds": seconds, "amount": matrix.numel() * 4}


def matmul(*, width: int) -> dict[str, Any]:
    """Multiplies two square matrices, in bfloat16 where that is the precision; FLOPs."""
    dtype = torch.bfloat16 if state["precision"] == "bf16" else torch.float32
    left = torch.ones(width, width, device=state["device"], dtype=dtype)
    _ = left @ left
    seconds, _ = timed(lambda: left @ left)
    return {"seconds": seconds, "amount": 2 * width**3}


_ASKED = (start, load, generate, first_token, encode, peak, compilation, copy, read, matmul)
HANDLERS: dict[str, Callable[..., dict[str, Any]]] = {handler.__name__: handler for handler in _ASKED}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
