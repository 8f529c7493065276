#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says which C++ and CUDA files clang-format would change, and what clang-tidy finds in the sources that the last commit touched.
#   launch/lint.sh             both; ends with 1 if there is anything to say
#   launch/lint.sh --format    formatting only; --fix formats the files
#   BASE=main launch/lint.sh   clang-tidy of all that changed since the branch left main
# Kernels in .cu are formatted only: clang 14 does not know the CUDA that they are written for.
set -euo pipefail
cd "$(dirname "$0")/.."
command=all
case "${1:-}" in
  "") ;;
  --format | --fix) command=$1 ;;
  *) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# Other releases of clang-format want other white space.
tool() { command -v "$1-14" || command -v "$1" || { echo "lint: $1 is missing: launch/install_deps.sh --tests" >&2; exit 2; }; }
format=$(tool clang-format)
mapfile -t files < <(git ls-files -- '*.h' '*.cpp' '*.cu' '*.cuh')
[ ${#files[@]} -gt 0 ] || { echo "lint: git lists no sources here, so nothing is looked at"; exit 0; }
if [ $command = --fix ]; then
  "$format" -i "${files[@]}"
  exit
fi
code=0
"$format" --dry-run --Werror "${files[@]}" || { echo "lint: launch/lint.sh --fix formats these files" >&2; code=1; }
[ $command = all ] || exit $code

tidy=$(tool clang-tidy)
# A clone without history, or the first commit: everything may be new, which is too much; then nothing is looked at, and that is said.
base=$(git merge-base "${BASE:-HEAD~1}" HEAD 2>/dev/null || true)
if [ -z "$base" ]; then
  echo "lint: no commit before this one is known here, so clang-tidy looks at nothing (BASE=REVISION names one)"
  exit $code
fi
# How each file is compiled by itself, so that one that lacks an include is found: builds join files. Clang reads neither g++'s
# precompiled header nor all of its flags.
commands=build/lint/compile_commands.json
cmake --preset cpu -B build/lint -DCMAKE_UNITY_BUILD=OFF >/dev/null || { echo "lint: cmake cannot configure: launch/install_deps.sh --tests" >&2; exit 2; }
sed -i -E 's/-Winvalid-pch|-include [^ ]*cmake_pch[^ ]*|-Wno-(restrict|maybe-uninitialized|stringop-overflow)//g' "$commands"
touched() { git diff --name-only --diff-filter=ACMR "$base" HEAD -- "$@"; }
# Only what this build compiles: the flags of other sources are not known. Headers are looked at where such a source includes them.
mapfile -t sources < <(touched '*.cpp' | while read -r file; do
  if grep -qF "\"$PWD/$file\"" "$commands"; then echo "$file"; fi
done)
headers=$(touched '*.h' | sed 's/\./\\./g' | paste -sd '|')
[ ${#sources[@]} = 0 ] || printf '%s\n' "${sources[@]}" |
  xargs -n 1 -P "$(nproc)" "$tidy" -p build/lint --quiet --header-filter="/(${headers:-none})\$" 2> >(grep -v ' warnings\? .*generated\.$' >&2) || code=1
exit $code
