"""Other numbers of token ids: for embedding matrices and heads, and for a pair, which shares one matrix or has two.

`Reshapes` is what a pair offers to those who change it: sizes, layouts and dtypes.
"""

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .. import _trees
from .._typing import Array, PRNGKey, checked
from ..heads import LMHead
from ..layers.linear import AbstractEmbedding, Embedding, Linear
from ..stack import Layout, Remat
from .ties import Ties, change_layout, untie

_MATRIX = "embeddings.tokens.weight"


def resize_embedding(embedding: AbstractEmbedding, number: int, scale: float, key: PRNGKey) -> Embedding:
    """The embedding with `number` rows: the first rows kept, further ones normal with standard deviation `scale`.

    Raises:
        TypeError: the matrix is quantized.
        ValueError: the padding row would be cut off.
    """
    if not isinstance(embedding, Embedding):
        raise TypeError(
            f"the embedding matrix is an {type(embedding).__name__}; expected an Embedding. Resize the float32 model, "
            "and quantize what comes out."
        )
    if embedding.padding_idx is not None and embedding.padding_idx >= number:
        raise ValueError(
            f"a table of {number} tokens has no row for this model's padding id {embedding.padding_idx}; keep at least "
            f"{embedding.padding_idx + 1} rows."
        )
    return Embedding(_resize_rows(embedding.weight, number, scale, key), embedding.padding_idx)


def resize_head(head: LMHead, number: int, scale: float, key: PRNGKey) -> LMHead:
    """The head with `number` outputs: a projection of its own gets new columns, drawn alike; a bias zeros.

    Raises:
        TypeError: the projection is not a plain `Linear`.
    """
    if head.bias is not None:
        head = eqx.tree_at(lambda h: h.bias, head, _resize_rows(head.bias, number, 0.0, key))
    if isinstance(head.projection, Linear):
        weight = _resize_rows(head.projection.weight.T, number, scale, key).T
        return eqx.tree_at(lambda h: h.projection.weight, head, weight)
    if head.projection is not None:
        raise TypeError(
            f"the head's projection is a {type(head.projection).__name__}; expected a Linear. Resize before wrapping "
            "or quantizing it, or merge adapters first: encdec_eqx.training.merge_lora(model)."
        )
    return head


def _resize_rows(rows: Array, number: int, scale: float, key: PRNGKey) -> Array:
    """The first `number` rows of an array, followed by newly initialised ones if it has fewer."""
    missing = number - rows.shape[0]
    if missing <= 0:
        return rows[:number]
    new = scale * jax.random.normal(key, (missing, *rows.shape[1:]), jnp.float32)
    return jnp.concatenate([rows, new.astype(rows.dtype)])


def resizing_call(model: Any, piece: str, number: int | str) -> str:
    """What to write so that a piece of a pair ("encoder" or "decoder") has `number` token ids, for messages."""
    of = "" if share_embedding(model) else f"{piece}_"
    return f"model = model.resize_{of}token_embeddings({number}, key=jax.random.key(0))"


def share_embedding(model: Any) -> bool:
    """Whether both pieces of a pair look their ids up in the same embedding matrix."""
    return _MATRIX in model.ties


def _size(encoder: Any) -> int | None:
    """Number of an encoder's token ids, if it offers to change it."""
    if not hasattr(encoder, "resize_token_embeddings"):
        return None
    return getattr(getattr(encoder, "config", None), "vocab_size", None)


def _describe(encoder: Any) -> str:
    size = _size(encoder)
    if size is None:
        return f"the encoder, a {type(encoder).__name__}, has no token table of the library's"
    return f"the encoder's has {size} ids"


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
        shared = share_embedding(self)
        if not shared and _size(self.encoder) != self.decoder.config.vocab_size:
            raise ValueError(
                f"encoder and decoder have vocabularies of their own ({_describe(self.encoder)}, the decoder's has "
                f"{self.decoder.config.vocab_size} ids): say whose is meant, with "
                f"model.resize_encoder_token_embeddings({new_num_tokens}, key=key) or "
                f"model.resize_decoder_token_embeddings({new_num_tokens}, key=key)."
            )
        encoder_key, decoder_key = jax.random.split(key)
        self._check_room(new_num_tokens)
        decoder = self.decoder.resize_token_embeddings(new_num_tokens, key=decoder_key)
        if shared:
            config = self.encoder.config.replace(vocab_size=new_num_tokens)
            encoder = dataclasses.replace(self.encoder, config=config)
        else:
            encoder = self.encoder.resize_token_embeddings(new_num_tokens, key=encoder_key)
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
        self._check_own(new_num_tokens)
        if _size(self.encoder) is None:
            raise ValueError(f"{_describe(self.encoder)}: there is nothing to resize but the decoder's.")
        return dataclasses.replace(self, encoder=self.encoder.resize_token_embeddings(new_num_tokens, key=key))

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
        self._check_own(new_num_tokens)
        self._check_room(new_num_tokens)
        return dataclasses.replace(self, decoder=self.decoder.resize_token_embeddings(new_num_tokens, key=key))

    def _check_own(self, number: int) -> None:
        if share_embedding(self):
            raise ValueError(
                "encoder and decoder of this model share one token table, so one of them cannot be resized alone: call "
                f"model.resize_token_embeddings({number}, key=key), which resizes it for both."
            )

    def _check_room(self, number: int) -> None:
        """Special tokens that the vocabulary has must not be cut off; those beyond it are an older error."""
        for name, value in self.special_tokens.to_hf().items():
            for token in value if isinstance(value, list) else (value,):
                if 1 <= number <= token < self.decoder.config.vocab_size:
                    raise ValueError(
                        f"{number} token ids leave no room for the model's {name}, which is {token}: keep at least "
                        f"{token + 1}, or set another first with model.with_special_tokens({name}=...)."
                    )

    def with_layout(self: _Pair, layout: Layout, *, remat: Remat | bool = False, unroll: int = 1) -> _Pair:
        """The same weights, bit for bit, in the other layout of stacks.

        Args:
            layout: "unrolled" (fastest decoding) or "scanned" (fastest and smallest training and compilation).
            remat: with "scanned": what the backward pass finds kept, the rest is recomputed. From most memory to least:
                "keep_all"; "keep_products" (False), the results of matrix products; "keep_linear", of those with
                weights, not of attention's; "keep_nothing" (True), the input of each layer alone.

            unroll: with "scanned": layers (repeating groups of layers, where kinds alternate) that one iteration
                of the loop runs, at least 1. More take longer to compile; with all of them there is no loop,
                and on a CPU nothing is recomputed then.

        Raises:
            ValueError: the layout or `remat` is unknown, `unroll` is below 1, or one of the two is asked of the
                unrolled layout.
        """
        encoder, decoder, ties = change_layout(
            untie(self.encoder, self.decoder, self.ties), self.decoder, self.ties, layout, remat=remat, unroll=unroll
        )
        return dataclasses.replace(self, encoder=encoder, decoder=decoder, ties=ties)

    def astype(self: _Pair, dtype: DTypeLike) -> _Pair:
        """The same model with its arrays cast to a floating-point dtype; a part alone: `model.decoder.astype(…)`."""
        return _trees.astype(self, dtype)
