"""Damaged files of a stream, and damaged indices of one: what is streamed is what reading the file whole gives.

Knows no model: records are ids.
"""

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judging import DOCUMENTED, attempt
from mutations import change_bytes, change_json

from encdec_eqx.training import encode_pairs, read_pairs
from encdec_eqx.training.data import encode_stream, stream_pairs

Tell = Callable[[str], None]
VOCAB = 50
SIZES: Any = {"vocab_sizes": (VOCAB, VOCAB), "on_bad": "report"}


def _examples_of(encoded: Any) -> list[dict[str, list[int]]]:
    return [
        {name: list(map(int, row)) for name, row in (("input_ids", one.input_ids), ("labels", one.labels))}
        for one in encoded
    ]


class Streams:
    """An indexed file whose index, or which itself, is damaged and then streamed again."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One mutation."""
        path = self._written(rng)
        encode_stream(stream_pairs(path, cache_dir=self.folder / "cache"), **SIZES)
        if rng.random() < 0.6:
            what = _damage(rng, rng.choice(sorted((self.folder / "cache").glob("*/[ef]*"))))
        else:
            what = _damage(rng, path)
        tell(what)
        result = attempt(
            lambda: _examples_of(encode_stream(stream_pairs(path, cache_dir=self.folder / "cache"), **SIZES)),
            names=[str(path), "it was given"],
        )
        if result.value is None:
            return "refused", result.faults + self._needless(path, what)
        expected = _examples_of(encode_pairs(read_pairs(path, on_bad="report"), **SIZES))
        return "read", result.faults + ([] if result.value == expected else [f"read {result.value!r:.200}"])

    def _written(self, rng: random.Random) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        ids = [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, 9))] for _ in range(2 * rng.choice([1, 3, 20]))]
        lines = [json.dumps({"input_ids": one, "labels": two}) for one, two in zip(ids[::2], ids[1::2], strict=True)]
        data = ("\n".join(lines) + "\n").encode()
        packed = rng.random() < 0.3
        path = self.folder / ("data.jsonl.gz" if packed else "data.jsonl")
        path.write_bytes(gzip.compress(data) if packed else data)
        return path

    def _needless(self, path: Path, what: str) -> list[str]:
        """What is wrong about a refusal: an index can be made again, and a file that is read whole can be streamed."""
        try:
            read = encode_pairs(read_pairs(path, on_bad="report"), **SIZES)
        except DOCUMENTED:
            return []
        return [f"{len(read)} examples can be read, and were refused"] if len(read) and what.startswith("index") else []


def _damage(rng: random.Random, path: Path) -> str:
    if path.suffix == ".json" and rng.random() < 0.5:
        data, what = change_json(rng, path.read_text())
    else:
        data, what = change_bytes(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{'index' if path.parent.parent.name == 'cache' else 'file'} {path.name}: {what}"


KINDS = {"streams": Streams}
