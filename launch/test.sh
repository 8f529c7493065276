#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, builds, and runs every test. Arguments go to ctest: launch/test.sh -R sampler
#   STIPPLE_SANITIZED=0 leaves out the second build with address and undefined-behaviour sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install_deps.sh --tests
. launch/mpi_environment.sh

# The release build runs everything: unit, multi-process and whole-program tests.
launch/build.sh cpu
ctest --preset cpu "$@"

# The sanitized build repeats what is quick: unit tests and tests of several ranks.
if [ "${STIPPLE_SANITIZED:-1}" = 1 ]; then
  launch/build.sh cpu-asan
  ctest --preset cpu-asan ${1:+--no-tests=ignore} "$@"
fi
