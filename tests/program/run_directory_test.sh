#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a run directory promises: its results are not overwritten, what it cannot do is refused for good (exit code 2), and a folder that
# holds no run is left alone.
. "$(dirname "$0")/support.sh"
make_data 12
train() { "$STIPPLE" train small.yaml train.steps=8 optimizer.schedule.warmup_steps=2 "$@"; }
# as_nobody COMMAND...: as a user who may not write what is read-only, which root may.
chmod 755 "$work"
as_nobody() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }

# --- what never heals is told by exit code 2 ---
touch file
expect 2 train run.dir=file
contains "$output" "run.dir"
expect 2 train run.dir=file/below
contains "$output" "run.dir"
mkdir -m 555 closed
expect 2 as_nobody "$STIPPLE" train small.yaml run.dir=closed/run
contains "$output" "Permission denied"
train 2>/dev/null
cp -r run damaged
for step in damaged/checkpoints/step-*; do echo "{}" >"$step/manifest.json"; done
expect 2 train run.dir=damaged
contains "$output" "intact"
expect 2 "$STIPPLE" eval damaged
expect 2 "$STIPPLE" inspect damaged

# --- a run that may only be read can be evaluated ---
cp -r run readonly
chmod -R a-w readonly
before=$(ls -lR readonly)
expect 0 as_nobody "$STIPPLE" eval readonly
contains "$output" "accuracy"
contains "$output" "not added"
equal "$(ls -lR readonly)" "$before" "files of a run that may only be read"
