#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stops by signals, at random moments: every one is followed by a save and by exit code 75, whichever signal it was and whoever got it.
# Products are of sizes at which oneDNN keeps its stack pointer in the heap (docs/dependencies.md). STIPPLE_STOPS sets the number of stops
# (10 by default).
. "$(dirname "$0")/support.sh"
make_data
stops=${STIPPLE_STOPS:-10}
RANDOM=${STIPPLE_STOPS_SEED:-5}
# Shapes of the quickstart; more steps than anybody waits for.
model=(model.width=64 model.feedforward=128 model.head_hidden=64 train.micro_batch=8 train.batch=16 attention.sbm.clusters=16)
endless=("${model[@]}" train.steps=1000000 optimizer.schedule.warmup_steps=6 checkpoint.every=0 eval.every=1000 log.every=1)

# steps_of RUN: how many steps it has logged.
steps_of() { [ -e "$1/metrics.jsonl" ] && grep -c '"kind":"train"' "$1/metrics.jsonl" || true; }
# await_step RUN STEPS PID: until the run has logged so many steps.
await_step() {
  until [ "$(steps_of "$1")" -ge "$2" ] 2>/dev/null; do
    kill -0 "$3" 2>/dev/null || fail "$1 ended before step $2: $(cat stop.log)"
    sleep 0.02
  done
}
# stopped PID: waits for it and checks that it saved.
stopped() {
  local code=0
  wait "$1" || code=$?
  [ "$code" = 75 ] || fail "$2: exit code $code: $(cat stop.log)"
  contains "$(cat stop.log)" "saved step"
}

# Straight to a single rank, or through mpirun to two; each run goes on where the one before it stopped.
direct=(INT HUP TERM USR1 USR2 XCPU)
passed_on=(USR1 USR2)
for n in $(seq "$stops"); do
  steps=$(steps_of stopped)
  if [ $((n % 2)) = 0 ]; then
    signal=${direct[RANDOM % ${#direct[@]}]}
    "$STIPPLE" train small.yaml run.dir=stopped "${endless[@]}" 2>stop.log &
  else
    signal=${passed_on[RANDOM % ${#passed_on[@]}]}
    mpirun -q -np 2 "$STIPPLE" train small.yaml run.dir=stopped "${endless[@]}" 2>stop.log &
  fi
  pid=$!
  await_step stopped $((steps + 2)) $pid
  sleep "$(awk -v r=$RANDOM 'BEGIN { printf "%.3f", 0.2 * r / 32768 }')"
  kill -s "$signal" $pid
  stopped $pid "stop $n by SIG$signal"
  "$STIPPLE" inspect stopped >/dev/null || fail "no good checkpoint after stop $n by SIG$signal"
done
echo "$stops stops, every one saved"

# launch/run.sh gives a step the time it takes: here one that takes longer than mpirun lets ranks live after SIGTERM.
run_train 1 run.dir=measured train.steps=2 optimizer.schedule.warmup_steps=1 log.every=1 "${model[@]}" 2>/dev/null
step_s=$(sed -n 's/.*"step_s":\([0-9.e-]*\).*/\1/p' measured/metrics.jsonl | sort -g | head -n 1)
batch=$(awk -v s="$step_s" 'BEGIN { n = int(4 / s) + 1; print 16 * n }')
slow=("${endless[@]}" train.batch="$batch")
for signal in TERM INT; do
  rm -rf slow
  set -m   # or the shell starts it with SIGINT ignored
  "$SOURCE/launch/run.sh" -np 2 "$STIPPLE" train small.yaml run.dir=slow "${slow[@]}" 2>stop.log &
  pid=$!
  set +m
  await_step slow 1 $pid
  sleep 1
  kill -s $signal $pid
  stopped $pid "launch/run.sh, SIG$signal in a step that takes seconds"
done

# It returns what the job returns, and says nothing of its own.
expect 7 "$SOURCE/launch/run.sh" -np 2 sh -c 'exit 7'
equal "$output" "" "what launch/run.sh says"

# An mpirun that waits for itself once its processes have ended does not keep the caller for ever.
mkdir stuck
cat >stuck/mpirun <<'PYTHON'
#!/usr/bin/env python3
import subprocess, threading
subprocess.run(["true"])
lock = threading.Lock()
lock.acquire()
lock.acquire()
PYTHON
chmod +x stuck/mpirun
PATH=$PWD/stuck:$PATH STIPPLE_STUCK_S=2 expect 1 timeout 60 "$SOURCE/launch/run.sh" -np 2 true
contains "$output" "mpirun did not end"
