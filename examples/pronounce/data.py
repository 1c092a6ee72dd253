"""CMUdict as records for `fit`, and the two tokenizers: letters in, phonemes out.

Knows the dictionary and its splits; must not know models.
"""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from encdec_eqx.demo.lexicon import LETTER_TOKENS, PHONEME_TOKENS, SPLIT_SALT, Split, load_lexicon
from encdec_eqx.text import TokenizerPair

LONGEST = 31
"""Most letters or phonemes: the pieces have 32 positions, and a word is closed by an end mark."""


def records(split: Split, *, salt: str = SPLIT_SALT) -> list[dict]:
    """The words of a split with all their accepted pronunciations; training reads the first.

    Words too long for the pieces' positions are left out of training (there is one) and scored all the same.
    """
    lexicon = load_lexicon()
    pairs = [(word, lexicon.pronunciations[word]) for word in lexicon.words(split, salt=salt)]
    if split == "train":
        pairs = [(word, said) for word, said in pairs if max(len(word), len(said[0])) <= LONGEST]
    return [{"source": word, "target": [" ".join(one) for one in said]} for word, said in pairs]


def tokenizer_pair() -> TokenizerPair:
    """Each letter is a token, and each phoneme, which white space separates; the ids are those of the demo's pieces."""
    letters = Tokenizer(models.WordLevel({token: at for at, token in enumerate(LETTER_TOKENS)}, unk_token="[UNUSED]"))
    letters.add_special_tokens([token for token in LETTER_TOKENS if token.startswith("[")])
    letters.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("\u2019", "'")])
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", LETTER_TOKENS.index("[END]"))]
    )
    phonemes = Tokenizer(models.WordLevel({token: at for at, token in enumerate(PHONEME_TOKENS)}, unk_token="[PAD]"))
    phonemes.add_special_tokens([token for token in PHONEME_TOKENS if token.startswith("[")])
    phonemes.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TokenizerPair(letters, phonemes)
