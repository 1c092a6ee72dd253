#!/usr/bin/env bash
# Everything that is measured on a GPU, in one command of under eight minutes; it installs nothing.
#   benchmarks/gpu.sh                                  all of it; results in benchmarks/results/gpu
#   benchmarks/gpu.sh --only training,profiles         some of it
#   benchmarks/gpu.sh --platform cpu --tiny --out /tmp/gpu    a trial of the script without a GPU
# PYTHON names the interpreter (default: python), which needs jax[cuda12] or jax[cuda13], and torch to compare with.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
