#!/usr/bin/env bash
# The training step and generation on a CPU, each side alone and in turns with torch, in one command of about
# fourteen minutes on two quiet cores:
#   benchmarks/cpu.sh --jax-python venv/bin/python,newest/bin/python --out benchmarks/results
#   benchmarks/cpu.sh --sizes tiny --training tiny --cells tiny:1x1:32 --new-tokens 8 --repeats 1    a trial of it
# PYTHON names torch's interpreter (default: python); --jax-python those of our side, each with a jax of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m benchmarks.turns "$@"
