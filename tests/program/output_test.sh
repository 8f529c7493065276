#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Standard streams that are closed, full or gone: answers are not lost in silence, and training does not depend on who listens.
. "$(dirname "$0")/support.sh"
make_data
run_train 1 2>/dev/null

# An answer that cannot be written is a failure that is told.
cp -r run copy
for command in --help --version "train --help" "data listops --version" "dry-run small.yaml" "inspect run" doctor "eval copy"; do
  code=0
  output=$("$STIPPLE" $command 2>&1 >/dev/full) || code=$?
  [ $code = 1 ] || fail "exit code $code from 'stipple $command' into a full device: $output"
  contains "$output" "standard output"
  # A reader that has seen enough is no failure.
  "$STIPPLE" $command 2>errors.log | true
  equal "${PIPESTATUS[0]}" 0 "exit code of 'stipple $command' into a closed pipe: $(cat errors.log)"
done

# Descriptors that are missing: no file takes their place.
expect 0 run_train 1 run.dir=plain
for closed in '2>&-' '1>&- 2>&-' '0<&- 1>&- 2>&-'; do
  rm -rf closed
  eval "\"\$STIPPLE\" train small.yaml run.dir=closed $closed" || fail "training with $closed ended with $?"
  equal "$(history closed)" "$(history plain)" "metrics with $closed"
  equal "$(state closed)" "$(state plain)" "state with $closed"
  equal "$(grep -c . closed/lock)" 1 "lines in the lock with $closed"
done
eval '"$STIPPLE" data listops --out closed_data --seed 3 --train 300 --val 50 --test 30 --min-length 8 --max-length 60 0<&- 1>&- 2>&-'
for file in data/*; do cmp "$file" closed_data/"$(basename "$file")"; done

# Nobody listens any more: training goes on to its end.
"$STIPPLE" train small.yaml run.dir=piped 2>&1 | head -n 1 >/dev/null
equal "${PIPESTATUS[0]}" 0 "exit code of training into head"
equal "$(state piped)" "$(state plain)" "state of training into head"
[ -s piped/report.html ] || fail "training into head left no report"
# mpirun itself ends when its reader leaves; launch/run.sh listens on its behalf.
"$SOURCE/launch/run.sh" -np 2 "$STIPPLE" train small.yaml run.dir=relayed train.steps=100 2>&1 | head -n 1 >/dev/null
equal "${PIPESTATUS[0]}" 0 "exit code of training on two ranks into head"
[ -s relayed/report.html ] || fail "training on two ranks into head left no report"

# Files may not grow as they must: one line, and no restart would help.
code=0
output=$( (ulimit -f 8; "$STIPPLE" train small.yaml run.dir=limited) 2>&1) || code=$?
equal "$code" 2 "exit code at the file-size limit: $output"
contains "$output" "ulimit -f"
code=0
output=$( (ulimit -f 1; "$STIPPLE" data listops --out limited_data --train 3000 --val 50 --test 30 --min-length 8 --max-length 60) 2>&1) || code=$?
equal "$code" 2 "exit code of data at the file-size limit: $output"
contains "$output" "limited_data"
