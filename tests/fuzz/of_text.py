"""Damaged files of tokenizers: the Rust library that reads them must neither abort nor answer for the caller.

Knows no model.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from judging import attempt
from mutations import any_value, change_bytes, change_json, encoded, objects, parsed, written
from tokenizers import Tokenizer

from encdec_eqx.text import TokenizerPair
from tokenizers_of import PIECES, byte_pairs, sentencepiece_model, word_pieces

ASSETS = Path(__file__).parent.parent.parent / "src" / "encdec_eqx" / "demo" / "assets" / "pronounce"
TEXTS = ["the cat sat", "hello world", "", "é漢 \u2028", "a" * 50]
IDS = (-1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**7, 10**9, 1.5, "1", None, 0, 1)


class Tokenizers:
    """Word pieces, byte pairs and the demo's letters."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole = [json.dumps(json.loads(made.to_str())) for made in (word_pieces(), byte_pairs())]
        self.whole += [json.dumps(json.loads(path.read_text())) for path in sorted(ASSETS.glob("*_tokenizer.json"))]

    def __call__(self, rng: random.Random, tell: Callable[[str], None]) -> tuple[str, list[str]]:
        """One mutation."""
        text = rng.choice(self.whole)
        if rng.random() < 0.5:
            content, what = _changed_ids(rng, text)
        else:
            content, what = change_json(rng, text)
        tell(what)
        folder = self.folder / "pair"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / "tokenizer.json"
        path.write_bytes(content)
        result = attempt(lambda: TokenizerPair.load(folder), names=[str(path)], unchanged=[folder])
        if result.value is None:
            return "refused", result.faults
        pair = result.value
        encoding = attempt(lambda: [ids.tolist() for ids in pair.encode_source(TEXTS)])
        faults = result.faults + encoding.faults
        if encoding.value is not None:
            decoding = attempt(lambda: pair.decode_target(encoding.value))
            faults += decoding.faults + _unlike(content, encoding.value)
        return "loaded", faults


def _unlike(content: bytes, found: list[list[int]]) -> list[str]:
    """Whether the library alone says something else of the same file."""
    processor = json.loads(content.decode("utf-8-sig")).get("post_processor") or {}
    if sum("Sequence" in part for part in processor.get("single", ())) > 1:  # no tokenizer repeats the text
        return []
    alone = Tokenizer.from_str(content.decode("utf-8-sig"))
    alone.no_padding()
    alone.no_truncation()
    expected = [alone.encode(text).ids for text in TEXTS]
    return [] if expected == found else [f"encoded {found} where the tokenizers library says {expected}"]


def _changed_ids(rng: random.Random, text: str) -> tuple[bytes, str]:
    """Another id in the vocabulary, among the added tokens or in the template."""
    tree = parsed(text)
    model = dict(tree)["model"]
    vocabulary = next(value for key, value in model if key == "vocab")
    what = rng.choice(["vocabulary", "vocabulary", "added", "template", "duplicate"])
    number = rng.choice(IDS)
    if what == "vocabulary":
        at = rng.randrange(len(vocabulary))
        vocabulary[at] = (vocabulary[at][0], number)
        return encoded(written(tree)), f"{vocabulary[at][0]!r} has the id {number}"
    if what == "duplicate":
        at, other = rng.randrange(len(vocabulary)), rng.randrange(len(vocabulary))
        vocabulary[at] = (vocabulary[at][0], vocabulary[other][1])
        return encoded(
            written(tree)
        ), f"{vocabulary[at][0]!r} and {vocabulary[other][0]!r} have the id {vocabulary[at][1]}"
    numbered = [one for one in objects(tree) if any(key in ("id", "ids") for key, _ in one)]
    chosen = rng.choice(numbered)
    at = next(at for at, (key, _) in enumerate(chosen) if key in ("id", "ids"))
    chosen[at] = (chosen[at][0], [number] if chosen[at][0] == "ids" else number)
    if rng.random() < 0.2:
        chosen.append(("more", any_value(rng)))
    return encoded(written(tree)), f"an added token or a template has {number}"


class SentencePieces:
    """M2M100's and PLBart's files: a SentencePiece model, numbers of its pieces, what kind of tokenizer it is."""

    def __init__(self, folder: Path):
        self.folder = folder
        names = ["<s>", "<pad>", "</s>", "<unk>", *PIECES]
        self.vocabulary = json.dumps({name: at for at, name in enumerate(names)})
        self.configs = [
            json.dumps({"tokenizer_class": kind, "language_codes": codes, "src_lang": None})
            for kind, codes in (("M2M100Tokenizer", "wmt21"), ("PLBartTokenizer", "base"))
        ]

    def __call__(self, rng: random.Random, tell: Callable[[str], None]) -> tuple[str, list[str]]:
        """One mutation."""
        files = {
            "sentencepiece.bpe.model": sentencepiece_model(rng.choice([1, 2])),
            "vocab.json": self.vocabulary.encode(),
            "tokenizer_config.json": rng.choice(self.configs).encode(),
        }
        name = rng.choice(["sentencepiece.bpe.model", *files])
        change = change_bytes(rng, files[name]) if name.endswith("model") else change_json(rng, files[name].decode())
        files[name] = change[0]
        tell(f"{name}: {change[1]}")
        folder = self.folder / "pieces"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        result = attempt(lambda: TokenizerPair.load(folder), names=[*files, str(folder)], unchanged=[folder])
        if result.value is None:
            return "refused", result.faults
        pair = result.value
        encoding = attempt(lambda: [ids.tolist() for ids in pair.encode_source(TEXTS)])
        faults = result.faults + encoding.faults
        if encoding.value is not None:
            known = pair.source.get_vocab_size()
            faults += [f"made the id {one} of {known}" for row in encoding.value for one in row if not 0 <= one < known]
        return "loaded", faults


KINDS = {"tokenizers": Tokenizers, "sentencepieces": SentencePieces}
