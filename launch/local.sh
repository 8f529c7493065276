#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on this machine with all it has: chooses how many ranks, how many threads each, and whether they are bound to cores.
#   launch/local.sh CONFIG... [key=value...]
# On CPUs as many ranks as cores, but none that would have nothing to do; with device=cuda one for each GPU. The number of ranks changes no bit.
#   RANKS=N        that many ranks
#   BIND=core      binds every rank to cores of its own, BIND=none leaves it to the system; by default core where the machine has several
#                  NUMA nodes and lets this process use all of them
#   STIPPLE=PATH   the program; build/bin/stipple, or build-cuda/bin/stipple with device=cuda
#   --show         prints what would be run
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
show=
if [ "${1:-}" = --show ]; then show=1; shift; fi
[ $# -gt 0 ] || { sed -n '3,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }

build=$launch/../build
[[ " $* " != *" device=cuda "* ]] || build=$launch/../build-cuda
program=${STIPPLE:-$build/bin/stipple}
[ -x "$program" ] || { echo "launch/local.sh: there is no $program; launch/build.sh makes it, or give STIPPLE=PATH" >&2; exit 2; }
value_of() { "$program" dry-run --key "$1" "${config[@]}"; }
config=("$@")
device=$(value_of device)

# Cores that this process may use; two threads of a core count once.
cores() {
  local all
  all=$(taskset -cp $$ 2>/dev/null | sed 's/.*: //')
  lscpu -p=CPU,CORE,SOCKET 2>/dev/null | awk -F, -v allowed="$all" '
    BEGIN { n = split(allowed, part, ","); for (i = 1; i <= n; i++) { m = split(part[i], end, "-"); for (c = end[1]; c <= end[m]; c++) may[c] = 1 } }
    !/^#/ && ($1 in may) { core[$2 "," $3] = 1 }
    END { for (c in core) count++; print count + 0 }'
}
cores=$(cores) || cores=0   # without lscpu
[ "${cores:-0}" -gt 0 ] || cores=$(nproc)

if [ -n "${RANKS:-}" ]; then
  ranks=$RANKS
elif [ "$device" = cuda ]; then
  ranks=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
  [ "$ranks" -gt 0 ] || { echo "launch/local.sh: nvidia-smi knows of no GPU here; use device=cpu, or RANKS=N" >&2; exit 2; }
else
  # Ranks share the leaves of a batch. The fewest ranks of which the busiest has as few leaves as with a rank on every core.
  leaves=$(($(value_of train.batch) / $(value_of train.micro_batch)))
  most=$((cores < leaves ? cores : leaves))
  busiest=$(((leaves + most - 1) / most))
  ranks=$(((leaves + busiest - 1) / busiest))
fi
[[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "launch/local.sh: RANKS=$ranks: it is a number of ranks" >&2; exit 2; }
threads=$((cores / ranks > 0 ? cores / ranks : 1))

bind=${BIND:-}
if [ -z "$bind" ]; then
  bind=none
  if [ "$(ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null | wc -l)" -gt 1 ] && [ "$(nproc)" = "$(nproc --all)" ] && [ $((ranks * threads)) -le "$cores" ]; then
    bind=core
  fi
fi
case $bind in
  none) binding=() ;;
  core)
    [ $((ranks * threads)) -le "$cores" ] || { echo "launch/local.sh: BIND=core: $ranks ranks need a core each, and there are $cores" >&2; exit 2; }
    binding=(--map-by "slot:PE=$threads" --bind-to core)
    ;;
  *) echo "launch/local.sh: BIND=$bind: it is core or none" >&2; exit 2 ;;
esac

command=("$launch/run.sh" -np "$ranks" "${binding[@]}" "$program" train "${config[@]}")
[ "$device" = cuda ] || [ "$(value_of threads)" != 0 ] || command+=("threads=$threads")
if [ -n "$show" ]; then printf '%s\n' "${command[*]}"; exit; fi
exec "${command[@]}"
