"""Our side of `benchmarks.gpu`: random models, generation and training steps, and both under JAX's profiler.

A worker of `_harness`; it can do what `_jax_training` can, and must not know torch.
"""

import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _harness, _inputs, _jax_side, _jax_training, _models, _trace
from benchmarks._jax_side import state
from benchmarks._sizes import Size
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig

START, PAD = 5, 1  # random tied weights repeat what they read: a start that is not the end


def make(*, family: str, dtype: str, layers: int, hidden: int, heads: int) -> dict[str, Any]:
    """A random "pair" of BERT and GPT-2, or both pieces of a "bart", kept for what follows."""
    size = Size(name="made", layers=layers, hidden=hidden, heads=heads)
    if family == "pair":
        pieces = _models.bert(size), _models.gpt2(size)
    else:
        config = _inputs.bart_config(layers=layers, hidden=hidden, heads=heads)
        of_decoder = {**config, "is_decoder": True, "add_cross_attention": True}
        pieces = (
            Encoder.init(StackConfig.from_hf(config), key=jax.random.key(0)),
            Decoder.init(StackConfig.from_hf(of_decoder), key=jax.random.key(1)),
        )
    model = EncoderDecoder.from_pieces(*pieces)
    model = model.with_special_tokens(decoder_start_token_id=START, pad_token_id=PAD, forced_eos_token_id=None)
    state["model"] = model.astype(jnp.dtype(dtype))
    return {}


def _call(*, batch: int, source: int, beams: int, new_tokens: int, real: list[int] | None) -> np.ndarray:
    """Generation from host ids to host tokens.

    Raises:
        RuntimeError: a row ended early, so that the sides need not have taken as many steps.
    """
    ids, mask = _inputs.sources(batch=batch, source=source, real=real)
    options = {} if beams == 1 else {"num_beams": beams, "min_new_tokens": new_tokens}
    found = state["model"].generate(ids, attention_mask=mask, max_new_tokens=new_tokens, **options).sequences
    tokens = np.asarray(found)
    if tokens.shape[1] != new_tokens + 1 or (tokens[:, -1] == PAD).any():
        raise RuntimeError(f"a row stopped before {new_tokens} new tokens: the runs do not compare")
    return tokens


def measure_generation(*, repeats: int, **call: Any) -> dict[str, Any]:
    """A first call, what was compiled for it, and more of them."""
    _jax_side.compilation()
    first = _seconds(**call)
    compiled = _jax_side.compilation()
    return {
        "first_seconds": first,
        "compile_seconds": sum(part["seconds"] for part in compiled.values()),
        "compilation": compiled,
        "seconds": [_seconds(**call) for _ in range(repeats)],
        "compiled_again": _jax_side.compilation().get("backend_compile_duration", {"count": 0})["count"],
        "memory": _jax_side.peak(),
    }


def _seconds(**call: Any) -> float:
    begin = time.perf_counter()
    _call(**call)
    return time.perf_counter() - begin


def profile_generation(*, repeats: int, new_tokens: int, **call: Any) -> dict[str, Any]:
    """One warm call under the profiler; kernels and copies also a token."""
    del repeats
    _call(new_tokens=new_tokens, **call)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = _seconds(new_tokens=new_tokens, **call)
        found = _trace.counted(pathlib.Path(folder))
    return {"seconds": [seconds], "profile": found, "profiled_units": new_tokens, "unit": "token"}


def measure_training(*, batch: int, source: int, target: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """A first step, what was compiled for it, and more of them. Takes the model."""
    _jax_training.prepare_training(batch=batch, source=source, target=target, ragged=False, **options)
    first = _jax_training.warm_up()
    taken = _jax_training.steps(settle=2, count=steps)["steps"]
    return {**first, "seconds": [step["seconds"] for step in taken], "memory": _jax_side.peak()}


def profile_training(*, steps: int, **shape: Any) -> dict[str, Any]:
    """A few warm steps under the profiler; kernels and copies also a step."""
    measure_training(steps=1, **shape)
    del steps
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            taken = _jax_training.steps(settle=0, count=3)["steps"]
        found = _trace.counted(pathlib.Path(folder))
    return {"seconds": [step["seconds"] for step in taken], "profile": found, "profiled_units": 3, "unit": "step"}


def rates(*, tiny: bool) -> dict[str, Any]:
    """Bytes a second of a copy and FLOPs a second of a bfloat16 product, the best of a few runs."""
    done = {
        "copy": [_jax_side.copy(megabytes=16 if tiny else 1024) for _ in range(5)],
        "matmul": [_jax_side.matmul(width=256 if tiny else 8192) for _ in range(5)],
    }
    return {kind: max(run["amount"] / run["seconds"] for run in runs) for kind, runs in done.items()}


_ASKED = (make, measure_generation, profile_generation, measure_training, profile_training, rates)
HANDLERS = _jax_training.HANDLERS | {handler.__name__: handler for handler in _ASKED}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
