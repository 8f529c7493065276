#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `stipple glue` trains tasks and seeds, tells medians and the score, and makes the submission; killed anywhere and begun again, it
# comes to the same bytes; what it could not do is told before anything is trained.
. "$(dirname "$0")/support.sh"

/usr/bin/python3 "$SOURCE/tests/program/glue_data.py" glue
cat >small.yaml <<'YAML'
threads: 1
train: {batch: 16, micro_batch: 4}
log: {every: 5}
data: {task: glue, dir: glue, vocab: vocab.txt, max_length: 12}
model: {layers: 1, width: 32, heads: 2, feedforward: 64, dropout: 0.1, norm: post, mean_over: cls, pooler: true, segments: 2}
attention: {kind: softmax}
optimizer: {learning_rate: 0.003, clip_norm: 1, schedule: {kind: linear, warmup_steps: 10%}}
YAML

# glue RANKS OUT [argument...]
glue() {
  local ranks=$1 out=$2
  shift 2
  ASAN_OPTIONS=${ASAN_OPTIONS:-fast_unwind_on_malloc=0} mpirun -q -np "$ranks" --oversubscribe "$STIPPLE" glue --out "$out" "$@" small.yaml
}
common=(--seeds 2 --epochs 2 --recipe config)
tasks=(--tasks rte,mrpc,stsb,mnli --from-mnli)

expect 0 glue 2 all "${common[@]}" "${tasks[@]}"
contains "$output" "The mean of 4 of nine tasks (mrpc, stsb, mnli, rte):"
contains "$output" "without CoLA.tsv, SST-2.tsv, QQP.tsv, QNLI.tsv, WNLI.tsv"
equal "$(cut -d, -f1,2,6 all/results.csv | paste -sd' ')" \
  "task,measure,seeds mrpc,accuracy,2 mrpc,f1,2 stsb,pearson,2 stsb,spearman,2 stsb,mse,2 mnli,accuracy,2 mnli_mm,accuracy,2 rte,accuracy,2" "rows"
grep -q '^| mrpc | accuracy | ' all/results.md || fail "no table: $(cat all/results.md)"
/usr/bin/python3 - <<'PYTHON' || fail "results"
import json, math, zipfile
results = json.load(open("all/results.json"))
rows = {(r["task"], r["measure"]): r for r in results["rows"]}
evals = lambda run: [r for r in map(json.loads, open(f"all/{run}/metrics.jsonl")) if r["kind"] == "eval"]
for task, measure in ("mrpc", "accuracy"), ("stsb", "pearson"), ("rte", "accuracy"), ("mnli", "accuracy"):
    best = [max(r[measure] for r in evals(f"{task}-{seed}")) for seed in (1, 2)]
    row = rows[task, measure]
    assert (row["lowest"], row["highest"]) == (min(best), max(best)) and math.isclose(row["median"], sum(best) / 2), (row, best)
value = lambda *key: rows[key]["median"] * 100
score = sum([(value("mrpc", "accuracy") + value("mrpc", "f1")) / 2, (value("stsb", "pearson") + value("stsb", "spearman")) / 2,
             (value("mnli", "accuracy") + value("mnli_mm", "accuracy")) / 2, value("rte", "accuracy")]) / 4
assert math.isclose(results["mean_of_present"], score) and results["score"] is None, (results, score)
names = ["MRPC.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "RTE.tsv", "AX.tsv"]
archive = zipfile.ZipFile("all/submission.zip")
assert archive.namelist() == names, archive.namelist()
rows_of = {"AX.tsv": 20}
for name in names: assert archive.read(name).count(b"\n") == 1 + rows_of.get(name, 31), name
# The predictions of the seed that was best on validation.
runs = [r for r in results["runs"] if r["task"] == "mrpc"]
best = max(runs, key=lambda r: (r["validation"], -r["seed"]))
assert open("all/predictions/MRPC.tsv.from").read() == f"all/mrpc-{best['seed']} {best['best_step']}\n"
PYTHON
for task in mrpc rte stsb; do
  contains "$(cat all/$task-2/log.txt)" "init.from all/mnli-1/checkpoints/step-"
done
equal "$(grep -c init.from all/mnli-1/log.txt || true)" 0 "models that mnli begins from"

# What was done is not done again.
before=$(find all -newer small.yaml -type f -printf '%p %T@\n' | grep -v -E 'results|submission|/lock|predictions/.*zip' | sort)
expect 0 glue 1 all "${common[@]}" "${tasks[@]}"
equal "$(find all -newer small.yaml -type f -printf '%p %T@\n' | grep -v -E 'results|submission|/lock|predictions/.*zip' | sort)" "$before" "files after a second call"

# Killed again and again, and stopped by a signal, it comes to the same bytes.
same() { for file in results.csv results.md predictions/{MRPC,MNLI-m,MNLI-mm,RTE,STS-B,AX}.tsv submission.zip; do cmp "all/$file" "$1/$file" || fail "$1/$file"; done; }
for seconds in 0.4 0.9 1.6 2.3; do
  "$STIPPLE" glue --out killed "${common[@]}" "${tasks[@]}" small.yaml >/dev/null 2>&1 &
  pid=$!
  sleep "$seconds"
  kill -KILL $pid 2>/dev/null || true
  wait $pid 2>/dev/null || true
done
"$STIPPLE" glue --out killed "${common[@]}" "${tasks[@]}" small.yaml >/dev/null 2>&1 &
pid=$!
sleep 1
kill -TERM $pid 2>/dev/null || true
code=0
wait $pid || code=$?
[ "$code" = 75 ] || [ "$code" = 0 ] || fail "exit code $code of a stop"
expect 0 glue 3 killed "${common[@]}" "${tasks[@]}"
same killed

# More seeds join what is there; other settings do not.
expect 0 glue 1 all --seeds 3 --epochs 2 --recipe config --tasks mrpc,mnli --from-mnli
equal "$(grep -E '^(mrpc,f1|rte|mnli,)' all/results.csv | cut -d, -f1,6 | paste -sd' ')" "mrpc,3 mnli,3 rte,2" "seeds"
expect 2 glue 1 all --seeds 1 --epochs 2 --recipe config --tasks mrpc
contains "$output" "all/mrpc-1 was begun with other settings: init.from"
expect 2 glue 1 all "${common[@]}" --tasks mnli optimizer.learning_rate=0.5
contains "$output" "all/mnli-1 was begun with other settings: optimizer.learning_rate: 0.003 before, 0.5 now; use those, or another --out"

# Chosen by a part of the training examples, measured on dev.
expect 0 glue 1 honest --seeds 1 --epochs 2 --recipe config --tasks mrpc data.val_fraction=0.2
contains "$output" "dev, epochs and seeds chosen by 0.2 of the training examples"
/usr/bin/python3 - <<'PYTHON' || fail "an honest result"
import json
run = json.load(open("honest/results.json"))["runs"][0]
evals = [r for r in map(json.loads, open("honest/mrpc-1/metrics.jsonl")) if r["kind"] == "eval"]
best = max(evals, key=lambda r: (r["accuracy"], -r["step"]))
assert (run["best_step"], run["validation"]) == (best["step"], best["accuracy"]) and best["examples"] == 48, (run, best)
accuracy = next(m["value"] for m in run["measures"] if m["measure"] == "accuracy")
assert abs(accuracy * 45 - round(accuracy * 45)) < 1e-9, accuracy
PYTHON

# A model that learns nothing raises an alarm.
expect 0 glue 1 nothing --seeds 1 --epochs 1 --tasks mrpc --recipe config optimizer.learning_rate=0
if grep -q '^Alarm' <<<"$output"; then contains "$output" "Alarm: mrpc, seed 1: the model calls all 45 examples"; fi

# A recipe's numbers, under key=value.
expect 0 glue 1 recipe --seeds 1 --epochs 1 --tasks mrpc --recipe bert optimizer.weight_decay=0.5
config=$(cat recipe/mrpc-1/config.yaml)
contains "$config" "learning_rate: 3e-05"
contains "$config" "weight_decay: 0.5"
contains "$config" "batch: 32"

ln -s "$SOURCE/configs" configs   # recipe/glue is found by its name
# The model that --init names brings its shape and its vocabulary.
expect 0 "$STIPPLE" glue --init recipe/mrpc-1 --out begun --seeds 1 --epochs 1 --tasks rte --recipe config data.dir=glue data.max_length=12 threads=1
contains "$(cat begun/rte-1/config.yaml)" "width: 32"
contains "$(cat begun/rte-1/log.txt)" "tensors left out, none"

# One line, and nothing trained.
refuses() {
  local message=$1
  shift
  expect 2 glue 2 refused "$@"
  contains "$output" "$message"
  equal "$(grep -c error: <<<"$output")" 1 "lines of error"
  [ ! -e refused ] || fail "something was begun"
}
refuses "--tasks: there is no task unknown; there are cola, sst2" --tasks mrpc,unknown
refuses "mnli is judged on mnli_mm and predicts ax by itself" --tasks ax
refuses "CoLA/train.tsv is not there; --tasks mrpc,stsb,mnli,rte takes the tasks that are"
refuses "--from-mnli: the model of MNLI is to be trained first" --tasks rte --from-mnli
refuses "train.steps is set for each run; use --epochs" --tasks rte train.steps=5
refuses "unknown key" --tasks rte optimizer.learning=1
expect 2 "$STIPPLE" glue small.yaml
expect 2 "$STIPPLE" glue --out refused --recipe unknown small.yaml
