"""The JAX side: encdec_eqx by its public names, as a user would call it.

A worker of `_harness` that loads, generates and measures the machine; `_jax_training` adds training. It must not know
torch, nor anything private to the library (`_programs` does).
"""

import os
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _harness, _inputs
from benchmarks._memory import AnonymousPeak, memory
from benchmarks._programs import memory_of_programs
from encdec_eqx import EncoderDecoder

state: dict[str, Any] = {"compilation": {}}
"""What a worker keeps between questions."""

_PRECISION = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "tensorfloat32"}


def _record(event: str, duration_secs: float, **_: Any) -> None:
    """Adds up what JAX reports of tracing, lowering and compiling, by event."""
    name = event.rsplit("/", 1)[-1]
    if name in ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration"):
        count, total = state["compilation"].get(name, (0, 0.0))
        state["compilation"][name] = (count + 1, total + duration_secs)


def start(*, device: str, precision: str, threads: int) -> dict[str, Any]:
    """Chooses the precision of matrix products, and the cores: XLA takes as many threads as the process has cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    state["precision"] = precision
    jax.config.update("jax_default_matmul_precision", _PRECISION[precision])
    jax.monitoring.register_event_duration_secs_listener(_record)
    platform = jax.devices()[0].platform
    if (platform != "cpu") != (device == "gpu"):
        raise RuntimeError(f"--device {device} was asked for, and JAX runs on {platform}")
    return {}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, until its arrays are there, and what it returned."""
    begin = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - begin, result


def _arrays() -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(state["model"], eqx.is_array))


def load(*, folder: str, touch: bool = False) -> dict[str, Any]:
    """Loads the checkpoint and keeps it; with `touch`, reads every parameter once within the time."""

    def run() -> list[jax.Array]:
        state["model"] = EncoderDecoder.from_pretrained(folder)
        if touch:
            sum(float(jnp.sum(array)) for array in _arrays())
        return _arrays()

    state.pop("model", None)
    with AnonymousPeak() as watch:
        seconds, arrays = timed(run)
    return {"seconds": seconds, "grown": watch.grown, "bytes": sum(array.nbytes for array in arrays)}


def convert(*, layout: str) -> dict[str, Any]:
    """Brings the loaded model into a layout."""
    state["model"] = state["model"].with_layout(layout)
    return {}


def generate(*, batch: int, source: int, new_tokens: int, beams: int = 1) -> dict[str, Any]:
    """Greedy or beam search with the KV cache, from host ids to host tokens."""
    ids, options = _asked(batch, source, new_tokens, beams)

    def run() -> list[list[int]]:
        return np.asarray(state["model"].generate(ids, **options).sequences).tolist()

    begin = time.perf_counter()
    tokens = run()
    return {"seconds": time.perf_counter() - begin, "tokens": tokens}


def _asked(batch: int, source: int, new_tokens: int, beams: int) -> tuple[np.ndarray, dict[str, Any]]:
    """What `generate` is called with. Beams are kept from ending early, as on the other side."""
    ids, mask = _inputs.sources(batch=batch, source=source)
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": new_tokens}
    return ids, options if beams == 1 else {**options, "num_beams": beams, "min_new_tokens": new_tokens}


def first_token(*, batch: int, source: int, new_tokens: int) -> dict[str, Any]:
    """Until the first token of every row is on the host, of a greedy call that could go on."""
    ids, options = _asked(batch, source, new_tokens, 1)
    begin = time.perf_counter()
    stream = state["model"].stream(ids, tokens_at_a_time=1, **options)
    tokens = next(stream).tokens.tolist()
    seconds = time.perf_counter() - begin
    stream.close()
    return {"seconds": seconds, "tokens": tokens}


def programs(*, batch: int, source: int, new_tokens: int, beams: int) -> dict[str, Any]:
    """Memory of the programs that `generate` runs; compiles them again, so nothing is to be timed after it."""
    ids, options = _asked(batch, source, new_tokens, beams)
    return memory_of_programs(state["model"], ids, **options)


@eqx.filter_jit
def _encode(model: EncoderDecoder, ids: Any, mask: Any) -> Any:
    return model.encode(ids, attention_mask=mask).last_hidden_state


def encode(*, batch: int, source: int) -> dict[str, Any]:
    """The encoder alone."""
    ids, mask = _inputs.sources(batch=batch, source=source)
    seconds, _ = timed(lambda: _encode(state["model"], ids, mask))
    return {"seconds": seconds}


def peak() -> dict[str, Any]:
    """Memory of this process, and of the device where that is a GPU."""
    answer: dict[str, Any] = dict(memory())
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        answer["device_peak"] = statistics["peak_bytes_in_use"]
    return answer


def compilation() -> dict[str, Any]:
    """Seconds spent in tracing, lowering and compiling since the last question, and how many programs."""
    seen, state["compilation"] = state["compilation"], {}
    return {name: {"count": count, "seconds": seconds} for name, (count, seconds) in seen.items()}


def copy(*, megabytes: int) -> dict[str, Any]:
    """Copies an array; bytes read plus bytes written."""
    array = jnp.ones(megabytes * 2**18)
    run = jax.jit(jnp.copy)
    jax.block_until_ready(run(array))
    seconds, _ = timed(lambda: run(array))
    return {"seconds": seconds, "amount": 2 * array.nbytes}


def read(*, megabytes: int) -> dict[str, Any]:
    """Multiplies a matrix by a vector, which reads the matrix once: what a decoding step does all the time."""
    matrix, vector = jnp.ones((megabytes * 2**8, 1024)), jnp.ones(1024)
    run = jax.jit(jnp.matmul)
    jax.block_until_ready(run(matrix, vector))
    seconds, _ = timed(lambda: run(matrix, vector))
    return {"seconds": seconds, "amount": matrix.nbytes}


def matmul(*, width: int) -> dict[str, Any]:
    """Multiplies two square matrices, in bfloat16 where that is the precision; FLOPs."""
    left = jnp.ones((width, width), jnp.bfloat16 if state["precision"] == "bf16" else jnp.float32)
    run = jax.jit(jnp.matmul)
    jax.block_until_ready(run(left, left))
    seconds, _ = timed(lambda: run(left, left))
    return {"seconds": seconds, "amount": 2 * width**3}


_ASKED = (start, load, convert, generate, first_token, programs, encode, peak, compilation, copy, read, matmul)
HANDLERS: dict[str, Callable[..., dict[str, Any]]] = {handler.__name__: handler for handler in _ASKED}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
