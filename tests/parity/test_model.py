"""Logits, hidden states, attentions, positions and incremental decoding against live torch, over many settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encdec_eqx import EncoderDecoder
from encdec_eqx.config import ACTIVATIONS
from hf import as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta
from tolerances import PARITY_ATTENTION, PARITY_HIDDEN, PARITY_LOGITS

PAIRS = {
    "bert_gpt2_projected": lambda: (tiny_bert(), tiny_gpt2()),
    "bert_gpt2_equal": lambda: (tiny_bert(), tiny_gpt2(n_embd=24)),
    "bert_bert": lambda: (tiny_bert(), tiny_bert(num_hidden_layers=2)),
    "bert_bert_projected": lambda: (tiny_bert(hidden_size=16), tiny_bert(type_vocab_size=5)),
    "roberta_roberta": lambda: (tiny_roberta(), tiny_roberta(num_hidden_layers=3)),
    "roberta_gpt2": lambda: (tiny_roberta(), tiny_gpt2()),
    "bert_roberta": lambda: (tiny_bert(), tiny_roberta()),
    "gpt2_gpt2": lambda: (tiny_gpt2(), tiny_gpt2(n_layer=2)),
    "gpt2_bert": lambda: (tiny_gpt2(), tiny_bert()),
    "untied": lambda: (tiny_bert(), tiny_gpt2(tie_word_embeddings=False)),
    "bert_untied": lambda: (tiny_bert(), tiny_bert(tie_word_embeddings=False)),
    "roberta_untied": lambda: (tiny_roberta(), tiny_roberta(tie_word_embeddings=False)),
    "relative_key": lambda: (
        tiny_bert(position_embedding_type="relative_key"),
        tiny_bert(position_embedding_type="relative_key"),
    ),
    "relative_key_query": lambda: (
        tiny_bert(position_embedding_type="relative_key_query"),
        tiny_roberta(position_embedding_type="relative_key_query"),
    ),
    "scaled_by_layer": lambda: (
        tiny_gpt2(scale_attn_by_inverse_layer_idx=True),
        tiny_gpt2(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    ),
    "unscaled": lambda: (tiny_bert(), tiny_gpt2(scale_attn_weights=False)),
    "inner_size": lambda: (tiny_bert(), tiny_gpt2(n_inner=33, layer_norm_epsilon=1e-3)),
}


def _both(folder: Path, pair: str, seed: int = 0, **settings: Any) -> tuple[Any, EncoderDecoder]:
    reference = random_pair(*PAIRS[pair](), seed=seed, **settings)
    return reference, EncoderDecoder.from_pretrained(saved(reference, folder))


def _torch_call(reference: Any, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return reference(**as_torch(arrays), use_cache=False, **options)


def _close(ours: Any, theirs: Any, tolerance: float, valid: np.ndarray | None = None) -> None:
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape
    if valid is not None:
        ours, theirs = ours[valid.astype(bool)], theirs[valid.astype(bool)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("pair", PAIRS)
def test_everything_a_call_returns_equals_torch(pair: str, padding: str, layout: str, tmp_path: Path) -> None:
    reference, model = _both(tmp_path, pair)
    arrays = random_batch(1, padding=padding)
    theirs = _torch_call(reference, arrays, output_attentions=True, output_hidden_states=True)
    ours = model.with_layout(layout)(
        **{name: arrays[name] for name in arrays}, output_attentions=True, output_hidden_states=True
    )
    source, target = arrays["attention_mask"], arrays["decoder_attention_mask"]
    _close(ours.logits, theirs.logits, PARITY_LOGITS, target)
    _close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, PARITY_HIDDEN, source)
    for ours_all, theirs_all, valid in (
        (ours.encoder_hidden_states, theirs.encoder_hidden_states, source),
        (ours.decoder_hidden_states, theirs.decoder_hidden_states, target),
    ):
        assert len(ours_all) == len(theirs_all)
        for mine, reference_state in zip(ours_all, theirs_all, strict=True):
            _close(mine, reference_state, PARITY_HIDDEN, valid)
    for ours_all, theirs_all, valid in (
        (ours.encoder_attentions, theirs.encoder_attentions, source),
        (ours.decoder_attentions, theirs.decoder_attentions, target),
        (ours.cross_attentions, theirs.cross_attentions, target),
    ):
        assert len(ours_all) == len(theirs_all)
        for mine, weights in zip(ours_all, theirs_all, strict=True):
            _close(np.moveaxis(np.asarray(mine), 1, 2), weights.transpose(1, 2), PARITY_ATTENTION, valid)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, tmp_path: Path) -> None:
    reference = random_pair(tiny_bert(hidden_act=activation), tiny_gpt2(activation_function=activation))
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path))
    arrays = random_batch(2)
    _close(
        model(**arrays).logits,
        _torch_call(reference, arrays).logits,
        PARITY_LOGITS,
        arrays["decoder_attention_mask"],
    )


@pytest.mark.parametrize("pair", ["bert_gpt2_projected", "roberta_roberta", "gpt2_bert"])
def test_explicit_positions_and_types(pair: str, tmp_path: Path) -> None:
    reference, model = _both(tmp_path, pair)
    arrays = random_batch(3)
    rng = np.random.default_rng(3)
    arrays["position_ids"] = rng.integers(0, 30, arrays["input_ids"].shape)
    types = _token_types(reference.config.encoder)
    arrays["token_type_ids"] = rng.integers(0, types, arrays["input_ids"].shape)
    positions = rng.integers(0, 30, arrays["decoder_input_ids"].shape)
    theirs = _torch_call(reference, {**arrays, "decoder_position_ids": positions})
    ours = model(**arrays, decoder_position_ids=positions)
    _close(ours.logits, theirs.logits, PARITY_LOGITS, arrays["decoder_attention_mask"])


def _token_types(config: Any) -> int:
    """Token types of the family: GPT-2 looks them up in the token table."""
    return getattr(config, "type_vocab_size", config.vocab_size)


@pytest.mark.parametrize("pair", ["bert_gpt2_projected", "roberta_gpt2"])
def test_embeddings_instead_of_ids(pair: str, tmp_path: Path) -> None:
    reference, model = _both(tmp_path, pair)
    arrays = random_batch(4)
    width = reference.config.encoder.hidden_size
    del arrays["input_ids"]
    arrays["inputs_embeds"] = np.random.default_rng(4).normal(size=(3, 9, width)).astype(np.float32)
    theirs = _torch_call(reference, arrays)
    _close(model(**arrays).logits, theirs.logits, PARITY_LOGITS, arrays["decoder_attention_mask"])


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("chunks", [(1,) * 7, (3, 4), (1, 5, 1), (7,)])
@pytest.mark.parametrize("pair", ["bert_gpt2_projected", "roberta_roberta", "relative_key_query", "scaled_by_layer"])
def test_incremental_decoding_equals_torchs_full_pass(
    pair: str, chunks: tuple[int, ...], layout: str, tmp_path: Path
) -> None:
    reference, model = _both(tmp_path, pair)
    model = model.with_layout(layout)
    arrays = random_batch(5)
    theirs = _torch_call(reference, arrays).logits
    encoded = model.encode(arrays["input_ids"], attention_mask=arrays["attention_mask"])
    cache = model.init_cache(encoded, 9, encoder_attention_mask=arrays["attention_mask"])
    logits, start = [], 0
    for size in chunks:
        part = slice(start, start + size)
        out = model.decode(
            arrays["decoder_input_ids"][:, part],
            decoder_attention_mask=arrays["decoder_attention_mask"][:, part],
            cache=cache,
        )
        cache, start = out.cache, start + size
        logits.append(out.logits)
    _close(np.concatenate(logits, axis=1), theirs, PARITY_LOGITS, arrays["decoder_attention_mask"])


def test_padding_ids_inside_roberta_sequences(tmp_path: Path) -> None:
    """RoBERTa numbers positions by its ids: padding inside a row shifts what follows, whatever the mask."""
    reference, model = _both(tmp_path, "roberta_roberta")
    arrays = random_batch(6)
    arrays["input_ids"][0, [0, 4]] = 1
    arrays["decoder_input_ids"][0, [0, 3]] = 1
    theirs = _torch_call(reference, arrays)
    _close(model(**arrays).logits, theirs.logits, PARITY_LOGITS, arrays["decoder_attention_mask"])


def test_without_masks_everything_is_attended(tmp_path: Path) -> None:
    reference, model = _both(tmp_path, "bert_gpt2_projected")
    arrays = {name: array for name, array in random_batch(7, low=0).items() if name.endswith("input_ids")}
    theirs = _torch_call(reference, arrays)
    _close(model(**arrays).logits, theirs.logits, PARITY_LOGITS)
