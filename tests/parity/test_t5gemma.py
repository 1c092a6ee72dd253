"""T5Gemma's whole checkpoints against live torch, and the pieces that come apart.

Torch masks by ids where no mask is given, and its cache of a window forgets source positions: here masks are given, and
`generate` keeps all.
"""

import copy
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from quick import quick_jit
from safetensors.numpy import load_file
from tiny import T5GEMMAS
from transformers import PretrainedConfig, T5GemmaConfig, T5GemmaForConditionalGeneration
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaDecoder, T5GemmaEncoder, T5GemmaEncoderModel

from encdec_eqx import Decoder, Encoder, EncoderDecoder, seq2seq_loss
from encdec_eqx.hf.families import WHOLES
from encdec_eqx.training import shift_tokens_right
from hf import as_torch, random_batch, randomise, saved
from tolerances import (
    BF16_RATIO,
    FAMILY_GRADIENT,
    FAMILY_HIDDEN,
    PARITY_ATTENTION,
    PARITY_LOGITS,
    PARITY_LOSS,
    SEQUENCE_SCORES,
)

Arrays = dict[str, np.ndarray]
# All that differs between a config and the same one read back.
OF_THE_FILE = {"_name_or_path", "transformers_version", "dtype", "add_cross_attention"}


def _torch_model(case: str) -> Any:
    config = T5GEMMAS[case]()
    return randomise(T5GemmaForConditionalGeneration._from_config(config, attn_implementation="eager"), 3)


@pytest.fixture(scope="module", params=T5GEMMAS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, EncoderDecoder, Path]:
    reference = _torch_model(request.param)
    folder = saved(reference, tmp_path_factory.mktemp(request.param))
    return reference, EncoderDecoder.from_pretrained(folder), folder


@quick_jit
def _call(model: EncoderDecoder, arrays: Arrays) -> Any:
    return model(**arrays, output_attentions=True, output_hidden_states=True)


def _torch_call(reference: Any, arrays: Arrays, **options: Any) -> Any:
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
        for name, valid in (("encoder_hidden_states", source), ("decoder_hidden_states", target)):
            for state, expected in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                _close(state, expected, FAMILY_HIDDEN, valid)
        for name, valid in (
            ("encoder_attentions", source),
            ("decoder_attentions", target),
            ("cross_attentions", target),
        ):
            for weights, expected in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                _close(np.moveaxis(np.asarray(weights), 1, 2), expected.transpose(1, 2), PARITY_ATTENTION, valid)


@quick_jit
def _in_chunks(model: EncoderDecoder, arrays: Arrays) -> jax.Array:
    source = arrays["attention_mask"]
    cache = model.init_cache(model.encode(arrays["input_ids"], attention_mask=source), 9, encoder_attention_mask=source)
    logits = []
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        ids, mask = arrays["decoder_input_ids"][:, part], arrays["decoder_attention_mask"][:, part]
        out = model.decode(ids, decoder_attention_mask=mask, cache=cache)
        cache = out.cache
        logits.append(out.logits)
    return jax.numpy.concatenate(logits, axis=1)


def test_incremental_decoding_equals_torchs_full_pass(both: tuple[Any, EncoderDecoder, Path]) -> None:
    reference, model, _ = both
    arrays = random_batch(5)
    theirs = _torch_call(reference, arrays).logits
    _close(_in_chunks(model, arrays), theirs, PARITY_LOGITS, arrays["decoder_attention_mask"])


@quick_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: EncoderDecoder, arrays: Arrays, labels: np.ndarray) -> jax.Array:
    total, weight = seq2seq_loss(model(**arrays).logits, labels)
    return total / weight


def test_loss_and_every_gradient_equal_torch(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    """Torch shifts the labels itself, behind the decoder's BOS token."""
    reference, model, _ = both
    arrays = random_batch(2)
    labels = np.where(arrays["decoder_attention_mask"] == 1, arrays.pop("decoder_input_ids"), -100)
    tokens = model.special_tokens
    assert tokens.decoder_start_token_id == reference.config.decoder.bos_token_id
    shifted = shift_tokens_right(labels, tokens.pad_token_id, tokens.decoder_start_token_id)
    loss, grads = _loss_and_gradients(model, {**arrays, "decoder_input_ids": np.asarray(shifted)}, labels)
    reference.zero_grad()
    expected = reference(**as_torch({**arrays, "labels": labels}), use_cache=False).loss
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    grads.save_pretrained(tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    assert set(ours) == {name for name, _ in reference.named_parameters()}
    for name, gradient in ours.items():
        theirs = reference.get_parameter(name).grad.numpy()
        allowed = FAMILY_GRADIENT * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(gradient, theirs, rtol=0, atol=allowed, err_msg=name)


@quick_jit
def _logits(model: EncoderDecoder, arrays: Arrays) -> jax.Array:
    return model(**arrays).logits


def test_bfloat16_is_as_close_as_torchs(both: tuple[Any, EncoderDecoder, Path]) -> None:
    """On average over several batches: on one alone either may be twice as close as the other."""
    reference, _, folder = both
    half = copy.deepcopy(reference).to(torch.bfloat16)
    model = EncoderDecoder.from_pretrained(folder, dtype=jax.numpy.bfloat16)
    errors, allowed = [], []
    for seed in range(8):
        arrays = random_batch(seed)
        valid = arrays["decoder_attention_mask"] == 1
        wide = _torch_call(reference, arrays).logits.numpy()[valid]
        errors.append(np.square(np.asarray(_logits(model, arrays))[valid] - wide).mean())
        allowed.append(np.square(_torch_call(half, arrays).logits.float().numpy()[valid] - wide).mean())
    assert np.sqrt(np.mean(errors)) <= BF16_RATIO * np.sqrt(np.mean(allowed))


def test_greedy_ids_and_beams_equal_torch(both: tuple[Any, EncoderDecoder, Path]) -> None:
    """The source is longer than the windows."""
    reference, model, _ = both
    batch = random_batch(3)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {"max_new_tokens": 12}
    whole = {"cache_implementation": "dynamic_full", "do_sample": False}
    expected = reference.generate(**as_torch(source), **options, **whole, num_beams=1)
    np.testing.assert_array_equal(model.generate(**source, **options).sequences, expected.numpy())
    options |= {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7}
    expected = reference.generate(
        **as_torch(source), **options, **whole, output_scores=True, return_dict_in_generate=True
    )
    got = model.generate(**source, **options)
    np.testing.assert_array_equal(got.sequences, expected.sequences.numpy())
    np.testing.assert_allclose(got.scores.ravel(), expected.sequences_scores, rtol=0, atol=SEQUENCE_SCORES)


def _flat(config: PretrainedConfig) -> dict[str, Any]:
    said = config.to_dict()
    nested = {f"{role}.{name}": value for role in ("encoder", "decoder") for name, value in said.pop(role).items()}
    return {name: value for name, value in {**said, **nested}.items() if name.split(".")[-1] not in OF_THE_FILE}


def test_saving_gives_torch_the_same_model(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    reference, model, folder = both
    model.with_layout("scanned").save_pretrained(tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.tobytes() == ours[name].tobytes(), name
    again, info = type(reference).from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    arrays = random_batch(4)
    assert torch.equal(_torch_call(again, arrays).logits, _torch_call(reference, arrays).logits)
    assert _flat(reference.config).items() <= _flat(again.config).items()
    before, after = reference.generation_config.to_diff_dict(), again.generation_config.to_diff_dict()
    assert {n: v for n, v in before.items() if n.endswith("token_id")}.items() <= after.items()


def test_pieces_come_apart_as_torchs_classes_have_them(both: tuple[Any, EncoderDecoder, Path], tmp_path: Path) -> None:
    reference, model, folder = both
    arrays = random_batch(6)
    source, target = arrays["attention_mask"], arrays["decoder_attention_mask"]
    pieces = model.pieces()
    for kind, name, piece, inner in (
        (Encoder, "encoder", pieces[0], T5GemmaEncoder),
        (Decoder, "decoder", pieces[1], T5GemmaDecoder),
    ):
        piece.save_pretrained(tmp_path / name)
        assert eqx.tree_equal(kind.from_pretrained(tmp_path / name), piece)
        assert eqx.tree_equal(kind.from_pretrained(folder), piece)
        # torch's class for a piece takes its config from the caller, with the width of the source's states said
        config = T5GemmaModuleConfig.from_pretrained(tmp_path / name)
        config.cross_attention_hidden_size = reference.config.encoder.hidden_size
        again, info = inner.from_pretrained(
            tmp_path / name, config=config, output_loading_info=True, attn_implementation="eager"
        )
        assert not info["missing_keys"]
        assert set(info["unexpected_keys"]) <= {"lm_head.out_proj.weight"}
        theirs = as_torch(arrays)
        states = _torch_call(reference, arrays).encoder_last_hidden_state
        inputs: dict[str, Any] = {"input_ids": theirs["input_ids"], "attention_mask": theirs["attention_mask"]}
        if name == "decoder":
            inputs = {"input_ids": theirs["decoder_input_ids"], "attention_mask": theirs["decoder_attention_mask"]}
            inputs |= {"encoder_hidden_states": states, "encoder_attention_mask": theirs["attention_mask"]}
            inputs |= {"use_cache": False}
        with torch.no_grad():
            got = again.eval()(**inputs).last_hidden_state
            wanted = reference.get_submodule(f"model.{name}")(**inputs).last_hidden_state
        assert torch.equal(got, wanted)
    encoded = eqx.filter_jit(pieces[0])(arrays["input_ids"], attention_mask=source)
    _close(encoded.last_hidden_state, states, FAMILY_HIDDEN, source)
    joined = EncoderDecoder.from_pieces(*pieces)
    _close(_call(joined, arrays).logits, _torch_call(reference, arrays).logits, PARITY_LOGITS, target)
    joined.save_pretrained(tmp_path / "pair")
    again = EncoderDecoder.from_pretrained(tmp_path / "pair")
    assert eqx.tree_equal((again.encoder, again.decoder), pieces)


def test_files_of_base_models_and_of_encoders_alone_are_read(tmp_path: Path) -> None:
    reference = _torch_model("t5gemma")
    arrays = random_batch(1)
    model = EncoderDecoder.from_pretrained(saved(reference.model, tmp_path / "base"))
    expected = _torch_call(reference, arrays)
    _close(_call(model, arrays).logits, expected.logits, PARITY_LOGITS, arrays["decoder_attention_mask"])
    alone = T5GemmaEncoderModel._from_config(T5GEMMAS["t5gemma"](is_encoder_decoder=False), attn_implementation="eager")
    alone.encoder.load_state_dict(reference.model.encoder.state_dict())
    folder = saved(alone, tmp_path / "encoder")
    assert eqx.tree_equal(Encoder.from_pretrained(folder), model.encoder)
    with pytest.raises(ValueError, match="A single encoder or decoder is loaded with"):
        EncoderDecoder.from_pretrained(folder)


def test_what_the_config_of_both_says_wins_in_torch_too(tmp_path: Path) -> None:
    """A piece's dropout, vocabulary and head are what the whole says, whatever its own config says."""
    folder = saved(_torch_model("t5gemma"), tmp_path)
    said = json.loads((folder / "config.json").read_text())
    for role in ("encoder", "decoder"):
        said[role] |= {"dropout_rate": 0.9, "attention_dropout": 0.9, "vocab_size": 7}
    said["decoder"] |= {"tie_word_embeddings": False, "cross_attention_hidden_size": 5, "is_decoder": False}
    (folder / "config.json").write_text(json.dumps(said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = T5GemmaConfig.from_pretrained(folder)
    model = EncoderDecoder.from_pretrained(folder)
    for piece, config in ((model.encoder, theirs.encoder), (model.decoder, theirs.decoder)):
        assert piece.config.vocab_size == config.vocab_size
        assert piece.config.dropout == config.dropout_rate
        assert piece.config.attention.dropout == config.attention_dropout
    assert model.decoder.config.cross_width == theirs.decoder.cross_attention_hidden_size
    assert model.decoder.head.projection is None


def test_every_attribute_of_the_config_of_both_is_known() -> None:
    said = _config_names() | {"model_type": "t5gemma", "encoder": {}, "decoder": {}}
    assert not WHOLES["t5gemma"].read(said).unknown


def _config_names() -> dict[str, Any]:
    """What torch's class takes and writes, at its defaults."""
    taken = inspect.signature(T5GemmaConfig.__init__).parameters
    names = {name: taken[name].default for name in taken if name not in ("self", "kwargs")}
    return {**PretrainedConfig().to_dict(), **T5GemmaConfig().to_dict(), **names}
