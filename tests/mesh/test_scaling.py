"""Collectives read from compiled text, the closed form beside what a compiled step sends, and the page's table."""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import _scaling_model as form
from benchmarks import scaling
from benchmarks._collectives import collectives
from benchmarks._scaled_programs import QWEN3_4B, SMALL_QWEN3, SMALL_T5, T5_XXL, pair_of_shapes, training_step

from encdec_eqx import make_mesh, with_mesh
from encdec_eqx.params.sharding import MeshConfig
from encdec_eqx.training import loss
from models import random_ids, tiny_pair

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"

TEXT = """
%body (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %gathered = f32[4,8]{1,0} all-gather(%part), replica_groups=[4,2]<=[4,2]T(1,0), dimensions={0}, metadata={op_name="a"}
}

%slicing (whole: f32[6,2], at: s32[]) -> f32[3,2] {
  %whole = f32[6,2]{1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %slice = f32[3,2]{1,0} dynamic-slice(%whole, %at, %at), dynamic_slice_sizes={3,2}
}

%adding (whole: f32[5], other: f32[9], at: s32[]) -> f32[5] {
  %whole = f32[5]{0} parameter(0)
  %other = f32[9]{0} parameter(1)
  %at = s32[] parameter(2)
  %slice.2 = f32[5]{0} dynamic-slice(%other, %at), dynamic_slice_sizes={5}
  ROOT %sum = f32[5]{0} add(%whole, %slice.2)
}

ENTRY %main (x: f32[6,2]) -> f32[3,2] {
  %loop = (s32[], f32[4,8]{1,0}) while(%x), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %summed = (f32[6,2]{1,0}, f32[5]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %first = f32[6,2]{1,0} get-tuple-element(%summed), index=0
  %second = f32[5]{0} get-tuple-element(%summed), index=1
  %kept = f32[3,2]{1,0} fusion(%first, %id), kind=kLoop, calls=%slicing
  %used = f32[5]{0} fusion(%second, %stack, %id), kind=kLoop, calls=%adding
  %a = bf16[10]{0} all-reduce(%z), replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,2,2]T(1,0,2)) {'axis_1'}
}
"""


def test_collectives_are_read_with_loops_axes_and_sums_of_which_a_slice_is_kept():
    found = collectives(TEXT, {"data": 2, "fsdp": 2, "tensor": 2})
    assert [(each.kind, each.axes, each.payload, each.times) for each in found] == [
        ("all-gather", ("fsdp",), 4 * 32, 3),
        ("reduce-scatter", ("tensor",), 4 * 12, 1),
        ("all-reduce", ("tensor",), 4 * 5, 1),
        ("all-reduce", ("data", "tensor"), 2 * 10, 1),
    ]
    assert [each.sent for each in found] == [3 * 64.0, 24.0, 20.0, 2 * 20 * 3 / 4]


def test_a_loop_that_does_not_say_how_often_it_runs_is_told():
    endless = re.sub(r", backend_config=\S+", "", TEXT)
    with pytest.raises(ValueError, match=r"the loop loop sends something, and does not say how often"):
        collectives(endless, {"data": 2, "fsdp": 2, "tensor": 2})


def test_what_a_step_sends_and_holds_is_what_the_closed_form_says():
    shapes, mesh = pair_of_shapes(SMALL_T5, SMALL_QWEN3), MeshConfig(2, 2, 2)
    model = form.described(shapes)
    counted = training_step(shapes, mesh.make(), scaling.SMALL_WORK)
    predicted, found = form.predicted_by_purpose(model, mesh, scaling.SMALL_WORK), form.by_purpose(counted.collectives)
    assert form.held(model, mesh) == pytest.approx(counted.arguments, rel=0.02)  # a batch and two counts beside it
    assert predicted["weights"] == pytest.approx(found["weights"], rel=0.01)
    assert predicted["gradients"] == pytest.approx(found["gradients"], rel=0.1)
    assert predicted["activations"] == pytest.approx(found["activations"], rel=0.1)
    assert abs(form.close(predicted, found)) < 0.1


def test_the_page_shows_what_the_script_says():
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(scaling.steps()) in page
    model = form.described(pair_of_shapes(T5_XXL, QWEN3_4B))
    assert f"{model.bytes / form.FLOAT / 1e9:.2f} billion parameters" in page
    shown = re.findall(r"^\| (?:[\w ,]+ \| )?\d+ x \d+ x \d+ \|.*?([+-]\d+\.\d) % \|", page, re.MULTILINE)
    assert len(shown) == len(scaling.SMALL) + len(scaling.MESHES)
    assert all(abs(float(off)) < 10 for off in shown)


def test_each_device_makes_logits_of_as_many_labels_as_one_alone(monkeypatch):
    monkeypatch.setattr(loss, "usual_chunk_size", lambda vocab: 8)
    pair, labels = tiny_pair().with_layout("scanned"), jnp.asarray(random_ids(0, 8, 8))
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, pair.decoder.hidden_size)), jnp.float32)

    def loops(model):
        traced = eqx.filter_make_jaxpr(loss.divided_loss_from_hidden)(model, hidden, labels, jnp.ones(()))[0]
        return "scan" in str(traced)

    assert loops(pair)  # 64 labels, 8 at a time
    assert not loops(with_mesh(pair, make_mesh(8)))


def test_a_device_sends_along_an_axis_as_fast_as_its_wires():
    cluster = form.Cluster()
    assert cluster.rate(MeshConfig(8, 8, 1), "fsdp") == cluster.inside
    assert cluster.rate(MeshConfig(8, 8, 1), "data") == cluster.outside
    assert cluster.rate(MeshConfig(1, 64, 1), "fsdp") == 8 * cluster.outside
    assert cluster.rate(MeshConfig(2, 16, 2), "fsdp") == 4 * cluster.outside
    assert len(jax.devices()) == 8
