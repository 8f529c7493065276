#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the compiler says of every CUDA kernel: registers, spills, stack and static shared memory, for sm_80, sm_90 and sm_100; and, from
# the machine code of sm_90, instructions for 32 pairs of the loops that hold matrix products, and of those of Combiner. Compiles with the flags of the cuda preset;
# needs nvcc, cuobjdump and nvdisasm (PyPI has nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm where a toolkit has not), no GPU. Exits 1 when
# a kernel of attention or of a sampler spills more than two registers once (16 bytes stored and loaded), or when such a loop has a branch where lanes may part or more instructions than it may.
#   launch/kernel_report.sh [FILE.cu...]     all of kernels/cuda by default; the table goes to standard output
#   JOBS=4 launch/kernel_report.sh           compiles four files at a time
set -euo pipefail
cd "$(dirname "$0")/.."
work=${KERNEL_REPORT_DIR:-build-kernel-report}
main='attend/tiles|attend/gather|sample/tiles|sample/rows'

command -v "${CUDACXX:-nvcc}" >/dev/null || { echo "nvcc was not found: put the CUDA toolkit's bin on PATH, or set CUDACXX" >&2; exit 2; }
for tool in cuobjdump nvdisasm; do
  command -v $tool >/dev/null || { echo "$tool was not found: put it on PATH" >&2; exit 2; }
done
# Without its launcher: a cached object may come without the compiler's messages.
if ! cmake --preset cuda -B "$work" -DSTIPPLE_TESTS=OFF -DSTIPPLE_BENCH=OFF -DCMAKE_CUDA_ARCHITECTURES="80-real;90-real;100-real" \
  -DCMAKE_CUDA_COMPILER_LAUNCHER= >"$work.log" 2>&1; then
  cat "$work.log" >&2
  exit 2
fi
rm -f "$work.log"
[ $# -gt 0 ] || set -- kernels/cuda/*.cu kernels/cuda/*/*.cu

ninja -C "$work" -t commands stipple_kernels >"$work/commands"
reports=()
for file in "$@"; do
  name=${file##*kernels/cuda/} name=${name%.cu}
  mkdir -p "$work/reports/$(dirname "$name")"
  { echo "cd '$work'"; grep -F "/kernels/cuda/$name.cu " "$work/commands"; } >"$work/reports/$name.sh"
  reports+=("$work/reports/$name.txt")
done
report() { bash "$1" >"${1%.sh}.txt" 2>&1 || { cat "${1%.sh}.txt" >&2; echo "$1 did not compile" >&2; exit 255; }; }
export -f report
printf '%s\n' "${reports[@]/%.txt/.sh}" | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'report "$1"' _ {}

# kernel, architecture, registers, bytes of spills (stored + loaded), of stack and of static shared memory
table() {
  for file in "${reports[@]}"; do
    name=${file#"$work/reports/"}
    awk -v file="${name%.txt}" '
      /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; arch = part[4]; stack = spill = 0; entry = 1 }
      /Compile time/ { entry = 0 }
      /bytes stack frame/ && entry { stack = $1; spill = $5 + $9 }
      /Used [0-9]+ registers/ && entry {
        match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
        shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
        print kernel "\t" arch "\t" registers "\t" spill "\t" stack "\t" shared "\t" file
      }' "$file"
  done | c++filt | sed -E '
      s/^void //
      s/stipple::(kernels::|cuda::|tiles_backward::|\(anonymous namespace\)::|math::)*//g
      s/\(anonymous namespace\):://g
      s/__nv_bfloat16/bf16/g; s/\([A-Za-z_: ]+\)([0-9])/\1/g
      s/\([^\t]*\)\t/\t/' |
    sort -t"$(printf '\t')" -k7,7 -k1,1 -k2,2
}
table >"$work/table"
{ printf 'kernel\tarch\tregisters\tspill\tstack\tshared\tfile\n'; cat "$work/table"; } | column -t -s "$(printf '\t')"

spills=$(awk -F'\t' -v main="^($main)" '$4 > 0 { kind = $7 ~ main && $4 > 16 ? "MAIN" : "other"; print kind "\t" $1 "\t" $2 "\t" $4 " bytes" }' "$work/table")
echo
echo "$(wc -l <"$work/table") kernels; spilling: $([ -n "$spills" ] && printf '%s\n' "$spills" | wc -l || echo 0)"
[ -z "$spills" ] || printf '%s\n' "$spills"

# Machine code of the files that hold products of fragments, or loops over pairs by rows (kernel_loops.py).
echo
loops=0
for file in "$@"; do
  name=${file##*kernels/cuda/}
  ! grep -q 'attend/tiles.*cuh"\|multiply_add(\|combine/rows.cuh"' "$file" || cuobjdump -sass -arch sm_90 "$work/kernels/CMakeFiles/stipple_kernels.dir/cuda/$name.o"
done | c++filt | python3 launch/kernel_loops.py || loops=1
! grep -q '^MAIN' <<<"$spills" && [ $loops = 0 ]
