#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, checks the formatting, builds, and runs every test that what has changed can fail: docs/testing.md.
# Arguments go to ctest and leave out the rest: launch/test.sh -R sampler
#   STIPPLE_SANITIZED=0 leaves out the second build, with address and undefined-behaviour sanitizers and the CUDA kernels run on the CPU.
#   STIPPLE_NVCC=0 leaves out compiling for GPUs, which happens where nvcc is found.
#   STIPPLE_ALL_TESTS=1 runs recorded suites, too, if nothing that decides them has changed (launch/recorded_tests.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install_deps.sh --tests
. launch/mpi_environment.sh
[ $# != 0 ] || launch/lint.sh --format

# What cannot have changed its verdict since it passed is not repeated.
skipped=()
if [ $# = 0 ] && [ "${STIPPLE_ALL_TESTS:-0}" = 0 ]; then
  mapfile -t skipped < <(launch/recorded_tests.sh --unchanged)
  [ ${#skipped[@]} = 0 ] || echo "Nothing has changed that decides these suites, and they passed with it: ${skipped[*]} (launch/recorded_tests.sh)"
fi
is_skipped() { [[ " ${skipped[*]} " = *" $1 "* ]]; }

# The release build runs everything: unit, multi-process and whole-program tests.
launch/build.sh cpu
without=()
! is_skipped statistics || without=(-LE statistics)
ctest --preset cpu "${without[@]}" "$@"
[ $# != 0 ] || launch/lint.sh

# The sanitized build repeats what is quick, on the CPU and on the emulated CUDA device.
programs=()
for layer in core kernels comm data model trainer; do is_skipped $layer || programs+=("${layer}_test_programs"); done
is_skipped emulated || programs+=(stipple)
if [ "${STIPPLE_SANITIZED:-1}" = 1 ] && [ ${#programs[@]} != 0 ]; then
  launch/build.sh cuda-emulated "${programs[@]}"
  ctest --preset cuda-emulated -LE "^($(IFS='|'; echo "${skipped[*]:-none}"))\$" ${1:+--no-tests=ignore} "$@"
fi

# What nvcc refuses should not wait for a GPU to be noticed: one architecture, without the optimisation that is most of the time
# (launch/bundle.sh compiles what runs, launch/kernel_report.sh tells of registers and spills).
if [ "${STIPPLE_NVCC:-1}" = 1 ] && command -v nvcc >/dev/null && [ $# = 0 ]; then
  quick=$(nvcc --help | grep -q -- --Ofast-compile && echo --Ofast-compile=max || true)
  CUDAFLAGS="${CUDAFLAGS:-} $quick" STIPPLE_BUILD_DIR=build-nvcc STIPPLE_CUDA_ARCHITECTURES=90-virtual launch/build.sh cuda stipple
fi
