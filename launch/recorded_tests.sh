#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Suites that need not run again: their seeds are fixed, so that only the files that decide a suite can change its verdict.
# tests/recorded.passed has, for each, the hash of those files when it last passed.
#   launch/recorded_tests.sh SUITE...   builds and runs them and records what passes: commit the record with the change
#   launch/recorded_tests.sh            the same for all whose files have changed since they passed
#   launch/recorded_tests.sh --unchanged, --changed  print the suites whose files are, or are not, those that passed, one a line
# Suites: statistics (thousands of graphs and examples against their laws), core, kernels, comm, data, model, trainer: the sanitized
# tests of a layer, on the CPU and on the emulated CUDA device, and emulated: the whole program on that device.
set -euo pipefail
cd "$(dirname "$0")/.."
suites=(statistics core kernels comm data model trainer emulated)
record=tests/recorded.passed

# files_of SUITE: what decides it, besides the compiler
files_of() {
  local everywhere="CMakeLists.txt CMakePresets.json cmake tests/CMakeLists.txt tests/support"
  case $1 in
    # The samplers and generators under test, what they draw from, and the checkers.
    statistics) echo core/rng.h data/listops.h data/listops/evaluate.cpp data/listops/generate.cpp data/random_stream.h kernels/cpu/sample \
      kernels/cuda/sample kernels/cpu/vectorize.h kernels/edges.cpp kernels/edges.h kernels/math kernels/runs.h kernels/sbm.cpp kernels/sbm.h \
      tests/data/listops_statistics_test.cpp tests/kernels/sampler_cuda_law_test.cpp tests/kernels/sampler_law_test.cpp \
      tests/kernels/sampler_mutants_test.cpp tests/support/device_graphs.h tests/support/alias_tables.h tests/support/sampler_checks.h ;;
    # A layer and those below it.
    core) echo "$everywhere" core tests/core ;;
    kernels) echo "$everywhere" core kernels tests/kernels ;;
    comm) echo "$everywhere" core kernels comm tests/comm ;;
    data) echo "$everywhere" core data tests/data ;;
    model) echo "$everywhere" core kernels comm data model tests/model ;;
    trainer) echo "$everywhere" core kernels comm data model trainer configs tests/trainer tests/data ;;
    emulated) echo "$everywhere" core kernels comm data model trainer configs launch/mpi_environment.sh tests/kernels tests/program ;;
    *) echo "recorded_tests: no suite is called '$1', only ${suites[*]}" >&2; return 2 ;;
  esac
}

# hash_of SUITE; empty without git, or when a file has moved
hash_of() {
  local files
  files=$(files_of "$1") || exit 2
  # shellcheck disable=SC2086
  if files=$(git ls-files --error-unmatch -- $files 2>/dev/null); then LC_ALL=C sort <<<"$files" | xargs sha256sum | sha256sum | cut -d' ' -f1; fi
}

is_unchanged() {
  local hash
  hash=$(hash_of "$1")
  [ -n "$hash" ] && grep -qsx "$1 $hash" $record
}

those() {  # those is_unchanged | those '! is_unchanged'
  local suite
  for suite in "${suites[@]}"; do if eval "$1 $suite"; then echo "$suite"; fi; done
}

run() {
  if [ "$1" = statistics ]; then
    for preset in cpu cuda-emulated; do
      launch/build.sh $preset
      ctest --preset $preset -L statistics
    done
  else
    launch/build.sh cuda-emulated
    ctest --preset cuda-emulated -L "^$1\$" -LE statistics
  fi
}

case "${1:-}" in
  --unchanged) those is_unchanged; exit ;;
  --changed) those '! is_unchanged'; exit ;;
  -*) sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
. launch/mpi_environment.sh
if [ $# = 0 ]; then mapfile -t suites < <(those '! is_unchanged'); else suites=("$@"); fi
for suite in "${suites[@]}"; do
  hash=$(hash_of "$suite")
  [ -n "$hash" ] || { echo "recorded_tests: git does not know all files of $suite: nothing could be recorded" >&2; exit 2; }
  run "$suite"
  others=$(grep -v "^$suite " $record || true)
  printf '%s\n' "$others" "$suite $hash" | sed '/^$/d' | LC_ALL=C sort >$record
done
