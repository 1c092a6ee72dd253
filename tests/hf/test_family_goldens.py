"""Every family against torch's numbers, stored: as an encoder, as a decoder, alone or whole, as torch has it.

`tests/parity` checks the same live and in full; here one compiled program a stored model protects it without torch.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from compositions import DECODERS, ENCODERS, FAMILY_GOLDENS, WHOLE_OF, joined_by_torch
from encdec_eqx import Decoder, EncoderDecoder
from encdec_eqx.hf.families import WHOLES
from tolerances import PARITY_HIDDEN, PARITY_LOGITS

CASES = sorted(folder.name for folder in FAMILY_GOLDENS.iterdir())
ALONE = [case for case in CASES if "+" not in case and case not in WHOLES]
TARGET = 5


def test_every_family_is_stored_in_every_role() -> None:
    pairs = [case.split("+") for case in CASES if "+" in case]
    assert {encoder for encoder, _ in pairs} == joined_by_torch("encoder", "stored")
    assert {decoder for _, decoder in pairs} == joined_by_torch("decoder", "stored")
    alone = {*ENCODERS, *DECODERS} - {name for pair in pairs for name in pair}
    assert {case for case in CASES if "+" not in case} == {*WHOLES, *(WHOLE_OF.get(name, name) for name in alone)}


@eqx.filter_jit
def _run(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> tuple[jax.typing.ArrayLike, ...]:
    """The encoder's states, the decoder's embeddings, its logits, and the same from a cache in two chunks."""
    encoded = model.encode(arrays["input_ids"], attention_mask=arrays["attention_mask"])
    ids, mask = arrays["decoder_input_ids"], arrays["decoder_attention_mask"]
    whole = model.decode(
        ids,
        encoded,
        encoder_attention_mask=arrays["attention_mask"],
        decoder_attention_mask=mask,
        output_hidden_states=True,
    )
    cache = model.init_cache(encoded, TARGET, encoder_attention_mask=arrays["attention_mask"])
    first = model.decode(ids[:, :-1], decoder_attention_mask=mask[:, :-1], cache=cache)
    last = model.decode(ids[:, -1:], decoder_attention_mask=mask[:, -1:], cache=first.cache)
    cached = jax.numpy.concatenate([first.logits, last.logits], axis=1)
    assert whole.decoder_hidden_states is not None
    return encoded.last_hidden_state, whole.decoder_hidden_states[0], whole.logits, cached


@pytest.mark.parametrize("case", [case for case in CASES if case not in ALONE])
def test_a_stored_model_says_what_torch_says(case: str, tmp_path: Path) -> None:
    with np.load(FAMILY_GOLDENS / case / "expected.npz") as stored:
        expected = dict(stored)
    model = EncoderDecoder.from_pretrained(FAMILY_GOLDENS / case)
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    states, embeddings, logits, cached = _run(model, {name: expected[name] for name in names})
    source, target = expected["attention_mask"] == 1, expected["decoder_attention_mask"] == 1
    for ours, name, valid, tolerance in (
        (states, "encoder_last_hidden_state", source, PARITY_HIDDEN),
        (embeddings, "decoder_embeddings", target, PARITY_HIDDEN),
        (logits, "logits", target, PARITY_LOGITS),
        (cached, "logits", target, PARITY_LOGITS),
    ):
        theirs = expected[name]
        np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], rtol=0, atol=tolerance, err_msg=name)
    _check_files(model, case, tmp_path)


@eqx.filter_jit
def _run_alone(model: Decoder, arrays: dict[str, Any]) -> tuple[jax.typing.ArrayLike, ...]:
    """The decoder's embeddings, its logits, and the same from a cache in two chunks."""
    whole = model(**arrays, output_hidden_states=True)
    cache = model.init_cache(None, None, rows=arrays["input_ids"].shape[0], slots=TARGET)
    first, last = ({name: array[:, part] for name, array in arrays.items()} for part in (slice(-1), slice(-1, None)))
    begun = model(**first, cache=cache)
    ended = model(**last, cache=begun.cache)
    assert whole.hidden_states is not None
    return whole.hidden_states[0], whole.logits, jax.numpy.concatenate([begun.logits, ended.logits], axis=1)


@pytest.mark.parametrize("case", ALONE)
def test_a_stored_language_model_says_what_torch_says(case: str, tmp_path: Path) -> None:
    with np.load(FAMILY_GOLDENS / case / "expected.npz") as stored:
        expected = dict(stored)
    model = Decoder.from_pretrained(FAMILY_GOLDENS / case, add_cross_attention=False)
    real = expected["attention_mask"]
    arrays = {name: expected[name] for name in ("input_ids", "attention_mask")}
    arrays["position_ids"] = np.maximum(np.cumsum(real, axis=1, dtype=np.int32) - 1, 0)
    embeddings, logits, cached = _run_alone(model, arrays)
    for ours, name, tolerance in (
        (embeddings, "embeddings", PARITY_HIDDEN),
        (logits, "logits", PARITY_LOGITS),
        (cached, "logits", PARITY_LOGITS),
    ):
        theirs = expected[name]
        np.testing.assert_allclose(np.asarray(ours)[real == 1], theirs[real == 1], rtol=0, atol=tolerance, err_msg=name)
    _check_files(model, case, tmp_path)


def _check_files(model: Decoder | EncoderDecoder, case: str, folder: Path) -> None:
    model.astype(np.float16).save_pretrained(folder)
    files = [(place / "model.safetensors").read_bytes() for place in (FAMILY_GOLDENS / case, folder)]
    assert _tensors(files[0]) == _tensors(files[1])


def _tensors(file: bytes) -> dict[str, bytes]:
    from safetensors.numpy import load

    return {name: tensor.tobytes() for name, tensor in load(file).items()}
