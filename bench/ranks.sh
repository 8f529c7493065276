#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How much two ranks gain over one: the quickstart's training for some steps with one thread per rank, alternating, median of three.
#   bench/ranks.sh [STEPS]
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/mpi_environment.sh
steps=${1:-60}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rate() { # rate RANKS: median examples/s of the log lines, the first left out
  rm -rf "$work/run"
  mpirun -q -np "$1" build/bin/stipple train configs/recipe/quickstart.yaml run.dir="$work/run" threads=1 \
    train.steps="$steps" optimizer.schedule.warmup_steps=10 log.every=10 eval.every=0 checkpoint.every=1000000 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  grep '"kind":"train"' "$work/run/metrics.jsonl" | tail -n +2 | sed -E 's/.*"examples_per_s":([0-9.]+).*/\1/' | sort -g |
    awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for repeat in 1 2 3; do
  one=$(rate 1)
  two=$(rate 2)
  awk -v a="$one" -v b="$two" 'BEGIN { printf "1 rank %.1f examples/s   2 ranks %.1f examples/s   ratio %.2f\n", a, b, b / a }'
done
