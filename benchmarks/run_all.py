"""Every benchmark, then the README's tables: `python -m benchmarks.run_all --out benchmarks/results`.

About an hour and a half on two quiet CPU cores; `--only generate,speculative` runs some. It measures nothing itself.
"""

import argparse
import importlib
import pathlib
import tempfile
import time
from types import ModuleType

from benchmarks import report

SCRIPTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("generate", ()),
    ("train_step", ()),
    ("load", ()),
    ("compile", ()),
    ("cache_moves", ()),
    ("speculative", ()),
    ("int8", ()),
    ("turns", ()),
)


def shared(script: ModuleType, out: str, cache: str, device: str, sizes: str) -> list[str]:
    """The options that every script gets; a folder of checkpoints only if it reads any."""
    reads = "--cache" in script.options().format_help()
    return ["--out", out, "--device", device, "--sizes", sizes, *(["--cache", cache] if reads else [])]


def _only(text: str) -> tuple[str, ...]:
    known = [name for name, _ in SCRIPTS]
    if not set(text.split(",")) <= set(known):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names out of {', '.join(known)}")
    return tuple(text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Runs the scripts over one set of checkpoints."""
    options = argparse.ArgumentParser(description="Runs every benchmark and rewrites the README's tables.")
    options.add_argument("--out", type=pathlib.Path, default=report.README.parent / "results")
    options.add_argument("--cache", type=pathlib.Path, help="folder that keeps the random checkpoints between runs")
    options.add_argument("--jax-python", help="interpreter of our side, as each script has it; default this one")
    options.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    options.add_argument("--sizes", default="tiny,small,base")
    options.add_argument("--only", type=_only, help="comma-separated names of scripts; default all")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        for name, more in SCRIPTS:
            if chosen.only and name not in chosen.only:
                continue
            script = importlib.import_module(f"benchmarks.{name}")
            begin = time.perf_counter()
            given = shared(script, str(chosen.out), str(chosen.cache or temporary), chosen.device, chosen.sizes)
            script.main([*given, *more, *(["--jax-python", chosen.jax_python] if chosen.jax_python else [])])
            print(f"({time.perf_counter() - begin:.0f} s)\n", flush=True)
    report.rewrite(report.README, chosen.out)


if __name__ == "__main__":
    main()
