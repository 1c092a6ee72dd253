"""Token tables that are narrower than the layers, on the way in and out: what OPT's two maps come to."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import Decoder, EmbeddingsConfig, HeadConfig
from models import decoder_config, randomised
from tolerances import ORACLE

NARROW = 8


@pytest.fixture(scope="module")
def narrow() -> Decoder:
    """Tied, with tokens of width 8 between layers of width 12."""
    embeddings = EmbeddingsConfig(size=NARROW, projection=True, projected="tokens", projection_bias=False)
    config = decoder_config(depth=1, embeddings=embeddings, head=HeadConfig(input_size=NARROW))
    return randomised(eqx.filter_eval_shape(Decoder.init, config, key=jax.random.key(0)))


def test_maps_around_a_narrow_table_are_a_wide_table_and_another_head(narrow: Decoder) -> None:
    way_in, way_out = narrow.embeddings.projection, narrow.stack.shared.final_projection
    assert way_in is not None
    assert way_out is not None
    table = np.asarray(narrow.embeddings.tokens.weight)
    plain = narrow.config.replace(embeddings=EmbeddingsConfig(), head=HeadConfig(tied=False))
    wide = Decoder.init(plain, key=jax.random.key(1))
    wide = eqx.tree_at(
        lambda d: (d.embeddings.tokens.weight, d.embeddings.positions, d.stack, d.head.projection.weight),
        wide,
        (
            jnp.asarray(table @ np.asarray(way_in.weight)),
            narrow.embeddings.positions,
            dataclasses.replace(narrow.stack, shared=dataclasses.replace(narrow.stack.shared, final_projection=None)),
            jnp.asarray(np.asarray(way_out.weight) @ table.T),
        ),
    )
    ids = jnp.asarray([[3, 5, 8, 9], [1, 1, 7, 2]])
    ours, theirs = (model(ids, output_hidden_states=True) for model in (narrow, wide))
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=ORACLE)
    assert ours.hidden_states is not None
    assert theirs.hidden_states is not None
    np.testing.assert_allclose(ours.hidden_states[0], theirs.hidden_states[0], rtol=0, atol=ORACLE)
    assert [states.shape[-1] for states in ours.hidden_states] == [12, NARROW]
    np.testing.assert_array_equal(narrow.last_hidden_state(ids), ours.hidden_states[-1])


def test_positions_have_the_width_of_the_layers(narrow: Decoder) -> None:
    assert narrow.embeddings.positions is not None
    assert narrow.embeddings.positions.weight.shape == (24, 12)
    assert narrow.embeddings.tokens.weight.shape[1] == NARROW


def test_cross_attention_of_a_stack_whose_norms_learn_nothing_has_the_dtype_of_the_rest(narrow: Decoder) -> None:
    norm = dataclasses.replace(narrow.config.norm, scale=False, bias=False)
    layers = tuple(dataclasses.replace(layer, cross_attention=False) for layer in narrow.config.layers)
    plain = Decoder.init(narrow.config.replace(norm=norm, layers=layers), key=jax.random.key(0)).astype(jnp.bfloat16)
    grafted = plain.with_cross_attention(key=jax.random.key(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(grafted)} == {jnp.dtype(jnp.bfloat16)}
