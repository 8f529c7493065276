#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a person meets first: help, versions, exit codes, and one clear line for each kind of mistake.
. "$(dirname "$0")/support.sh"

for command in "" train eval sample glue "data listops" dry-run keys inspect report status submit doctor; do
  expect 0 "$STIPPLE" $command --help
  contains "$output" "--help"
  expect 0 "$STIPPLE" $command --version
  contains "$output" "stipple"
done
expect 2 "$STIPPLE"
expect 2 "$STIPPLE" trian
expect 0 "$STIPPLE" doctor
contains "$output" "kernels"

expect 2 "$STIPPLE" train nowhere.yaml
contains "$output" "nowhere.yaml"
expect 2 "$STIPPLE" train small.yaml train.stesp=3
contains "$output" "train.steps"
expect 0 "$STIPPLE" dry-run --key run.dir small.yaml "run.dir=a folder"
equal "$output" "a folder" "the value of one key"
expect 2 "$STIPPLE" dry-run --key run.dri small.yaml
contains "$output" "did you mean run.dir?"
expect 2 "$STIPPLE" train small.yaml train.steps=ten
contains "$output" "train.steps"
expect 2 "$STIPPLE" train small.yaml train.batch=0
contains "$output" "[1, "
expect 2 "$STIPPLE" train small.yaml train.micro_batch=3
contains "$output" "train.micro_batch"
expect 2 "$STIPPLE" dry-run small.yaml train.steps = 50
contains "$output" 'write train.steps=50'
expect 2 mpirun -q -np 2 "$STIPPLE" train small.yaml train.steps= 50
equal "$(grep -c 'write train.steps=50' <<<"$output")" 1 "ranks that tell of spaces"
expect 2 "$STIPPLE" dry-run small.yaml "train.steps = 50"
contains "$output" 'write train.steps=50'
expect 2 "$STIPPLE" train small.yaml device=cuda
contains "$output" "CUDA"
expect 2 "$STIPPLE" train small.yaml precision=bf16
contains "$output" "precision"
printf 'train:\n  steps: 5\n  stepz: 6\n' >typo.yaml
expect 2 mpirun -q -np 2 "$STIPPLE" train small.yaml typo.yaml
contains "$output" "typo.yaml:3"
equal "$(grep -c typo.yaml <<<"$output")" 1 "lines that name the mistake"

# No data: one line that says how to make it.
expect 2 "$STIPPLE" train small.yaml
contains "$output" "stipple data listops"
expect 2 mpirun -q -np 3 "$STIPPLE" train small.yaml
equal "$(grep -c "stipple data listops" <<<"$output")" 1 "ranks that tell of missing data"
make_data
expect 2 "$STIPPLE" data listops --out other --min-length 50 --max-length 51
# A machine that refuses a thread. A sanitized build cannot live within such a limit at all.
if prlimit --as=500000000 "$STIPPLE" --version >/dev/null 2>&1; then
  expect 2 timeout 60 prlimit --as=500000000 "$STIPPLE" data listops --out refused --threads 200
  contains "$output" "lower threads"
fi

# One split is missing: the advice makes it alone. What exists is replaced with --force only; permission is not missing data.
cp -r data one_missing
rm one_missing/basic_val.tsv
expect 2 "$STIPPLE" train small.yaml data.dir=one_missing
contains "$output" "stipple data listops --out one_missing --splits val"
expect 2 "$STIPPLE" data listops --out one_missing --val 20
contains "$output" "--splits val to make only what is missing"
contains "$output" "--force"
expect 2 "$STIPPLE" data listops --out one_missing --splits val,tset
expect 0 "$STIPPLE" data listops --out one_missing --splits val --seed 3 --train 300 --val 50 --test 30 --min-length 8 --max-length 60
contains "$output" "wrote 50 val expressions"
cmp data/basic_val.tsv one_missing/basic_val.tsv
cmp data/basic_train.tsv one_missing/basic_train.tsv
expect 0 "$STIPPLE" data listops --out one_missing --force --train 9 --val 8 --test 7 --min-length 8 --max-length 60
equal "$(wc -l <one_missing/basic_train.tsv)" 10 "lines of a file that --force replaced"

expect 0 "$STIPPLE" dry-run small.yaml --ranks 4
contains "$output" "2 leaves each"
expect 0 timeout 60 "$STIPPLE" dry-run small.yaml --ranks 1000000
contains "$output" "0 to 1 leaves each"
contains "$output" "999992 of 1000000 ranks have no work"
expect 2 timeout 60 "$STIPPLE" dry-run small.yaml --ranks 2000000000
contains "$output" "--ranks"

# More memory than any machine has, or than this process may take: told before anything is taken, with what fits.
expect 2 timeout 60 mpirun -q -np 2 "$STIPPLE" train small.yaml train.batch=1000000 train.micro_batch=1000000 model.feedforward=100000
contains "$output" "train.micro_batch="
equal "$(grep -c "MB of memory" <<<"$output")" 1 "ranks that tell of memory"
if prlimit --as=900000000 "$STIPPLE" --version >/dev/null 2>&1; then
  expect 2 timeout 60 prlimit --as=900000000 "$STIPPLE" train small.yaml train.batch=65536 train.micro_batch=65536
  contains "$output" "train.micro_batch="
fi


# Configurations are composed, and say where each value comes from.
mkdir -p configs/attention
printf 'attention:\n  kind: softmax\n' >configs/attention/softmax.yaml
printf 'include: [small.yaml, attention/softmax]\n' >composed.yaml
expect 0 "$STIPPLE" dry-run --explain composed.yaml train.batch=32
grep -Eq '^attention.kind +softmax +configs/attention/softmax.yaml:2$' <<<"$output" || fail "no origin of attention.kind in $output"
grep -Eq '^train.batch +32 +override "train.batch=32"$' <<<"$output" || fail "no origin of train.batch in $output"
grep -Eq '^run.seed +1 +default$' <<<"$output" || fail "no origin of run.seed in $output"
expect 0 "$STIPPLE" dry-run small.yaml attention/softmax
expect 2 mpirun -q -np 2 "$STIPPLE" train small.yaml attention/softmx
equal "$(grep -c "did you mean 'attention/softmax'" <<<"$output")" 1 "ranks that tell of a wrong name"

# Sizes that no machine holds are refused by the range of their key, or together.
expect 2 "$STIPPLE" dry-run small.yaml model.width=3e10
contains "$output" "model.width"
expect 2 "$STIPPLE" dry-run small.yaml model.width=1e6 model.heads=2000 model.feedforward=1e6 model.layers=4000 train.batch=1e6 train.micro_batch=1e6 data.max_length=65536
contains "$output" "train.micro_batch"

"$STIPPLE" data listops --out empty --val 0 --train 100 --test 1 --min-length 8 --max-length 60 2>/dev/null
expect 2 "$STIPPLE" train small.yaml data.dir=empty
contains "$output" "val"

expect 2 env STIPPLE_VNNI=off "$STIPPLE" train small.yaml run.dir=mixed
contains "$output" "STIPPLE_VNNI=off"

# A mistake of one rank only ends the job, at once and with its own words.
expect 2 timeout 20 mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=mixed : -np 1 -x STIPPLE_ISA=nonsense "$STIPPLE" train small.yaml run.dir=mixed
contains "$output" "STIPPLE_ISA=nonsense"
mkdir elsewhere
cp -r data elsewhere/
sed -i '2d' elsewhere/data/basic_train.tsv
expect 2 timeout 20 mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=mixed : -np 1 -wdir "$work/elsewhere" "$STIPPLE" train small.yaml
contains "$output" "data.dir"

# Two jobs cannot share a run directory; a diverging run says that starting again will not help.
mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=busy train.steps=100000 2>/dev/null &
pid=$!
until [ -s busy/metrics.jsonl ]; do sleep 0.02; done
expect 2 "$STIPPLE" train small.yaml run.dir=busy
contains "$output" "run.dir"
kill -USR1 $pid
wait $pid || true
expect 93 mpirun -q -np 2 "$STIPPLE" train small.yaml run.dir=diverged optimizer.learning_rate=1000 guard.spike_factor=2 guard.window=2 guard.max_skips=2
equal "$(grep -c "stopped at step" <<<"$output")" 1 "ranks that tell of divergence"

# Ranks without work are told of.
expect 0 mpirun -q -np 3 "$STIPPLE" train small.yaml run.dir=idle train.steps=7 train.micro_batch=8
contains "$output" "1 of 3 ranks have no work"

# Sequences that lose their end: told by dry-run, the log and the report. Data that are not there yet do not hinder a dry run.
expect 0 "$STIPPLE" dry-run small.yaml
contains "$output" "train: 300 examples, "
if grep -q " are cut" <<<"$output"; then fail "dry-run calls whole examples cut: $output"; fi
expect 0 "$STIPPLE" dry-run small.yaml data.max_length=20
contains "$output" "of 300 examples are longer than data.max_length and are cut: "
expect 0 "$STIPPLE" dry-run small.yaml data.dir=nowhere
contains "$output" "nowhere/basic_train.tsv cannot be read now"
expect 0 run_train 2 data.max_length=20 run.dir=cut train.steps=8
equal "$(grep -c "train: .* are cut" <<<"$output")" 1 "ranks that tell of cut examples"
contains "$(cat cut/log.txt)" "of 50 examples are longer than data.max_length and are cut: "
contains "$(cat cut/report.html)" "examples cut at data.max_length"

# A malformed line is named by file and line number.
cp -r data bad
sed -i '7s/MAX\|MIN\|MED\|SM/FOO/' bad/basic_train.tsv
expect 2 "$STIPPLE" train small.yaml data.dir=bad
contains "$output" "bad/basic_train.tsv:7"
expect 0 run_train 2 data.dir=bad data.skip_bad_rows=true run.dir=skipping train.steps=8
contains "$output" "train: 1 bad row left out (data.skip_bad_rows), the first: bad/basic_train.tsv:7"
equal "$(grep -c "bad row" <<<"$output")" 1 "ranks that tell of a bad row"
# So is a wrong label; `eval` finds it before it evaluates.
awk -F '\t' -v OFS='\t' 'NR == 9 { $2 = ($2 + 1) % 10 "\r" } 1' data/basic_test.tsv >bad/basic_test.tsv
expect 2 "$STIPPLE" eval skipping eval.split=test data.skip_bad_rows=false
contains "$output" "bad/basic_test.tsv:9: the label is "
equal "$(wc -l <<<"$output")" 1 "lines that eval prints of a bad row"
expect 0 "$STIPPLE" eval skipping eval.split=test
contains "$output" "test: 1 bad row left out (data.skip_bad_rows), the first: "
contains "$output" "bad/basic_test.tsv:9: the label is "
contains "$output" "test, 29 examples"

# A run leaves what the manual promises, and the other commands read it.
run_train 2 2>/dev/null
for file in config.yaml metrics.jsonl report.html log.txt; do [ -s run/$file ] || fail "no run/$file"; done
ls run/events.out.tfevents.* >/dev/null || fail "no TensorBoard events"
expect 0 "$STIPPLE" inspect run
contains "$output" "state "
expect 0 "$STIPPLE" eval run eval.split=test
contains "$output" "accuracy"
expect 0 mpirun -q -np 2 "$STIPPLE" eval run eval.split=test eval.seeds=3
contains "$output" "accuracy"
contains "$(cat run/metrics.jsonl)" '"split":"test"'
rm run/report.html
expect 0 "$STIPPLE" report run
[ -s run/report.html ] || fail "report wrote nothing"
expect 2 "$STIPPLE" eval nowhere
expect 2 "$STIPPLE" inspect data

# An altered checkpoint is found; training takes the older one and says so.
newest=$(ls -d run/checkpoints/step-* | tail -n 1)
shard=$(ls "$newest"/shard-* | head -n 1)
printf '\x55' | dd of="$shard" bs=1 seek=$(($(stat -c %s "$shard") - 5)) conv=notrunc 2>/dev/null
expect 2 "$STIPPLE" inspect "$newest"
contains "$output" "$(basename "$shard")"
expect 0 run_train 1
contains "$output" "skipped"

# A disk that is full stops the run with one line and leaves the last checkpoint. Needs to mount a small file system.
mkdir tiny
if mount -t tmpfs -o size=400k tmpfs tiny 2>/dev/null; then
  code=0
  output=$(run_train 1 run.dir=tiny/run train.steps=400 2>&1) || code=$?
  umount -l tiny
  [ $code = 1 ] || fail "a full disk gave exit code $code: $output"
  contains "$output" "tiny/run"
fi
