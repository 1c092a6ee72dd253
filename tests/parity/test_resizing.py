"""Models with another number of token ids: torch loads them without a missing key, and computes and generates alike."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_whole import CASES, _torch_model

from encdec_eqx import EncoderDecoder
from hf import VOCAB, as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2
from tolerances import PARITY_LOGITS

TOKENS = {"decoder_start_token_id": 3, "eos_token_id": 2, "pad_token_id": 0}


def _tied_pair() -> Any:
    pair = random_pair(tiny_bert(), tiny_bert(), tie_encoder_decoder=True, **TOKENS)
    pair.tie_weights()
    return pair


PAIRS = {
    "tied_pair": _tied_pair,
    "bert_to_gpt2": lambda: random_pair(tiny_bert(), tiny_gpt2(), **TOKENS),
    "bert_to_untied_bert": lambda: random_pair(tiny_bert(), tiny_bert(tie_word_embeddings=False), **TOKENS),
}


def _reference(case: str) -> Any:
    return PAIRS[case]() if case in PAIRS else _torch_model(case)


def _resized(model: EncoderDecoder, sizes: tuple[int, int]) -> EncoderDecoder:
    key = jax.random.key(5)
    if sizes[0] == sizes[1]:
        return model.resize_token_embeddings(sizes[0], key=key)
    grown = model.resize_encoder_token_embeddings(sizes[0], key=key)
    return grown.resize_decoder_token_embeddings(sizes[1], key=key)


def _loaded(reference: Any, folder: Path) -> Any:
    kind = type(reference)
    config = kind.config_class.from_pretrained(folder)
    if not getattr(config, "share_encoder_decoder_embeddings", True) and config.vocab_size != config.decoder_vocab_size:
        # torch cannot load what its own `resize_decoder_token_embeddings` and `save_pretrained` leave: it makes the
        # decoder's table as large as the encoder's
        theirs = kind(config.__class__.from_dict({**config.to_dict(), "decoder_vocab_size": config.vocab_size}))
        theirs.resize_decoder_token_embeddings(config.decoder_vocab_size)
        theirs.load_state_dict({**theirs.state_dict(), **load_file(folder / "model.safetensors")})
        theirs.tie_weights()
        return theirs.eval()
    theirs, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    # torch ties nothing where the head has a matrix of its own, and then misses tables that it does not save either
    broken = hasattr(theirs, "final_logits_bias") and not config.tie_word_embeddings
    assert all(broken and name.endswith("embed_tokens.weight") for name in info["missing_keys"])
    if broken:
        theirs.model.encoder.embed_tokens.weight = theirs.model.decoder.embed_tokens.weight = theirs.model.shared.weight
    return theirs.eval()


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        *((case, (VOCAB + 6, VOCAB + 6)) for case in [*CASES, *PAIRS]),
        ("bart", (VOCAB - 9, VOCAB - 9)),
        ("tied_pair", (VOCAB - 9, VOCAB - 9)),
        ("marian_two_tables", (VOCAB + 2, VOCAB + 7)),
        ("bert_to_gpt2", (VOCAB - 1, VOCAB + 7)),
        ("bert_to_untied_bert", (VOCAB + 4, VOCAB)),
    ],
)
def test_torch_loads_it_and_computes_the_same(case: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    reference = _reference(case)
    before = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "before"))
    model = _resized(before, sizes)
    model.save_pretrained(tmp_path / "after")
    theirs = _loaded(reference, tmp_path / "after")

    arrays = random_batch(1)
    arrays["input_ids"][:, -1], arrays["decoder_input_ids"][:, -1] = sizes[0] - 1, sizes[1] - 1
    arrays["input_ids"][:, :-1] %= min(sizes)
    arrays["decoder_input_ids"][:, :-1] %= min(sizes)
    with torch.no_grad():
        expected = theirs(**as_torch(arrays), use_cache=False).logits.numpy()
    got = np.asarray(eqx.filter_jit(lambda m, a: m(**a).logits)(model, arrays))
    keep = arrays["decoder_attention_mask"].astype(bool)
    assert got.shape == expected.shape == (*keep.shape, sizes[1])
    np.testing.assert_allclose(got[keep], expected[keep], rtol=0, atol=PARITY_LOGITS)

    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    source = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    ids = theirs.generate(**as_torch(source), **options).numpy()
    ours = np.asarray(model.generate(**source, **options).sequences)
    np.testing.assert_array_equal(ours[:, : ids.shape[1]], ids)


def test_torchs_own_resizing_keeps_the_same_things(tmp_path: Path) -> None:
    """The rows that stay, the bias and the settings are torch's; only the new rows are drawn by another rule."""
    reference = _torch_model("bart")
    ours = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "before"))
    ours = ours.resize_token_embeddings(VOCAB + 6, key=jax.random.key(0))
    reference.resize_token_embeddings(VOCAB + 6)
    theirs = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "torch"))
    rows = theirs.decoder.embeddings.tokens.weight[:VOCAB]
    np.testing.assert_array_equal(ours.decoder.embeddings.tokens.weight[:VOCAB], rows)
    np.testing.assert_array_equal(ours.decoder.head.bias, theirs.decoder.head.bias)
    assert (ours.special_tokens, ours.generation_config) == (theirs.special_tokens, theirs.generation_config)
    assert ours.decoder.config == theirs.decoder.config
    table = eqx.tree_at(lambda m: m.decoder.embeddings.tokens.weight, ours, theirs.decoder.embeddings.tokens.weight)
    assert eqx.tree_equal(table, theirs)


def test_the_reference_has_no_call_for_pairs() -> None:
    with pytest.raises(NotImplementedError):
        PAIRS["bert_to_gpt2"]().resize_token_embeddings(VOCAB + 1)
