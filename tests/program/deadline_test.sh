#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run leaves before its time is over, without any signal: it saves, ends with 75 and goes on later as if nothing had been.
. "$(dirname "$0")/support.sh"
make_data 2000   # a thousand evaluations of which last, on any machine
endless=(train.steps=1000000 optimizer.schedule.warmup_steps=6 checkpoint.every=0 eval.every=0)

# left_in_time END_S: the last command saved and ended before that.
left_in_time() {
  contains "$output" "saved step"
  contains "$output" "before the job ends"
  [ "$(date +%s)" -lt "$1" ] || fail "it was still there $(($(date +%s) - $1)) s after the end: $output"
}

# By Slurm's clock, two ranks; the second job in the middle of an evaluation that would last for ever.
end=$(($(date +%s) + 24))
SLURM_JOB_END_TIME=$end expect 75 run_train 2 "${endless[@]}"
contains "$output" "(SLURM_JOB_END_TIME)"
left_in_time $end
step=$(ls run/checkpoints); step=$((10#${step#step-}))
[ $step -gt 2 ] || fail "it left after $step steps already: $output"
end=$(($(date +%s) + 18))
SLURM_JOB_END_TIME=$end expect 75 run_train 2 "${endless[@]}" train.steps=$((step + 2)) eval.seeds=1000
left_in_time $end
expect 0 run_train 1 "${endless[@]}" train.steps=$((step + 2))
equal "$(history run | grep -c '"kind":"eval"')" 1 "evaluations of a run that was stopped in its first one"

# By its own limit; the earlier end counts.
expect 75 env SLURM_JOB_END_TIME=$(($(date +%s) + 3600)) "$STIPPLE" train small.yaml run.dir=limited run.max_time=0:15 "${endless[@]}"
contains "$output" "(run.max_time)"
contains "$output" "before the job ends"

# Stopped after every step and never, a run is the same.
run_train 1 run.dir=undisturbed train.steps=8 2>/dev/null
for _ in $(seq 8); do SLURM_JOB_END_TIME=$(($(date +%s) + 1)) expect 75 run_train 1 run.dir=piecemeal train.steps=8; done
expect 0 run_train 1 run.dir=piecemeal train.steps=8
equal "$(state piecemeal)" "$(state undisturbed)" "state of a run of jobs of one step"
equal "$(grep -c '"kind":"start"' piecemeal/starts.jsonl)" 9 "starts of it"

# What is no time is refused.
SLURM_JOB_END_TIME=soon expect 2 run_train 2
contains "$output" "SLURM_JOB_END_TIME: 'soon' is no number of seconds"
expect 2 run_train 1 run.max_time=2h
contains "$output" "run.max_time: '2h' is no time; use minutes, minutes:seconds"
