#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures and builds one preset of CMakePresets.json, quietly unless it fails.
#   launch/build.sh PRESET [TARGET...]
#   STIPPLE_WERROR=ON makes warnings errors; STIPPLE_BUILD_DIR is another folder than the preset's; STIPPLE_CUDA_ARCHITECTURES as
#   CMAKE_CUDA_ARCHITECTURES.
#   STIPPLE_UNITY=OFF compiles every file by itself: twice the work, but little after a change of one (docs/testing.md).
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: launch/build.sh PRESET [TARGET...]}
shift

# What two presets compile alike, and what was compiled before, is compiled once where ccache is installed.
launcher=$(command -v ccache >/dev/null && echo ccache || true)
export CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=$PWD  # build folders share, and so do clones
export CCACHE_SLOPPINESS=pch_defines,time_macros  # what precompiled headers need
launchers=()
for language in C CXX CUDA; do launchers+=("-DCMAKE_${language}_COMPILER_LAUNCHER=$launcher"); done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
fail() { cat "$log" >&2; echo "The build of preset '$preset' failed" >&2; exit 1; }
cmake --preset "$preset" ${STIPPLE_BUILD_DIR:+-B "$STIPPLE_BUILD_DIR"} "${launchers[@]}" -DSTIPPLE_WERROR="${STIPPLE_WERROR:-OFF}" \
  ${STIPPLE_CUDA_ARCHITECTURES:+-DCMAKE_CUDA_ARCHITECTURES="$STIPPLE_CUDA_ARCHITECTURES"} \
  -DCMAKE_UNITY_BUILD="${STIPPLE_UNITY:-ON}" -DCMAKE_UNITY_BUILD_BATCH_SIZE=16 >"$log" 2>&1 || fail
if [ -n "${STIPPLE_BUILD_DIR:-}" ]; then
  cmake --build "$STIPPLE_BUILD_DIR" ${1:+--target "$@"} >"$log" 2>&1 || fail
else
  cmake --build --preset "$preset" ${1:+--target "$@"} >"$log" 2>&1 || fail
fi
