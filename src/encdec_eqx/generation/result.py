"""What `generate` returns. Knows nothing of how it came about."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """Generated sequences, as NumPy arrays on the host. Row `r * n + s` is sample s of sentence r.

    Attributes:
        sequences: prompt or start token, generated tokens, then `pad_token_id`; as wide as the longest row.
        lengths: generated tokens, up to and including the first end-of-sequence id, without the prompt.
        truncated: whether a row reached the maximum length without an end-of-sequence id.
        scores: sum of the natural log-probabilities of the generated tokens, end included, under the model itself:
            before `min_length`, `temperature`, `top_k` and the like.
        compilations: programs compiled (or fetched from jax's persistent cache) during this call; 0 for a bucket that
            was used before.
        notes: options of the model's generation_config that could not apply and were dropped, one sentence each.
    """

    sequences: Int32[np.ndarray, "rows width"]
    lengths: Int32[np.ndarray, " rows"]
    truncated: Bool[np.ndarray, " rows"]
    scores: Float32[np.ndarray, " rows"]
    compilations: int
    notes: tuple[str, ...] = ()
