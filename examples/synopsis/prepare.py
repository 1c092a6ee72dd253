"""Make a data set of Debian's package descriptions: from the long description to the one-line synopsis.

    pip install -e ".[eval]"
    python examples/synopsis/prepare.py --output synopsis

Debian publishes all English descriptions of a release in one file, its translation index. It is downloaded (6 MB), or
read from `--index`, plain or compressed; on a Debian machine that keeps English descriptions there is one at
`/var/lib/apt/lists/*_i18n_Translation-en` (`apt-get update -o Acquire::Languages=en` fetches it).

Cleaned (`descriptions.py`): wrapped lines are joined; paragraphs that twenty packages share are left out, as are
transitional and meta packages and descriptions of fewer than twenty words of their own. Of descriptions that are nearly
the same (`duplicates.py`) one is kept, so none has a twin on the other side of a split. What is left is split by a
salted SHA-256 of its first twelve words: 90 % train, 5 % dev, 5 % test. So a later index, with packages more or fewer,
leaves the others where they are.

Writes `train.jsonl`, `dev.jsonl` and `test.jsonl` with `source`, `target` and `package`, and `about.json` with all
counts. Prints what it found, and the ROUGE of two summaries that anyone can make: the first 8 and the first 12 words.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from descriptions import Description, clean, parse
from duplicates import one_of_each, opening

from encdec_eqx.text import TokenizerPair
from encdec_eqx.training.metrics import score

MIRROR = "http://deb.debian.org/debian"
SALT = "encdec_eqx synopsis"
ENDS = {"train": 90, "dev": 95, "test": 100}
"""Where each split ends, in percent."""

BASELINES = (8, 12)
METRICS = ("rouge1", "rouge2", "rougeL")
_UNPACKED = {".xz": lzma.decompress, ".gz": gzip.decompress, ".bz2": bz2.decompress}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    options.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work
    raw = read_index(options.index) if options.index else download(options.mirror, options.suite)
    stanzas = parse(raw.decode("utf-8"))
    described, dropped = clean(stanzas)
    kept = one_of_each(described)
    dropped["nearly the same as another"] = len(described) - len(kept)
    splits = split(kept, options.salt)

    for name, rows in splits.items():
        write(options.output / f"{name}.jsonl", rows)
    about = {
        "index_sha256": hashlib.sha256(raw).hexdigest(),
        "salt": options.salt,
        "packages": len(stanzas),
        "dropped": dict(dropped),
        "kept": {name: len(rows) for name, rows in splits.items()},
        "baselines": {name: baselines(splits[name]) for name in ("dev", "test")},
        "word_pieces": None if options.tokenizer is None else word_pieces(kept, options.tokenizer),
    }
    (options.output / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(about, indent=2))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the three splits")
    parser.add_argument("--index", type=Path, help="a Translation-en file, plain, .xz, .gz or .bz2 (default: download)")
    parser.add_argument("--mirror", default=MIRROR, help="Debian mirror to download from")
    parser.add_argument("--suite", default="bookworm", help="release to download the index of")
    parser.add_argument("--salt", default=SALT, help="another salt is another split")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer.json, to count word pieces with")
    return parser.parse_args(arguments)


def download(mirror: str, suite: str) -> bytes:
    """The release's index, unpacked."""
    with urllib.request.urlopen(f"{mirror}/dists/{suite}/main/i18n/Translation-en.xz", timeout=60) as answer:
        return lzma.decompress(answer.read())


def read_index(path: Path) -> bytes:
    """An index file, unpacked by what its name ends in."""
    if path.suffix == ".lz4":
        raise SystemExit(f"unpack it first: /usr/lib/apt/apt-helper cat-file {path} > Translation-en")
    return _UNPACKED.get(path.suffix, bytes)(path.read_bytes())


def split(descriptions: list[Description], salt: str) -> dict[str, list[Description]]:
    """The splits, each in the index's order."""
    splits: dict[str, list[Description]] = {name: [] for name in ENDS}
    for description in descriptions:
        digest = hashlib.sha256(f"{salt}\0{opening(description)}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") % 100
        splits[next(name for name, below in ENDS.items() if place < below)].append(description)
    return splits


def write(path: Path, rows: list[Description]) -> None:
    lines = (
        json.dumps({"source": row.source, "target": row.target, "package": row.package}, ensure_ascii=False)
        for row in rows
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def baselines(rows: list[Description]) -> dict[str, dict[str, float]]:
    """ROUGE of the description's first words, taken for a summary."""
    references = [[row.target] for row in rows]
    result = {}
    for words in BASELINES:
        said = [" ".join(row.source.split()[:words]) for row in rows]
        values = score(METRICS, said, references)
        result[f"first {words} words"] = {name: round(value, 1) for name, value in values.items()}
    return result


def word_pieces(rows: list[Description], tokenizer: Path) -> dict[str, list[int]]:
    """Quantiles of the lengths, special tokens included: 5, 25, 50, 75, 90, 95, 99 and 100 %."""
    pair = TokenizerPair.from_pretrained(tokenizer, tokenizer)
    texts = {"source": [row.source for row in rows], "target": [row.target for row in rows]}
    percent = [5, 25, 50, 75, 90, 95, 99, 100]
    return {
        side: np.percentile([len(ids) for ids in pair.encode_source(both)], percent).astype(int).tolist()
        for side, both in texts.items()
    }


if __name__ == "__main__":
    main()
