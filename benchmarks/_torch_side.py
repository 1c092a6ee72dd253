"""The torch side: transformers' EncoderDecoderModel, run eagerly, float32, with its own defaults for attention.

A worker of `_harness`; it must not know JAX or the library.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import EncoderDecoderModel

from benchmarks import _harness, _inputs
from benchmarks._memory import AnonymousPeak, memory

_state: dict[str, Any] = {}


def start(*, device: str, precision: str, threads: int) -> dict[str, Any]:
    """Chooses device, threads and the precision of matrix products."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    if device == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("--device gpu was asked for, and torch finds no CUDA device")
    _state["device"] = torch.device("cuda" if device == "gpu" else "cpu")
    return {}


def _finish() -> None:
    if _state["device"].type == "cuda":
        torch.cuda.synchronize()


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, with what the device still has to do, and what it returned."""
    _finish()
    begin = time.perf_counter()
    result = run()
    _finish()
    return time.perf_counter() - begin, result


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(array).to(_state["device"])


def load(*, folder: str, touch: bool = False) -> dict[str, Any]:
    """Loads the checkpoint and keeps it; with `touch`, reads every parameter once within the time."""

    def run() -> EncoderDecoderModel:
        model = EncoderDecoderModel.from_pretrained(folder).to(_state["device"])
        if touch:
            sum(float(parameter.sum()) for parameter in model.parameters())
        return model

    _state.pop("model", None)
    with AnonymousPeak() as watch:
        seconds, model = _timed(run)
    _state["model"] = model.eval()
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
            return _state["model"].generate(_tensor(ids), attention_mask=_tensor(mask), **options).tolist()

    seconds, tokens = _timed(run)
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
            _state["model"].encoder(_tensor(ids), attention_mask=_tensor(mask))

    seconds, _ = _timed(run)
    return {"seconds": seconds}


def prepare_training(*, batch: int, source: int, target: int, layout: str, compiled: bool) -> dict[str, Any]:
    """Makes the optimiser (fused AdamW, the faster one) and the batch; `layout` means nothing here."""
    del layout
    model = _state["model"].train()
    ids, mask = _inputs.sources(batch=batch, source=source)
    labels = _inputs.targets(batch=batch, target=target)
    inputs = labels.copy()
    inputs[:, 1:], inputs[:, 0] = labels[:, :-1], model.config.decoder_start_token_id
    _state["batch"] = {
        "input_ids": _tensor(ids),
        "attention_mask": _tensor(mask),
        "decoder_input_ids": _tensor(inputs),
        "labels": _tensor(labels),
    }
    _state["optimizer"] = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    _state["forward"] = torch.compile(model) if compiled else model
    return {}


def train_step(**_: Any) -> dict[str, Any]:
    """One step: forward, backward, AdamW."""

    def run() -> float:
        loss = _state["forward"](**_state["batch"]).loss
        loss.backward()
        _state["optimizer"].step()
        _state["optimizer"].zero_grad(set_to_none=True)
        return loss.item()

    seconds, loss = _timed(run)
    return {"seconds": seconds, "loss": loss}


def peak() -> dict[str, Any]:
    """Memory of this process, and of the device where that is a GPU."""
    answer: dict[str, Any] = dict(memory())
    if _state["device"].type == "cuda":
        answer["device_peak"] = torch.cuda.max_memory_allocated()
    return answer


def compilation() -> dict[str, Any]:
    """Nothing is compiled, but for `torch.compile`, which the first step's time shows."""
    return {}


def copy(*, megabytes: int) -> dict[str, Any]:
    """Copies an array; bytes read plus bytes written."""
    array = torch.ones(megabytes * 2**18, device=_state["device"])
    target = torch.empty_like(array)
    target.copy_(array)
    seconds, _ = _timed(lambda: target.copy_(array))
    return {"seconds": seconds, "amount": 2 * array.numel() * 4}


def read(*, megabytes: int) -> dict[str, Any]:
    """Multiplies a matrix by a vector, which reads the matrix once: what a decoding step does all the time."""
    matrix = torch.ones(megabytes * 2**8, 1024, device=_state["device"])
    vector = torch.ones(1024, device=_state["device"])
    torch.mv(matrix, vector)
    seconds, _ = _timed(lambda: torch.mv(matrix, vector))
    return {"seconds": seconds, "amount": matrix.numel() * 4}


def matmul(*, width: int) -> dict[str, Any]:
    """Multiplies two square matrices; FLOPs."""
    left = torch.ones(width, width, device=_state["device"])
    left @ left
    seconds, _ = _timed(lambda: left @ left)
    return {"seconds": seconds, "amount": 2 * width**3}


if __name__ == "__main__":
    handlers = (start, load, generate, first_token, encode, prepare_training, train_step, peak, compilation)
    handlers += (copy, read, matmul)
    _harness.serve({handler.__name__: handler for handler in handlers})
