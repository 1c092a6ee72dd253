"""The worker of `cache_moves`: one random decoder, and the ways to move beams in its cache, compiled and timed."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _harness, _models
from benchmarks._cache_ways import WAYS, compiled_steps
from benchmarks._jax_side import start
from benchmarks._programs import bytes_of
from benchmarks._sizes import DECODER_VOCAB, SIZES
from encdec_eqx import Decoder

_state: dict[str, Any] = {"ways": {}}


def prepare(*, size: str) -> dict[str, Any]:
    """Makes the decoder."""
    _state["decoder"] = _models.gpt2(SIZES[size])
    _state["ways"] = {}
    return {}


def forget() -> dict[str, Any]:
    """Lets go of all programs and caches."""
    _state["ways"] = {}
    return {}


def compile_way(*, way: str, batch: int, beams: int, slots: int, source: int, steps: int) -> dict[str, Any]:
    """Opens a cache, compiles the steps, takes them once.

    Returns:
        XLA's own counts for one step (it counts a loop's body once), and the program's temporary memory.
    """
    decoder: Decoder = _state["decoder"]
    draw = np.random.default_rng(0)
    states = jnp.asarray(draw.standard_normal((batch, source, decoder.hidden_size)), jnp.float32)
    opened = _open(WAYS[way], decoder, states, jnp.ones((batch, source), jnp.bool_), beams=beams, slots=slots)
    tokens = draw.integers(0, DECODER_VOCAB - 1, (steps, batch, beams))
    parents = draw.integers(0, beams, (steps, batch, beams))
    fixed = (way, decoder, jnp.asarray(tokens, jnp.int32), jnp.asarray(parents, jnp.int32))
    program = compiled_steps.lower(fixed, opened).compile()
    _state["ways"][way] = (program, fixed, program(fixed, opened)[0])
    counts = program.compiled.cost_analysis() or {}
    return {
        "xla_bytes": counts.get("bytes accessed"),
        "xla_flops": counts.get("flops"),
        "temporary": bytes_of(program.compiled)["temporary"],
    }


@eqx.filter_jit
def _open(way: Any, *arguments: Any, **sizes: int) -> Any:
    return way.open(*arguments, **sizes)


def take(*, way: str) -> dict[str, Any]:
    """All steps of one way, from an empty cache."""
    program, fixed, state = _state["ways"][way]
    begin = time.perf_counter()
    state, scores = jax.block_until_ready(program(fixed, state))
    seconds = time.perf_counter() - begin
    _state["ways"][way] = (program, fixed, state)
    return {"seconds": seconds, "scores": np.asarray(scores[-1], np.float64).tolist()}


if __name__ == "__main__":
    _harness.serve({handler.__name__: handler for handler in (start, prepare, forget, compile_way, take)})
