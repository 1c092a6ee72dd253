"""Counting the kernels of a compiled program, which `benchmarks.kernels` does for a GPU that is not there."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from benchmarks import kernels

from encdec_eqx import _inputs


def test_the_largest_loop_is_found_with_its_number_of_steps():
    """A loop of 8 steps within one of an unknown number, as XLA compiles them for a CPU."""

    def inner(_: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(x) @ x

    def outer(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 7, lambda x: jax.lax.fori_loop(0, 8, inner, x), x)

    loop = kernels.largest_loop(jax.jit(outer).lower(jnp.eye(4)).compile().as_text())
    assert loop.trips == 8
    assert any("dot_general" in kernel.place for kernel in loop.kernels)
    assert not any("sum" in kernel.place for kernel in loop.kernels)
    with pytest.raises(ValueError, match="no loop"):
        kernels.largest_loop(jax.jit(jnp.sin).lower(jnp.eye(4)).compile().as_text())


TEXT = """
%body (p: (bf16[2,768], s32[])) -> (bf16[2,768], s32[]) {
  %p = (bf16[2,768]{1,0}, s32[]) parameter(0)
  %x = bf16[2,768]{1,0} get-tuple-element(%p), index=0
  %loop_add_fusion.3 = bf16[2,768]{1,0} fusion(%x), metadata={op_name="jit(f)/while/body/decoder/layer_3"}
  %gemm = (bf16[2,768]{1,0}, s8[64]{0}) custom-call(%x), custom_call_target="__cublas$gemm"
  %copy.1 = bf16[2,768]{1,0} copy(%loop_add_fusion.3)
  ROOT %out = (bf16[2,768]{1,0}, s32[]) tuple(%copy.1, %x)
}

ENTRY %main (a: bf16[2,768]) -> bf16[2,768] {
  %w = (bf16[2,768]{1,0}, s32[]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"8"}}
}
"""


def test_what_is_launched_is_counted_by_what_it_is():
    loop = kernels.largest_loop(TEXT)
    assert loop.trips == 8
    assert [kernel.kind for kernel in loop.kernels] == ["loop_add_fusion", "__cublas$gemm", "copy"]
    assert loop.kernels[0].shape == "bf16[2,768]"
    assert loop.kernels[0].place == "decoder/layer_3"


def test_decisions_are_a_gpu_s_within_the_block_alone():
    with kernels.on_a_gpu():
        assert _inputs.platform() == "gpu"
    assert _inputs.platform() == "cpu"


def test_without_the_plugin_it_says_what_to_install(monkeypatch):
    def missing(**_: Any) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(kernels.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit, match=f"jax-cuda12-plugin=={jax.__version__}"):
        kernels.main(["--batches", "1"])
