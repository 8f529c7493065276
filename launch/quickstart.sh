#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian machine to a trained SBM-Transformer: installs packages, builds, writes ListOps data, trains with two MPI ranks
# on CPU cores, evaluates and says where the result stands. A second call reuses what is there.
#   launch/quickstart.sh [key=value...]      overrides of configs/recipe/quickstart.yaml, e.g. run.dir=runs/other train.steps=100
#   RANKS=4 launch/quickstart.sh             another number of ranks: the same bits, another speed
#   DEVICE=cuda launch/quickstart.sh         on GPUs, one rank each (RANKS of them, one by default); needs nvcc, cuBLASLt, cuSPARSE, NCCL
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install_deps.sh

if [ "${DEVICE:-cpu}" = cuda ]; then
  preset=cuda program=build-cuda/bin/stipple ranks=${RANKS:-1} device=(device=cuda run.dir=runs/quickstart-cuda)
else
  preset=cpu-quickstart program=build/bin/stipple ranks=${RANKS:-2} device=()
fi
echo "Building $program"
launch/build.sh $preset stipple

data=datasets/listops-short
if [ ! -f "$data/basic_test.tsv" ]; then
  echo "Writing ListOps by the grammar of the Long Range Arena, with shorter sequences, to $data"
  $program data listops --out "$data" --seed 1 --train 200000 --val 2000 --test 2000 --min-length 8 --max-length 60
fi

exec launch/run.sh -np "$ranks" "$program" train configs/recipe/quickstart.yaml "${device[@]}" "$@"
