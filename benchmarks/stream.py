"""A million pairs trained on from their files: memory over the run, records a second, the index's time and size.

`python -m benchmarks.stream --out benchmarks/results` (about ten minutes on two busy cores). It writes words and their
sounds into shards, JSON Lines and Parquet, and trains a very small model on them, each run in a process of its own:
what is measured is the way of the data. `--steps` are trained, the rest of the epoch goes through the reader alone.
Beside it the same with 10,000 pairs, and a million held in memory.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from benchmarks import _memory, _results

SHARDS = 4
BATCH = 512
_SOUNDS = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training on a stream: memory and speed.")
    parser.add_argument("--pairs", default=1_000_000, type=int, help="pairs of the large run")
    parser.add_argument("--few", default=10_000, type=int, help="pairs of the one beside it")
    parser.add_argument("--steps", default=400, type=int, help="steps of the runs that train")
    parser.add_argument("--jax-python", default=sys.executable, help="the Python that trains")
    parser.add_argument("--out", type=pathlib.Path, help="folder for stream.json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Writes the pairs and measures every run."""
    settings = options().parse_args(arguments)
    if settings.run is not None:
        print(json.dumps(measure(**json.loads(settings.run))))
        return {}
    rows = []
    runs = [
        ("jsonl", settings.few, "trained"),
        ("jsonl", settings.pairs, "trained"),
        ("parquet", settings.pairs, "read"),
        ("jsonl", settings.pairs, "held"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind, pairs, what in runs:
            files = write(pathlib.Path(folder), kind, pairs)
            rows.append(_ask(settings, files, {"kind": kind, "pairs": pairs, "what": what}))
    python, versions = _results.versions_of(settings.jax_python, (*_results.OURS, "grain", "tokenizers", "pyarrow"))
    result = {"batch": BATCH, "shards": SHARDS, "python": python, "versions": versions, "rows": rows}
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "stream.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _ask(settings: argparse.Namespace, files: list[str], what: dict[str, Any]) -> dict[str, Any]:
    command = [
        settings.jax_python,
        "-m",
        "benchmarks.stream",
        "--run",
        json.dumps({"files": files, "steps": settings.steps, **what}),
    ]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    row = {**what, **json.loads(answer.splitlines()[-1])}
    print(json.dumps({name: value for name, value in row.items() if name != "resident"}), flush=True)
    return row


def write(folder: pathlib.Path, kind: str, pairs: int) -> list[str]:
    """The shards of so many pairs, the same every time."""
    drawn = random.Random(0)
    files = []
    for shard in range(SHARDS):
        rows = [_pair(drawn) for _ in range(pairs // SHARDS)]
        path = folder / f"{pairs}-{shard}.{kind}"
        files.append(str(path))
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def _pair(drawn: random.Random) -> dict[str, str]:
    word = "".join(drawn.choices(_LETTERS, k=drawn.randint(3, 14)))
    return {"source": word, "target": " ".join(drawn.choices(_SOUNDS, k=max(2, len(word) - 2)))}


# in the process that trains


class Resident:
    """The resident memory, twice a second, in MB: `with Resident() as watch: …` leaves `watch.samples`."""

    def __init__(self):
        self.samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Resident":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.samples.append(_memory.memory().get("resident", 0) >> 20)


def measure(files: list[str], kind: str, pairs: int, what: str, steps: int) -> dict[str, Any]:
    """One run: its index, some steps of an epoch, and the rest of it through the reader."""
    from encdec_eqx.text import TokenizerPair
    from encdec_eqx.training import TrainConfig, fit, read_pairs, stream_pairs
    from encdec_eqx.training.training_run import prepare

    model, tokenizers = _model(), TokenizerPair.from_pretrained("letters", "phonemes")
    found: dict[str, Any] = {"bytes": sum(pathlib.Path(file).stat().st_size for file in files)}
    with tempfile.TemporaryDirectory() as folder, Resident() as watch:
        cache, begun = pathlib.Path(folder) / "cache", _memory.memory()
        config = TrainConfig(
            output_dir=pathlib.Path(folder) / "run",
            per_device_train_batch_size=BATCH,
            max_steps=min(steps, pairs // BATCH),
            max_shapes=1,
            logging_steps=100,
        )
        with _Timed(found, "index_seconds"):
            data = read_pairs(files) if what == "held" else stream_pairs(files, cache_dir=cache)
            ready = prepare(model, data, config, tokenizers=tokenizers)
        found["cache_bytes"] = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        found["index_bytes"] = sum(file.stat().st_size for file in cache.rglob("entries.bin"))
        found["memory"] = {"before": begun, "indexed": _memory.memory()}
        first = 0
        if what == "trained":
            with _Timed(found, "train_seconds"):
                first = fit(model, data, config, tokenizers=tokenizers).step
            found["memory"]["trained"] = _memory.memory()
        if what != "held":
            with _Timed(found, "read_seconds"):
                for _ in ready.batches.epoch(0).read(first):
                    pass
            found["memory"]["read"] = _memory.memory()
            found |= {"steps": first, "batches": len(ready.batches)}
    return {**found, "resident": watch.samples}


class _Timed:
    """Seconds that its block takes, noted under a name."""

    def __init__(self, found: dict[str, Any], name: str):
        self._found, self._name = found, name

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._found[self._name] = time.perf_counter() - self._begun


def _model() -> Any:
    """One layer of width 16 a side, for the tokenizers of the pieces that ship with the package."""
    import jax

    from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig

    pieces = EncoderDecoder.from_encoder_decoder_pretrained("letters", "phonemes", key=jax.random.key(0))
    encoder = {
        "model_type": "bert", "vocab_size": pieces.encoder.config.vocab_size, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
        "pad_token_id": pieces.encoder.config.pad_token_id,
    }  # fmt: skip
    decoder = {
        "model_type": "gpt2", "vocab_size": pieces.decoder.config.vocab_size, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "n_positions": 32, "is_decoder": True, "add_cross_attention": True,
    }  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 3)
    made = EncoderDecoder.from_pieces(
        Encoder.init(StackConfig.from_hf(encoder), key=keys[0]),
        Decoder.init(StackConfig.from_hf(decoder), key=keys[1]),
        key=keys[2],
    )
    special = pieces.special_tokens
    return made.with_special_tokens(
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        pad_token_id=special.pad_token_id,
        decoder_start_token_id=special.decoder_start_token_id,
    )


if __name__ == "__main__":
    main()
