"""Loading onto eight virtual devices: what the host holds besides the arrays, and how much of the files is read.

`python -m benchmarks.load_on_mesh` writes a decoder in shards, loads it in fresh processes, each way once, and prints a
table. On CPUs the arrays are memory of the host themselves, so that what counts is what goes beyond them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _memory

DEVICES = 8
WAYS = ("parts", "whole")
_SIZES = {"num_attention_heads": 16, "num_key_value_heads": 8, "is_decoder": True, "add_cross_attention": True}
BIG = {"vocab_size": 128_000, "hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 4096}
SMALL = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 128}


def write(folder: Path, sizes: dict[str, int]) -> None:
    """A Llama with cross-attention and weights that stand for a trained one's, in shards of at most 300 MB."""
    import equinox as eqx
    import jax
    import numpy as np

    from encdec_eqx import Decoder, StackConfig

    config = StackConfig.from_hf({"model_type": "llama", **_SIZES, **sizes})
    skeleton = eqx.filter_eval_shape(Decoder.init, config, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    decoder = jax.tree.map(lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape, np.float32)), skeleton)
    decoder.save_pretrained(folder, max_shard_size="300MB")


def measure(way: str, dtype: str, folder: Path, warm_up: Path) -> dict[str, Any]:
    """One load in this process, after one of a small checkpoint, which imports everything and compiles."""
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES)
    from encdec_eqx import Decoder, make_mesh, with_mesh
    from encdec_eqx.hf import transforms

    mesh = make_mesh(fsdp=DEVICES)
    read: list[int] = []
    copy = transforms.copy_mapped

    def counted(target: Any, source: Any) -> None:
        read.append(source.nbytes)
        copy(target, source)

    transforms.copy_mapped = counted
    loaded: list[Any] = []

    def load(path: Path) -> None:
        if way == "parts":
            model = Decoder.from_pretrained(path, dtype=dtype, mesh=mesh)
        else:
            model = with_mesh(Decoder.from_pretrained(path, dtype=dtype), mesh)
        loaded[:] = [jax.block_until_ready(model)]

    load(warm_up)
    loaded.clear()
    read.clear()
    before = _memory.memory()
    peaks = _memory.peaks(lambda: load(folder))
    parts = [part for leaf in jax.tree.leaves(loaded) for part in leaf.addressable_shards]
    first = parts[0].device
    return {
        "arrays": sum(part.data.nbytes for part in parts),
        "largest_part": max(part.data.nbytes for part in parts),
        "on_a_device": sum(part.data.nbytes for part in parts if part.device == first),
        "read": sum(read),
        "largest_read": max(read),
        "resident": peaks["run_peak"] - before["resident"],
        "anonymous": peaks["anonymous_run_peak"] - before["anonymous"],
    }


def main() -> None:
    """Write, load each way in a process of its own, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("WAY", "DTYPE", "FOLDER", "WARM_UP"), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one:
        way, dtype, folder, warm_up = settings.one
        print(json.dumps(measure(way, dtype, Path(folder), Path(warm_up))))
        return
    with tempfile.TemporaryDirectory() as place:
        big, small = Path(place) / "big", Path(place) / "small"
        write(big, BIG)
        write(small, SMALL)
        files = [path.stat().st_size for path in big.glob("*.safetensors")]
        print(f"{len(files)} files, {_mb(sum(files))} MB\n")
        print("| way | dtype | arrays | largest part | read | host beyond the arrays | without the files' pages |")
        print("|---|---|---|---|---|---|---|")
        for dtype in ("float32", "bfloat16"):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.load_on_mesh", "--one", way, dtype, str(big), str(small)]
                environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
                out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found = json.loads(out.stdout)
                beyond = (found["resident"] - found["arrays"], found["anonymous"] - found["arrays"])
                cells = (found["arrays"], found["largest_part"], found["read"], *beyond)
                print(f"| {way} | {dtype} | {' | '.join(map(_mb, cells))} |")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


if __name__ == "__main__":
    main()
