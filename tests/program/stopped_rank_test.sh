#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A rank that is stopped, as on a node that hangs, ends the job in time: exit 1 and a line that names it; the run resumes afterwards. A job
# that is suspended as a whole for longer goes on.
. "$(dirname "$0")/support.sh"
make_data

start() {  # start RUN_DIR
  timeout -s KILL 120 mpirun -q -np 2 "$STIPPLE" train small.yaml train.steps=1000000 comm.timeout_s=5 "run.dir=$work/$1" 2>"$1.log" &
  job=$!
  until ls "$1"/checkpoints/step-* >/dev/null 2>&1; do kill -0 $job || fail "$(cat "$1.log")"; sleep 0.02; done
  ranks=$(pgrep -f "^$STIPPLE train small.yaml train.steps=1000000 comm.timeout_s=5 run.dir=$work/$1")
}
rank_of() { tr '\0' '\n' <"/proc/$1/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p'; }
end() { code=0; wait $job || code=$?; }

start stopped
for process in $ranks; do [ "$(rank_of "$process")" != 1 ] || kill -STOP "$process"; done
end
equal $code 1 "exit code of a job with a stopped rank"
contains "$(cat stopped.log)" "rank 1 on $(hostname)"
contains "$(cat stopped.log)" "stopped) is behind and silent"
equal "$(grep -c behind stopped.log)" 1 "ranks that tell of it"
newest=$(ls stopped/checkpoints | tail -n 1)
expect 0 run_train 2 "run.dir=$work/stopped" "train.steps=$((10#${newest#step-} + 8))"
contains "$output" "resuming"

start suspended
kill -STOP $ranks
sleep 10
kill -CONT $ranks
sleep 1
kill -USR1 $ranks
end
equal $code 75 "exit code of a job that was suspended: $(cat suspended.log)"
