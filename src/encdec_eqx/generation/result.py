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
        scores: of greedy search and sampling the sum of `log_probs`; of beam search the sum of `processed_log_probs`
            over `lengths ** length_penalty`, by which it ranks (-inf for a place that nothing was found for).
        normalized_scores: of beam search the same; otherwise the mean of `log_probs`.
        log_probs: natural log-probability of each generated token, end included, under the model itself: before
            `min_length`, `temperature`, `top_k` and the like. 0 after the end.
        processed_log_probs: the same under the distribution that the token was chosen from. In beam search, which adds
            them up as they are, they need not be normalised (`renormalize_logits`).
        beam_indices: of beam search, the row (sentence times `num_beams` plus beam) that each token continued, in the
            step before it; -1 after the end. None for other searches.
        passes: passes of the decoder, the prompt's apart: as many as the longest row has tokens, or fewer where a draft
            or a lookup proposed some.
        compilations: programs compiled (or fetched from jax's persistent cache) during this call; 0 for a bucket that
            was used before.
        cross_attentions: with `output_cross_attentions=True`, for each layer what was attended to in the source when
            each token was chosen, along the returned sequence (None for a layer without cross-attention).
        forced_words_met: with `force_words_ids`, whether a row holds all of its words (of alternatives one), prompt
            included; False for a row that lacks some. None without them.
        notes: options of the model's generation_config that could not apply and were dropped, and what is missing from
            the results, one sentence each.
    """

    sequences: Int32[np.ndarray, "rows width"]
    lengths: Int32[np.ndarray, " rows"]
    truncated: Bool[np.ndarray, " rows"]
    scores: Float32[np.ndarray, " rows"]
    normalized_scores: Float32[np.ndarray, " rows"]
    log_probs: Float32[np.ndarray, "rows new"]
    processed_log_probs: Float32[np.ndarray, "rows new"]
    beam_indices: Int32[np.ndarray, "rows new"] | None
    passes: int
    compilations: int
    notes: tuple[str, ...] = ()
    cross_attentions: tuple[Float32[np.ndarray, "rows heads new source"] | None, ...] | None = None
    forced_words_met: Bool[np.ndarray, " rows"] | None = None

    @property
    def finished(self) -> Bool[np.ndarray, " rows"]:
        """Whether a row met an end-of-sequence id: the opposite of `truncated`."""
        return ~self.truncated
