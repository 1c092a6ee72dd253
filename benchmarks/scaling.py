"""How a pair of ten billion parameters runs on 64 devices: counted in compiled programs, beside a closed form.

`python -m benchmarks.scaling` prints the tables of `docs/scaling.md`; no accelerator is needed, and no weight is made.
`--only` makes some of them: `small` (for 8 virtual devices), `pair` (for 64), `steps` (predicted) and `decoding`.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from benchmarks import _harness
from benchmarks import _scaling_model as form
from benchmarks._scaled_programs import (
    QWEN3_4B,
    SMALL_QWEN3,
    SMALL_T5,
    T5_XXL,
    Counted,
    Work,
    decoding_step,
    pair_of_shapes,
    training_step,
)
from encdec_eqx.params.sharding import MeshConfig

SMALL_WORK = Work(rows=64, source=16, target=8)
WORK = Work(rows=512, source=512, target=128)
LARGER = {"d_model": 128, "num_layers": 4, "d_ff": 320}
SMALL = [
    ("small", SMALL_T5, SMALL_WORK, (8, 1, 1)),
    ("small", SMALL_T5, SMALL_WORK, (1, 8, 1)),
    ("small", SMALL_T5, SMALL_WORK, (1, 1, 8)),
    ("small", SMALL_T5, SMALL_WORK, (2, 2, 2)),
    ("wider, deeper encoder", {**SMALL_T5, **LARGER}, SMALL_WORK, (2, 2, 2)),
    ("twice the vocabulary", {**SMALL_T5, "vocab_size": 1024}, SMALL_WORK, (2, 2, 2)),
    ("longer, fewer rows", SMALL_T5, Work(rows=16, source=64, target=32), (2, 2, 2)),
]
MESHES = [MeshConfig(*sizes) for sizes in ((1, 64, 1), (8, 8, 1), (2, 16, 2), (1, 8, 8), (8, 1, 8))]


def small() -> Iterator[str]:
    """Steps of small pairs, compiled for 8 virtual devices."""
    yield from _head("pair")
    for name, encoder, work, sizes in SMALL:
        yield _compared(name, encoder, SMALL_QWEN3, work, MeshConfig(*sizes), 1e6)


def pair() -> Iterator[str]:
    """Steps of the pair itself, compiled for 64 virtual devices."""
    yield from _head("")
    for mesh in MESHES:
        yield _compared("", T5_XXL, QWEN3_4B, WORK, mesh, 1e9)


def _head(what: str) -> Iterator[str]:
    columns = [what, "mesh", "arguments", *form.PURPOSES, "all that is sent", "off by", "temporary"]
    yield f"| {' | '.join(each for each in columns if each)} |"
    yield "|" + "---|" * (len(columns) - (not what))


def _compared(
    name: str, encoder: dict[str, object], decoder: dict[str, object], work: Work, mesh: MeshConfig, unit: float
) -> str:
    shapes = pair_of_shapes(encoder, decoder)
    model, counted = form.described(shapes), training_step(shapes, _mesh(mesh), work)
    predicted, found = form.predicted_by_purpose(model, mesh, work), form.by_purpose(counted.collectives)
    off = form.close(predicted, found)
    cells = [
        *([name] if name else []),
        form.named(mesh),
        _both(form.held(model, mesh), counted.arguments, unit),
        *(_both(predicted[each], found[each], unit) for each in form.PURPOSES),
        _both(sum(predicted.values()), sum(found.values()), unit),
        f"{100 * off:+.1f} %",
        _both(sum(form.temporary(model, mesh, work).values()), counted.temporary, unit),
    ]
    return f"| {' | '.join(cells)} |"


def _both(predicted: float, counted: float, unit: float) -> str:
    return f"{predicted / unit:.2f} / {counted / unit:.2f}"


def _mesh(mesh: MeshConfig) -> jax.sharding.Mesh:
    return mesh.make(jax.devices()[: mesh.devices])


def steps() -> Iterator[str]:
    """What the closed form says of a step on 64 H100s."""
    model, cluster = form.described(pair_of_shapes(T5_XXL, QWEN3_4B)), form.Cluster()
    yield "| mesh | state | gradients, copy | activations | vocabulary | sent: data | fsdp | tensor | products | sending, hidden | sending, waited for | step | tokens/s |"  # noqa: E501
    yield "|" + "---|" * 13
    for mesh in MESHES:
        done = form.step(model, mesh, WORK, cluster)
        memory = done.memory
        parts = [
            memory["state"],
            memory["gradients"] + memory["copy"],
            memory["inputs of layers"],
            memory["vocabulary"],
        ]
        seconds = [done.products, done.hidden, done.waited]
        cells = [
            form.named(mesh),
            *(f"{each / 1e9:.1f} GB" for each in [*parts, *done.sent.values()]),
            *(f"{each:.2f} s" for each in seconds),
            f"{done.best:.2f} to {done.worst:.2f} s",
            f"{done.tokens / done.worst / 1e3:.0f} to {done.tokens / done.best / 1e3:.0f} thousand",
        ]
        yield f"| {' | '.join(cells)} |"


def decoding() -> Iterator[str]:
    """A decoding step of the pair on 8 devices of a node: counted collectives, and the floor of its time."""
    shapes, cluster = pair_of_shapes(T5_XXL, QWEN3_4B), form.Cluster()
    model, work = form.described(shapes), Work(rows=64, source=512, target=128)
    yield "| mesh | weights read | time of that | collectives | sent | with 20 µs each |"
    yield "|" + "---|" * 6
    for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 1, 4)):
        mesh = MeshConfig(*sizes)
        counted: Counted = decoding_step(shapes, _mesh(mesh), work)
        read = form.read_by_a_decoding_step(model, mesh)
        seconds = read / cluster.reading
        times = sum(each.times for each in counted.collectives)
        size = sum(each.sent for each in counted.collectives) / 2
        whole = seconds + times * cluster.latency + size / cluster.inside
        yield (
            f"| {form.named(mesh)} | {read / 1e9:.2f} GB | {1e3 * seconds:.2f} ms | {times} | {size / 1e6:.1f} MB | "
            f"{1e3 * whole:.1f} ms |"
        )


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "small": small,
    "pair": pair,
    "steps": steps,
    "decoding": decoding,
}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Tables of docs/scaling.md, from programs compiled for virtual devices."
    )
    parser.add_argument(
        "--only", default=tuple(TABLES), type=_harness.names_of(tuple(TABLES)), help=f"of {', '.join(TABLES)}"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables as they come."""
    settings = options().parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", 64)
    for name in settings.only:
        begin = time.monotonic()
        print(f"\n{name}\n", flush=True)
        for line in TABLES[name]():
            print(line, flush=True)
        print(f"\n({time.monotonic() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
