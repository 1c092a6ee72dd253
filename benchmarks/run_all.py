"""Every benchmark, then the README's tables: `python -m benchmarks.run_all --out benchmarks/results`.

About 15 minutes on two quiet CPU cores. It measures nothing itself.
"""

import argparse
import pathlib
import tempfile
import time

from benchmarks import compile as compile_times
from benchmarks import generate, load, report, train_step


def main(arguments: list[str] | None = None) -> None:
    """Runs the four scripts over one set of checkpoints."""
    options = argparse.ArgumentParser(description="Runs every benchmark and rewrites the README's tables.")
    options.add_argument("--out", type=pathlib.Path, default=report.README.parent / "results")
    options.add_argument("--cache", type=pathlib.Path, help="folder that keeps the random checkpoints between runs")
    options.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    options.add_argument("--sizes", default="tiny,small,base")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        shared = ["--out", str(chosen.out), "--cache", str(chosen.cache or temporary)]
        shared += ["--device", chosen.device, "--sizes", chosen.sizes]
        for main_of, more in (
            (generate.main, []),
            (train_step.main, ["--layouts", "scanned,unrolled"]),
            (load.main, []),
            (compile_times.main, []),
        ):
            begin = time.perf_counter()
            main_of([*shared, *more])
            print(f"({time.perf_counter() - begin:.0f} s)\n", flush=True)
    report.rewrite(report.README, chosen.out)


if __name__ == "__main__":
    main()
