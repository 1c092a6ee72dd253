"""The torch side of `benchmarks.gpu`: random models of transformers, generation and training steps.

A worker of `_harness`; it can do what `_torch_training` can, and must not know JAX or the library.
"""

from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration, EncoderDecoderModel

from benchmarks import _checkpoint, _harness, _inputs, _torch_side, _torch_training
from benchmarks._sizes import Size
from benchmarks._torch_side import state, tensor, timed

START, PAD = 5, 1  # random tied weights repeat what they read: a start that is not the end


def make(*, family: str, dtype: str, layers: int, hidden: int, heads: int) -> dict[str, Any]:
    """A random "pair" of BERT and GPT-2, or a whole "bart", kept for what follows."""
    special = {"decoder_start_token_id": START, "pad_token_id": PAD, "forced_eos_token_id": None}
    if family == "pair":
        config = _checkpoint.configuration(Size(name="made", layers=layers, hidden=hidden, heads=heads))
        kind: Any = EncoderDecoderModel
    else:
        config = BartConfig(**_inputs.bart_config(layers=layers, hidden=hidden, heads=heads))
        kind = BartForConditionalGeneration
    for name, value in special.items():
        setattr(config, name, value)
    with torch.device(state["device"]):
        model = kind(config)
    state["model"] = model.to(getattr(torch, dtype)).eval()
    return {}


def _call(*, batch: int, source: int, beams: int, new_tokens: int, real: list[int] | None) -> None:
    """Generation from host ids to host tokens.

    Raises:
        RuntimeError: a row ended early, so that the sides need not have taken as many steps.
    """
    ids, mask = _inputs.sources(batch=batch, source=source, real=real)
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": beams}
    if beams > 1:
        options["min_new_tokens"] = new_tokens
    with torch.inference_mode():
        found = state["model"].generate(tensor(ids), attention_mask=tensor(mask), **options).cpu().numpy()
    if found.shape[1] != new_tokens + 1 or (found[:, -1] == PAD).any():
        raise RuntimeError(f"a row stopped before {new_tokens} new tokens: the runs do not compare")


def measure_generation(*, repeats: int, new_tokens: int, **call: Any) -> dict[str, Any]:
    """A few tokens to warm up, then calls."""
    first, _ = timed(lambda: _call(new_tokens=4, **call))
    _forget_peak()
    seconds = [timed(lambda: _call(new_tokens=new_tokens, **call))[0] for _ in range(repeats)]
    return {"first_seconds": first, "seconds": seconds, "memory": _torch_side.peak()}


def _forget_peak() -> None:
    if state["device"].type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def measure_training(*, batch: int, source: int, target: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """A first step, which compiles where that is asked for, and more of them. Takes the model."""
    _torch_training.prepare_training(batch=batch, source=source, target=target, ragged=False, **options)
    first = _torch_training.warm_up()
    taken = _torch_training.steps(settle=2, count=steps)["steps"]
    seconds = [step["seconds"] for step in taken]
    compiled = {"compile_seconds": first["first_seconds"] - seconds[-1]} if options["compiled"] else {}
    return {**first, **compiled, "seconds": seconds, "memory": _torch_side.peak()}


def rates(*, tiny: bool) -> dict[str, Any]:
    """Bytes a second of a copy and FLOPs a second of a bfloat16 product, the best of a few runs."""
    done = {
        "copy": [_torch_side.copy(megabytes=16 if tiny else 1024) for _ in range(5)],
        "matmul": [_torch_side.matmul(width=256 if tiny else 8192) for _ in range(5)],
    }
    return {kind: max(run["amount"] / run["seconds"] for run in runs) for kind, runs in done.items()}


_ASKED = (make, measure_generation, measure_training, rates)
HANDLERS = _torch_training.HANDLERS | {handler.__name__: handler for handler in _ASKED}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
