#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What starts ranks: launch/local.sh, and the batch script that `stipple submit` makes. tests/slurm has it submitted.
. "$(dirname "$0")/support.sh"
make_data
local_sh=$SOURCE/launch/local.sh
export STIPPLE

# As many ranks as have work, and no more than cores.
expect 0 "$local_sh" --show small.yaml train.micro_batch=16
contains "$output" "launch/run.sh -np 1 "
expect 0 env RANKS=3 "$local_sh" --show small.yaml "run.dir=here"
contains "$output" "launch/run.sh -np 3 "
contains "$output" "$STIPPLE train small.yaml run.dir=here"
equal "$(grep -c 'threads=' <<<"$output")" 0 "threads where the configuration has chosen them"
expect 0 "$local_sh" --show small.yaml threads=0
contains "$output" " threads="
expect 0 "$local_sh" small.yaml
contains "$output" "step 24  val loss"
expect 2 "$local_sh"
expect 2 "$local_sh" small.yaml train.stesp=3
contains "$output" "train.steps"
expect 2 env BIND=socket "$local_sh" small.yaml
contains "$output" "BIND=socket: it is core or none"
expect 2 env STIPPLE=nowhere "$local_sh" small.yaml
contains "$output" "there is no nowhere"
# Where nothing tells cores, the system's number of processors is taken.
mkdir bare
printf '#!/bin/sh\nexit 127\n' >bare/lscpu
chmod +x bare/lscpu
expect 0 env PATH="$PWD/bare:$PATH" "$local_sh" --show small.yaml
contains "$output" "launch/run.sh -np "

# The batch script that would be submitted holds all that it needs, and each word of the configuration as it was.
submit=("$STIPPLE" submit small.yaml "run.dir=it's here" --nodes 3 --time 1:30:00)
expect 0 "${submit[@]}" --ranks-per-node 4 --chain 5 --sbatch=--partition=long --dry-run
[ ! -e "it's here" ] || fail "a dry run made a folder"
bash -n <<<"$output" || fail "no script: $output"
for line in "#SBATCH --nodes=3 --ntasks-per-node=4" "#SBATCH --time=1:30:00" "#SBATCH --array=1-5%1" "#SBATCH --partition=long" \
  "set -- 'small.yaml' 'run.dir=it'\\''s here'" "export STIPPLE=\"\${STIPPLE:-$(realpath "$STIPPLE")}\"" "run_sh='$PWD/it'\\''s here/job/run.sh'"; do
  contains "$output" "$line"
done
equal "$(awk '/^#SBATCH/ && seen { late++ } /^[^#]/ { seen = 1 } END { print late + 0 }' <<<"$output")" 0 "options that come too late for sbatch"
expect 2 "${submit[@]}" --time soon --dry-run
contains "$output" "--time"
expect 2 "${submit[@]}" train.stesp=3 --dry-run
contains "$output" "train.steps"
expect 2 "${submit[@]}" train.micro_batch=3 --dry-run
contains "$output" "train.micro_batch"
expect 2 "${submit[@]}" --gpus-per-node 4 --dry-run
contains "$output" "device=cuda"
expect 2 "${submit[@]}" --sbatch=partition --dry-run
contains "$output" "is no option"
# Where there is no Slurm, or it refuses, one line says so.
mkdir none
expect 2 env PATH="$PWD/none" "${submit[@]}"
contains "$output" "cannot start sbatch"
printf '#!/bin/sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n' >none/sbatch
chmod +x none/sbatch
expect 2 env PATH="$PWD/none:$PATH" "${submit[@]}"
contains "$output" "sbatch refused"
# What it wrote can be submitted as it is.
for file in slurm.sbatch run.sh mpi_environment.sh; do [ -x "it's here/job/$file" ] || fail "there is no $file"; done
cmp "it's here/job/run.sh" "$SOURCE/launch/run.sh"

# What ranks can do together, and what they are told of it.
expect 0 mpirun -q -np 2 "$STIPPLE" doctor --run-dir runs/x
contains "$output" "$PWD is seen by all ranks"
contains "$output" "clocks       at most"
contains "$output" "GB/s of an all-reduce of 4 MiB, by shared memory"
[ -z "$(ls -A | grep stipple-doctor)" ] || fail "doctor left a file"
expect 0 mpirun -q -np 2 "$STIPPLE" doctor --run-dir /proc/nowhere
contains "$output" "/proc cannot be written to"
