"""The worker of `int8` for one dtype of ours: a random pair, or the BART that CTranslate2 has, generating greedily."""

import pathlib
import tempfile
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import _harness, _models
from benchmarks._jax_side import start
from benchmarks._memory import memory
from benchmarks._sizes import SIZES
from encdec_eqx import EncoderDecoder, quantize

_state: dict[str, Any] = {}


def prepare(*, model: str, dtype: str) -> dict[str, Any]:
    """Makes or loads the model and casts or quantizes it; the bytes of its file."""
    if model in SIZES:
        pair = EncoderDecoder.from_pieces(_models.bert(SIZES[model]), _models.gpt2(SIZES[model]))
        end = _models.END_OF_TEXT
        pair = pair.with_special_tokens(decoder_start_token_id=end, eos_token_id=end, pad_token_id=end)
    else:
        pair = EncoderDecoder.from_pretrained(pathlib.Path(model) / "hf")
    pair = quantize(pair, "int8") if dtype == "int8" else pair.astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        pair.save_pretrained(folder)
        size = next(pathlib.Path(folder).glob("*.safetensors")).stat().st_size
        # loaded, so that the floats it was made from are not in its peak of memory
        _state["model"] = EncoderDecoder.from_pretrained(folder, dtype=jnp.float32 if dtype == "int8" else dtype)
    return {"file": size}


def generate(*, batch: int, source: int, new_tokens: int) -> dict[str, Any]:
    """So many tokens for each row, from NumPy to NumPy."""
    ids = np.random.default_rng(0).integers(5, 30000, (batch, source)).astype(np.int32)
    begin = time.perf_counter()
    out = _state["model"].generate(
        ids, attention_mask=np.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens
    )
    tokens = np.asarray(out.sequences)[:, -new_tokens:]
    return {"seconds": time.perf_counter() - begin, "tokens": tokens.tolist(), **memory()}


if __name__ == "__main__":
    _harness.serve({handler.__name__: handler for handler in (start, prepare, generate)})
