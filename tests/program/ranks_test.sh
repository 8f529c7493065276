#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The same run on 1, 2, 4, 8 and 3 ranks and with 1, 2 and 3 threads ends in the same bits and tells the same history; the fast reduction
# ends close to it. train.batch is global. Every attention and mask law does so with ranks as threads of one process (trainer_test).
. "$(dirname "$0")/support.sh"
make_data

run_train 1 run.dir=exact 2>/dev/null
reference=$(state exact)
[ -n "$reference" ] || fail "no state"
for ranks in 2 3 4 8; do
  run_train $ranks run.dir=ranks$ranks 2>/dev/null
  equal "$(state ranks$ranks)" "$reference" "$ranks ranks"
  equal "$(history ranks$ranks)" "$(history exact)" "history of $ranks ranks"
done
for threads in 2 3; do
  run_train 1 run.dir=threads$threads threads=$threads 2>/dev/null
  equal "$(state threads$threads)" "$reference" "$threads threads"
done
# A check that can fail: another seed is another state.
run_train 1 run.dir=other run.seed=99 2>/dev/null
[ "$(state other)" != "$reference" ] || fail "the state does not depend on the seed"

run_train 2 run.dir=fast reduction=fast 2>/dev/null
last_loss() { grep '"kind":"eval"' "$1/metrics.jsonl" | tail -n 1 | sed -E 's/.*"loss":([0-9.]+).*/\1/'; }
awk -v a="$(last_loss fast)" -v b="$(last_loss exact)" 'BEGIN { d = a - b; exit !(a > 0 && d < 0.01 && d > -0.01) }' ||
  fail "fast reduction: loss $(last_loss fast), exact: $(last_loss exact)"
