"""The library against torch's numbers, stored: what `tests/parity` checks live, one case a kind, without torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encdec_eqx import EncoderDecoder, seq2seq_loss
from tolerances import PARITY_ATTENTION, PARITY_HIDDEN, PARITY_LOGITS, PARITY_LOSS

GOLDENS = Path(__file__).parent / "goldens"
CASES = ["bert_bert_untied", "bert_gpt2", "gpt2_bert_relative", "roberta_roberta"]


def test_every_stored_case_is_tested() -> None:
    assert sorted(folder.name for folder in GOLDENS.iterdir() if folder.name != "families") == CASES


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest) -> tuple[EncoderDecoder, dict[str, np.ndarray]]:
    folder = GOLDENS / request.param
    with np.load(folder / "expected.npz") as expected:
        return EncoderDecoder.from_pretrained(folder), dict(expected)


def _inputs(expected: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: expected[name] for name in ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    }


def _close(ours: Any, theirs: np.ndarray, valid: np.ndarray, tolerance: float) -> None:
    """Compare at real positions: `valid` is (batch, length), the arrays (…, batch, length, …)."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    lead = ours.ndim - 3
    keep = np.broadcast_to(valid.astype(bool)[..., None], ours.shape) if lead >= 0 else slice(None)
    np.testing.assert_allclose(ours[keep], theirs[keep], rtol=0, atol=tolerance)


def _close_attention(ours: Any, theirs: np.ndarray, valid: np.ndarray) -> None:
    _close(np.moveaxis(np.stack(ours), 2, 3).reshape(*_flat(theirs)), _by_query(theirs), valid, PARITY_ATTENTION)


def _flat(weights: np.ndarray) -> tuple[int, ...]:
    layers, batch, heads, queries, keys = weights.shape
    return layers, batch, queries, heads * keys


def _by_query(weights: np.ndarray) -> np.ndarray:
    return np.moveaxis(weights, 2, 3).reshape(*_flat(weights))


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_call_equals_torchs(golden: tuple[EncoderDecoder, dict[str, np.ndarray]], layout: Any) -> None:
    model, expected = golden
    out: Any = model.with_layout(layout)(**_inputs(expected), output_attentions=True, output_hidden_states=True)
    source, target = expected["attention_mask"], expected["decoder_attention_mask"]
    _close(out.logits, expected["logits"], target, PARITY_LOGITS)
    _close(out.encoder_last_hidden_state, expected["encoder_last_hidden_state"], source, PARITY_HIDDEN)
    _close(np.stack(out.encoder_hidden_states), expected["encoder_hidden_states"], source, PARITY_HIDDEN)
    _close(np.stack(out.decoder_hidden_states), expected["decoder_hidden_states"], target, PARITY_HIDDEN)
    _close_attention(out.encoder_attentions, expected["encoder_attentions"], source)
    _close_attention(out.decoder_attentions, expected["decoder_attentions"], target)
    _close_attention(out.cross_attentions, expected["cross_attentions"], target)


def test_the_loss_equals_torchs(golden: tuple[EncoderDecoder, dict[str, np.ndarray]]) -> None:
    model, expected = golden
    total, weight = seq2seq_loss(model(**_inputs(expected)).logits, expected["labels"])
    np.testing.assert_allclose(total / weight, expected["loss"], rtol=0, atol=PARITY_LOSS)


@pytest.mark.parametrize("size", [1, 3])
def test_incremental_decoding_equals_torchs_full_pass(
    golden: tuple[EncoderDecoder, dict[str, np.ndarray]], size: int
) -> None:
    model, expected = golden
    arrays = _inputs(expected)
    mask = arrays["attention_mask"]
    encoded = model.encode(arrays["input_ids"], attention_mask=mask)
    cache = model.init_cache(encoded, 10, encoder_attention_mask=mask)
    logits = []
    for start in range(0, arrays["decoder_input_ids"].shape[1], size):
        part = slice(start, start + size)
        out = model.decode(
            arrays["decoder_input_ids"][:, part],
            decoder_attention_mask=arrays["decoder_attention_mask"][:, part],
            cache=cache,
        )
        cache = out.cache
        logits.append(out.logits)
    _close(np.concatenate(logits, 1), expected["logits"], arrays["decoder_attention_mask"], PARITY_LOGITS)


def test_greedy_ids_equal_torchs(golden: tuple[EncoderDecoder, dict[str, np.ndarray]]) -> None:
    model, expected = golden
    source: dict[str, Any] = {name: expected[name] for name in ("input_ids", "attention_mask")}
    found = model.generate(**source, max_new_tokens=12)
    np.testing.assert_array_equal(found.sequences, expected["greedy"])
    longer = model.generate(**source, max_new_tokens=12, min_new_tokens=12)
    np.testing.assert_array_equal(longer.sequences, expected["greedy_without_end"])


def test_saving_what_was_loaded_gives_the_same_tensors(
    golden: tuple[EncoderDecoder, dict[str, np.ndarray]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from safetensors.numpy import load_file

    model, _ = golden
    model.save_pretrained(tmp_path / "saved")
    ours = load_file(tmp_path / "saved" / "model.safetensors")
    theirs = load_file(GOLDENS / request.node.callspec.params["golden"] / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
