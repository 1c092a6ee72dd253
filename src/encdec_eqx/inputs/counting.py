"""How a family numbers its tokens: one rule for the device, where models count, and for the host, where prompts do."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32, Integer

from .._inputs import numpy_of
from .._padding import RightPadding, dense_mask
from .._typing import Array
from ..config import StackConfig


@dataclass(frozen=True)
class PositionRule:
    """How tokens are numbered, as torch does.

    Attributes:
        first: number of a sequence's first token.
        padding_idx: the id that is not counted and always sits at its own number (RoBERTa), or None.
        by_mask: whether tokens are counted that the mask has as real (OPT), whatever their ids.
    """

    first: int = 0
    padding_idx: int | None = None
    by_mask: bool = False

    @classmethod
    @functools.lru_cache
    def of(cls, config: StackConfig) -> "PositionRule":
        """The rule of a stack."""
        rule = config.positions
        return cls(
            rule.first, rule.padding_idx if rule.counting == "non_padding" else None, by_mask=rule.counting == "mask"
        )

    def of_call(
        self,
        ids: Int32[Array, "rows new"] | None,
        mask: Bool[Array, "rows new"] | RightPadding | None,
        *,
        shape: tuple[int, ...],
        start: Integer[Array, ""] | int,
        counted: Int32[Array, " rows"],
    ) -> tuple[Int32[Array, "rows new"], Int32[Array, " rows"]]:
        """Positions of the tokens of one call of a model.

        Args:
            ids: the tokens; None where the caller gives embeddings, which are numbered one after another.
            mask: which of them are real; default all.
            shape: rows and tokens.
            start: tokens before these, padding included.
            counted: those among them that were counted.

        Returns:
            The positions, and how many tokens of each row have been counted so far.
        """
        if self.padding_idx is not None and ids is not None:
            return non_padding_positions(ids, counted, self.padding_idx)
        if self.by_mask:
            real = jnp.ones(shape, jnp.int32) if mask is None else jnp.asarray(dense_mask(mask)).astype(jnp.int32)
            running = jnp.cumsum(real, axis=1, dtype=jnp.int32) + counted[:, None]
            return running * real - 1, counted + jnp.sum(real, axis=1, dtype=jnp.int32)
        rows, new = shape
        return arange_positions(rows, new, start + self.first if self.first else start), counted

    def of_prompt(self, ids: Any, real: Any) -> Any:
        """Positions (rows, length) of a prompt whose masked tokens (`real` False) are not counted.

        A row alone and the same row with left padding get the same numbers for its real tokens.
        """
        xp = numpy_of(ids, real)
        counted = real if self.padding_idx is None else real & (ids != self.padding_idx)
        positions = xp.cumsum(counted, axis=1) - 1 + self.first
        padding = self.first if self.padding_idx is None else self.padding_idx
        return xp.where(counted, positions, padding).astype(np.int32)

    def of_sequences(self, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Positions (rows, width) of whole sequences; `real` (rows, prompt) says where the prompt is padded."""
        prompt = real.shape[1]
        counted = real.sum(axis=1)[:, None] + np.arange(ids.shape[1] - prompt)[None] + self.first
        if self.padding_idx is not None:
            counted = np.where(ids[:, prompt:] == self.padding_idx, self.padding_idx, counted)
        return np.concatenate([self.of_prompt(ids[:, :prompt], real), counted.astype(np.int32)], axis=1)

    def of_next(self, tokens: Int32[Array, "*rows"], tokens_before: Int32[Array, "*rows"]) -> Int32[Array, "*rows"]:
        """As torch numbers a single token after a cache: by the number of tokens before it, whatever they are."""
        counted = tokens_before + self.first
        if self.padding_idx is None:
            return counted
        return jnp.where(tokens == self.padding_idx, self.padding_idx, counted)


def arange_positions(batch: int, length: int, start: Integer[Array, ""] | int) -> Integer[Array, "batch length"]:
    """Positions start, start + 1, … in every row, whatever the mask."""
    return jnp.broadcast_to(start + jnp.arange(length, dtype=jnp.int32)[None, :], (batch, length))


def non_padding_positions(
    ids: Integer[Array, "batch length"], counted: Integer[Array, " batch"], padding_idx: int
) -> tuple[Integer[Array, "batch length"], Integer[Array, " batch"]]:
    """RoBERTa's rule: tokens other than padding are counted from `padding_idx + 1`; padding sits at `padding_idx`.

    Args:
        ids: the token ids.
        counted: real tokens of each row before these.
        padding_idx: the id of padding.

    Returns:
        The positions, and the number of real tokens of each row so far.
    """
    real = (ids != padding_idx).astype(jnp.int32)
    running = jnp.cumsum(real, axis=1, dtype=jnp.int32) + counted[:, None]
    return running * real + padding_idx, counted + jnp.sum(real, axis=1, dtype=jnp.int32)
