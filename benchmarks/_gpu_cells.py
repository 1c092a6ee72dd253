"""What `benchmarks.gpu` measures, in the order of what matters most: cells, the processes they run in, their work.

Pure data; it must not know JAX, torch or the library.
"""

import dataclasses
from typing import Any

from benchmarks._sizes import Size, decode_step_bytes, decode_step_flops, encode_flops, train_step_flops

JAX, TORCH = "benchmarks._gpu_jax", "benchmarks._gpu_torch"
PARTS = ("training", "decoding", "bart", "tests", "profiles", "layouts", "mesh", "flags")
FLOAT_BYTES, HALF_BYTES = 4, 2

BASE = Size(name="base", layers=12, hidden=768, heads=12)
LARGE = Size(name="large", layers=12, hidden=1024, heads=16)
TINY = Size(name="tiny", layers=2, hidden=64, heads=2)

FLAGS: dict[str, dict[str, str]] = {
    "command buffers": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE"},
    "O1": {"JAX_OPTIMIZATION_LEVEL": "O1"},
    "latency hiding": {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"},
    "no Triton products": {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
    "autotuning off": {"XLA_FLAGS": "--xla_gpu_autotune_level=0"},
}
"""Settings of the environment that a user could choose; the library sets none of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a worker makes with random weights.

    Attributes:
        family: "pair", a BERT with a GPT-2, or "bart", both pieces of one config.
        size: layers, width and heads.
        dtype: of its weights.
    """

    family: str
    size: Size
    dtype: str

    def asked(self) -> dict[str, Any]:
        """As a worker's `make` is asked for it."""
        size = {"layers": self.size.layers, "hidden": self.size.hidden, "heads": self.size.heads}
        return {"family": self.family, "dtype": self.dtype, **size}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the tables.

    Attributes:
        part: which of `PARTS` it belongs to.
        name: what is measured; the same for both sides.
        side: whose way.
        module: the worker.
        model: what it holds.
        question: what it is asked.
        arguments: and with what.
        seconds: it is given up after so many, compiling included.
        environment: of its process; cells that follow each other in equal ones share a process.
        apart: whether the process is its own, for memory that can be told and a model that training takes.
        flops: of the matrix products of what is timed.
        bytes: that it has to read.
    """

    part: str
    name: str
    side: str
    module: str
    model: Model
    question: str
    arguments: dict[str, Any]
    seconds: float
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    apart: bool = False
    flops: float | None = None
    bytes: float | None = None

    def shares_process(self, other: "Cell | None") -> bool:
        """Whether it can be asked of the process that another one was."""
        if other is None or self.apart or other.apart:
            return False
        return (self.module, self.model, self.environment) == (other.module, other.model, other.environment)


def cells(*, tiny: bool = False) -> list[Cell]:
    """All of them; `tiny` has the same ones at sizes that a CPU takes in seconds."""
    dtype = "float32" if tiny else "bfloat16"  # a CPU is not asked for bfloat16: one row takes it very long
    base = Model(family="pair", size=TINY if tiny else BASE, dtype=dtype)
    bart = Model(family="bart", size=TINY if tiny else LARGE, dtype=dtype)
    return [
        *_training(tiny),
        *[cell for module in (JAX, TORCH) for cell in _decoding(module, base, tiny)],
        *[cell for module in (JAX, TORCH) for cell in _bart(module, bart, tiny)],
        *_profiles(base, tiny),
        *_layouts(tiny),
        *_on_a_mesh(tiny),
        *_flags(base, tiny),
    ]


def _training_model(tiny: bool) -> Model:
    return Model(family="pair", size=TINY if tiny else BASE, dtype="float32")


def _train(part: str, side: str, module: str, tiny: bool, seconds: float, **more: Any) -> Cell:
    """The training step: bfloat16 over float32 weights, 32 rows of 512 to 128 positions."""
    model = _training_model(tiny)
    batch, source, target = (2, 16, 8) if tiny else (32, 512, 128)
    options = more.pop("options")
    return Cell(
        part=part,
        name=f"{model.family} {model.size.name}, training step, b{batch}, {source} → {target}",
        side=side,
        module=module,
        model=model,
        question=more.pop("question", "measure_training"),
        arguments={"batch": batch, "source": source, "target": target, "options": options, "steps": 2 if tiny else 10},
        seconds=seconds,
        apart=True,
        flops=train_step_flops(model.size, batch=batch, source=source, target=target),
        **more,
    )


SCANNED = {"layout": "scanned", "remat": "keep_products"}
LINEAR = {"layout": "scanned", "remat": "keep_linear"}


def _training(tiny: bool) -> list[Cell]:
    eager = {"compiled": False, "recompute": False}
    return [
        _train("training", "ours, scanned", JAX, tiny, 75, options=SCANNED),
        _train("training", "ours, scanned, keep_linear", JAX, tiny, 75, options=LINEAR),
        _train("training", "torch eager", TORCH, tiny, 45, options=eager),
        _train("training", "torch.compile", TORCH, tiny, 110, options=eager | {"compiled": True}),
    ]


def _layouts(tiny: bool) -> list[Cell]:
    """Other ways to lay out our training step."""
    ways = {
        "ours, keep_linear, two layers an iteration": LINEAR | {"unroll": 2},
        "ours, keep_linear, four layers an iteration": LINEAR | {"unroll": 4},
        "ours, keeping all": {"layout": "scanned", "remat": "keep_all"},
        "ours, recomputing": {"layout": "scanned", "remat": "keep_nothing"},
        "ours, unrolled": {"layout": "unrolled", "remat": False},
    }
    return [_train("layouts", side, JAX, tiny, 90, options=options) for side, options in ways.items()]


def _on_a_mesh(tiny: bool) -> list[Cell]:
    """Our training step on all devices there are, be it one: 32 rows of 8 devices are 4 for each."""
    return [
        _train("mesh", f"ours, every device along {axis}", JAX, tiny, 90, options=LINEAR | {"mesh": axis})
        for axis in ("data", "fsdp")
    ]


def _generate(
    part: str, module: str, model: Model, *, batch: int, beams: int, source: int, tokens: int, **more: Any
) -> Cell:
    """A call of `generate` from host ids to host tokens; `real` are the fewest and most real places of a row."""
    shape = {"batch": batch, "source": source, "beams": beams}
    real = more.pop("real", None)
    length = (tokens + 1) // 2
    step = {**shape, "length": length}
    search = f"greedy b{batch}" if beams == 1 else f"{batch}x{beams} beams"
    where = f"source {source}" + (f" ({real[0]} to {real[1]} real)" if real else "")
    arguments = {**shape, "new_tokens": tokens, "repeats": 3, "real": real}
    scale = (HALF_BYTES if model.dtype == "bfloat16" else FLOAT_BYTES) / FLOAT_BYTES
    return Cell(
        part=part,
        name=f"{model.family} {model.size.name}, {search}, {where}, {tokens} tokens",
        side=more.pop("side", "ours" if module == JAX else "torch eager"),
        module=module,
        model=model,
        question=more.pop("question", "measure_generation"),
        arguments=arguments,
        seconds=more.pop("seconds", 45),
        flops=encode_flops(model.size, batch=batch, source=source) + tokens * decode_step_flops(model.size, **step),
        bytes=scale * tokens * decode_step_bytes(model.size, **step),
        **more,
    )


def _decoding(module: str, model: Model, tiny: bool) -> list[Cell]:
    short = {"source": 16, "tokens": 8} if tiny else {"source": 128, "tokens": 128}
    long = {"source": 32, "tokens": 8} if tiny else {"source": 512, "tokens": 128}
    batches, many = ((1, 2), 2) if tiny else ((1, 8, 64, 256), 16)
    return [
        *[_generate("decoding", module, model, batch=batch, beams=1, **short) for batch in batches],
        *[_generate("decoding", module, model, batch=batch, beams=4, **long) for batch in (1, many)],
    ]


def _bart(module: str, model: Model, tiny: bool) -> list[Cell]:
    shape = {"source": 32, "tokens": 8} if tiny else {"source": 512, "tokens": 128}
    real = (16, 28) if tiny else (260, 440)
    batches, many = ((2,), 2) if tiny else ((32, 64, 128), 16)
    return [
        *[_generate("bart", module, model, batch=batch, beams=1, real=real, **shape) for batch in batches],
        *[_generate("bart", module, model, batch=batch, beams=4, **shape) for batch in (1, many)],
    ]


def _profiles(model: Model, tiny: bool) -> list[Cell]:
    """The same calls once more under the profiler."""
    short = {"source": 16, "tokens": 8} if tiny else {"source": 128, "tokens": 128}
    many = 2 if tiny else 64
    shared: dict[str, Any] = {"question": "profile_generation", "side": "ours, profiled"}
    return [
        *[_generate("profiles", JAX, model, batch=batch, beams=1, **short, **shared) for batch in (1, many)],
        _train("profiles", "ours, scanned, profiled", JAX, tiny, 90, options=SCANNED, question="profile_training"),
    ]


def _flags(model: Model, tiny: bool) -> list[Cell]:
    """One row's greedy search under each setting, twice called at least; the training step under some."""
    short = {"source": 16, "tokens": 8} if tiny else {"source": 128, "tokens": 128}
    one = [
        _generate("flags", JAX, model, batch=1, beams=1, side=f"ours, {name}", environment=environment, **short)
        for name, environment in list(FLAGS.items())[: 2 if tiny else None]
    ]
    if tiny:
        return one
    trained = [
        _train("flags", f"ours, scanned, {name}", JAX, tiny, 75, options=SCANNED, environment=FLAGS[name])
        for name in ("O1", "latency hiding", "autotuning off")
    ]
    return [*one, *trained]
