"""Whether a device computes right numbers: tiny models against torch's, which travel with the package, or a model live.

The stored numbers are torch's in float64, made by `tests/parity/make_verification.py`. Weights and inputs come from
whole-number arithmetic in NumPy, the same on every machine and with every version; they have eight significant bits,
so that they are the same in bfloat16.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._quoting import printable
from ._trees import astype, path_name
from .config import StackConfig
from .decoder import Decoder
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder
from .training.loss import seq2seq_loss

NUMBERS = "verification_numbers.json"

SOURCE, TARGET, NEW_TOKENS, BEAMS = 9, 7, 8, 3
_PAD, _START, _END, _FIRST = 0, 1, 2, 3
_LABEL_IGNORED = -100

_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 48, "pad_token_id": _PAD}
_IDS = {"bos_token_id": _START, "eos_token_id": _END, "pad_token_id": _PAD}
_AS_DECODER = {"is_decoder": True, "add_cross_attention": True}
_BERT = {**_SMALL, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 32, "type_vocab_size": 2}
_GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 48, **_IDS}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}

MODELS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bert to gpt2": ({"model_type": "bert", **_BERT}, {"model_type": "gpt2", **_GPT2, **_AS_DECODER}),
    "t5 to bert": (
        {"model_type": "t5", **_T5, "vocab_size": 48, "pad_token_id": _PAD},
        {"model_type": "bert", **_BERT, **_IDS, **_AS_DECODER},
    ),
    "roformer to roberta": (
        {"model_type": "roformer", **_BERT, "embedding_size": 64, "rotary_value": False},
        {"model_type": "roberta", **_BERT, **_IDS, **_AS_DECODER},
    ),
}
"""Configs of the pairs: between them norms before and after, LayerNorm and RMSNorm, learned, relative and rotated
positions, plain and gated perceptrons, tied heads, biases, and a projection."""

# Largest errors that were measured, on a CPU (AMD EPYC, jax 0.10.2 and 0.12.0.1): float32 1.3e-6, bfloat16 3.1e-2.
_TOLERANCES = {"float32": 5e-5, "bfloat16": 1e-1}
_DEEPER = 4  # of real models, which have some dozen layers where these have two


@dataclasses.dataclass(frozen=True)
class Check:
    """One number, or some, against what they should be.

    Attributes:
        model: which model.
        what: what of it is compared.
        setting: dtype and precision of matrix products.
        error: the largest difference, relative to the largest number; of ids, how many differ.
        tolerance: the largest error that passes.
    """

    model: str
    what: str
    setting: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; one that is no number is not."""
        return self.error <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify_device` or `verify_model` found.

    Attributes:
        device: the device in words.
        reference: what it was compared with.
        checks: in the order in which they were made.
    """

    device: str
    reference: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify_device(*, report: Callable[[Check], None] = lambda check: None) -> Verification:
    """Compute what is stored on the default device, and compare.

    Logits, the loss, norms of gradients, and the ids of greedy and beam search of three tiny pairs: in float32 with
    the highest precision of matrix products, and in bfloat16; other devices than CPUs also in float32 with the
    precision that jax takes by itself, which on a GPU may be TF32 and on a TPU bfloat16 and is held to bfloat16's
    tolerance. Some 30 s on two CPU cores, nearly all of it compilation.

    Args:
        report: called with each check as it is made.
    """
    stored = stored_numbers()
    checks: list[Check] = []
    for name, expected in stored["models"].items():
        for check in _checks_of(name, expected):
            checks.append(check)
            report(check)
    return Verification(device_in_words(), stored["made_with"], tuple(checks))


def stored_numbers() -> dict[str, Any]:
    """The content of `NUMBERS`: what made it, and what is expected of each of `MODELS`."""
    return json.loads((resources.files("encdec_eqx") / NUMBERS).read_text(encoding="utf-8"))


def verify_model(path: str | os.PathLike, *, report: Callable[[Check], None] = lambda check: None) -> Verification:
    """Compare a saved pair, or a whole checkpoint, with torch's run of the same files, live and in float32.

    Args:
        path: a folder, or a Hub id.
        report: called with each check as it is made.

    Raises:
        ImportError: torch or transformers is not installed.
        ValueError: the checkpoint is not one that torch loads whole.
    """
    model = EncoderDecoder.from_pretrained(path)
    sizes = model.encoder.config.vocab_size, model.decoder.config.vocab_size
    batch = example_batch(*sizes)
    theirs = _torch_logits(path, batch, set(model.load_report.loaded))
    checks = []
    for setting, precision, tolerance in _float32_settings():
        ours = _forward(model, batch, precision)[0]
        checks.append(Check(printable(path), "logits", setting, _error(ours, theirs), tolerance * _DEEPER))
        report(checks[-1])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return Verification(device_in_words(), f"{versions} on the CPU, float32, eager attention", tuple(checks))


def device_in_words() -> str:
    """The default device, jax's version, and what it does with float32 products by itself."""
    device = jax.devices()[0]
    asked = jax.config.values["jax_default_matmul_precision"]
    precision = "none is set" if asked is None else f"{asked!r} is set"
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    version = importlib.metadata.version("jax")
    return f"{device.platform} ({kind}), jax {version}; jax_default_matmul_precision: {precision}"


def build(name: str) -> EncoderDecoder:
    """One of `MODELS`, in float32."""
    return jax.tree_util.tree_map_with_path(_filled, _shapes(name))


def example_batch(source_ids: int = 48, target_ids: int = 48) -> dict[str, np.ndarray]:
    """Two rows, one of them padded, for vocabularies of these sizes; ids below 3 stand for what is special."""
    source = _FIRST + _hashed("input_ids", 2 * SOURCE) % (source_ids - _FIRST)
    target = _FIRST + _hashed("decoder_input_ids", 2 * TARGET) % (target_ids - _FIRST)
    mask = np.ones((2, SOURCE), np.int32)
    mask[1, 6:] = 0
    labels = np.roll(target.reshape(2, TARGET), -1, axis=1).astype(np.int32)
    labels[1, 5:] = _LABEL_IGNORED
    return {
        "input_ids": np.where(mask == 1, source.reshape(2, SOURCE), _PAD).astype(np.int32),
        "attention_mask": mask,
        "decoder_input_ids": target.reshape(2, TARGET).astype(np.int32),
        "labels": labels,
    }


@functools.cache
def _shapes(name: str) -> EncoderDecoder:
    encoder, decoder = map(StackConfig.from_hf, MODELS[name])

    def join() -> EncoderDecoder:
        key = jax.random.key(0)
        return EncoderDecoder.from_pieces(Encoder.init(encoder, key=key), Decoder.init(decoder, key=key), key=key)

    model = eqx.filter_eval_shape(join)
    return model.with_special_tokens(decoder_start_token_id=_START, eos_token_id=_END, pad_token_id=_PAD)


def _hashed(name: str, count: int) -> np.ndarray:
    """Whole numbers below 2³², by the finaliser of MurmurHash3 over a count that begins at the name's checksum."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return (x ^ (x >> np.uint32(16))).astype(np.int64)


def _filled(path: Any, leaf: Any) -> jax.Array:
    """Numbers between -0.25 and 0.25; scales of norms lie around 1."""
    name = path_name(path)
    numbers = _hashed(name, math.prod(leaf.shape)).reshape(leaf.shape)
    is_scale = "norm" in name and name.endswith("weight")
    values = 1 + (numbers // 2**28 - 8) / 64 if is_scale else (numbers // 2**24 - 128) / 512
    return jnp.asarray(values.astype(np.float32))


def _float32_settings() -> list[tuple[str, str | None, float]]:
    """Name, precision of products and tolerance. A CPU knows one precision."""
    settings: list[tuple[str, str | None, float]] = [("float32, highest", "highest", _TOLERANCES["float32"])]
    if jax.default_backend() != "cpu":
        settings += [("float32, default", None, _TOLERANCES["bfloat16"])]
    return settings


def _checks_of(name: str, expected: Mapping[str, Any]) -> Iterator[Check]:
    model, batch = build(name), example_batch()
    settings = [(model, *setting) for setting in _float32_settings()]
    settings += [(astype(model, jnp.bfloat16), "bfloat16", None, _TOLERANCES["bfloat16"])]
    for theirs, setting, precision, tolerance in settings:
        logits, loss, norms = _forward(theirs, batch, precision)
        yield Check(name, "logits", setting, _error(logits, expected["logits"]), tolerance)
        yield Check(name, "loss", setting, _error(loss, expected["loss"]), tolerance)
        yield Check(name, "gradient norms", setting, _error(norms, expected["gradient_norms"]), tolerance)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    searches: dict[str, dict[str, Any]] = {"greedy ids": {}, "beam ids": {"num_beams": BEAMS}}
    for what, options in searches.items():
        with jax.default_matmul_precision("highest"):
            result = model.generate(**source, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, **options)
        ids = np.asarray(expected[what])
        wrong = np.sum(result.sequences != ids) if result.sequences.shape == ids.shape else ids.size
        yield Check(name, what, "float32, highest", float(wrong), 0.0)
        if "num_beams" in options:
            error = _error(result.scores, expected["beam scores"])
            yield Check(name, "beam scores", "float32, highest", error, _TOLERANCES["float32"])


def _forward(model: EncoderDecoder, batch: Mapping[str, np.ndarray], precision: str | None) -> tuple[Any, Any, Any]:
    """Logits, the loss, and the norms of its gradient for the encoder, the decoder and all."""
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    if precision is None:
        return _computed(model, arrays)
    with jax.default_matmul_precision(precision):
        return _computed(model, arrays)


def _compute(model: EncoderDecoder, batch: Mapping[str, jax.Array]) -> tuple[Any, Any, Any]:
    def loss_of(model: EncoderDecoder) -> tuple[jax.Array, jax.Array]:
        out = model(batch["input_ids"], batch["decoder_input_ids"], attention_mask=batch["attention_mask"])
        return seq2seq_loss(out.logits, batch["labels"])[0], out.logits

    (loss, logits), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(model)

    def norm(part: Any) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(part)))

    return logits, loss, jnp.stack([norm(gradient.encoder), norm(gradient.decoder), norm(gradient)])


_computed = eqx.filter_jit(_compute)


def _error(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest number that is expected."""
    expected = np.asarray(theirs, np.float64)
    return float(np.max(np.abs(np.asarray(ours, np.float64) - expected)) / np.max(np.abs(expected)))


def _torch_logits(path: str | os.PathLike, batch: Mapping[str, np.ndarray], loaded: set[str]) -> np.ndarray:
    """What torch says; `loaded` are the tensors that it has to read for that."""
    try:
        torch = importlib.import_module("torch")
        auto = importlib.import_module("transformers").AutoModelForSeq2SeqLM
    except ImportError as error:
        from ._installing import install

        raise ImportError(f"comparing a model needs torch and transformers ({error}): {install('parity')}") from None
    options = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    model, info = auto.from_pretrained(path, **options)
    amiss = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in info[kind]]
    amiss += sorted(loaded.intersection(info["unexpected_keys"]))
    if amiss:
        raise ValueError(
            f"torch does not load {printable(path)} as it is: {len(amiss)} tensors are missing or left over there, "
            f"such as {printable(amiss[0])}. What only this library reads (gates, merged attention) has no reference."
        )
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    inputs = {name: torch.from_numpy(batch[name]).long() for name in names}
    with torch.no_grad():
        return model.eval()(**inputs, use_cache=False).logits.numpy()
