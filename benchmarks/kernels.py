"""What a GPU would run for one decoding step, counted in the program that XLA compiles for it; no GPU is needed.

`python -m benchmarks.kernels --sizes base --batches 1,64 --list`. Wanted is the CUDA plugin of the jax that is
installed, without NVIDIA's libraries: `pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION`.
Nothing is tried out on a device, so that tiles and libraries may be others than there; what is fused is the same.
"""

import argparse
import collections
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import _harness, _models
from benchmarks._sizes import SIZES, Size
from encdec_eqx import EncoderDecoder, EncoderOutput
from encdec_eqx.generation import engine

H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84942979072  device_address_bits: 64
  runtime_version: "12.8.0"  driver_version: "13.0.0"  compile_time_toolkit_version: "12.8.0"  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""The card as XLA asks about it (a `GpuTargetConfigProto`)."""

_NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional"}


class Kernel(NamedTuple):
    """One instruction that is launched.

    Attributes:
        kind: what XLA made of it, such as `loop_convert_fusion`.
        shape: of its result.
        place: where in the model it comes from.
    """

    kind: str
    shape: str
    place: str


class Loop(NamedTuple):
    """The body of a loop: its kernels in order, and how often it runs if XLA knows."""

    kernels: list[Kernel]
    trips: int | None


def largest_loop(text: str | None) -> Loop:
    """The loop with the most kernels in a compiled program, loops within it not counted.

    Raises:
        ValueError: there is no loop.
    """
    computation = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
    bodies = {name: lines.splitlines() for name, lines in computation.findall(text or "")}
    loops = []
    for line in (line for lines in bodies.values() for line in lines if " while(" in line):
        body = re.search(r"body=%?([\w.\-]+)", line)
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        assert body is not None
        kernels = [kernel for text in bodies[body[1]] if (kernel := _kernel(text)) is not None]
        loops.append(Loop(kernels, None if trips is None else int(trips[1])))
    if not loops:
        raise ValueError("the program has no loop")
    return max(loops, key=lambda loop: len(loop.kernels))


def _kernel(line: str) -> Kernel | None:
    found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(", line)
    if found is None or found[3] in _NO_KERNELS:
        return None
    name, shape, kind = found.groups()
    if kind == "fusion":
        kind = re.sub(r"[\d.]+$", "", name)
    place, target = re.search(r'op_name="([^"]*)"', line), re.search(r'custom_call_target="([^"]+)"', line)
    where = "" if place is None else re.sub(r"^.*(?:body|closed_call|decode_step)/", "", place[1])
    return Kernel(kind if target is None else target[1], re.sub(r"\{[\d,]*\}", "", shape), where)


@contextlib.contextmanager
def on_a_gpu() -> Iterator[None]:
    """Within the block the library decides as it does where arrays live on a GPU."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("encdec_eqx") and "platform" in vars(module):
                stack.enter_context(mock.patch.object(module, "platform", lambda: "gpu"))
        yield


def compiled_loop(size: Size, settings: argparse.Namespace, batch: int, device: Any) -> str | None:
    """The compiled text of `advance_until`, as a call of `generate` would run it on the device."""
    shapes = eqx.filter_eval_shape(lambda: EncoderDecoder.from_pieces(_models.bert(size), _models.gpt2(size)))
    dtype = jnp.dtype(settings.dtype)

    def zeros(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.zeros(leaf.shape, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    model = jax.tree.map(zeros, shapes)
    states = EncoderOutput(jnp.zeros((batch, settings.source, size.hidden), dtype))
    options = {"max_new_tokens": settings.new_tokens} | ({"num_beams": settings.beams} if settings.beams > 1 else {})
    run = model._request(None, states, {}, (None, None), None, None, options)
    state = eqx.filter_eval_shape(lambda: run._prefill(run.source.encode()))
    until = np.asarray(settings.new_tokens, np.int32)
    fixed = (run.decoder, run.search, until, engine.steps_per_check(engine.TOKENS_A_CALL))
    (fixed, rest), (state, more) = (eqx.partition(tree, _is_array) for tree in (fixed, state))

    loop: Any = engine.advance_until

    def advance(fixed: Any, state: Any) -> Any:
        advanced = loop.__wrapped__(eqx.combine(fixed, rest), eqx.combine(state, more))
        return eqx.filter(advanced, eqx.is_array)

    sharding = jax.sharding.SingleDeviceSharding(device)
    fixed, state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (fixed, state))
    lowered = jax.jit(advance, donate_argnums=1).lower(fixed, state)
    untried: dict[str, Any] = {"xla_gpu_autotune_level": 0}
    return lowered.compile(compiler_options=untried).as_text()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kernels of a decoding step on an H100, from the compiled program.")
    parser.add_argument(
        "--sizes", default=("base",), type=lambda text: tuple(text.split(",")), help="of " + ", ".join(SIZES)
    )
    parser.add_argument("--batches", default=(1, 8, 64), type=_harness.integers, help="sentences at once")
    parser.add_argument("--beams", default=1, type=int, help="beams of each sentence")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--new-tokens", default=128, type=int, help="tokens generated for each sentence")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights")
    parser.add_argument("--list", action="store_true", help="every kernel, in order")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Compiles and counts every size and batch."""
    settings = options().parse_args(arguments)
    try:
        target = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    except RuntimeError as error:
        raise SystemExit(
            f"jax has no CUDA plugin here ({error}): pip install --no-deps jax-cuda12-plugin=={jax.__version__} "
            f"jax-cuda12-pjrt=={jax.__version__}"
        ) from error
    for name in settings.sizes:
        for batch in settings.batches:
            begin = time.process_time()
            with on_a_gpu():
                loop = largest_loop(compiled_loop(SIZES[name], settings, batch, target.devices[0]))
            seconds = time.process_time() - begin
            what = f"{name}, batch {batch}" + (f" x {settings.beams} beams" if settings.beams > 1 else "")
            often = "checked after each step" if loop.trips is None else f"{loop.trips} steps between checks"
            print(f"{what}: {len(loop.kernels)} kernels a step, {often}, {seconds:.1f} s of processor time to compile")
            for kind, count in collections.Counter(kernel.kind for kernel in loop.kernels).most_common():
                print(f"{count:6d}  {kind}")
            if settings.list:
                for kernel in loop.kernels:
                    print(f"        {kernel.kind:36s}{kernel.shape:32s}{kernel.place}")


if __name__ == "__main__":
    main()
