"""The torch side of training: transformers' EncoderDecoderModel and torch's fused AdamW.

A worker of `_harness`; it can do what `_torch_side` can, and must not know JAX or the library.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import _harness, _inputs, _steps, _torch_side
from benchmarks._memory import peaks
from benchmarks._torch_side import state, tensor, timed

IGNORED = -100

Batch = dict[str, torch.Tensor]


def prepare_training(
    *, batch: int, source: int, target: int, ragged: bool, compiled: bool, recompute: bool
) -> dict[str, Any]:
    """Makes optimiser and batches.

    Args:
        batch: rows of a batch.
        source: source positions; of ragged examples the most.
        target: target positions; of ragged examples the most.
        ragged: whether examples have lengths of their own; each batch is then padded to its longest.
        compiled: whether the model goes through `torch.compile`.
        recompute: whether layers keep their input alone for the backward pass (gradient checkpointing).
    """
    model = state["model"].train()
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    about: dict[str, Any] = {}
    if ragged:
        examples = _inputs.ragged(source=source, target=target)
        state["batches"] = _epochs(examples, batch)
        state["first"] = next(_epochs(examples, batch))[0]
        about["padding_share"] = _padding_share(examples, batch)
    else:
        ids, mask = _inputs.sources(batch=batch, source=source)
        state["first"] = _on_device(ids, mask, _inputs.targets(batch=batch, target=target))
        state["batches"] = itertools.repeat((state["first"], batch * (source + target)))
    state["optimizer"] = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    state["forward"] = torch.compile(model) if compiled else model
    state["compiled"] = compiled
    return about


def _on_device(ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> Batch:
    """A batch, with the labels moved one step to the right as the decoder's inputs."""
    config = state["model"].config
    inputs = np.where(labels == IGNORED, config.pad_token_id, labels)
    inputs[:, 1:], inputs[:, 0] = inputs[:, :-1].copy(), config.decoder_start_token_id
    return {
        "input_ids": tensor(ids),
        "attention_mask": tensor(mask),
        "decoder_input_ids": tensor(inputs),
        "labels": tensor(labels),
    }


def _epochs(examples: list[_inputs.Pair], batch: int) -> Iterator[tuple[Batch, int]]:
    """Batches without end in a new random order every epoch, each with its tokens, padding not counted."""
    pad = state["model"].config.encoder.pad_token_id
    for epoch in itertools.count():
        order = np.random.default_rng(epoch).permutation(len(examples))
        for at in range(0, len(order), batch):
            sources, labels = zip(*(examples[index] for index in order[at : at + batch]), strict=True)
            ids, mask = _padded(sources, pad)
            yield _on_device(ids, mask, _padded(labels, IGNORED)[0]), sum(map(len, sources)) + sum(map(len, labels))


def _padded(rows: tuple[np.ndarray, ...], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded to the longest, and where they are not padding; both int64."""
    lengths = np.asarray([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad)
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int64)


def _padding_share(examples: list[_inputs.Pair], batch: int) -> float:
    """Of the first epoch's places, the share that holds no id."""
    order = np.random.default_rng(0).permutation(len(examples))
    lengths = np.asarray([[len(ids), len(labels)] for ids, labels in examples])[order]
    parts = [lengths[at : at + batch] for at in range(0, len(lengths), batch)]
    return float(1 - lengths.sum() / sum(len(part) * part.max(axis=0).sum() for part in parts))


def _run(batch: Batch) -> float:
    """Forward, backward, AdamW; the loss, which waits for all of it. A cache that nothing reads is not made."""
    device, half = state["device"].type, state["precision"] == "bf16"
    with torch.autocast(device, dtype=torch.bfloat16) if half else contextlib.nullcontext():
        loss = state["forward"](**batch, use_cache=False).loss
    loss.backward()
    state["optimizer"].step()
    state["optimizer"].zero_grad(set_to_none=True)
    return loss.item()


def _step() -> int:
    batch, tokens = next(state["batches"])
    timed(lambda: _run(batch))
    return tokens


def warm_up() -> dict[str, Any]:
    """The first step: seconds and loss. What `torch.compile` takes is in it, and not told apart here."""
    seconds, loss = timed(lambda: _run(state["first"]))
    return {"first_seconds": seconds, "loss": loss}


def steps(*, settle: int, count: int) -> dict[str, Any]:
    """One turn."""
    return _steps.take_turn(_step, settle=settle, count=count)


def memory_of_step() -> dict[str, Any]:
    """Peaks of this process, and of the GPU where it runs there, over its life and over one step."""
    if state["device"].type != "cuda":
        return peaks(_step)
    life = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    answer: dict[str, Any] = peaks(_step)
    step = torch.cuda.max_memory_allocated()
    return answer | {"device_life_peak": max(life, step), "device_run_peak": step}


HANDLERS = _torch_side.HANDLERS | {
    handler.__name__: handler for handler in (prepare_training, warm_up, steps, memory_of_step)
}

if __name__ == "__main__":
    _harness.serve(HANDLERS)
