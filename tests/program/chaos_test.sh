#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 at random moments, also inside a save: the whole job, or one rank. After every kill the run is started again, until it ends; its
# state must equal the undisturbed one. STIPPLE_CHAOS sets the number of kills (5 by default).
. "$(dirname "$0")/support.sh"
make_data
kills=${STIPPLE_CHAOS:-5}
# Saving after every step makes half of all moments fall into a save.
marker="run.dir=$work/run"
options=(train.steps=40 checkpoint.every=1 eval.every=20 "$marker")
run_train 1 "${options[@]}" run.dir=reference 2>/dev/null
reference=$(state reference)
RANDOM=${STIPPLE_CHAOS_SEED:-11}

done_kills=0
round=0
while [ $done_kills -lt "$kills" ]; do
  round=$((round + 1))
  rm -rf run
  finished=0
  while [ $finished = 0 ]; do
    ranks=$((1 + RANDOM % 2))
    mpirun -q -np $ranks "$STIPPLE" train small.yaml "${options[@]}" 2>chaos.log &
    pid=$!
    # Most kills hit training and saving, some the start.
    if [ $((RANDOM % 5)) != 0 ]; then
      until grep -q "parameters" chaos.log || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
    fi
    sleep "$(awk -v r=$RANDOM 'BEGIN { printf "%.3f", 0.5 * r / 32768 }')"
    if [ $done_kills -lt "$kills" ] && kill -0 $pid 2>/dev/null; then
      if [ $((RANDOM % 2)) = 0 ]; then
        kill -9 $pid   # mpirun; the ranks die with it
      else
        pkill -9 -o -P $pid || kill -9 $pid 2>/dev/null || true
        # Open MPI 4.1 may hang itself when a rank dies while others are being started.
        for _ in $(seq 100); do kill -0 $pid 2>/dev/null || break; sleep 0.05; done
        kill -9 $pid 2>/dev/null || true
      fi
      done_kills=$((done_kills + 1))
      { wait $pid || true; } 2>/dev/null
      while pgrep -f "$marker" >/dev/null; do sleep 0.01; done   # orphans end within a moment
    else
      code=0
      wait $pid || code=$?
      [ $code = 0 ] || fail "round $round ended with $code: $(cat chaos.log)"
      finished=1
    fi
  done
  equal "$(state run)" "$reference" "round $round, after $done_kills kills"
  equal "$(history run)" "$(history reference)" "history of round $round"
done
echo "$done_kills kills in $round runs, every run ended in state $reference"
