"""Decoder-only families alone against their live causal language models: calls, caches, ids, gradients, files.

Torch joins none of them to an encoder. What is compared of a family is in `tiny.CAUSAL`, one line each; what its config
can say besides, in `tiny.CAUSAL_VARIANTS`.
"""

import copy
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from quick import quick_jit
from safetensors.torch import load_file
from tiny import CAUSAL, CAUSAL_VARIANTS, LONG_ROPE, YARN
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import no_init_weights

from compositions import DECODERS, ENCODERS, joined_by_torch
from encdec_eqx import Decoder, StackConfig, seq2seq_loss
from encdec_eqx.hf.families import WHOLES
from encdec_eqx.stack import Layout
from hf import VOCAB, as_torch, random_batch, randomise, saved
from tolerances import BF16_RATIO, FAMILY_GRADIENT, FAMILY_HIDDEN, PARITY_ATTENTION, PARITY_LOGITS, PARITY_LOSS

TARGET, CHUNK, NEW = 9, 3, 12
WEIGHTS = "model.safetensors"

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Alone:
    """One model twice: torch's, the folder that it was saved to, and ours, loaded from there."""

    family: str
    reference: Any
    folder: Path
    model: Decoder


def _alone(family: str, folder: Path, **changes: Any) -> Alone:
    config = CAUSAL[family](**changes)
    with no_init_weights():  # which fails for StableLM's norms
        made = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    reference: Any = randomise(made, 0)
    with torch.no_grad():
        # Logits far enough apart that a different order of summation cannot change the largest.
        for name, parameter in reference.named_parameters():
            parameter *= 2 if parameter.ndim > 1 else 1
            # what Gemma stores of a scale is how far it is from 1
            parameter -= int(family.startswith("gemma") and name.endswith("norm.weight"))
    saved(reference, folder)
    return Alone(family, reference, folder, Decoder.from_pretrained(folder, add_cross_attention=False))


@pytest.fixture(scope="module", params=CAUSAL)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return _alone(request.param, tmp_path_factory.mktemp("alone"))


def test_every_family_that_torch_joins_to_none_is_here_or_has_a_whole_checkpoint() -> None:
    assert set(CAUSAL) == {*DECODERS} - joined_by_torch("decoder", "live") - {*WHOLES, *ENCODERS}


def _batch(seed: int, padding: str, *, low: int = 4) -> Arrays:
    """Ids, a mask, and positions that count what is real."""
    batch = random_batch(seed, target=TARGET, padding=padding, low=low)
    mask = batch["decoder_attention_mask"]
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    return {"input_ids": batch["decoder_input_ids"], "attention_mask": mask, "position_ids": positions}


def _call(reference: Any, arrays: Arrays, **options: Any) -> Any:
    """Without a cache; positions as far as torch takes them (Bloom has them from the mask alone)."""
    takes = inspect.signature(reference.forward).parameters
    with torch.no_grad():
        taken = {name: array for name, array in arrays.items() if name in takes}
        return reference(**as_torch(taken), use_cache=False, **options)


def _everything(model: Decoder, arrays: Arrays, layout: Layout) -> Any:
    # converted here, where it is part of one program; by itself each array's slice is a program
    return model.with_layout(layout)(**arrays, output_attentions=True, output_hidden_states=True)


# One of the two layouts is compared as users run it.
EVERYTHING = {"unrolled": eqx.filter_jit(_everything), "scanned": quick_jit(_everything)}


def _close(ours: Any, theirs: Any, tolerance: float, valid: np.ndarray) -> None:
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[valid == 1], theirs[valid == 1], rtol=0, atol=tolerance)


def _compare(ours: Any, theirs: Any, valid: np.ndarray) -> None:
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        _close(mine, reference, FAMILY_HIDDEN, valid)
    for mine, reference in zip(ours.attentions, theirs.attentions, strict=True):
        _close(np.moveaxis(np.asarray(mine), 1, 2), reference.transpose(1, 2), PARITY_ATTENTION, valid)
    _close(ours.logits, theirs.logits, PARITY_LOGITS, valid)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_everything_a_call_returns_equals_torch(alone: Alone, layout: Layout) -> None:
    for padding in ("right", "left"):
        arrays = _batch(1, padding)
        theirs = _call(alone.reference, arrays, output_attentions=True, output_hidden_states=True)
        _compare(EVERYTHING[layout](alone.model, arrays, layout), theirs, arrays["attention_mask"])


@quick_jit
def _plain(model: Decoder, arrays: Arrays) -> jax.Array:
    return model(**arrays).logits


def test_positions_are_counted_as_in_torch(alone: Alone) -> None:
    """Where none are given, and whatever the ids are."""
    for padding in ("right", "left"):
        arrays = _batch(6, padding, low=0)
        del arrays["position_ids"]
        _close(
            _plain(alone.model, arrays), _call(alone.reference, arrays).logits, PARITY_LOGITS, arrays["attention_mask"]
        )


@quick_jit
def _chunk(model: Decoder, arrays: Arrays, cache: Any) -> Any:
    return model(**arrays, cache=cache)


def _in_chunks(model: Decoder, arrays: Arrays) -> np.ndarray:
    rows, length = arrays["input_ids"].shape
    cache, logits = model.init_cache(None, None, rows=rows, slots=length), []
    for start in range(0, length, CHUNK):
        part = {name: array[:, start : start + CHUNK] for name, array in arrays.items()}
        out = _chunk(model, part, cache)
        cache = out.cache
        logits.append(out.logits)
    return np.concatenate(logits, axis=1)


def test_incremental_decoding_equals_torchs_full_pass(alone: Alone) -> None:
    for padding in ("right", "left"):
        arrays = _batch(5, padding)
        theirs = _call(alone.reference, arrays).logits
        _close(_in_chunks(alone.model, arrays), theirs, PARITY_LOGITS, arrays["attention_mask"])


def test_greedy_ids_after_prompts_padded_on_the_left(alone: Alone) -> None:
    arrays = _batch(3, "left", low=8)
    prompt = {name: array for name, array in as_torch(arrays).items() if name != "position_ids"}
    settings = alone.reference.generation_config
    settings.eos_token_id, settings.pad_token_id = None, 0
    with torch.no_grad():
        expected = alone.reference.generate(**prompt, do_sample=False, max_new_tokens=NEW)
    np.testing.assert_array_equal(_greedy(alone.model, arrays), expected)


@quick_jit
def _greedy(model: Decoder, arrays: Arrays) -> jax.Array:
    rows, length = arrays["input_ids"].shape
    cache = model.init_cache(None, None, rows=rows, slots=length + NEW)
    out = model(**arrays, cache=cache)
    assert out.cache is not None

    def step(carry: Any, _: None) -> Any:
        token, position, cache = carry
        hidden, cache = model.advance(token[:, None], cache, positions=position[:, None])
        following = jnp.argmax(model.logits(hidden)[:, -1], axis=-1).astype(jnp.int32)
        return (following, position + 1, cache), token

    first = jnp.argmax(out.logits[:, -1], axis=-1).astype(jnp.int32)
    start = (first, jnp.asarray(arrays["position_ids"])[:, -1] + 1, out.cache)
    _, made = jax.lax.scan(step, start, None, length=NEW)
    return jnp.concatenate([jnp.asarray(arrays["input_ids"]), made.T], axis=1)


@quick_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: Decoder, arrays: Arrays, labels: np.ndarray) -> jax.Array:
    # the layout to train in
    total, weight = seq2seq_loss(model.with_layout("scanned")(**arrays).logits, labels)
    return total / weight


def test_loss_and_every_gradient_equal_torch(alone: Alone, tmp_path: Path) -> None:
    # low ids too: the padding ids of several families
    arrays = _batch(2, "right", low=0)
    labels = np.random.default_rng(2).integers(0, VOCAB, (3, TARGET), dtype=np.int32)
    labels[arrays["attention_mask"] == 0] = -100
    loss, grads = _loss_and_gradients(alone.model, arrays, labels)
    alone.reference.zero_grad()
    takes = inspect.signature(alone.reference.forward).parameters
    logits = alone.reference(**as_torch({n: a for n, a in arrays.items() if n in takes}), use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).long().flatten())
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    grads.save_pretrained(tmp_path)
    ours = load_file(tmp_path / WEIGHTS)
    for name, parameter in alone.reference.named_parameters():
        allowed = FAMILY_GRADIENT * max(1.0, parameter.grad.abs().max().item())
        np.testing.assert_allclose(ours[name], parameter.grad, rtol=0, atol=allowed, err_msg=name)


def _check_files(alone: Alone, folder: Path) -> None:
    alone.model.save_pretrained(folder)
    theirs, ours = (load_file(place / WEIGHTS) for place in (alone.folder, folder))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.dtype == ours[name].dtype
        assert torch.equal(tensor, ours[name]), name
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    assert type(model) is type(alone.reference)
    arrays = _batch(4, "right")
    assert torch.equal(_call(model.eval(), arrays).logits, _call(alone.reference, arrays).logits)
    again = Decoder.from_pretrained(folder, add_cross_attention=False)
    assert again.config == alone.model.config


def test_files_go_to_torch_and_back(alone: Alone, tmp_path: Path) -> None:
    _check_files(alone, tmp_path)


def test_bfloat16_is_as_close_as_torchs(alone: Alone) -> None:
    """On average over several batches: on one alone either may be twice as close as the other."""
    reference = copy.deepcopy(alone.reference).to(torch.bfloat16)
    model = Decoder.from_pretrained(alone.folder, add_cross_attention=False, dtype=jnp.bfloat16)
    errors, allowed = [], []
    for seed in range(8):
        arrays = _batch(seed, "right")
        valid = arrays["attention_mask"] == 1
        wide = _call(alone.reference, arrays).logits.numpy()[valid]
        errors.append(np.square(np.asarray(_plain(model, arrays))[valid] - wide).mean())
        allowed.append(np.square(_call(reference, arrays).logits.float().numpy()[valid] - wide).mean())
    assert np.sqrt(np.mean(errors)) <= BF16_RATIO * np.sqrt(np.mean(allowed))


@pytest.mark.parametrize(("family", "changes"), CAUSAL_VARIANTS, ids=str)
def test_other_settings(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    alone = _alone(family, tmp_path / "torch", **changes)
    arrays = _batch(7, "left")
    theirs = _call(alone.reference, arrays, output_attentions=True, output_hidden_states=True)
    _compare(EVERYTHING["scanned"](alone.model, arrays, "unrolled"), theirs, arrays["attention_mask"])
    _close(_in_chunks(alone.model, arrays), theirs.logits, PARITY_LOGITS, arrays["attention_mask"])
    _check_files(alone, tmp_path / "ours")


SCALED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}, "max_position_embeddings": 4}),
    ("qwen2", {"rope_scaling": {"rope_type": "yarn", **YARN}, "max_position_embeddings": 5}),
    ("phi3", {"rope_scaling": {"type": "longrope", **LONG_ROPE}, "original_max_position_embeddings": 6}),
]


@pytest.mark.parametrize(("family", "changes"), SCALED, ids=str)
def test_sequences_longer_than_those_of_pretraining(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Nothing limits them; some rotations depend on the largest position of a call."""
    alone = _alone(family, tmp_path, **changes)
    for arrays in (_batch(8, "left"), {**(batch := _batch(9, "right")), "position_ids": batch["position_ids"] + 50}):
        theirs = _call(alone.reference, arrays).logits
        _close(_plain(alone.model, arrays), theirs, PARITY_LOGITS, arrays["attention_mask"])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "smollm3"])
def test_configs_from_before_layer_types(family: str, tmp_path: Path) -> None:
    alone = _alone(family, tmp_path, use_sliding_window=True, sliding_window=3)
    path = tmp_path / "config.json"
    hf = json.loads(path.read_text())
    assert "sliding_attention" in hf["layer_types"]
    older = {name: value for name, value in hf.items() if name not in ("layer_types", "no_rope_layers")}
    assert StackConfig.from_hf({**older, "is_decoder": True}) == alone.model.config
