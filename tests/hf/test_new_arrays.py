"""Arrays that a checkpoint lacks are those that a newly initialised model would have, and nothing else is drawn."""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from checkpoints import GPT2_CONFIG, gpt2_tensors, write
from encdec_eqx import Decoder
from encdec_eqx._trees import path_name
from encdec_eqx.hf.load import initial


def test_a_new_array_is_what_its_part_draws(tmp_path: Path):
    key = jax.random.key(5)
    tensors = {name: array for name, array in gpt2_tensors().items() if "cross" not in name}
    decoder = Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, tensors), key=key)
    fresh = Decoder.init(decoder.config, key=key)
    blocks = zip(decoder.stack.blocks, fresh.stack.blocks, strict=True)
    assert all(eqx.tree_equal(ours.cross_attention, drawn.cross_attention) for ours, drawn in blocks)
    assert dict(decoder.load_report.new).keys() == {
        path_name(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(eqx.filter(fresh, eqx.is_array))[0]
        if "cross" in path_name(path)
    }


def test_only_what_is_asked_for_is_computed():
    computed = []

    def build(key: jax.Array) -> dict[str, jax.Array]:
        def note(x: np.ndarray) -> np.ndarray:
            computed.append(x.shape)
            return x

        drawn = {name: jax.random.normal(key, (size,)) for name, size in (("few", 2), ("many", 5))}
        return {name: jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x) for name, x in drawn.items()}

    found = dict(initial(build, jax.random.key(0), ["few"]))
    assert {name: array.shape for name, array in found.items()} == {"few": (2,)}
    jax.block_until_ready(found)
    assert computed == [(2,)]
    assert not dict(initial(build, jax.random.key(0), []))
