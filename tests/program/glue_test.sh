#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A task of GLUE, and one of tsv files, is trained, resumed, evaluated and predicted, the same on any number of ranks; what is
# wrong is told in one line.
. "$(dirname "$0")/support.sh"

/usr/bin/python3 "$SOURCE/tests/program/glue_data.py" glue
cat >small.yaml <<'YAML'
run: {dir: run}
threads: 1
train: {steps: 60, batch: 16, micro_batch: 4}
eval: {every: 20}
checkpoint: {every: 20}
log: {every: 10}
data: {task: glue, dir: glue, vocab: vocab.txt, max_length: 12, glue: {task: mrpc}}
model: {layers: 1, width: 32, heads: 2, feedforward: 64, dropout: 0.1, norm: post, mean_over: cls, pooler: true, segments: 2}
attention: {kind: softmax}
optimizer: {learning_rate: 0.01, clip_norm: 1, schedule: {kind: linear, warmup_steps: 6}}
YAML

run_train 1 2>log || fail "$(cat log)"
contains "$(cat log)" "train: mrpc has 240 examples, 3668 as published"
/usr/bin/python3 - <<'PYTHON' || fail "metrics"
import json
records = [json.loads(line) for line in open("run/metrics.jsonl")]
evals = [r for r in records if r["kind"] == "eval"]
assert len(evals) == 3 and all(0 <= r["f1"] <= 1 and 0 <= r["accuracy"] <= 1 for r in evals), evals
assert all("f1" not in r for r in records if r["kind"] == "train"), records
assert evals[-1]["loss"] < evals[0]["loss"], evals
PYTHON
contains "$(cat run/report.html)" "F1"

# Three ranks, and a run that was stopped and went on: the same bits, and the same answers.
run_train 3 run.dir=ranks 2>/dev/null
equal "$(state ranks)" "$(state run)" "three ranks and one"
equal "$(grep '"eval"' ranks/metrics.jsonl | sed -E 's/"examples_per_s":[^,}]*//')" \
  "$(grep '"eval"' run/metrics.jsonl | sed -E 's/"examples_per_s":[^,}]*//')" "evaluations of three ranks and one"
run_train 2 run.dir=resumed train.steps=20 optimizer.schedule.warmup_steps=6 2>/dev/null
run_train 1 run.dir=resumed 2>/dev/null
run_train 1 run.dir=straight train.steps=20 2>/dev/null
run_train 3 run.dir=straight 2>/dev/null
equal "$(state resumed)" "$(state straight)" "resumed on one rank and on three"

expect 0 "$STIPPLE" eval run
contains "$output" "f1 "
one=$(grep -E '^(loss|accuracy|f1)' <<<"$output")
expect 0 mpirun -q -np 3 --oversubscribe "$STIPPLE" eval run
equal "$(grep -E '^(loss|accuracy|f1)' <<<"$output")" "$one" "eval on three ranks"

# The best checkpoint, by accuracy on validation.
best=$(/usr/bin/python3 -c '
import json
evals = [r for r in map(json.loads, open("run/metrics.jsonl")) if r["kind"] == "eval" and not r.get("overrides")]
print(max(evals, key=lambda r: (r["accuracy"], -r["step"]))["step"])')
expect 0 mpirun -q -np 2 --oversubscribe "$STIPPLE" eval run --checkpoint best
contains "$output" "$(printf 'step         %s' "$best")"
# It stays, however many come after it, and however often the run was stopped.
run_train 1 run.dir=rotated eval.every=4 checkpoint.every=4 checkpoint.keep=2 train.steps=32 2>/dev/null
run_train 1 run.dir=rotated eval.every=4 checkpoint.every=4 checkpoint.keep=2 2>/dev/null
best_of_all=$(/usr/bin/python3 -c '
import json
evals = [r for r in map(json.loads, open("rotated/metrics.jsonl")) if r["kind"] == "eval"]
assert len(evals) == 15, len(evals)
print(max(evals, key=lambda r: (r["accuracy"], -r["step"]))["step"])')
expect 0 "$STIPPLE" eval rotated --checkpoint best
contains "$output" "$(printf 'step         %s' "$best_of_all")"
[ "$(ls rotated/checkpoints | wc -l)" -le 3 ] || fail "checkpoints: $(ls rotated/checkpoints)"

expect 0 "$STIPPLE" eval run --checkpoint 20
contains "$output" "step         20"
expect 2 "$STIPPLE" eval run --checkpoint 30
contains "$output" "--checkpoint 30: run has no checkpoint of that step; there are 60, 40, 20"
expect 2 "$STIPPLE" eval run --checkpoint worst
expect 0 "$STIPPLE" predict run --checkpoint 20 --out early.tsv

# Predictions: the leaderboard's file, the same on three ranks, and as right on dev as eval says.
expect 0 "$STIPPLE" predict run --split test --out MRPC.tsv
equal "$(head -1 MRPC.tsv)" "$(printf 'index\tprediction')" "header"
equal "$(wc -l <MRPC.tsv)" 32 "lines"
equal "$(cut -f1 MRPC.tsv | tail -n +2 | paste -sd' ')" "$(seq -s' ' 0 30)" "index"
equal "$(cut -f2 MRPC.tsv | tail -n +2 | sort -u | paste -sd' ')" "0 1" "predictions"
expect 0 mpirun -q -np 3 --oversubscribe "$STIPPLE" predict run --out ranks.tsv --probabilities
equal "$(cut -f1,2 ranks.tsv)" "$(cat MRPC.tsv)" "predictions of three ranks"
equal "$(head -1 ranks.tsv)" "$(printf 'index\tprediction\tprobability_0\tprobability_1')" "header with probabilities"
expect 0 "$STIPPLE" predict run --split val --out dev.tsv
right=$(paste <(tail -n +2 dev.tsv | cut -f2) <(tail -n +2 glue/MRPC/dev.tsv | cut -f1) | awk '$1 == $2' | wc -l)
contains "$one" "$(awk -v r="$right" 'BEGIN { printf "%.1f %%", 100 * r / 45 }')"
printf 'a b c\ta e f\nb\th g\n' >mine.txt
expect 0 "$STIPPLE" predict run --input mine.txt --out mine.tsv
equal "$(wc -l <mine.tsv)" 3 "lines of one's own"
/usr/bin/python3 - <<'PYTHON' || fail "probabilities"
rows = [line.rstrip("\n").split("\t") for line in open("mine.tsv")][1:]
for r in rows: assert abs(float(r[2]) + float(r[3]) - 1) < 2e-6 and r[1] == str(int(float(r[3]) > float(r[2]))), rows
PYTHON

# Numbers: STS-B. With a share of training held out, dev is the test.
run_train 2 run.dir=numbers data.glue.task=stsb data.val_fraction=0.2 2>log || fail "$(cat log)"
contains "$(cat log)" pearson
expect 0 "$STIPPLE" eval numbers eval.split=test
contains "$output" "split        test, 45 examples"
contains "$output" "spearman"
# Numbers are moved into their range before they are judged, so the mean squared error is the loss or less.
awk '/^loss/ { loss = $2 } /^mse/ { mse = $2 } END { exit !(mse > 0 && mse < loss + 1e-3) }' <<<"$output" || fail "mse and loss: $output"
expect 0 "$STIPPLE" predict numbers --out STS-B.tsv
equal "$(wc -l <STS-B.tsv)" 32 "lines of STS-B"
grep -vE $'^[0-9]+\t[0-5]\\.[0-9]{3}$|^index' STS-B.tsv && fail "numbers of STS-B"

# The zip for the leaderboard.
expect 0 "$STIPPLE" submission STS-B.tsv MRPC.tsv --out submission.zip
contains "$output" "MRPC.tsv has 31 predictions, and the published test 1725 examples"
contains "$output" "without CoLA.tsv"
/usr/bin/python3 - <<'PYTHON' || fail "submission"
import zipfile
archive = zipfile.ZipFile("submission.zip")
assert archive.testzip() is None and archive.namelist() == ["MRPC.tsv", "STS-B.tsv"], archive.namelist()
for name in archive.namelist(): assert archive.read(name) == open(name, "rb").read(), name
PYTHON
cp ranks.tsv mrpc_with_probabilities.tsv
expect 2 "$STIPPLE" submission mrpc_with_probabilities.tsv --out refused.zip
[ ! -e refused.zip ] || fail "a submission that was refused"

# A model that has learnt nothing says so.
run_train 1 run.dir=nothing train.steps=1 optimizer.schedule.warmup_steps=0 optimizer.learning_rate=0 2>log
expect 0 "$STIPPLE" eval nothing optimizer.learning_rate=0
if grep -q '^alarm' <<<"$output"; then contains "$output" "the model calls all 45 examples"; fi

# Files of one's own: columns by name, classes by name.
mkdir own
awk -F'\t' 'NR == 1 { print "left\tright\tmood"; next } { sub("\r", ""); print $4 "\t" $5 "\t" ($1 ? "same" : "other") }' glue/MRPC/train.tsv >own/train.tsv
awk -F'\t' 'NR == 1 { print "mood\tleft\tright"; next } { sub("\r", ""); print ($1 ? "same" : "other") "\t" $4 "\t" $5 }' glue/MRPC/dev.tsv >own/dev.tsv
awk -F'\t' 'NR == 1 { print "right\tleft"; next } { sub("\r", ""); print $5 "\t" $4 }' glue/MRPC/test.tsv >own/test.tsv
own="data.task=tsv data.dir=own data.tsv.text=left data.tsv.second_text=right data.tsv.label=mood data.tsv.labels=other,same"
run_train 2 run.dir=own_run $own 2>log || fail "$(cat log)"
equal "$(state own_run)" "$(state run)" "the same examples as files of one's own"
expect 0 "$STIPPLE" predict own_run --out own.tsv
equal "$(sed -E 's/other$/0/; s/same$/1/' own.tsv)" "$(cat MRPC.tsv)" "the same predictions"

# Exported, the classes have the names that the task gives them; another vocabulary of equal size is none to begin with.
names() { /usr/bin/python3 -c 'import json, sys; print(*json.load(open(sys.argv[1]))["id2label"].values())' "$1/config.json"; }
expect 0 "$STIPPLE" export own_run --format huggingface --out exported
equal "$(names exported)" "other same" "names of classes"
expect 0 "$STIPPLE" export own_run --format huggingface --labels no,yes --out renamed
equal "$(names renamed)" "no yes" "names that were asked for"
sed 's/^a$/x/; s/^b$/a/; s/^x$/b/' vocab.txt >swapped.txt
expect 2 run_train 1 run.dir=refused data.vocab=swapped.txt init.from=run
contains "$output" "init.from: run/checkpoints/step-00000060 was trained with another vocabulary than swapped.txt"
[ ! -e refused/metrics.jsonl ] || fail "a run that began with another vocabulary"

refuses() {  # MESSAGE key=value...: the run says so in one line, before anything is written.
  local message=$1
  shift
  expect 2 mpirun -q -np 2 --oversubscribe "$STIPPLE" train small.yaml run.dir=refused "$@"
  contains "$output" "$message"
  equal "$(grep -c error: <<<"$output")" 1 "lines of error"
  [ ! -e refused/metrics.jsonl ] || fail "something ran"
}
sed -i 's/vocab: vocab.txt, //' small.yaml
refuses "data.vocab: names no vocabulary"
sed -i 's/dir: glue, /&vocab: vocab.txt, /' small.yaml
refuses "cannot read nowhere.txt" data.vocab=nowhere.txt
refuses "QQP/train.tsv" data.glue.task=qqp
refuses "a test alone" data.glue.task=ax
refuses "own/train.tsv:1: there is no column 'text'" $own data.tsv.text=text
refuses "own/train.tsv:2: the label 'other' is none of good, bad" $own data.tsv.labels=good,bad
expect 2 "$STIPPLE" eval run eval.split=test
contains "$output" "has no labels"
expect 2 "$STIPPLE" predict run --out nowhere/x.tsv
contains "$output" "there is no folder nowhere"
expect 2 "$STIPPLE" predict run --out x.tsv --split test --input mine.txt
expect 2 "$STIPPLE" predict run data.glue.task=rte --out x.tsv
contains "$output" "data.glue.task: run was trained for mrpc and has no answers for rte"
printf 'a b c\n' >single.txt
expect 2 "$STIPPLE" predict run --input single.txt --out x.tsv
contains "$output" "single.txt:1: the row has 1 of 2 fields"
make_data
expect 0 mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=lists data.task=listops data.dir=data train.steps=4 optimizer.schedule.warmup_steps=1
expect 2 "$STIPPLE" predict lists --out x.tsv
contains "$output" "lists is a run of data.task=listops, whose answers have no names"
[ ! -e x.tsv ] || fail "a file of a prediction that failed"
