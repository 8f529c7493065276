#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, checks the formatting, builds, and runs every test that what has changed can fail: docs/testing.md.
# Arguments go to ctest and leave out the rest: launch/test.sh -R sampler
#   STIPPLE_SANITIZED=0 leaves out the second build, with address and undefined-behaviour sanitizers and the CUDA kernels run on the CPU.
#   STIPPLE_NVCC=0 leaves out compiling for GPUs, which happens where nvcc is found.
#   STIPPLE_STATISTICS=1 runs the statistical tests even if nothing that decides them has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install_deps.sh --tests
. launch/mpi_environment.sh
[ $# != 0 ] || launch/lint.sh --format

# The release build runs everything: unit, multi-process and whole-program tests.
launch/build.sh cpu
without=()
if [ $# = 0 ] && [ "${STIPPLE_STATISTICS:-0}" = 0 ] && launch/statistics.sh --unchanged; then
  echo "Nothing has changed that decides the statistical tests; they passed with it. To run them: launch/statistics.sh"
  without=(-LE statistics)
fi
ctest --preset cpu "${without[@]}" "$@"
[ $# != 0 ] || launch/lint.sh

# The sanitized build repeats what is quick, on the CPU and on the emulated CUDA device.
if [ "${STIPPLE_SANITIZED:-1}" = 1 ]; then
  launch/build.sh cuda-emulated
  ctest --preset cuda-emulated "${without[@]}" ${1:+--no-tests=ignore} "$@"
fi

# What nvcc refuses should not wait for a GPU to be noticed (launch/kernel_report.sh tells of registers and spills).
if [ "${STIPPLE_NVCC:-1}" = 1 ] && command -v nvcc >/dev/null && [ $# = 0 ]; then
  launch/build.sh cuda stipple
fi
