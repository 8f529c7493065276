#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a run directory promises: its results are not overwritten, what it cannot do is refused for good (exit code 2), and a folder that
# holds no run is left alone.
. "$(dirname "$0")/support.sh"
make_data 12
train() { "$STIPPLE" train small.yaml train.steps=8 optimizer.schedule.warmup_steps=2 "$@"; }
# as_nobody COMMAND...: as a user who may not write what is read-only, which root may.
chmod 755 "$work"
as_nobody() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }

# --- what never heals is told by exit code 2 ---
touch file
expect 2 train run.dir=file
contains "$output" "run.dir"
expect 2 train run.dir=file/below
contains "$output" "run.dir"
mkdir -m 555 closed
expect 2 as_nobody "$STIPPLE" train small.yaml run.dir=closed/run
contains "$output" "Permission denied"
train 2>/dev/null
cp -r run damaged
for step in damaged/checkpoints/step-*; do echo "{}" >"$step/manifest.json"; done
expect 2 train run.dir=damaged
contains "$output" "intact"
expect 2 "$STIPPLE" eval damaged
expect 2 "$STIPPLE" inspect damaged

# --- a run that may only be read can be evaluated ---
cp -r run readonly
chmod -R a-w readonly
before=$(ls -lR readonly)
expect 0 as_nobody "$STIPPLE" eval readonly
contains "$output" "accuracy"
contains "$output" "not added"
equal "$(ls -lR readonly)" "$before" "files of a run that may only be read"

# --- checkpoints that were saved are missed, not done again over the results ---
history=$(cat run/metrics.jsonl)
mv run/checkpoints purged
expect 2 train
contains "$output" "step 8 of this run was saved"
mkdir run/checkpoints   # not mounted
expect 2 mpirun -q -np 2 "$STIPPLE" train small.yaml
equal "$(grep -c "was saved" <<<"$output")" 1 "ranks that tell of missing checkpoints"
rmdir run/checkpoints
ln -s nowhere run/checkpoints
expect 2 train
equal "$(cat run/metrics.jsonl)" "$history" "metrics of a run without checkpoints"
rm run/checkpoints
mv purged run/checkpoints
expect 0 train
# Killed before its first checkpoint, a run begins again; what its writers left is swept.
cp -r run early
rm -r early/checkpoints early/run.json
touch early/{metrics.jsonl,data.json,config.until-step-00000004.yaml,graphs-val-step-00000004.safetensors,notes}.tmp
expect 0 train run.dir=early
equal "$(state early)" "$(state run)" "a run that began again"
equal "$(cd early && echo *.tmp)" notes.tmp "temporary files left, of which one is foreign"
# A run directory of an earlier version has no record; resuming makes one.
cp -r run old
rm old/run.json
expect 0 train run.dir=old
rm -r old/checkpoints
expect 2 train run.dir=old

# --- a folder that holds no run is left alone ---
mkdir foreign
echo mine >foreign/report.html
for command in report eval inspect; do
  expect 2 "$STIPPLE" $command foreign
  equal "$(ls -A foreign)" "report.html" "files of a folder without a run, after $command"
  equal "$(cat foreign/report.html)" mine "a foreign report"
done
cp run/config.yaml foreign/
touch foreign/metrics.jsonl
expect 2 "$STIPPLE" report foreign
equal "$(cat foreign/report.html)" mine "a foreign report beside files with our names"

# --- what ran is what is recorded ---
cp run/config.yaml config.before
cp run/report.html report.before
expect 0 train optimizer.learning_rate=0.5
contains "$output" "optimizer.learning_rate: 0.003 before, 0.5 now, without effect"
cmp run/config.yaml config.before
cmp run/report.html report.before
expect 2 train optimizer.learning_rate=0.5 train.steps=12 model.dropout=0.25 run.dir=run
equal "$(grep -o "error: [a-z.]*" <<<"$output")" "error: model.dropout" "the key that is told first"
expect 2 train run.seed=5
contains "$output" "run.seed: 1 before, 5 now"
cp -r run longer
expect 0 train run.dir=longer train.steps=12 optimizer.learning_rate=0.001 log.every=1 train.micro_batch=4
contains "$output" "optimizer.learning_rate: 0.003 before, 0.001 now"
contains "$(cat longer/config.yaml)" "learning_rate: 0.001"
contains "$(cat longer/config.until-step-00000008.yaml)" "learning_rate: 0.003"
contains "$(cat longer/report.html)" "Changed on the way"

# An evaluation of something else is marked, and quoted nowhere.
last_eval() { grep '"kind":"eval"' "$1/metrics.jsonl" | tail -n 1; }
summary() { grep -o "validation  *.*" <<<"$output"; }
expect 0 train
plain=$(summary)
expect 0 "$STIPPLE" eval run attention.sbm.exploration=fixed attention.sbm.delta=1 attention.sbm.explore_eval=true
contains "$(last_eval run)" '"attention.sbm.delta=1"'
contains "$output" "attention.sbm.delta=1"
expect 0 train
equal "$(summary)" "$plain" "the result of a run after an evaluation with overrides"
contains "$(cat run/report.html)" "Evaluated with other settings"
expect 0 "$STIPPLE" eval run eval.seeds=2 threads=2
contains "$(last_eval run)" '"overrides":[]'

# Validation data that changed are noticed; checkpoints that do not know theirs still load.
cp -r data data.first
sed -i '2d' data/basic_val.tsv
expect 2 train train.steps=12
contains "$output" "validation data"
expect 2 "$STIPPLE" eval run
contains "$output" "data.dir"
expect 0 "$STIPPLE" eval run data.dir=data
contains "$(last_eval run)" '"overrides":["data.dir=data"]'
rm -r data
mv data.first data

# --- paths mean the same from everywhere ---
expect 2 train 'run.dir=$HOME/run'
contains "$output" '$HOME/run'
[ ! -e '$HOME' ] || fail "a folder named \$HOME was made"
expect 2 train 'run.dir=~nobody/run'
expect 2 mpirun -q -np 2 "$STIPPLE" eval '~nobody/run'
equal "$(grep -c "~nobody" <<<"$output")" 1 "ranks that tell of a path"
HOME=$work/home expect 0 train 'run.dir=~/run'
[ -d home/run/checkpoints ] || fail "~ was not expanded: $(ls)"
[ ! -e '~' ] || fail "a folder named ~ was made"
HOME=$work/home expect 0 "$STIPPLE" inspect '~/run'
HOME=$work/home expect 0 "$STIPPLE" report '~/run'
mkdir elsewhere
expect 0 env -C elsewhere "$STIPPLE" eval ../run
contains "$output" "accuracy"
contains "$(last_eval run)" '"overrides":[]'

# --- a preset and a key that contradict each other ---
expect 2 train run.dir=preset attention.sbm.compat=official attention.sbm.self_loop=true
contains "$output" "attention.sbm.self_loop"
contains "$output" "attention.sbm.compat"
expect 0 train run.dir=preset attention.sbm.compat=official attention.sbm.self_loop=false
contains "$(cat preset/config.yaml)" "explore_eval: true"
expect 0 "$STIPPLE" train preset/config.yaml
# Before presets were resolved in it, config.yaml of a run held the keys' own defaults.
cp -r preset preset.old
sed -i 's/explore_eval: true/explore_eval: false/' preset.old/config.yaml
expect 0 "$STIPPLE" train preset.old/config.yaml run.dir=preset.old train.steps=9
expect 0 env -C elsewhere "$STIPPLE" dry-run ../preset.old/config.yaml
expect 2 "$STIPPLE" eval preset attention.sbm.explore_eval=false
expect 0 "$STIPPLE" eval preset
