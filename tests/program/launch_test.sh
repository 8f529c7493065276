#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What starts ranks on one machine: launch/local.sh.
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
