#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The statistical tests draw thousands of graphs and examples with fixed seeds: code that has not changed cannot change their verdict.
# tests/statistics.passed is the hash of the files that decide it when they last passed.
#   launch/statistics.sh              builds, runs ctest -L statistics of presets cpu and cuda-emulated, and writes the hash when they pass:
#                                     commit it with the change
#   launch/statistics.sh --unchanged  0: the files are those that passed; 1: they are not, so the tests must run
set -euo pipefail
cd "$(dirname "$0")/.."

# The samplers and generators under test, what they draw from, and the checkers.
files=(core/rng.h data/listops.h data/listops/evaluate.cpp data/listops/generate.cpp data/random_stream.h kernels/cpu/sample kernels/cuda/sample
  kernels/cpu/vectorize.h kernels/edges.cpp kernels/edges.h kernels/math kernels/runs.h kernels/sbm.cpp kernels/sbm.h
  tests/data/listops_statistics_test.cpp tests/kernels/sampler_cuda_law_test.cpp tests/kernels/sampler_law_test.cpp
  tests/kernels/sampler_mutants_test.cpp tests/support/device_graphs.h
  tests/support/alias_tables.h tests/support/sampler_checks.h)
record=tests/statistics.passed

hash_of_files() { git ls-files -z --error-unmatch -- "${files[@]}" | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1; }

case "${1:-}" in
  --unchanged)
    hash=$(hash_of_files 2>/dev/null) || exit 1  # no git here, or a file has moved: in doubt they run
    [ "$hash" = "$(cat $record 2>/dev/null)" ]
    ;;
  "")
    hash=$(hash_of_files)
    . launch/mpi_environment.sh
    for preset in cpu cuda-emulated; do
      launch/build.sh $preset
      ctest --preset $preset -L statistics
    done
    echo "$hash" >$record
    ;;
  *) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
