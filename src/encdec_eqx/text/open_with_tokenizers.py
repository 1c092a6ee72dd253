"""A model and its two tokenizers opened in one go: of a saved pair, or of two pieces that are joined."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._quoting import quoted
from ..decoder import Decoder
from ..encoder import Encoder
from ..encoder_decoder import EncoderDecoder
from ..hf.files.hub import HubOptions
from ..hf.on_mesh import mesh_to_load_on
from ..hf.piece import log, reports_held_back
from ..layers.linear import split_key
from .sentencepiece_files import MODEL
from .tokenizer_files import BOTH, CONFIG, MODEL_CONFIG, SOURCE, TARGET, read_pretrained
from .tokenizer_fit import missing_tokens
from .tokenizer_pair import TokenizerPair

_FILES = (BOTH, SOURCE, TARGET, CONFIG, MODEL_CONFIG, MODEL, "vocab.json")
_HUB = ("revision", "cache_dir", "local_files_only", "token")
_OF_BOTH = ("dtype", "strict_config")
_OF_PAIR = ("mesh", "rules")


def open_pair(path: str | os.PathLike, options: Mapping[str, Any]) -> tuple[EncoderDecoder, TokenizerPair]:
    """A saved pair with its tokenizers; `options` are those of `EncoderDecoder.from_pretrained`.

    Raises:
        FileNotFoundError: the model or a tokenizer is not there.
        TypeError: an option is unknown.
        ValueError: a file is damaged.
    """
    if not options.keys() <= inspect.signature(EncoderDecoder.from_pretrained).parameters.keys():
        EncoderDecoder.from_pretrained(path, **options)  # raises, and knows what became of old words
    folder = tokenizer_folder(path, options)
    try:
        tokenizers = TokenizerPair.load(folder)
    except FileNotFoundError as error:
        raise type(error)(
            f"{error} To put tokenizers beside a saved model: TextToText(EncoderDecoder.from_pretrained(folder), "
            "tokenizers).save_pretrained(folder)."
        ) from None
    return _told(EncoderDecoder.from_pretrained(path, **options), tokenizers)


def open_pieces(
    encoder: Any, decoder: Any, *, key: Any, options: Mapping[str, Any]
) -> tuple[EncoderDecoder, TokenizerPair]:
    """Two pieces, joined, with their tokenizers.

    Args:
        encoder: a folder or a Hub id, or (that or an encoder, its tokenizer).
        decoder: likewise.
        key: draws what is new.
        options: those of `EncoderDecoder.from_encoder_decoder_pretrained`.

    Raises:
        FileNotFoundError: a piece or its tokenizer is not there.
        TypeError: something is of the wrong kind, or an option is unknown or would do nothing.
        ValueError: a file is damaged, or the pieces do not fit each other.
    """
    given = {"encoder": _split("encoder", encoder), "decoder": _split("decoder", decoder)}
    of_pieces = {name: value for name, value in options.items() if name not in _OF_PAIR}
    of_pair = {name: value for name, value in options.items() if name in _OF_PAIR}
    spread = mesh_to_load_on(of_pair.get("mesh"), of_pair.get("rules"))
    loading = _loading_options({side: piece for side, (piece, _) in given.items()}, of_pieces)
    tokenizers = _tokenizers(given, loading)
    encoder_key, decoder_key, joining_key = split_key(key, 3)
    pieces = [piece for piece, _ in given.values()]
    with reports_held_back():
        if _is_path(pieces[0]):
            pieces[0] = Encoder.from_pretrained(pieces[0], **{"key": encoder_key, **of_pair, **loading["encoder"]})
        if _is_path(pieces[1]):
            pieces[1] = Decoder.from_pretrained(pieces[1], **{"key": decoder_key, **of_pair, **loading["decoder"]})
    model = EncoderDecoder.from_pieces(*pieces, key=joining_key)
    model = model if spread is None else spread.finished(model)
    log(model.load_report)
    return _told(model, tokenizers)


def _told(model: EncoderDecoder, tokenizers: TokenizerPair) -> tuple[EncoderDecoder, TokenizerPair]:
    """The model with the special tokens that its tokenizer alone knows."""
    found = missing_tokens(model, tokenizers.target)
    return model.with_special_tokens(**found) if found else model, tokenizers


def _split(side: str, given: Any) -> tuple[Any, Any]:
    """A piece, or its path, and its tokenizer, or where that is."""
    if _is_path(given):
        return given, given
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    own = type(given).__name__
    raise TypeError(
        f"{side} must be a folder or a Hub id with the {side}'s tokenizer, or ({side}, tokenizer); got {own}. "
        f"TextToText.from_pieces(({side}, tokenizer), ...) takes a {side} that is loaded already."
    )


def _loading_options(pieces: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By piece what its `from_pretrained` is given."""
    given: dict[str, dict[str, Any]] = {side: {} for side in pieces}
    for name, value in sorted(options.items(), key=lambda option: option[0] not in _OF_BOTH):  # a piece's own wins
        side, _, argument = name.partition("_")
        if name in _OF_BOTH:
            sides, argument = list(pieces), name
        elif side in pieces and argument:
            sides = [side]
        else:
            raise TypeError(
                f"got the option {quoted(name)}; expected {' or '.join(_OF_BOTH)}, or one that begins with encoder_ or "
                "decoder_."
            )
        if argument in _OF_PAIR:
            raise TypeError(f"got {name}, but both pieces lie on one mesh: give {argument}= instead.")
        loaded = [side for side in sides if _is_path(pieces[side])]
        if not loaded:
            raise TypeError(f"{name} would do nothing: what it is for is loaded already. Leave it out.")
        for side in loaded:
            given[side][argument] = value
    return given


def _tokenizers(given: Mapping[str, tuple[Any, Any]], loading: Mapping[str, Mapping[str, Any]]) -> TokenizerPair:
    places = {}
    for side, (piece, tokenizer) in given.items():
        of_piece = _is_path(tokenizer) and tokenizer == piece
        places[side] = tokenizer_folder(tokenizer, loading[side]) if of_piece else tokenizer
    if all(map(_is_path, places.values())):
        return TokenizerPair.from_pretrained(places["encoder"], places["decoder"])
    source, target = (read_pretrained(one) if _is_path(one) else one for one in places.values())
    return TokenizerPair(source, target)


def tokenizer_folder(path: str | os.PathLike, options: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """The folder with the tokenizers of a checkpoint; those of a Hub id are downloaded, if it has any.

    Args:
        path: a folder, or a Hub id.
        options: those of `from_pretrained`, of which those of the Hub matter.
    """
    hub = HubOptions(**{name: options[name] for name in _HUB if name in options})
    return hub.folder(path, _FILES)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)
