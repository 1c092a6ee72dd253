"""Small tokenizers of both common kinds. Written out, not trained: training breaks ties by chance.

Knows nothing of models.
"""

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
