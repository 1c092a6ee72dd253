"""T5's pieces where torch has no class for them: its decoder behind another encoder, files of its other classes."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from quick import quick_jit
from tiny import T5S
from transformers import (
    BertModel,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    T5Model,
    UMT5ForConditionalGeneration,
)

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.stack import Layout
from hf import as_torch, random_batch, randomise, saved, tiny_bert
from tolerances import PARITY_HIDDEN, PARITY_LOGITS

KINDS = {"t5": T5ForConditionalGeneration, "mt5": MT5ForConditionalGeneration, "umt5": UMT5ForConditionalGeneration}


@quick_jit
def _logits(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> jax.Array:
    return model(**arrays).logits


def _t5(family: str, **changes: Any) -> Any:
    config = T5S[family](**changes)
    config._attn_implementation = "eager"
    return randomise(KINDS[family](config), 5)


def _behind(encoder: Any, decoder: Any, model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Torch's modules, called in turn as a pair calls them."""
    given = as_torch(arrays)
    assert model.enc_to_dec_proj is not None
    weight, bias = (torch.from_numpy(np.array(leaf)) for leaf in jax.tree.leaves(model.enc_to_dec_proj))
    with torch.no_grad():
        states = encoder(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        hidden = decoder.decoder(
            input_ids=given["decoder_input_ids"],
            attention_mask=given["decoder_attention_mask"],
            encoder_hidden_states=states @ weight + bias,
            encoder_attention_mask=given["attention_mask"],
            use_cache=False,
        ).last_hidden_state
        scale = decoder.config.d_model**-0.5 if decoder.config.tie_word_embeddings else 1.0
        return decoder.lm_head(hidden * scale)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("family", KINDS)
def test_a_decoder_behind_bert_equals_torchs_modules_in_turn(family: str, layout: Layout, tmp_path: Path) -> None:
    reference = _t5(family, num_decoder_layers=4)
    bert = randomise(BertModel(tiny_bert(hidden_size=16), add_pooling_layer=False), 6)
    encoder = Encoder.from_pretrained(saved(bert, tmp_path / "bert"))
    decoder = Decoder.from_pretrained(saved(reference, tmp_path / "t5"))
    made = EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.key(3))
    made.save_pretrained(tmp_path / "pair")
    model = EncoderDecoder.from_pretrained(tmp_path / "pair")
    assert eqx.tree_equal(model.decoder, decoder)
    model = model.with_layout(layout)
    for padding in ("right", "left"):
        arrays = random_batch(1, padding=padding)
        valid = arrays["decoder_attention_mask"] == 1
        expected = _behind(bert, reference, made, arrays).numpy()
        np.testing.assert_allclose(
            np.asarray(_logits(model, arrays))[valid], expected[valid], rtol=0, atol=PARITY_LOGITS
        )
    source = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    ids = model.generate(**source, max_new_tokens=6, min_new_tokens=6).sequences
    arrays = {**source, "decoder_input_ids": ids, "decoder_attention_mask": np.ones_like(ids)}
    scores = _behind(bert, reference, made, arrays).numpy()[:, :-1]
    scores[..., 1] = -np.inf  # the end, which may not come yet
    np.testing.assert_array_equal(scores.argmax(-1), ids[:, 1:])


def test_files_of_other_classes_hold_the_pieces(tmp_path: Path) -> None:
    whole = _t5("t5", tie_word_embeddings=False)
    folder = saved(whole, tmp_path / "whole")
    encoder, decoder = Encoder.from_pretrained(folder), Decoder.from_pretrained(folder)
    base = T5Model(whole.config)
    base.load_state_dict(whole.state_dict(), strict=False)
    saved(base, tmp_path / "base")
    assert eqx.tree_equal(Encoder.from_pretrained(tmp_path / "base"), encoder)
    new = Decoder.from_pretrained(tmp_path / "base")
    assert {name for name, _ in new.load_report.new} == {"head.projection.weight"}
    assert eqx.tree_equal(new.stack, decoder.stack)
    with pytest.raises(ValueError, match=r"missing 'lm_head\.weight'"):
        EncoderDecoder.from_pretrained(tmp_path / "base")
    classifier = T5ForSequenceClassification(whole.config)
    classifier.transformer.load_state_dict(base.state_dict())
    saved(classifier, tmp_path / "classifier")
    assert eqx.tree_equal(Encoder.from_pretrained(tmp_path / "classifier"), encoder)
    saved(whole.encoder, tmp_path / "stack")
    assert eqx.tree_equal(Encoder.from_pretrained(tmp_path / "stack"), encoder)


def test_a_bias_of_cross_attention_in_first_versions_is_left_aside(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    reference = _t5("t5")
    file = saved(reference, tmp_path) / "model.safetensors"
    expected = EncoderDecoder.from_pretrained(tmp_path), Decoder.from_pretrained(tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    copies = {f"{piece}.embed_tokens.weight": reference.shared.weight.clone() for piece in ("encoder", "decoder")}
    save_file({**load_file(file), name: torch.ones(12, 4), **copies}, file, metadata={"format": "pt"})
    assert eqx.tree_equal(EncoderDecoder.from_pretrained(tmp_path), expected[0])
    assert eqx.tree_equal(Decoder.from_pretrained(tmp_path), expected[1])
    Encoder.from_pretrained(tmp_path)


def test_distances_far_beyond_the_largest_fall_into_torchs_buckets(tmp_path: Path) -> None:
    """Long sequences, at the buckets of the published models."""
    sizes: dict[str, Any] = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
    reference = _t5("t5", **sizes)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path))
    arrays = random_batch(2, batch=1, source=300, target=200)
    with torch.no_grad():
        theirs = reference(**as_torch(arrays), use_cache=False, output_hidden_states=True)
    ours = quick_jit(lambda m, a: m(**a, output_hidden_states=True))(model, arrays)
    for mine, expected in zip(ours.encoder_hidden_states, theirs.encoder_hidden_states, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=PARITY_HIDDEN)
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=PARITY_LOGITS)


@pytest.mark.parametrize("change", [{"feed_forward_proj": "gated-relu"}, {"d_kv": 9}, {"num_decoder_layers": None}])
def test_other_configs(change: dict[str, Any], tmp_path: Path) -> None:
    reference = _t5("t5", **change)
    folder = saved(reference, tmp_path)
    if change == {"num_decoder_layers": None}:
        path = folder / "config.json"
        said = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in said.items() if name != "num_decoder_layers"}))
        assert T5Config.from_pretrained(folder).num_decoder_layers == 3
    arrays = random_batch(3)
    with torch.no_grad():
        expected = reference(**as_torch(arrays), use_cache=False).logits.numpy()
    valid = arrays["decoder_attention_mask"] == 1
    ours = np.asarray(_logits(EncoderDecoder.from_pretrained(folder), arrays))
    np.testing.assert_allclose(ours[valid], expected[valid], rtol=0, atol=PARITY_LOGITS)
