"""The worker of `speculative`: a random pair, a draft that agrees with it more or less, a source to copy from."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np

from benchmarks import _harness, _inputs, _models
from benchmarks._jax_side import start
from benchmarks._sizes import DECODER_VOCAB, SIZES
from encdec_eqx import Decoder, EncoderDecoder

_state: dict[str, Any] = {}


def prepare(*, size: str, batch: int, source: int, new_tokens: int) -> dict[str, Any]:
    """Makes the pair, encodes the source and generates once, so that there is something to copy."""
    decoder = _models.gpt2(SIZES[size], tied=False)
    pair = EncoderDecoder.from_pieces(_models.bert(SIZES[size], seed=1), decoder)
    _state["whole"] = pair.with_special_tokens(decoder_start_token_id=_models.END_OF_TEXT)
    ids, mask = _inputs.sources(batch=batch, source=source)
    encoded = eqx.filter_jit(lambda model, ids, mask: model.encode(ids, attention_mask=mask))(pair, ids, mask)
    _state["call"] = {"encoder_outputs": encoded, "max_new_tokens": new_tokens, "eos_token_id": ()}
    weaken(strength=1.0)
    _state["tokens"] = _state["model"].generate(**_state["call"]).sequences[:, 1:]
    return {}


def weaken(*, strength: float) -> dict[str, Any]:
    """Chooses how much the layers add that the draft has not got: 0 for nothing, 1 for what the random weights say."""
    layers = draft_layers(len(_state["whole"].decoder.config.layers))
    decoder, _state["draft"] = with_draft(_state["whole"].decoder, layers, strength)
    _state["model"] = dataclasses.replace(_state["whole"], decoder=decoder)
    return {"draft_layers": layers}


def draft_layers(layers: int) -> int:
    """A sixth of the layers."""
    return max(1, layers // 6)


def with_draft(decoder: Decoder, layers: int, strength: float) -> tuple[Decoder, Decoder]:
    """The decoder with its further layers weakened, and its first layers as a decoder of their own."""
    stack: Any = decoder.stack
    weakened = tuple(_scaled(block, strength) for block in stack.blocks[layers:])
    whole = dataclasses.replace(stack, blocks=(*stack.blocks[:layers], *weakened))
    first = dataclasses.replace(
        stack, blocks=stack.blocks[:layers], layers=stack.layers[:layers], scales=stack.scales[:layers]
    )
    config = dataclasses.replace(decoder.config, layers=decoder.config.layers[:layers])
    return (
        dataclasses.replace(decoder, stack=whole),
        dataclasses.replace(decoder, stack=first, config=config),
    )


def _scaled(block: Any, strength: float) -> Any:
    """The block, what its parts add to the residual stream times `strength`."""
    outs = (block.self_attention.out, block.cross_attention.out, block.feed_forward.down)
    return eqx.tree_at(
        lambda b: (b.self_attention.out, b.cross_attention.out, b.feed_forward.down),
        block,
        jax.tree.map(lambda leaf: leaf * strength, outs),
    )


def generate(*, how: str, ahead: int, span: int) -> dict[str, Any]:
    """One call: "plain", with the "draft", or by "lookup" in a source that holds spans of what is generated."""
    more: dict[str, Any] = {}
    if how == "draft":
        more = {"assistant_model": _state["draft"], "num_assistant_tokens": ahead}
    elif how == "lookup":
        more = {"input_ids": copied_spans(_state["tokens"], span), "prompt_lookup_num_tokens": ahead}
    begin = time.perf_counter()
    result = _state["model"].generate(**_state["call"], **more)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "passes": result.passes,
        "compilations": result.compilations,
        "tokens": result.sequences[:, 1:].tolist(),
    }


def copied_spans(tokens: np.ndarray, span: int) -> np.ndarray:
    """A source that has the tokens in spans of that many, in another order, each behind a random id; always as wide."""
    draw = np.random.default_rng(span)
    batch, count = tokens.shape
    spans = [tokens[:, first : first + span] for first in range(0, count, span)]
    pieces: list[np.ndarray] = []
    for at in draw.permutation(len(spans)):
        pieces += [draw.integers(0, DECODER_VOCAB - 1, (batch, 1)), spans[at]]
    used = count + len(spans)
    return np.concatenate([*pieces, draw.integers(0, DECODER_VOCAB - 1, (batch, 2 * count - used))], axis=1)


if __name__ == "__main__":
    _harness.serve({handler.__name__: handler for handler in (start, prepare, weaken, generate)})
