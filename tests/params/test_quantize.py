"""Models of eight bits: what they compute, in both layouts, generate by every search, share, save, and refuse."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import write_tied_pair
from encdec_eqx import Decoder, Encoder, EncoderDecoder, HeadConfig, quantize
from encdec_eqx.doctor import diagnose
from encdec_eqx.hf.families import WHOLES
from encdec_eqx.layers.int8 import Int8Embedding, Int8Linear
from encdec_eqx.layers.linear import AbstractLinear, Linear
from encdec_eqx.training import add_lora, init_train_state, merge_lora
from models import decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import INT8_LOGITS, SAME_MODEL

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
FAMILIES = sorted(folder.name for folder in GOLDENS.iterdir() if (folder / "config.json").is_file())
KEY = jax.random.key(3)
SOURCE, MASK, TARGET = random_ids(0, 3, 6), right_mask([6, 4, 5], 6), random_ids(1, 3, 5)


@eqx.filter_jit
def _run(model: Any) -> jax.Array:
    return model(SOURCE, TARGET, attention_mask=MASK).logits


def _logits(model: Any) -> np.ndarray:
    return np.asarray(_run(model))


def _generated(model: Any, **options: Any) -> np.ndarray:
    return np.asarray(model.generate(SOURCE, attention_mask=MASK, max_new_tokens=6, **options).sequences)


def test_logits_stay_close_and_layouts_agree() -> None:
    model = tiny_pair()
    whole = _logits(model)
    int8 = _logits(quantize(model, "int8"))
    assert 0 < np.abs(int8 - whole).max() < INT8_LOGITS * whole.std()
    scanned = quantize(model.with_layout("scanned", remat=True), "int8")
    assert scanned.decoder.stack.remat == "keep_nothing"
    np.testing.assert_allclose(_logits(scanned), int8, rtol=0, atol=SAME_MODEL)
    assert eqx.tree_equal(scanned.with_layout("unrolled"), quantize(model, "int8"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "key": KEY, "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 3},
        {"num_beams": 3, "force_words_ids": [[9]]},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda options: "-".join(options) or "greedy",
)
def test_every_search_runs_and_a_row_is_generated_as_alone(options: dict[str, Any]) -> None:
    model = quantize(tiny_pair(), "int8")
    together = _generated(model, **options)
    assert together.shape[0] == 3 * options.get("num_return_sequences", 1)
    if "key" not in options:
        alone = model.generate(SOURCE[:1], attention_mask=MASK[:1], max_new_tokens=6, **options).sequences
        np.testing.assert_array_equal(np.asarray(alone)[0], together[0])


def test_cached_steps_equal_one_pass() -> None:
    model = quantize(tiny_pair(), "int8")
    encoded = model.encode(SOURCE, attention_mask=MASK)
    cache = model.init_cache(encoded, max_length=5, encoder_attention_mask=MASK)
    logits = []
    for at in range(5):
        out = model.decode(TARGET[:, at : at + 1], cache=cache)
        cache = out.cache
        logits.append(np.asarray(out.logits)[:, 0])
    whole = model.decode(TARGET, encoded, encoder_attention_mask=MASK).logits
    np.testing.assert_allclose(np.stack(logits, 1), whole, rtol=0, atol=SAME_MODEL)


def _stored(family: str) -> EncoderDecoder:
    """The stored pair, or one of a stored language model and the same small encoder."""
    if "+" in family or family in WHOLES:
        return EncoderDecoder.from_pretrained(GOLDENS / family)
    encoder = EncoderDecoder.from_pretrained(GOLDENS / "mpnet+bert-generation").encoder
    assert isinstance(encoder, Encoder)
    return EncoderDecoder.from_pieces(encoder, Decoder.from_pretrained(GOLDENS / family), key=KEY)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_quantized_whole(family: str) -> None:
    """No linear layer of floats is left, and the model can be called; traced, not run."""
    model = eqx.filter_eval_shape(quantize, _stored(family), "int8")
    parts = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, AbstractLinear))
    assert not any(isinstance(part, Linear) for part in parts)
    shapes = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    out = eqx.filter_eval_shape(lambda model, ids: model(ids, ids), model, shapes)
    assert out.logits.shape == (2, 4, model.decoder.config.vocab_size)


@pytest.mark.parametrize("family", ["bart", "marian", "mpnet+bert-generation", "electra+trocr"])
def test_files_give_the_same_arrays_back(family: str, tmp_path: Path) -> None:
    model = quantize(EncoderDecoder.from_pretrained(GOLDENS / family), "int8")
    model.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    for ours, theirs in ((again.encoder, model.encoder), (again.decoder, model.decoder)):
        assert eqx.tree_equal(ours, dataclasses.replace(theirs, load_report=ours.load_report))
    assert (again.ties, again.model_type) == (model.ties, model.model_type)


def test_shared_arrays_stay_one() -> None:
    model = EncoderDecoder.from_pretrained(GOLDENS / "bart")
    int8 = quantize(model, "int8")
    assert int8.ties == ("embeddings.tokens.scale", "embeddings.tokens.weight")
    assert int8.encoder.embeddings.tokens.weight is None and int8.encoder.embeddings.tokens.scale is None
    encoder, decoder = int8.pieces()
    assert encoder.embeddings.tokens.weight is decoder.embeddings.tokens.weight
    ids = np.array([[5, 6, 7]], np.int32)
    apart = quantize(EncoderDecoder.from_pieces(*model.pieces()), "int8")
    np.testing.assert_array_equal(int8(ids, ids).logits, apart(ids, ids).logits)


def test_shared_layers_stay_one_in_both_layouts(tmp_path: Path) -> None:
    model = EncoderDecoder.from_pretrained(write_tied_pair(tmp_path))
    assert any(tie.startswith("stack.") for tie in model.ties)
    int8 = quantize(model, "int8")
    scanned = quantize(model.with_layout("scanned"), "int8")
    assert any(tie.endswith("up.scale") for tie in int8.ties)
    assert eqx.tree_equal(scanned.with_layout("unrolled"), int8)
    int8.save_pretrained(tmp_path / "int8")
    again = EncoderDecoder.from_pretrained(tmp_path / "int8")
    assert again.ties == int8.ties and eqx.tree_equal(jax.tree.leaves(again), jax.tree.leaves(int8))


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_it_generates_the_same_ids(tied: bool, tmp_path: Path) -> None:
    model = quantize(tiny_pair(decoder=decoder_config(head=HeadConfig(tied=tied))), "int8")
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.int8.safetensors",
    ]
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert "int8" in again.load_report.what
    np.testing.assert_array_equal(_generated(again, num_beams=2), _generated(model, num_beams=2))
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.int8.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_pieces_are_saved_and_loaded(tmp_path: Path) -> None:
    encoder, decoder = quantize(tiny_pair(), "int8").pieces()
    for piece in (encoder, decoder):
        piece.save_pretrained(tmp_path / "piece")
        again = type(piece).from_pretrained(tmp_path / "piece")
        assert eqx.tree_equal(again, dataclasses.replace(piece, load_report=again.load_report))
    assert eqx.tree_equal(quantize(tiny_pair().decoder, "int8"), decoder)


def test_a_save_leaves_no_weights_of_another_kind(tmp_path: Path) -> None:
    model = tiny_pair()
    for each, name in ((model, "model.safetensors"), (quantize(model, "int8"), "model.int8.safetensors")) * 2:
        each.save_pretrained(tmp_path)
        assert [path.name for path in tmp_path.glob("*.safetensors")] == [name]
        EncoderDecoder.from_pretrained(tmp_path)


def test_floats_of_16_bits_become_float32_and_may_be_cast_again() -> None:
    model = tiny_pair()
    int8 = quantize(model.astype(jnp.bfloat16), "int8")
    assert {leaf.dtype for leaf in jax.tree.leaves(int8)} == {np.dtype(np.int8), np.dtype(np.float32)}
    cast = int8.astype(jnp.bfloat16)
    assert _logits(cast).dtype == np.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(cast)} == {"int8", "bfloat16"}
    whole = _logits(model)
    assert np.abs(_logits(cast) - whole).max() < INT8_LOGITS * whole.std()
    assert _generated(cast).shape == _generated(int8).shape


def test_a_file_is_a_quarter_of_the_floats(tmp_path: Path) -> None:
    model = tiny_pair(encoder_config(size=64, depth=1), decoder_config(size=60, depth=1))
    sizes = []
    for each in (model, quantize(model, "int8")):
        each.save_pretrained(tmp_path)
        sizes.append(next(tmp_path.glob("*.safetensors")).stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]


def test_what_cannot_be_quantized_is_told() -> None:
    model = tiny_pair()
    with pytest.raises(ValueError, match=r"got the method 'int4'; expected 'int8'"):
        quantize(model, "int4")
    int8 = quantize(model, "int8")
    with pytest.raises(ValueError, match="quantized already"):
        quantize(int8, "int8")
    with pytest.raises(ValueError, match="quantized already"):
        quantize(dataclasses.replace(int8, encoder=model.encoder), "int8")
    adapted = add_lora(model, "cross_attention", rank=2, key=KEY)
    with pytest.raises(ValueError, match=r"merge them first, quantize\(encdec_eqx.training.merge_lora\(model\)"):
        quantize(adapted, "int8")
    quantize(merge_lora(adapted), "int8")


def test_what_a_quantized_model_cannot_is_told(tmp_path: Path) -> None:
    model = tiny_pair()
    int8 = quantize(model, "int8")
    with pytest.raises(ValueError, match="quantized to int8, which has no gradients: train the float32 model"):
        init_train_state(int8, optax.sgd(0.1))
    with pytest.raises(ValueError, match="train the float32 model"):
        diagnose(int8, None)
    with pytest.raises(TypeError, match="an int8 model has no gradients"):
        eqx.filter_grad(lambda model: model(SOURCE, TARGET).logits.sum())(int8)
    with pytest.raises(TypeError, match="Resize the float32 model, and quantize what comes out"):
        int8.resize_token_embeddings(80, key=KEY)
    with pytest.raises(ValueError, match="is a Int8Linear; adapters go beside a plain Linear"):
        add_lora(int8, "cross_attention", rank=2, key=KEY)
    bare = quantize(Decoder.init(_without_cross(), key=KEY), "int8")
    with pytest.raises(ValueError, match="give the float32 one cross-attention, train it, and quantize the pair"):
        bare.with_cross_attention(key=KEY)
    with pytest.raises(ValueError, match="quantized in part"):
        dataclasses.replace(int8, encoder=model.encoder).save_pretrained(tmp_path)


def _without_cross() -> Any:
    config = decoder_config()
    return config.replace(layers=tuple(dataclasses.replace(spec, cross_attention=False) for spec in config.layers))


def test_files_that_are_not_right_are_told(tmp_path: Path) -> None:
    quantize(tiny_pair(), "int8").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    file = tmp_path / "model.int8.safetensors"
    tensors = load_file(file)

    def with_config(**settings: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))

    with_config(quant_method="encdec_eqx_int8", version=2)
    with pytest.raises(ValueError, match="has version 2; expected 1"):
        EncoderDecoder.from_pretrained(tmp_path)
    with_config(quant_method="gptq", bits=4)
    with pytest.raises(ValueError, match="quantised weights are not supported"):
        EncoderDecoder.from_pretrained(tmp_path)
    with_config(**config["quantization_config"])
    name = "decoder.stack.blocks.0.feed_forward.up.weight"
    save_file({**tensors, name: tensors[name].astype(np.float32)}, file)
    with pytest.raises(ValueError, match=rf"'{name}' has dtype float32: expected int8"):
        EncoderDecoder.from_pretrained(tmp_path)
    save_file({other: value for other, value in tensors.items() if other != name}, file)
    with pytest.raises(ValueError, match=rf"missing '{name}'"):
        EncoderDecoder.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.int8\.safetensors in .* copy the whole folder"):
        EncoderDecoder.from_pretrained(tmp_path)


def test_the_parts_are_of_int8() -> None:
    encoder = quantize(Encoder.init(encoder_config(), key=KEY), "int8")
    assert isinstance(encoder.embeddings.tokens, Int8Embedding)
    assert isinstance(encoder.stack.blocks[0].feed_forward.up, Int8Linear)
