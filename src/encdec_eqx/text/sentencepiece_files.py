"""M2M100's and PLBart's tokenizers, which have no `tokenizer.json`: made of their SentencePiece model.

Such a file is a protocol buffer (sentencepiece_model.proto) of three parts: pieces with scores, how they were trained,
how text is normalised (Kudo and Richardson 2018, arXiv:1808.06226).
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._json import loads
from .._quoting import printable, quoted
from .rust_errors import as_value_error

MODEL, VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
BEGIN, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"

_M2M100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy "
    "id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru "
    "sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
_CODES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "M2M100Tokenizer": {"m2m100": tuple(_M2M100.split()), "wmt21": ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")},
    "PLBartTokenizer": {
        "base": ("java", "python", "en_XX"),
        "multi": ("java", "python", "en_XX", "javascript", "php", "ruby", "go"),
    },
}
"""Languages in the order of their ids, by transformers' class and `language_codes` of the config, the default first."""

_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6
_UNIGRAM, _BPE = 1, 2

_LONGEST = 1000
"""Most characters of a piece, as every place to cut it is tried. SentencePiece makes them of up to 16 by default."""


class Piece(NamedTuple):
    """One piece of a SentencePiece model: its text, score and kind."""

    text: str
    score: float
    kind: int


class SentencePieceModel(NamedTuple):
    """What of a SentencePiece model makes a tokenizer.

    Attributes:
        pieces: in the order of their ids.
        kind: 1 of a unigram model, 2 of byte pairs.
        charsmap: replacements of characters, compiled.
        dummy_prefix: whether a text begins with a space.
        trims: whether spaces around a text are left out and those inside joined.
    """

    pieces: tuple[Piece, ...]
    kind: int
    charsmap: bytes
    dummy_prefix: bool
    trims: bool


def read_slow(find: Callable[[str], Path | None], config: Mapping[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` of what a folder has in place of `tokenizer.json`.

    Args:
        find: a file of the folder by its name; None where it is not there.
        config: what `tokenizer_config.json` says.

    Returns:
        The tokenizer; None if the folder has no files of M2M100's or PLBart's.

    Raises:
        ValueError: a file is damaged, or holds what the library cannot say.
    """
    file, vocabulary = find(MODEL), find(VOCABULARY)
    kind = str(config.get("tokenizer_class") or ("M2M100Tokenizer" if vocabulary else None))
    if file is None or kind not in _CODES or (kind == "M2M100Tokenizer" and vocabulary is None):
        return None
    codes = _CODES[kind]
    named = config.get("language_codes") or next(iter(codes))
    if not isinstance(named, str) or named not in codes:
        raise ValueError(f"tokenizer_config.json: language_codes is {quoted(named)}; expected {' or '.join(codes)}.")
    model = read_model(file)
    if vocabulary is not None and kind == "M2M100Tokenizer":
        names = _vocabulary(vocabulary, {piece.text for piece in model.pieces if piece.kind == _NORMAL}, file)
    else:
        names = [BEGIN, PAD, END, UNKNOWN, *(piece.text for piece in model.pieces[3:])]
    mask = ["<mask>"] if (kind, named) == ("PLBartTokenizer", "base") else []
    with as_value_error(f"no tokenizer can be made of {printable(file)}"):
        return make_tokenizer(model, names, [*(f"__{code}__" for code in codes[named]), *mask])


def make_tokenizer(model: SentencePieceModel, names: list[str], more: list[str]) -> Any:
    """A tokenizer that cuts texts as a SentencePiece model does.

    Args:
        model: the model.
        names: its pieces in the order of their ids, with the four special tokens in front.
        more: special tokens behind them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == _NORMAL}
    if model.kind == _BPE:
        ids = {name: at for at, name in enumerate(names)}
        made = Tokenizer(models.BPE(ids, _merges(scores), unk_token=UNKNOWN, fuse_unk=True))
    else:
        # what no text is cut into, such as a name that only the vocabulary has
        least = min(scores.values(), default=0.0) - 100.0
        made = Tokenizer(models.Unigram([(name, scores.get(name, least)) for name in names], names.index(UNKNOWN)))
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.trims:
        steps += [normalizers.Replace(Regex("^ +|[ ▁]+$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence([*steps, normalizers.Prepend(" ")] if model.dummy_prefix else steps)
    # a text is cut at spaces first, unless a piece goes over one
    alone = not any("▁" in name[1:] for name in scores)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=alone)
    made.decoder = decoders.Metaspace(prepend_scheme="always" if model.dummy_prefix else "never")
    made.add_special_tokens([*names[:4], *more])
    made.add_tokens([piece.text for piece in model.pieces if piece.kind == _USER_DEFINED])
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, names.index(END))])
    return made


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, that of the highest score first."""
    found = []
    for name, score in scores.items():
        for at in range(1, len(name)):
            if name[:at] in scores and name[at:] in scores:
                found.append((-score, at, (name[:at], name[at:])))
    return [pair for *_, pair in sorted(found, key=lambda one: one[:2])]


def _vocabulary(file: Path, pieces: set[str], model: Path) -> list[str]:
    """The names in a `vocab.json` by their ids.

    Raises:
        ValueError: they are not numbered from 0, the special tokens are not in front, or a piece has no id.
    """
    try:
        ids = loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{printable(file)} is not JSON: {printable(str(error), 300)}.") from None
    if not isinstance(ids, dict) or sorted(map(repr, ids.values())) != sorted(map(repr, range(len(ids)))):
        raise ValueError(f"{printable(file)} does not number its pieces from 0; expected an object of pieces and ids.")
    names = sorted(ids, key=ids.__getitem__)
    if names[:4] != [BEGIN, PAD, END, UNKNOWN]:
        raise ValueError(f"{printable(file)} begins with {quoted(names[:4])}; expected <s>, <pad>, </s>, <unk>.")
    if without := sorted(pieces - ids.keys()):
        raise ValueError(
            f"{printable(file)} has no id for {len(without)} pieces of {printable(model)}, such as "
            f"{quoted(without[0])}; expected one for every piece. Encode with transformers' M2M100Tokenizer, and give "
            "the model ids."
        )
    return names


def read_model(file: Path) -> SentencePieceModel:
    """Read a SentencePiece model.

    Raises:
        ValueError: the file is damaged, or of a kind that the tokenizers library has not.
    """
    content = file.read_bytes()
    try:
        parts = list(_fields(content))
        pieces = tuple(_piece(dict(_fields(value))) for number, value in parts if number == 1)
        trainer = dict(_fields(next((value for number, value in parts if number == 2), b"")))
        normaliser = dict(_fields(next((value for number, value in parts if number == 3), b"")))
        charsmap = _charsmap(normaliser.get(2, b""))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{printable(file)} is no SentencePiece model, or damaged ({error}). Copy it again.") from None
    if not pieces:
        raise ValueError(f"{printable(file)} is no SentencePiece model: it has no pieces.")
    if len({piece.text for piece in pieces}) < len(pieces) or not all(piece.text for piece in pieces):
        raise ValueError(
            f"{printable(file)} has a piece twice, or an empty one; expected different ones. Copy it again."
        )
    if (longest := max(len(piece.text) for piece in pieces)) > _LONGEST:
        raise ValueError(f"{printable(file)} has a piece of {longest} characters; expected at most {_LONGEST}.")
    kind, bytewise = trainer.get(3, _UNIGRAM), bool(trainer.get(35, 0)) or any(p.kind == _BYTE for p in pieces)
    if kind not in (_UNIGRAM, _BPE) or bytewise:
        what = "which spells unknown characters in bytes" if bytewise else "of words or characters"
        raise ValueError(f"{printable(file)} is a model {what}; expected one of unigrams or byte pairs, without.")
    flags = (bool(normaliser.get(number, 1)) for number in (3, 4))
    return SentencePieceModel(pieces, kind, charsmap, *flags)


def _piece(fields: Mapping[int, Any]) -> Piece:
    (score,) = struct.unpack("<f", fields.get(2, b"\0\0\0\0"))
    if not math.isfinite(score):
        raise ValueError(f"a score is {score}")
    return Piece(fields[1].decode(), score, fields.get(3, _NORMAL))


def _charsmap(content: bytes) -> bytes:
    """As it is, if it holds as much as it says: the library would make room for whatever that is."""
    if content and struct.unpack("<I", content[:4])[0] > len(content) - 4:
        raise ValueError("the replacements of characters are cut short")
    return content


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer by their numbers: whole numbers, or bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 2, 5):
            size, at = _varint(message, at) if kind == 2 else (8 if kind == 1 else 4, at)
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise ValueError("it ends in the middle of a field")
        else:
            raise ValueError(f"a field is of the kind {kind}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
