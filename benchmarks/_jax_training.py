"""The JAX side of training: the library's own step and, for ragged examples, its own batches.

A worker of `_harness`; it can do what `_jax_side` can, and must not know torch.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _harness, _inputs, _jax_side, _steps
from benchmarks._jax_side import state, timed
from benchmarks._memory import peaks
from benchmarks._programs import bytes_of
from encdec_eqx import with_mesh
from encdec_eqx.params.sharding import MeshConfig, shard_batch
from encdec_eqx.training import Batches, Example, init_train_state, make_train_step

MAX_SHAPES = 4  # as `TrainConfig` has it

Batch = dict[str, Any]


def prepare_training(
    *,
    batch: int,
    source: int,
    target: int,
    ragged: bool,
    layout: str,
    remat: str | bool,
    unroll: int = 1,
    mesh: str | None = None,
) -> dict[str, Any]:
    """Makes optimiser, state and batches.

    Args:
        batch: rows of a batch; on a mesh a multiple of its devices.
        source: source positions; of ragged examples the most.
        target: target positions; of ragged examples the most.
        ragged: whether examples have lengths of their own.
        layout: of the model.
        remat: what the backward pass finds kept, as in `with_layout`.
        unroll: layers in an iteration of the scanned layout, likewise.
        mesh: the axis of a mesh of all devices, on which equal examples lie; None for one device.
    """
    optimizer = optax.adamw(1e-4, weight_decay=0.01)
    about: dict[str, Any] = {}
    model = state.pop("model").with_layout(layout, remat=remat, unroll=unroll)
    laid = None if mesh is None else MeshConfig(**{mesh: len(jax.devices())}).make()
    if laid is not None:
        model = with_mesh(model, laid)
    if ragged:
        batches = _batches(batch, source, target)
        state["shapes"], state["batches"] = batches.one_of_each_shape(), _epochs(batches)
        about = {"shapes": len(batches.shapes), "padding_share": batches.padding_share}
    else:
        equal = _equal(batch, source, target)
        state["shapes"] = [equal if laid is None else shard_batch(equal, laid)]
        state["batches"] = itertools.repeat((state["shapes"][0], batch * (source + target)))
    state["train"] = init_train_state(model, optimizer)
    state["step"] = make_train_step(optimizer, compute_dtype=jnp.bfloat16 if state["precision"] == "bf16" else None)
    return about


def _equal(batch: int, source: int, target: int) -> Batch:
    """A batch without padding, on the device."""
    ids, mask = _inputs.sources(batch=batch, source=source)
    return {
        "input_ids": jnp.asarray(ids, jnp.int32),
        "attention_mask": jnp.asarray(mask, bool),
        "labels": jnp.asarray(_inputs.targets(batch=batch, target=target), jnp.int32),
    }


def _batches(batch: int, source: int, target: int) -> Batches:
    examples = [
        Example(input_ids=np.asarray(ids, np.int32), labels=np.asarray(labels, np.int32))
        for ids, labels in _inputs.ragged(source=source, target=target)
    ]
    return Batches(examples, batch_size=batch, max_shapes=MAX_SHAPES)


def _epochs(batches: Batches) -> Iterator[tuple[Batch, int]]:
    """Batches without end, each with its tokens, padding not counted."""
    lengths = batches.examples.inputs.lengths + batches.examples.labels.lengths
    for number in itertools.count():
        epoch = batches.epoch(number)
        for index in range(len(epoch)):
            yield epoch[index], int(lengths[epoch.indices(index)].sum())


def _run(batch: Batch) -> float:
    """Forward, backward, AdamW, until all of it is done; the loss."""
    _, (state["train"], metrics) = timed(lambda: state["step"](state["train"], batch, None))
    return float(metrics["loss"])


def _step() -> int:
    batch, tokens = next(state["batches"])
    _run(batch)
    return tokens


def warm_up() -> dict[str, Any]:
    """The first step of every shape, compiling included: seconds, the first loss, and what was compiled."""
    _jax_side.compilation()  # forgets what loading and preparing compiled
    seconds, losses = timed(lambda: [_run(batch) for batch in state["shapes"]])
    compiled = _jax_side.compilation()
    compile_seconds = sum(part["seconds"] for part in compiled.values())
    return {"first_seconds": seconds, "loss": losses[0], "compilation": compiled, "compile_seconds": compile_seconds}


def steps(*, settle: int, count: int) -> dict[str, Any]:
    """One turn."""
    return _steps.take_turn(_step, settle=settle, count=count)


def memory_of_step() -> dict[str, Any]:
    """Peaks of this process, over its life and over one step, and what XLA says of the step of the largest shape.

    On a GPU the device's peak over a step is XLA's sum, for its allocator's peak cannot be counted anew. Compiles the
    step again, so nothing is to be timed after it.
    """
    answer: dict[str, Any] = peaks(_step)
    lowered = state["step"].lower(state["train"], state["shapes"][-1], None)
    answer["program"] = program = bytes_of(lowered.compile().compiled)
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        answer["device_life_peak"] = statistics["peak_bytes_in_use"]
        answer["device_run_peak"] = (
            program["arguments"] + program["temporary"] + program["results"] - program["aliased"]
        )
    return answer


HANDLERS = _jax_side.HANDLERS | {
    handler.__name__: handler for handler in (prepare_training, warm_up, steps, memory_of_step)
}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
