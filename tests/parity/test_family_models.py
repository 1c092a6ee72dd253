"""Every family, in pairs, against live torch: what a call returns, cached decoding, gradients, generated ids, files.

One pair stands for an encoder's family and a decoder's, which differ. Whatever is compiled serves several checks: a
program takes longer to compile than all that is done with it here.
"""

import copy
import dataclasses
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
from tiny import BARTS, DECODERS, ENCODERS, T5S
from transformers import EncoderDecoderModel

from compositions import LIVE
from encdec_eqx import EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.stack import Layout
from hf import as_torch, mended, random_batch, random_pair, saved
from tolerances import (
    BF16_RATIO,
    FAMILY_GRADIENT,
    FAMILY_HIDDEN,
    PARITY_ATTENTION,
    PARITY_LOGITS,
    PARITY_LOSS,
)

START, PAD, EOS = 5, 7, 60
TARGET, CHUNK, NEW = 6, 2, 12


@dataclasses.dataclass(frozen=True)
class Pair:
    """One model twice: torch's, the folder that it was saved to, and ours, loaded from there."""

    encoder: str
    decoder: str
    reference: Any
    folder: Path
    model: EncoderDecoder


@pytest.fixture(scope="module", params=LIVE, ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    encoder, decoder = request.param
    ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": EOS}
    reference = random_pair(ENCODERS[encoder](), DECODERS[decoder](), **ids)
    with torch.no_grad():
        # Logits far enough apart that a different order of summation cannot change the largest.
        for name, parameter in reference.named_parameters():
            # T5's scores are not divided by the root of a head's width, and are far enough apart already
            as_it_is = encoder in T5S and name.startswith("encoder.")
            parameter *= 2 if parameter.ndim > 1 and not as_it_is else 1
    folder = saved(reference, tmp_path_factory.mktemp("pair"))
    return Pair(encoder, decoder, reference, folder, EncoderDecoder.from_pretrained(folder))


def _call(reference: Any, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return reference(**as_torch(arrays), use_cache=False, **options)


def _everything(model: EncoderDecoder, arrays: dict[str, np.ndarray], layout: Layout) -> Any:
    # converted here, where it is part of one program; by itself each array's slice is a program
    return model.with_layout(layout)(**arrays, output_attentions=True, output_hidden_states=True)


# One of the two layouts is compared as users run it.
EVERYTHING = {"unrolled": eqx.filter_jit(_everything), "scanned": quick_jit(_everything)}


def _close(ours: Any, theirs: Any, tolerance: float, valid: np.ndarray) -> None:
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[valid == 1], theirs[valid == 1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_everything_a_call_returns_equals_torch(pair: Pair, layout: Layout) -> None:
    for padding in ("right", "left"):
        arrays = random_batch(1, target=TARGET, padding=padding)
        theirs = _call(pair.reference, arrays, output_attentions=True, output_hidden_states=True)
        ours = EVERYTHING[layout](pair.model, arrays, layout)
        source, target = arrays["attention_mask"], arrays["decoder_attention_mask"]
        _close(ours.logits, theirs.logits, PARITY_LOGITS, target)
        _close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, FAMILY_HIDDEN, source)
        for piece, valid in (("encoder", source), ("decoder", target)):
            states = zip(getattr(ours, f"{piece}_hidden_states"), theirs[f"{piece}_hidden_states"], strict=True)
            for mine, reference in states:
                _close(mine, reference, FAMILY_HIDDEN, valid)
        for kind, valid in (
            ("encoder_attentions", source),
            ("decoder_attentions", target),
            ("cross_attentions", target),
        ):
            for mine, reference in zip(getattr(ours, kind), theirs[kind], strict=True):
                _close(np.moveaxis(np.asarray(mine), 1, 2), reference.transpose(1, 2), PARITY_ATTENTION, valid)


@quick_jit
def _encoded(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> Any:
    states = model.encode(arrays["input_ids"], attention_mask=arrays["attention_mask"])
    return model.init_cache(states, TARGET, encoder_attention_mask=arrays["attention_mask"])


@quick_jit
def _decoded(model: EncoderDecoder, ids: np.ndarray, mask: np.ndarray, cache: Any) -> Any:
    return model.decode(ids, decoder_attention_mask=mask, cache=cache)


def test_incremental_decoding_equals_torchs_full_pass(pair: Pair) -> None:
    arrays = random_batch(5, target=TARGET)
    cache = _encoded(pair.model, arrays)
    logits = []
    for start in range(0, TARGET, CHUNK):
        part = slice(start, start + CHUNK)
        ids, mask = arrays["decoder_input_ids"][:, part], arrays["decoder_attention_mask"][:, part]
        out = _decoded(pair.model, ids, mask, cache)
        cache = out.cache
        logits.append(out.logits)
    theirs = _call(pair.reference, arrays).logits
    _close(np.concatenate(logits, axis=1), theirs, PARITY_LOGITS, arrays["decoder_attention_mask"])


@quick_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: EncoderDecoder, arrays: dict[str, np.ndarray], labels: np.ndarray) -> jax.Array:
    # the layout to train in
    total, weight = seq2seq_loss(model.with_layout("scanned")(**arrays).logits, labels)
    return total / weight


def test_loss_and_every_gradient_equal_torch(pair: Pair, tmp_path: Path) -> None:
    # low ids too: the padding ids of several families
    arrays = random_batch(2, target=TARGET, low=0)
    labels = np.random.default_rng(2).integers(0, EOS, (3, TARGET), dtype=np.int32)
    labels[1, 4:] = -100
    arrays["decoder_input_ids"] = np.array(shift_tokens_right(labels, PAD, START))
    loss, grads = _loss_and_gradients(pair.model, arrays, labels)
    pair.reference.zero_grad()
    logits = pair.reference(**as_torch(arrays), use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).long().flatten())
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    grads.save_pretrained(tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    for name, parameter in pair.reference.named_parameters():
        if parameter.grad is None:
            assert "pooler" in name or not parameter.requires_grad, name
            assert name not in ours or not ours[name].any(), name
            continue
        allowed = FAMILY_GRADIENT * max(1.0, parameter.grad.abs().max().item())
        np.testing.assert_allclose(ours[name], parameter.grad, rtol=0, atol=allowed, err_msg=name)


def test_greedy_ids(pair: Pair) -> None:
    source = {name: array for name, array in random_batch(3, low=8).items() if not name.startswith("decoder")}
    # BigBird's two attentions share one cache in torch; that of BART's kin has as many layers as the *encoder* would.
    cached = pair.decoder not in ("big_bird", *BARTS)
    with torch.no_grad():
        expected = pair.reference.generate(**as_torch(source), do_sample=False, max_new_tokens=NEW, use_cache=cached)
    result = pair.model.generate(**source, max_new_tokens=NEW)
    np.testing.assert_array_equal(result.sequences, expected)


def test_files_go_to_torch_and_back(pair: Pair, tmp_path: Path) -> None:
    pair.model.save_pretrained(tmp_path)
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (pair.folder, tmp_path))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.dtype == ours[name].dtype
        # a buffer that torch does not even initialise
        assert torch.equal(tensor, ours[name]) or name.endswith("_float_tensor"), name
    arrays = random_batch(4, target=TARGET)
    again = _reloaded(pair, tmp_path)
    assert torch.equal(_call(again, arrays).logits, _call(pair.reference, arrays).logits)


def _reloaded(pair: Pair, folder: Path) -> Any:
    """Torch's model from our folder."""
    if pair.encoder not in {**BARTS, **T5S}:
        model, info = EncoderDecoderModel.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
        assert not any(info.values()), info
        return mended(model.eval())
    # In a pair torch can make an encoder of this kind, and save it, but expects encoder and decoder in the file.
    model = copy.deepcopy(pair.reference)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    assert not found.unexpected_keys
    assert set(found.missing_keys) == set(model.state_dict()) - set(load_file(pair.folder / "model.safetensors"))
    return model


@quick_jit
def _logits(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> jax.Array:
    return model(**arrays).logits


def test_bfloat16_is_as_close_as_torchs(pair: Pair) -> None:
    """On average over several batches: on one alone either may be twice as close as the other."""
    reference = copy.deepcopy(pair.reference).to(torch.bfloat16)
    model = EncoderDecoder.from_pretrained(pair.folder, dtype=jnp.bfloat16)
    errors, allowed = [], []
    for seed in range(8):
        arrays = random_batch(seed, target=TARGET)
        valid = arrays["decoder_attention_mask"] == 1
        wide = _call(pair.reference, arrays).logits.numpy()[valid]
        errors.append(np.square(np.asarray(_logits(model, arrays))[valid] - wide).mean())
        allowed.append(np.square(_call(reference, arrays).logits.float().numpy()[valid] - wide).mean())
    assert np.sqrt(np.mean(errors)) <= BF16_RATIO * np.sqrt(np.mean(allowed))
