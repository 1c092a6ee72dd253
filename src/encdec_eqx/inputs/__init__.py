"""What turns the input of a stack into its first hidden states: the interface of token tables, patches, frames."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Bool, Float, Int32

from .._padding import RightPadding
from .._typing import Array, PRNGKey
from ..config import StackConfig
from ..layers.rotary import Rotation


class Embedded(eqx.Module):
    """What a stack starts from.

    Attributes:
        hidden: the first hidden states.
        mask: which of them may be attended; all, if `None`.
        positions: their numbers, for attention that rotates by them.
        rotations: by what attention rotates, where a table of the input side says it.
    """

    hidden: Float[Array, "batch source hidden"]
    mask: Bool[Array, "batch source"] | RightPadding | None = None
    positions: Int32[Array, "batch source"] | None = None
    rotations: tuple[Rotation, ...] = ()


class AbstractInputs(eqx.Module):
    """The input side of an encoder."""

    @abstractmethod
    def embed(
        self,
        config: StackConfig,
        inputs: Any,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
        key: PRNGKey | None = None,
    ) -> Embedded:
        """Check a batch of inputs and embed it.

        Args:
            config: of the stack.
            inputs: what it takes: token ids, pixels, frames.
            attention_mask: 1 for what is real, 0 for padding.
            position_ids: explicit positions.
            token_type_ids: segment of each token.
            inputs_embeds: embeddings instead of inputs.
            key: turns dropout on.

        Raises:
            TypeError: a shape is wrong.
            ValueError: a value is out of range.
        """
