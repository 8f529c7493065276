#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the names of the test programs that run on a GPU where there is one.
#   launch/cuda_tests.sh
set -euo pipefail
cd "$(dirname "$0")/.."
grep -lE 'tests/support/(devices|device_graphs|op_checks)\.h|attend_(on_device|reference)\.h|cuda_device|cuda::device_count' tests/kernels/*_test.cpp tests/trainer/*_test.cpp |
  xargs -n 1 basename -s .cpp | sort
