"""Other numbers of token ids for a whole pair, whose pieces share one token table or have one each.

Knows what a piece does to its own table, and what is shared; must not know how a pair is made or used otherwise.
"""

import dataclasses
from typing import Any

import jax

from .._typing import PRNGKey
from ..decoder import Decoder
from ..encoder import Encoder
from ..generation.special_tokens import TOKEN_NAMES, SpecialTokens
from .ties import Ties

_TABLE = "embeddings.tokens.weight"


def resize_both(
    encoder: Any, decoder: Decoder, ties: Ties, number: int, tokens: SpecialTokens, *, key: PRNGKey
) -> tuple[Any, Decoder]:
    """Both pieces with `number` token ids, in the one table that they share or in one each.

    Args:
        encoder: with empty slots where it shares arrays.
        decoder: which holds them.
        ties: paths of the shared arrays.
        number: how many ids.
        tokens: special tokens of the pair.
        key: draws new rows.

    Raises:
        ValueError: the vocabularies are of two kinds, or a special token would be cut off.
    """
    if _TABLE not in ties and _size(encoder) != decoder.config.vocab_size:
        raise ValueError(
            f"encoder and decoder have vocabularies of their own ({_in_words(encoder)}, the decoder's has "
            f"{decoder.config.vocab_size} ids): say whose is meant, with model.resize_encoder_token_embeddings("
            f"{number}, key=key) or model.resize_decoder_token_embeddings({number}, key=key)."
        )
    encoder_key, decoder_key = jax.random.split(key)
    _check_room(tokens, decoder, number)
    resized = decoder.resize_token_embeddings(number, key=decoder_key)
    if _TABLE not in ties:
        return encoder.resize_token_embeddings(number, key=encoder_key), resized
    return dataclasses.replace(encoder, config=encoder.config.replace(vocab_size=number)), resized


def resize_encoder(encoder: Any, ties: Ties, number: int, *, key: PRNGKey) -> Any:
    """The encoder with `number` token ids in a table of its own.

    Raises:
        ValueError: it has none: the table is the decoder's too, or it is no encoder of the library's.
    """
    _check_own(ties, number)
    if not isinstance(encoder, Encoder):
        raise ValueError(f"{_in_words(encoder)}: there is nothing to resize but the decoder's.")
    return encoder.resize_token_embeddings(number, key=key)


def resize_decoder(decoder: Decoder, ties: Ties, number: int, tokens: SpecialTokens, *, key: PRNGKey) -> Decoder:
    """The decoder with `number` token ids in a table of its own, its head and the head's bias.

    Raises:
        ValueError: the table is the encoder's too, or a special token would be cut off.
    """
    _check_own(ties, number)
    _check_room(tokens, decoder, number)
    return decoder.resize_token_embeddings(number, key=key)


def resizing_call(model: Any, piece: str, number: int | str) -> str:
    """What to write so that a piece of a pair has `number` token ids, for messages.

    Args:
        model: an `EncoderDecoder`.
        piece: "encoder" or "decoder".
        number: how many ids.
    """
    of = "" if _TABLE in model.ties else f"{piece}_"
    return f"model = model.resize_{of}token_embeddings({number}, key=jax.random.key(0))"


def one_table(model: Any) -> bool:
    """Whether both pieces look their ids up in the same table."""
    return _TABLE in model.ties


def _check_own(ties: Ties, number: int) -> None:
    if _TABLE in ties:
        raise ValueError(
            "encoder and decoder of this model share one token table, so one of them cannot be resized alone: call "
            f"model.resize_token_embeddings({number}, key=key), which resizes it for both."
        )


def _check_room(tokens: SpecialTokens, decoder: Decoder, number: int) -> None:
    """Special tokens that the vocabulary has must not be cut off; those beyond it are an older error."""
    for name in TOKEN_NAMES:
        value = getattr(tokens, name)
        for token in value if isinstance(value, tuple) else () if value is None else (value,):
            if 1 <= number <= token < decoder.config.vocab_size:
                raise ValueError(
                    f"{number} token ids leave no room for the model's {name}, which is {token}: keep at least "
                    f"{token + 1}, or set another first with model.with_special_tokens({name}=...)."
                )


def _size(encoder: Any) -> int | None:
    return encoder.config.vocab_size if isinstance(encoder, Encoder) else None


def _in_words(encoder: Any) -> str:
    size = _size(encoder)
    if size is None:
        return f"the encoder, a {type(encoder).__name__}, has no token table of the library's"
    return f"the encoder's has {size} ids"
