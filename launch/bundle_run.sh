#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Starts the program of the bundle that has this file's name, on the bundle's own libraries and this machine's CUDA.
# CUDA's libraries are looked for in CUDA_HOME, /usr/local/cuda, LD_LIBRARY_PATH, the system's folders and Python's packages.
# STIPPLE_HOST_LOADER=1: by this machine's loader and C library, which profilers and sanitizers need to come in; they must not be older than
# the bundle's.
bundle=$(cd "$(dirname "$0")/.." && pwd)
name=$(basename "$0")

places() {
  [ -z "$CUDA_HOME" ] || printf '%s\n' "$CUDA_HOME/lib64" "$CUDA_HOME/lib"
  printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib /usr/local/nvidia/lib64
  printf '%s\n' "$LD_LIBRARY_PATH" | tr ':' '\n'
  for ldconfig in ldconfig /sbin/ldconfig; do
    "$ldconfig" -p 2>/dev/null | sed -nE 's/.*=> (\/.*)\/lib(cublasLt|cusparse|nccl|nvJitLink|cuda)\.so.*/\1/p' && break
  done
  for folder in /usr/lib/python3*/site-packages /usr/local/lib/python3*/site-packages /usr/local/lib/python3*/dist-packages \
    "$VIRTUAL_ENV"/lib/python3*/site-packages "$HOME"/.local/lib/python3*/site-packages; do
    ls -d "$folder"/nvidia/*/lib 2>/dev/null
  done
  python3 -c 'import glob, sys; [print(p) for d in sys.path for p in glob.glob(d + "/nvidia/*/lib")]' 2>/dev/null
}

path=$bundle/lib
missing=""
all=$(places | awk '!seen[$0]++')
for library in $(cat "$bundle/lib/cuda.txt") libcuda.so.1; do
  found=""
  for place in $all; do
    if [ -e "$place/$library" ]; then found=$place; break; fi
  done
  case "$found $library" in
    " libnccl"*) found=$bundle/lib/without-nccl ;;
    " libcuda.so.1") ;; # the driver's: without it the program says that there is no GPU
    " "*) missing="$missing $library" ;;
  esac
  case ":$path:" in *":$found:"*) ;; *) path=$path${found:+:$found} ;; esac
done
if [ -n "$missing" ]; then
  echo "$name: CUDA's$missing was not found: set CUDA_HOME to a CUDA toolkit of that version" >&2
  exit 4
fi
path=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# No launcher: the bundle runs one process.
unset OMPI_COMM_WORLD_SIZE PMIX_RANK PMIX_NAMESPACE PMI_RANK PMI_SIZE
if [ "$STIPPLE_HOST_LOADER" = 1 ]; then
  theirs=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  ours=$(cat "$bundle/lib/c/version")
  if [ "$(printf '%s\n' "$ours" "${theirs:-0}" | sort -V | tail -n 1)" != "$theirs" ]; then
    echo "$name: this machine's C library, ${theirs:-not glibc}, is older than the bundle's, $ours" >&2
    exit 4
  fi
  LD_LIBRARY_PATH=$path exec "$bundle/programs/$name" "$@"
fi
exec "$bundle"/lib/c/ld-linux-*.so.* --library-path "$bundle/lib/c:$path" "$bundle/programs/$name" "$@"
