"""What a pair offers to those who change it: other vocabulary sizes, layouts and dtypes."""

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
from jax.typing import DTypeLike

from .. import _trees
from .._typing import PRNGKey, checked
from ..stack import Layout, Remat
from .resize import resize_decoder, resize_encoder, resize_pair
from .ties import Ties, change_layout, untie

_Pair = TypeVar("_Pair", bound="Reshapes")


class Reshapes(eqx.Module):
    """An encoder joined to a decoder, as far as changing them goes. `EncoderDecoder` says what the fields are."""

    encoder: eqx.AbstractVar[Any]
    decoder: eqx.AbstractVar[Any]
    special_tokens: eqx.AbstractVar[Any]
    ties: eqx.AbstractVar[Ties]

    @checked
    def resize_token_embeddings(self: _Pair, new_num_tokens: int, *, key: PRNGKey) -> _Pair:
        """The same model with more or fewer token ids on both sides.

        Where the pieces share one embedding matrix (BART's family, `tie_encoder_decoder`) they still do. Two of one
        size are both resized; of two sizes, `resize_encoder_token_embeddings` and `resize_decoder_token_embeddings`
        resize one. What is tied stays tied; a constant bias of the logits gets zeros. Format, special tokens and
        settings for generating are kept.

        Args:
            new_num_tokens: number of ids. Rows that both sizes have are kept.
            key: draws the new rows: normal, of standard deviation `initializer_range`, as in a new model. (From 4.46
                on, transformers draws them around the mean of the old rows, unless it is told `mean_resizing=False`.)

        Raises:
            TypeError: the head's projection is not a plain `Linear`.
            ValueError: the pieces have vocabularies of two sizes, or a special token would be cut off.
        """
        tokens = self.special_tokens.to_hf()
        encoder, decoder = resize_pair(self.encoder, self.decoder, self.ties, new_num_tokens, tokens, key=key)
        return dataclasses.replace(self, encoder=encoder, decoder=decoder)

    @checked
    def resize_encoder_token_embeddings(self: _Pair, new_num_tokens: int, *, key: PRNGKey) -> _Pair:
        """The same model with more or fewer token ids in the encoder, which has an embedding matrix of its own.

        Args:
            new_num_tokens: number of ids. Rows that both sizes have are kept.
            key: draws the new rows, as in `resize_token_embeddings`.

        Raises:
            ValueError: the decoder shares the matrix, the padding row would be cut off, or the encoder has none.
        """
        return dataclasses.replace(self, encoder=resize_encoder(self.encoder, self.ties, new_num_tokens, key=key))

    @checked
    def resize_decoder_token_embeddings(self: _Pair, new_num_tokens: int, *, key: PRNGKey) -> _Pair:
        """The same model with more or fewer token ids in the decoder: embedding matrix, head and the head's bias.

        Args:
            new_num_tokens: number of ids. Rows that both sizes have are kept.
            key: draws the new rows, as in `resize_token_embeddings`.

        Raises:
            TypeError: the head's projection is not a plain `Linear`.
            ValueError: the encoder shares the matrix, or a special token would be cut off.
        """
        tokens = self.special_tokens.to_hf()
        decoder = resize_decoder(self.decoder, self.ties, new_num_tokens, tokens, key=key)
        return dataclasses.replace(self, decoder=decoder)

    def with_layout(self: _Pair, layout: Layout, *, remat: Remat | bool = False) -> _Pair:
        """The same weights, bit for bit, in the other layout of stacks.

        Args:
            layout: "unrolled" (fastest decoding) or "scanned" (fastest and smallest training and compilation).
            remat: with "scanned": what the backward pass finds kept, the rest is recomputed. From most memory to least:
                "keep_all"; "keep_products" (False), the results of matrix products; "keep_linear", of those with
                weights, not of attention's; "keep_nothing" (True), the input of each layer alone.

        Raises:
            ValueError: the layout or `remat` is unknown, or `remat` is asked of the unrolled layout.
        """
        encoder, decoder, ties = change_layout(
            untie(self.encoder, self.decoder, self.ties), self.decoder, self.ties, layout, remat=remat
        )
        return dataclasses.replace(self, encoder=encoder, decoder=decoder, ties=ties)

    def astype(self: _Pair, dtype: DTypeLike) -> _Pair:
        """The same model with its arrays cast to a floating-point dtype; a part alone: `model.decoder.astype(…)`."""
        return _trees.astype(self, dtype)
