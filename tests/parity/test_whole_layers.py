"""Whole layers of live transformers through `Block` and the stack: every mechanism of modern families at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_layers import BATCH, CASES, HIDDEN, LENGTH, REAL, SOURCE, SOURCE_REAL, Arrays, Case, random_states

from encdec_eqx._trees import path_name
from encdec_eqx.layers.context import AttentionContext, AttentionMask
from encdec_eqx.stack import to_layout
from encdec_eqx.stack.unrolled import UnrolledStack
from tolerances import PARITY_ATTENTION, PARITY_LAYERS


def _filled(stack: UnrolledStack, arrays: Arrays) -> UnrolledStack:
    """The stack with torch's numbers; every array must have its tensor, every tensor its array."""
    leaves = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(stack)}
    assert leaves == {name: array.shape for name, array in arrays.items()}
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[path_name(path)]), stack)


def _context(case: Case, states: torch.Tensor) -> AttentionContext:
    decoder = case.config.cross_attention
    return AttentionContext(
        AttentionMask(jnp.asarray(REAL), causal=case.config.causal),
        cross_mask=AttentionMask(jnp.asarray(SOURCE_REAL)) if decoder else None,
        encoder_states=jnp.asarray(states.numpy()) if decoder else None,
        positions=jnp.broadcast_to(jnp.arange(LENGTH)[None], (BATCH, LENGTH)),
    )


def _weights(case: Case) -> list[np.ndarray]:
    """What torch's self-attentions returned last, where they return weights at all."""
    kept: list[np.ndarray] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        found = [part for part in out if torch.is_tensor(part) and part.shape == (BATCH, part.shape[1], LENGTH, LENGTH)]
        kept.extend(part.detach().numpy() for part in found[-1:])

    for name, module in case.layers.named_modules():
        if name.split(".")[-1] in ("self_attn", "self_attention", "attention", "attn"):
            module.register_forward_hook(keep)
    return kept


@pytest.mark.parametrize("name", CASES)
def test_layers(name: str) -> None:
    case = CASES[name]()
    kept = _weights(case)
    x, states = random_states(BATCH, LENGTH, HIDDEN, seed=1), random_states(BATCH, SOURCE, HIDDEN, seed=2)
    with torch.no_grad():
        expected = case.call(x, states).numpy()
    stack = _filled(UnrolledStack.init(case.config, key=jax.random.key(0)), case.arrays)
    context = _context(case, states)
    ours = stack(jnp.asarray(x.numpy()), context, output_attentions=True)
    np.testing.assert_allclose(ours.last_hidden_state[REAL], expected[REAL], atol=PARITY_LAYERS)
    assert ours.self_attentions is not None
    for own, theirs in zip(ours.self_attentions, kept, strict=False):
        np.testing.assert_allclose(
            jnp.moveaxis(own, 2, 1)[REAL], np.moveaxis(theirs, 2, 1)[REAL], atol=PARITY_ATTENTION
        )
    scanned = to_layout(stack, "scanned")(jnp.asarray(x.numpy()), context).last_hidden_state
    np.testing.assert_allclose(scanned, ours.last_hidden_state, atol=PARITY_LAYERS)
