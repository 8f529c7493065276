#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run is controlled by files in its folder, and tells where it stands to whoever looks at its files.
. "$(dirname "$0")/support.sh"
make_data
endless=(train.steps=1000000 optimizer.schedule.warmup_steps=6 checkpoint.every=0 eval.every=0 log.every=1)

begin() {  # begin RANKS key=value...: in the background, until it has trained; sets job
  run_train "$@" 2>>job.log &
  job=$!
  until [ -s run/metrics.jsonl ]; do kill -0 $job || fail "$(cat job.log)"; sleep 0.05; done
}
await() {  # await WHAT CONDITION...
  local what=$1 end=$((SECONDS + 60))
  shift
  until "$@"; do [ $SECONDS -lt $end ] || fail "no $what: $(cat job.log)"; sleep 0.1; done
}
ended() { local code=0; wait "$job" || code=$?; equal $code "$1" "how the job ended: $(tail -n 5 job.log)"; }
has_checkpoints() { [ "$(ls run/checkpoints 2>/dev/null | grep -c '^step-')" -ge "$1" ]; }

# A checkpoint now, twice; training goes on.
begin 2 "${endless[@]}"
for n in 1 2; do
  touch run/control/save
  await "checkpoint $n" has_checkpoints $n
  await "answer to control/save" test ! -e run/control/save
done
kill -0 $job || fail "a save ended the job: $(cat job.log)"
expect 0 "$STIPPLE" status run
contains "$output" "training with 2 ranks on $(hostname)"
contains "$output" "of 1000000"
contains "$output" "ETA"
contains "$output" "until now"
# What is no number of steps is told once, and ignored.
echo many >run/control/extend
await "word about extend" grep -q "run/control/extend: 'many' is no number of steps" job.log
rm run/control/extend
# A stop stands until the file is gone.
touch run/control/stop
ended 75
contains "$(cat job.log)" "as run/control/stop asks"
expect 2 run_train 2 "${endless[@]}"
contains "$output" "run/control/stop asks this run to stop; remove the file to go on"
rm run/control/stop
expect 0 "$STIPPLE" status run
contains "$output" "state        saved and stopped, as run/control/stop asks"

# A job that is killed has no last word.
begin 1 "${endless[@]}"
await "second start" eval '[ "$(grep -c "\"kind\":\"start\"" run/starts.jsonl)" = 2 ]'
pkill -KILL -P $job   # mpirun
wait $job 2>/dev/null || true
await "end of the job" eval '! "$STIPPLE" status run | grep -q "until now"'
expect 0 "$STIPPLE" status run
contains "$output" "state        ended without a word: killed, or its machine was lost"
contains "$output" "starts       2"

# A run that was extended while it trained, with two ranks, ends as one that was resumed with more steps.
rm -rf run
: >job.log
expect 0 run_train 1 train.steps=12 run.dir=resumed
expect 0 run_train 1 train.steps=30 run.dir=resumed
mkdir -p run/control
echo 12 >run/control/extend
expect 0 run_train 2 train.steps=20   # the file counts
contains "$output" "step 12  val loss"
echo 30 >run/control/extend
expect 0 run_train 2 train.steps=20
equal "$(state run)" "$(state resumed)" "state of a run that a file extended between two jobs"
expect 0 "$STIPPLE" status run
contains "$output" "state        complete"
contains "$output" "30 of 30 (100.0 %)"

rm -rf run
begin 2 "${endless[@]}" train.micro_batch=8
echo 999999 >run/control/extend
await "going on" grep -q "to go on to step 999999, as run/control/extend asks" job.log
await "second start" eval '[ "$(grep -c "\"kind\":\"start\"" run/starts.jsonl)" = 2 ]'
contains "$(cat run/config.yaml)" "steps: 999999"
kill -USR1 $(pgrep -P $job)
ended 75

expect 2 "$STIPPLE" status nowhere
contains "$output" "nowhere holds no run"
