"""Whole checkpoints of BART and its kin against live torch: both pieces of one family in the family's own format."""

import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from quick import quick_jit
from safetensors.numpy import load_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BertConfig,
    BertModel,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from encdec_eqx import Decoder, Encoder, EncoderDecoder, seq2seq_loss
from encdec_eqx.generation.processors import SourceNGrams
from hf import VOCAB, as_torch, random_batch, randomise, saved
from tolerances import PARITY_ATTENTION, PARITY_GRADIENT, PARITY_HIDDEN, PARITY_LOGITS, PARITY_LOSS

SIZES = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 28,
    "max_position_embeddings": 40,
    "dropout": 0.0,
}
BART_TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bart": (BartForConditionalGeneration, BartConfig, BART_TOKENS),
    "bart_untied": (BartForConditionalGeneration, BartConfig, {**BART_TOKENS, "tie_word_embeddings": False}),
    "mbart": (MBartForConditionalGeneration, MBartConfig, {**BART_TOKENS, "scale_embedding": True}),
    "marian": (
        MarianMTModel,
        MarianConfig,
        {"pad_token_id": 3, "decoder_start_token_id": 3, "eos_token_id": 0, "scale_embedding": True},
    ),
    "marian_two_tables": (
        MarianMTModel,
        MarianConfig,
        {
            "pad_token_id": 3,
            "decoder_start_token_id": 3,
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": VOCAB,
            "activation_function": "swish",
        },
    ),
    "pegasus": (PegasusForConditionalGeneration, PegasusConfig, {}),
    "blenderbot": (BlenderbotForConditionalGeneration, BlenderbotConfig, {"activation_function": "relu"}),
}


def _torch_model(case: str, **changes: Any) -> Any:
    kind, config_class, settings = CASES[case]
    config = config_class(**{**SIZES, **settings, **changes})
    config._attn_implementation = "eager"
    model = randomise(kind(config), sorted(CASES).index(case))
    if case == "bart":
        model.generation_config.forced_bos_token_id = 0
    with torch.no_grad():
        model.final_logits_bias.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    if case.startswith("marian"):
        # constants of the class, which no file holds: as the class makes them
        fresh = kind(config)
        for piece in ("encoder", "decoder"):
            table = fresh.get_submodule(f"model.{piece}.embed_positions").weight
            model.get_submodule(f"model.{piece}.embed_positions").weight.data.copy_(table)
    return model


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, EncoderDecoder, Path]:
    reference = _torch_model(request.param)
    folder = saved(reference, tmp_path_factory.mktemp(request.param))
    return reference, EncoderDecoder.from_pretrained(folder), folder


@eqx.filter_jit
def _call(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> Any:
    return model(**arrays, output_attentions=True, output_hidden_states=True)


def _torch_call(reference: Any, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return reference(**as_torch(arrays), use_cache=False, **options)


def _close(ours: Any, theirs: torch.Tensor, tolerance: float, valid: np.ndarray) -> None:
    keep = valid.astype(bool)
    np.testing.assert_allclose(np.asarray(ours)[keep], theirs.numpy()[keep], rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_everything_a_call_returns_equals_torch(both: tuple[Any, EncoderDecoder, Path], layout: Any) -> None:
    reference, model, _ = both
    model = model.with_layout(layout)
    for padding in ("right", "left"):
        arrays = random_batch(1, padding=padding)
        theirs = _torch_call(reference, arrays, output_attentions=True, output_hidden_states=True)
        ours = _call(model, arrays)
        source, target = arrays["attention_mask"], arrays["decoder_attention_mask"]
        _close(ours.logits, theirs.logits, PARITY_LOGITS, target)
        for mine, reference_states, valid in (
            (ours.encoder_hidden_states, theirs.encoder_hidden_states, source),
            (ours.decoder_hidden_states, theirs.decoder_hidden_states, target),
        ):
            for state, expected in zip(mine, reference_states, strict=True):
                _close(state, expected, PARITY_HIDDEN, valid)
        for mine, reference_weights, valid in (
            (ours.encoder_attentions, theirs.encoder_attentions, source),
            (ours.decoder_attentions, theirs.decoder_attentions, target),
            (ours.cross_attentions, theirs.cross_attentions, target),
        ):
            for weights, expected in zip(mine, reference_weights, strict=True):
                _close(np.moveaxis(np.asarray(weights), 1, 2), expected.transpose(1, 2), PARITY_ATTENTION, valid)


def test_incremental_decoding_equals_torchs_full_pass(both: tuple[Any, EncoderDecoder, Path]) -> None:
    reference, model, _ = both
    arrays = random_batch(5)
    theirs = _torch_call(reference, arrays).logits
    encode = quick_jit(lambda m, ids, mask: m.encode(ids, attention_mask=mask))
    decode = quick_jit(lambda m, ids, mask, cache: m.decode(ids, decoder_attention_mask=mask, cache=cache))
    cache = model.init_cache(
        encode(model, arrays["input_ids"], arrays["attention_mask"]),
        9,
        encoder_attention_mask=arrays["attention_mask"],
    )
    logits, start = [], 0
    for size in (3, 1, 3):
        part = slice(start, start + size)
        out = decode(model, arrays["decoder_input_ids"][:, part], arrays["decoder_attention_mask"][:, part], cache)
        cache, start = out.cache, start + size
        logits.append(out.logits)
    _close(np.concatenate(logits, axis=1), theirs, PARITY_LOGITS, arrays["decoder_attention_mask"])


@quick_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: EncoderDecoder, arrays: dict[str, np.ndarray], labels: np.ndarray) -> jax.Array:
    total, weight = seq2seq_loss(model(**arrays).logits, labels)
    return total / weight


def test_loss_and_every_gradient_equal_torch(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    reference, model, _ = both
    arrays = random_batch(2)
    labels = np.where(arrays["decoder_attention_mask"] == 1, np.roll(arrays["decoder_input_ids"], -1, 1), -100)
    loss, grads = _loss_and_gradients(model, arrays, labels)
    reference.zero_grad()
    logits = reference(**as_torch(arrays), use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).long().flatten())
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    grads.save_pretrained(tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    constants = [name for name in ours if name == "final_logits_bias" or name.endswith("embed_positions.weight")]
    for name in constants:
        learned = name != "final_logits_bias" and reference.get_parameter(name).requires_grad
        assert ours[name].any() == learned
    compared = [(n, p) for n, p in reference.named_parameters() if p.requires_grad and p.grad is not None]
    for name, parameter in compared:
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), rtol=0, atol=PARITY_GRADIENT, err_msg=name)
    assert {name for name, _ in compared} >= set(ours) - set(constants)


def test_greedy_ids_and_generation_defaults_equal_torch(both: tuple[Any, EncoderDecoder, Path]) -> None:
    reference, model, _ = both
    batch = random_batch(3)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for options in ({"max_new_tokens": 12}, {"max_length": 6}):
        expected = reference.generate(**as_torch(source), num_beams=1, do_sample=False, **options).numpy()
        got = model.generate(**source, **options)
        np.testing.assert_array_equal(got.sequences, expected)
        ends = reference.generation_config.forced_eos_token_id
        assert (expected == ends).any(axis=1).all()


def test_saving_gives_torch_the_same_model(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    reference, model, folder = both
    model.with_layout("scanned").save_pretrained(tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.tobytes() == ours[name].tobytes(), name
    again, info = type(reference).from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    # torch ties nothing where the head has a matrix of its own, and then misses tables that it does not save either
    broken = not reference.config.tie_word_embeddings
    assert {"embed_tokens" in name for name in info["missing_keys"]} <= {broken}
    if not broken:
        arrays = random_batch(4)
        assert torch.equal(_torch_call(again, arrays).logits, _torch_call(reference, arrays).logits)
    for name in ("generation_config", "config"):
        before, after = getattr(reference, name).to_diff_dict(), getattr(again, name).to_diff_dict()
        skipped = {"transformers_version", "_from_model_config", "dtype", "_name_or_path"}
        assert {k: v for k, v in before.items() if k not in skipped}.items() <= after.items()


def test_pieces_are_whole_and_alone(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    _, model, folder = both
    encoder, decoder = model.pieces()
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    for kind, piece, name in ((Encoder, encoder, "encoder"), (Decoder, decoder, "decoder")):
        assert eqx.tree_equal(kind.from_pretrained(tmp_path / name), piece)
        assert eqx.tree_equal(kind.from_pretrained(folder), piece)


@pytest.mark.parametrize("case", ["bart", "marian", "pegasus"])
def test_a_decoder_taken_out_works_behind_bert(case: str, tmp_path: Path) -> None:
    """Torch's decoders know no bias of the logits: with one of zeros the pair is torch's, with another it is ours."""
    reference = _torch_model(case)
    biased = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "biased")).pieces()[1]
    reference.final_logits_bias.zero_()
    plain = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "plain")).pieces()[1]
    bert = randomise(BertModel(BertConfig(VOCAB, 20, 2, 4, 30, max_position_embeddings=20)), 7)
    encoder = Encoder.from_pretrained(saved(bert, tmp_path / "bert"))
    pair = EncoderDecoder.from_pieces(encoder, plain)
    pair.save_pretrained(tmp_path / "pair")
    theirs, info = EncoderDecoderModel.from_pretrained(
        tmp_path / "pair", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    arrays = random_batch(6)
    expected = _torch_call(theirs.eval(), arrays).logits
    _close(_call(pair, arrays).logits, expected, PARITY_LOGITS, arrays["decoder_attention_mask"])
    own = EncoderDecoder.from_pieces(encoder, biased)
    own.save_pretrained(tmp_path / "own")
    again = EncoderDecoder.from_pretrained(tmp_path / "own")
    assert eqx.tree_equal(again.decoder, own.decoder)
    assert np.abs(np.asarray(own.decoder.head.bias)).max() > 0.1


def test_a_base_model_is_a_whole_model_without_a_bias(tmp_path: Path) -> None:
    reference = _torch_model("bart").model
    assert isinstance(reference, BartModel)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path))
    arrays = random_batch(1)
    expected = _torch_call(reference, arrays).last_hidden_state @ reference.shared.weight.T
    _close(_call(model, arrays).logits, expected.detach(), PARITY_LOGITS, arrays["decoder_attention_mask"])


def test_marian_may_have_two_vocabularies(tmp_path: Path) -> None:
    reference = _torch_model("marian_two_tables")
    reference.resize_decoder_token_embeddings(47)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "theirs"))
    arrays = random_batch(1)
    arrays["decoder_input_ids"] %= 47
    expected = _torch_call(reference, arrays).logits
    assert expected.shape[-1] == 47
    _close(_call(model, arrays).logits, expected, PARITY_LOGITS, arrays["decoder_attention_mask"])
    model.save_pretrained(tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(tensor.tobytes() == ours[name].tobytes() for name, tensor in theirs.items())


def test_runs_of_the_source_are_forbidden_as_torch_forbids_them() -> None:
    from transformers.generation.logits_process import EncoderNoRepeatNGramLogitsProcessor

    rng = np.random.default_rng(0)
    source, prefix = rng.integers(0, 4, (3, 12), dtype=np.int32), rng.integers(0, 4, (3, 7), dtype=np.int32)
    for size in (1, 2, 3):
        theirs = EncoderNoRepeatNGramLogitsProcessor(size, torch.from_numpy(source).long())
        ours = functools.partial(SourceNGrams(source, np.asarray(12, np.int32), size, 1))
        for length in (1, 3, 7):
            expected = theirs(torch.from_numpy(prefix[:, :length]).long(), torch.zeros(3, 5)).numpy()
            got = ours(jax.numpy.zeros((3, 5)), jax.numpy.asarray(prefix), jax.numpy.asarray(length, jax.numpy.int32))
            np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
