#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stopping and going on: by reaching a smaller number of steps, by a signal, on another number of ranks; the end is the same to the bit
# and the history has no gaps and no doubles. run.resume is obeyed; other data and other shapes are refused.
. "$(dirname "$0")/support.sh"
make_data
run_train 1 run.dir=reference 2>/dev/null
reference=$(state reference)

# Two ranks save and stop when they are told to, wherever that is between log lines; four ranks go on.
long=(train.steps=300 optimizer.schedule.warmup_steps=6 checkpoint.every=0 eval.every=100)
run_train 1 run.dir=long "${long[@]}" 2>/dev/null
mpirun -q -np 2 "$STIPPLE" train small.yaml run.dir=stopped "${long[@]}" 2>/dev/null &
pid=$!
until grep -q '"kind"' stopped/metrics.jsonl 2>/dev/null; do sleep 0.02; done
kill -USR1 $pid
code=0
wait $pid || code=$?
equal "$code" 75 "exit code after a signal"
run_train 4 run.dir=stopped "${long[@]}" 2>/dev/null
equal "$(state stopped)" "$(state long)" "resumed after a signal"
equal "$(history stopped)" "$(history long)" "history of the run that a signal stopped"

# Interrupted by kill after some steps, resumed on another number of ranks; an alpha that follows the step, too, goes on.
for attention in "attention.kind=sbm" "attention.kind=entmax attention.entmax.anneal_from=1.1 attention.entmax.anneal_steps=20"; do
  rm -rf killed uninterrupted
  run_train 1 run.dir=uninterrupted $attention 2>/dev/null
  mpirun -q -np 2 "$STIPPLE" train small.yaml run.dir=killed $attention 2>/dev/null &
  pid=$!
  until ls killed/checkpoints/step-* >/dev/null 2>&1; do sleep 0.02; done
  pkill -9 -P $pid
  wait $pid 2>/dev/null || true
  [ ! -e killed/report.html ] || fail "the run ended before it could be killed"
  run_train 4 run.dir=killed $attention 2>/dev/null
  equal "$(state killed)" "$(state uninterrupted)" "resumed on 4 ranks with $attention"
  equal "$(history killed)" "$(history uninterrupted)" "history of the resumed run with $attention"
done

# A finished run has nothing to do and says so.
expect 0 run_train 1 run.dir=reference
contains "$output" "24"
contains "$output" "validation"
equal "$(state reference)" "$reference" "a finished run stays as it is"

expect 2 run_train 1 run.dir=reference run.resume=never
contains "$output" "run.resume"
expect 2 run_train 2 run.dir=nothing_here run.resume=must
contains "$output" "run.resume"
expect 2 run_train 1 run.dir=reference train.steps=30 model.width=16
contains "$output" "model.width"
mv data data.first
"$STIPPLE" data listops --out data --seed 4 --train 300 --val 50 --test 30 --min-length 8 --max-length 60 2>/dev/null
expect 2 run_train 1 run.dir=reference train.steps=30
contains "$output" "data"
