"""Whole checkpoints of BART, T5 and their kin against live torch: both pieces of one family in its own format."""

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
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    EncoderDecoderModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Decoder, M2M100Encoder

from encdec_eqx import Decoder, Encoder, EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.generation.processors import SourceNGrams
from encdec_eqx.targets import TargetForm
from hf import VOCAB, as_torch, random_batch, randomise, saved
from tolerances import PARITY_ATTENTION, PARITY_GRADIENT, PARITY_HIDDEN, PARITY_LOGITS, PARITY_LOSS

SIZES: dict[str, Any] = {
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
T5_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 28,
    "num_heads": 4,
    # torch's cache has as many layers as the encoder: a deeper decoder overruns it
    "num_layers": 3,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 7,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
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
    "blenderbot_small": (
        BlenderbotSmallForConditionalGeneration,
        BlenderbotSmallConfig,
        {"scale_embedding": True, "activation_function": "swish"},
    ),
    "plbart": (PLBartForConditionalGeneration, PLBartConfig, {"decoder_start_token_id": 5}),
    "plbart_unscaled": (
        PLBartForConditionalGeneration,
        PLBartConfig,
        {"decoder_start_token_id": 5, "scale_embedding": False, "tie_word_embeddings": False},
    ),
    "m2m_100": (M2M100ForConditionalGeneration, M2M100Config, {}),
    "m2m_100_other": (
        M2M100ForConditionalGeneration,
        M2M100Config,
        # the id of padding is among those of the batches
        {"pad_token_id": 6, "scale_embedding": False, "activation_function": "gelu"},
    ),
    "t5": (T5ForConditionalGeneration, T5Config, {**T5_SIZES, "layer_norm_epsilon": 1e-3}),
    "t5_gated_untied": (
        T5ForConditionalGeneration,
        T5Config,
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config, {**T5_SIZES, "feed_forward_proj": "gated-silu"}),
    "umt5": (UMT5ForConditionalGeneration, UMT5Config, {**T5_SIZES, "pad_token_id": 2, "eos_token_id": [1, 9]}),
}


def _torch_model(case: str, **changes: Any) -> Any:
    kind, config_class, settings = CASES[case]
    sizes = {} if "num_layers" in settings else SIZES
    config = config_class(**{**sizes, **settings, **changes})
    config._attn_implementation = "eager"
    model = randomise(kind(config), sorted(CASES).index(case))
    if case == "bart":
        model.generation_config.forced_bos_token_id = 0
    if config.model_type == "m2m_100":
        model.generation_config.forced_eos_token_id = 2
        model.generation_config.forced_bos_token_id = 9 if case == "m2m_100" else None
    for bias in (buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"):
        bias.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
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
    buffers = {name for name, _ in reference.named_buffers()}
    constants = [name for name in ours if name in buffers or name.endswith("embed_positions.weight")]
    for name in constants:
        learned = name not in buffers and reference.get_parameter(name).requires_grad
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
        assert ends is None or (expected == ends).any(axis=1).all()


def test_the_loss_of_labels_equals_torch(both: tuple[Any, EncoderDecoder, Path]) -> None:
    reference, model, _ = both
    batch = random_batch(7, padding="left")
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    real = batch["decoder_attention_mask"][:, ::-1] == 1
    labels = np.where(real, batch["decoder_input_ids"], -100)
    if reference.config.model_type in ("mbart", "plbart"):
        # a language's code behind the end, as their tokenizers put it, which is what torch's decoders start with
        labels[np.arange(len(labels)), real.sum(axis=1) - 2] = reference.config.eos_token_id
    with torch.no_grad():
        loss = reference(**as_torch(source), labels=torch.from_numpy(labels).long()).loss
    pad, start = model.special_tokens.pad_token_id, TargetForm.of(model).starts(labels)
    assert pad is not None
    assert start is not None
    shifted = np.array(shift_tokens_right(labels, pad, start))
    total, weight = seq2seq_loss(_call(model, {**source, "decoder_input_ids": shifted}).logits, labels)
    np.testing.assert_allclose(total / weight, loss, rtol=0, atol=PARITY_LOSS)


def _same_up_to_the_end(ours: np.ndarray, theirs: np.ndarray, end: int | list[int]) -> None:
    """Behind it torch fills with the end where the padding is 0, and so counts as none."""
    assert ours.shape == theirs.shape
    for mine, reference in zip(ours, theirs, strict=True):
        (ends,) = np.nonzero(np.isin(reference[1:], end))
        length = ends[0] + 2 if len(ends) else len(reference)
        np.testing.assert_array_equal(mine[:length], reference[:length])


def test_beams_and_their_scores_equal_torch(both: tuple[Any, EncoderDecoder, Path]) -> None:
    reference, model, _ = both
    batch = random_batch(3)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9, "length_penalty": 0.7}
    if reference.config.model_type == "m2m_100":
        # a call's own language wins over the file's
        options["forced_bos_token_id"] = 11
    expected = reference.generate(
        **as_torch(source), **options, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    got = model.generate(**source, **options)
    _same_up_to_the_end(got.sequences, expected.sequences.numpy(), reference.config.eos_token_id)
    np.testing.assert_allclose(got.scores.ravel(), expected.sequences_scores, rtol=0, atol=PARITY_LOGITS)


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


def test_pieces_of_m2m_100_are_torchs(tmp_path: Path) -> None:
    """As torch's classes write them, which is how SONAR's encoder is stored, and read them."""
    reference = _torch_model("m2m_100")
    arrays = random_batch(2)
    encoder = Encoder.from_pretrained(saved(reference.model.encoder, tmp_path / "encoder"))
    decoder = Decoder.from_pretrained(saved(reference.model.decoder, tmp_path / "decoder"))
    whole = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "whole"))
    assert eqx.tree_equal(whole.pieces(), (encoder, decoder))
    pair = EncoderDecoder.from_pieces(encoder, decoder)
    expected = _torch_call(reference, arrays).logits
    _close(_call(pair, arrays).logits, expected, PARITY_LOGITS, arrays["decoder_attention_mask"])
    for kind, piece in ((M2M100Encoder, encoder), (M2M100Decoder, decoder)):
        piece.save_pretrained(tmp_path / kind.__name__)
        again, info = kind.from_pretrained(
            tmp_path / kind.__name__, output_loading_info=True, attn_implementation="eager"
        )
        assert not any(info.values()), info
        theirs = getattr(reference.model, "encoder" if kind is M2M100Encoder else "decoder").state_dict()
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_m2m_100_go_on_as_in_torch(beams: int, tmp_path: Path) -> None:
    """Padding inside counts: a token behind a cache is numbered by how many are before it."""
    reference = _torch_model("m2m_100_other")
    padding = reference.config.pad_token_id
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path))
    source = {name: random_batch(4)[name] for name in ("input_ids", "attention_mask")}
    prompt = np.array([[2, 9, 30, 17], [2, 9, padding, 8], [2, padding, padding, 21]], np.int32)
    options = {"decoder_input_ids": prompt, "decoder_attention_mask": np.ones_like(prompt)}
    settings: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 8}
    expected = reference.generate(**as_torch({**source, **options}), **settings, do_sample=False).numpy()
    got = model.generate(**source, **options, **settings)
    _same_up_to_the_end(got.sequences, expected, reference.config.eos_token_id)
    # left padding changes no row, as it does in torch
    padded = np.concatenate([np.full((3, 2), padding, np.int32), prompt], axis=1)
    mask = np.concatenate([np.zeros((3, 2), np.int32), np.ones_like(prompt)], axis=1)
    again = model.generate(**source, decoder_input_ids=padded, decoder_attention_mask=mask, **settings)
    np.testing.assert_array_equal(again.sequences[:, 2:], got.sequences)


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
