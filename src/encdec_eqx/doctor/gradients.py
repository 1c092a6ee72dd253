"""Whether the gradient reaches every part that is trained, and how large it is.

Knows sizes by name; must not know how they were made.
"""

import math
from collections.abc import Iterator

from .finding import Finding
from .weights import Weights

LARGE = 1e3
"""Norm of a mean loss's gradient that no good run came near: fresh and trained pairs had 0.002 to 18."""

SMALL = 1e-7
"""Share of the whole norm below which a part learns nothing; the encoders of good runs had 1e-4 and more."""

_PARTS = (
    "encoder.embeddings",
    "encoder.layers",
    "enc_to_dec_proj",
    "decoder.embeddings",
    "decoder.layers",
    "decoder.lm_head",
)


def norms(gradient: Weights) -> dict[str, float]:
    """The gradient's norm by part: of encoder, decoder, their embeddings, and all cross-attention together."""
    parts: dict[str, list[float]] = {}
    for name, size in gradient.items():
        part = next((part for part in _PARTS if name.startswith(f"{part}.")), name.split(".")[0])
        part = "decoder cross-attention" if ".cross_attention." in name else part
        parts.setdefault(part, []).append(size.rms**2 * size.count)
    return {part: math.sqrt(sum(squares)) for part, squares in parts.items()}


def total(by_part: dict[str, float]) -> float:
    """The norm of several parts together."""
    return math.sqrt(sum(norm**2 for norm in by_part.values()))


def does_not_reach(by_part: dict[str, float], loss: float) -> Iterator[Finding]:
    """Trained parts whose gradient is 0, or vanishes beside the whole.

    A loss of next to nothing has next to no gradient, so it is not looked at.
    """
    whole = total(by_part)
    if loss < 1e-4 or not math.isfinite(whole):
        return
    silent = [part for part, norm in by_part.items() if norm <= SMALL * whole]
    if silent:
        yield Finding(
            code="gradient_zero",
            severity="error",
            message=f"the loss has no gradient in {' and '.join(silent)}, which would never change.",
            fix="look for weights of 0, or a mask, between them and the loss; if they are to stay as they are, freeze "
            'them: trainable(model, "!...").',
            evidence={part.replace(" ", "_"): by_part[part] for part in silent},
        )


def is_too_large(by_part: dict[str, float]) -> Iterator[Finding]:
    """A gradient far beyond that of good runs, or that is no number though the loss is one."""
    whole = total(by_part)
    if not whole <= LARGE:
        most = max(by_part, key=lambda part: (not math.isfinite(by_part[part]), by_part[part]))
        yield Finding(
            code="gradient_exploding",
            severity="warning",
            message=f"the gradient's norm is {whole:.3g}, most of it in {most} ({by_part[most]:.3g}).",
            fix="look at the sizes of that part's weights, and clip: optax.clip_by_global_norm(1.0) in front of the "
            "optimiser (fit does, with max_grad_norm).",
            evidence={"norm": whole, "part": most},
        )
