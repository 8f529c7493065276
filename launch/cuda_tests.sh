#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the tests that run on a GPU where there is one: a line each, the program and the file of it (--source of the program).
#   launch/cuda_tests.sh
set -euo pipefail
cd "$(dirname "$0")/.."
grep -lE 'tests/support/(devices|device_graphs|op_checks)\.h|attend_(on_device|reference)\.h|cuda_device|cuda::device_count' \
  tests/{kernels,model,trainer}/*_test.cpp | sort | sed -E 's|^tests/(.*)/(.*)\.cpp$|\1_tests \2|'
