#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the program, bench_cuda and the CUDA tests with every library they need, the C library and its loader included, so that they run
# on any Linux with an NVIDIA driver and CUDA's libraries (cuBLASLt, cuSPARSE; NCCL only for several GPUs): unpack, run bin/stipple or
# launch/gpu_check.sh. One process only: nothing of MPI but its library is in it. Refuses to write 60 MiB or more.
#   launch/bundle.sh [--build DIR] [--arch LIST] [OUT]     OUT: stipple-bundle.tar.xz by default; a name in .tar.zst packs with zstd
#     --build DIR    take the programs of this build folder; otherwise the preset cuda is built, into build-bundle/
#     --arch LIST    for these GPUs, 90-real by default (H100, H200): fewer are a smaller bundle and a shorter build
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build="" arch=90-real out=stipple-bundle.tar.xz
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=$2; shift 2 ;;
    --arch) arch=$2; shift 2 ;;
    -*) sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) out=$1; shift ;;
  esac
done
case "$out" in
  *.tar.xz) pack="xz -T1 --lzma2=preset=6,dict=256MiB" ;;
  *.tar.zst) pack="zstd -q -19 --long=27" ;;
  *) echo "bundle: $out: name it .tar.xz or .tar.zst" >&2; exit 2 ;;
esac

tests=$("$root/launch/cuda_tests.sh" | cut -d' ' -f1 | sort -u)
if [ -z "$build" ]; then
  build=$root/build-bundle
  STIPPLE_BUILD_DIR=$build STIPPLE_CUDA_ARCHITECTURES=$arch "$root/launch/build.sh" cuda stipple bench_cuda $tests
fi
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/stipple-bundle
mkdir -p "$bundle"/{bin,programs,lib/c,lib/without-nccl,bench}

# --- programs: one wrapper each, which finds CUDA's libraries ------------------------------------
for name in stipple bench_cuda $tests; do
  program=$(find "$build/bin" "$build/tests" -name "$name" -type f -perm -u+x | head -n 1)
  [ -n "$program" ] || { echo "bundle: $build has no $name; build it first" >&2; exit 2; }
  strip -o "$bundle/programs/$name" "$program"
  cp "$root/launch/bundle_run.sh" "$bundle/bin/$name"
done

# --- libraries -------------------------------------------------------------------------------------
# CUDA's stay outside: they are large, and those of the driver's age work best.
theirs='^(libcublas|libcublasLt|libcusparse|libnccl|libnvJitLink|libcuda)\.so'
needed() { readelf -d "$@" 2>/dev/null | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' | sort -u; }
# The C library lies apart: under a profiler the machine's own is used (bundle_run.sh).
glibc='^(libc|libm|libmvec|libpthread|libdl|librt|libresolv|libutil|libnsl|libanl)\.so'
ldd "$bundle"/programs/* | sed -nE 's/^\s+(\S+) => (\/\S+) .*/\1 \2/p' | sort -u | while read -r name path; do
  if [[ $name =~ $glibc ]]; then
    cp -L "$path" "$bundle/lib/c/$name"
  elif ! [[ $name =~ $theirs ]]; then
    cp -L "$path" "$bundle/lib/$name"
  fi
done
loader=$(readelf -l "$bundle/programs/stipple" | sed -nE 's/.*interpreter: (.*)\]/\1/p')
cp -L "$loader" "$bundle/lib/c/$(basename "$loader")"
getconf GNU_LIBC_VERSION | cut -d' ' -f2 >"$bundle/lib/c/version"
strip --strip-unneeded "$bundle"/lib/*.so* "$bundle"/lib/c/*.so* 2>/dev/null || true
for file in "$bundle"/programs/*; do needed "$file"; done | sort -u | grep -E "$theirs" >"$bundle/lib/cuda.txt" || true
ldd "$bundle/programs/stipple" | sed -nE 's/^\s+(libnvJitLink\S*) =>.*/\1/p' >>"$bundle/lib/cuda.txt"
for name in $(for file in "$bundle"/programs/* "$bundle"/lib/*.so*; do needed "$file"; done | sort -u); do
  [[ $name =~ $theirs ]] || [ -e "$bundle/lib/$name" ] || [ -e "$bundle/lib/c/$name" ] || { echo "bundle: $name was not found on this machine" >&2; exit 1; }
done
# One process never calls NCCL, but the program names it.
if grep -q libnccl "$bundle/lib/cuda.txt"; then
  for file in "$bundle"/programs/*; do nm -D --undefined-only "$file"; done | sed -nE 's/^ *U (nccl[A-Za-z]+)$/\1/p' | sort -u |
    grep -vE '^(ncclGetErrorString|ncclGetLastError)$' | sed -E 's/.*/STAND_IN(&)/' >"$stage/functions.inc"
  cc -shared -fPIC -O1 -Wl,-soname,libnccl.so.2 -I"$stage" "$root/launch/bundle_without_nccl.c" -o "$bundle/lib/without-nccl/libnccl.so.2"
fi

# --- everything else -------------------------------------------------------------------------------
cp -r "$root/configs" "$bundle/configs"
mkdir "$bundle/launch"
cp "$root"/launch/{gpu_check.sh,gpu_check_page.awk,mpi_environment.sh} "$bundle/launch/"
"$root/launch/cuda_tests.sh" >"$bundle/launch/cuda_tests.txt"
cp "$root/bench/peers.py" "$bundle/bench/"
cp "$root/LICENSE" "$bundle/"

tar --sort=name --mtime='2020-01-01 UTC' --owner=0 --group=0 --numeric-owner -C "$stage" -cf - stipple-bundle | $pack >"$out.part"
bytes=$(stat -c %s "$out.part")
if [ "$bytes" -ge $((60 << 20)) ]; then
  rm "$out.part"
  echo "bundle: $bytes bytes, which is not below 60 MiB: build for fewer architectures (--arch)" >&2
  exit 1
fi
mv "$out.part" "$out"
echo "wrote $out: $((bytes >> 20)) MiB, $(ls "$bundle/programs" | wc -l) programs, $(ls "$bundle"/lib/*.so* | wc -l) libraries; it needs $(
  tr '\n' ' ' <"$bundle/lib/cuda.txt")"
