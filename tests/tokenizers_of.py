"""Small tokenizers of every common kind. Written out, not trained: training breaks ties by chance.

Knows nothing of models.
"""

import struct

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

PAD, UNK, CLS, SEP = 0, 1, 2, 3
WORD_PIECES, BYTE_PAIRS = 53, 300
"""Sizes of the two vocabularies."""

_LETTERS = "acdeghilmnorstw"
_WORDS = ["the", "cat", "sat", "on", "mat", "hello", "world", "said", "dog", "and", "down", "who"]


def word_pieces(*, more: int = 0) -> Tokenizer:
    """BERT's kind: a template [CLS] text [SEP], and a file that asks for padding and truncation.

    Args:
        more: words beyond the vocabulary of `WORD_PIECES`.
    """
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *",.?", *_WORDS]
    tokens += [f"word{i}" for i in range(WORD_PIECES - len(tokens) + more)]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.enable_padding(length=16, pad_token="[PAD]")
    tokenizer.enable_truncation(8)
    return tokenizer


def byte_pairs(*, more: int = 0) -> Tokenizer:
    """GPT-2's kind: no template, and one special token, id 0.

    Args:
        more: words beyond the vocabulary of `BYTE_PAIRS`.
    """
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in [f"{space}{word}" for word in _WORDS for space in ("", "Ġ")]:
        for at in range(1, len(word)):
            pair = (word[:at], word[at])
            if len(tokens) < BYTE_PAIRS and pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
    tokens += [f"word{i}" for i in range(more)]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(tokens[:1])
    return tokenizer


def sentence_pieces(*, gemma: bool = False) -> Tokenizer:
    """Llama 2's kind, or Gemma's: bytes for what the vocabulary lacks, <s> or <bos> in front of a text, no padding.

    Args:
        gemma: whether padding comes first, and no space is put in front of a text.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    letters = sorted({*"".join(_WORDS), *"ABCHTWh,.?!'"})
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    merges: list[tuple[str, str]] = []
    for word in [f"{space}{word}" for word in _WORDS for space in ("", "\u2581")]:
        for at in range(1, len(word)):
            pair = (word[:at], word[at])
            if pair not in merges:
                merges.append(pair)
                tokens += [] if "".join(pair) in tokens else ["".join(pair)]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = spaces if gemma else normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts if gemma else [*parts, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(special)
    first = "<bos>" if gemma else "<s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, vocabulary[first])]
    )
    return tokenizer


def chat_byte_pairs() -> Tokenizer:
    """Qwen's kind: that of GPT-2, with tokens of chats behind the vocabulary, and no token in front of a text."""
    tokenizer = byte_pairs()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def unigrams() -> Tokenizer:
    """T5's kind: pieces with their log-probabilities, a template text </s>, sentinels behind the pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"▁{word}", -3.0) for word in _WORDS)]
    pieces += [("▁", -2.0), *((letter, -5.0) for letter in _LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


PIECES = {"▁cat": -1.0, "▁c": -2.0, "at": -3.0, "s": -4.0, "▁": -5.0, "c": -6.0, "a": -7.0, "t": -8.0}
"""Pieces and scores of `sentencepiece_model`, beside its three special ones."""


def proto_field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer; whole numbers and lengths below 128."""
    key = number << 3 | (0 if isinstance(value, int) else 5 if isinstance(value, float) else 2)
    start = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    if isinstance(value, int):
        return start + bytes([value])
    return start + (struct.pack("<f", value) if isinstance(value, float) else bytes([len(value)]) + value)


def sentencepiece_model(kind: int, *, more: bytes = b"", charsmap: bytes = b"", byte_fallback: int = 0) -> bytes:
    """A file of SentencePiece's.

    Args:
        kind: 1 for unigrams, 2 for byte pairs, 3 for words.
        more: fields behind the others.
        charsmap: compiled replacements of characters.
        byte_fallback: 1 if unknown characters are spelled in bytes.
    """
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((text, at, 1) for text, at in PIECES.items())]
    parts = [
        proto_field(1, proto_field(1, text.encode()) + proto_field(2, score) + proto_field(3, of))
        for text, score, of in pieces
    ]
    trainer = proto_field(3, kind) + proto_field(35, byte_fallback)
    return b"".join([*parts, proto_field(2, trainer), proto_field(3, proto_field(2, charsmap)), more])
