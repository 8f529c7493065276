#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sparsefinder from end to end: it trains from scratch, resumes and evaluates the same on any number of ranks; `stipple sparsefinder fit`
# finds projections for a model that learned exact attention, which may then be evaluated and trained over the predicted graph.
. "$(dirname "$0")/support.sh"
make_data
sparsefinder="attention.kind=sparsefinder attention.sparsefinder.cluster.clusters=4"
figure() { sed -nE "s/^$1 +([0-9.]+).*/\1/p" <<<"$output"; }

# --- from scratch, on any number of ranks, killed or not ---
for attention in "" mode=certified predictor=quantize predictor=distance predictor=routing predictor=bigbird; do
  [ -z "$attention" ] || attention=attention.sparsefinder.$attention
  run_train 1 run.dir=one $sparsefinder $attention train.steps=8 2>/dev/null
  run_train 3 run.dir=three $sparsefinder $attention train.steps=4 optimizer.schedule.warmup_steps=2 2>/dev/null
  rm -rf three
  run_train 3 run.dir=three $sparsefinder $attention train.steps=8 2>/dev/null
  equal "$(state three)" "$(state one)" "three ranks with $attention"
  expect 0 "$STIPPLE" eval one
  contains "$output" "recall"
  contains "$output" "dropped_mass"
  [ -n "$attention" ] || contains "$output" "occupancy"
  rm -rf one three
done
# What predicts the graph follows the model: on any number of ranks, and after a resume, to the bit.
refreshed="$sparsefinder train.steps=8 optimizer.schedule.warmup_steps=2 checkpoint.every=5 attention.sparsefinder.refresh_every=3 attention.sparsefinder.refresh_examples=4"
run_train 1 run.dir=one $refreshed 2>/dev/null
run_train 3 run.dir=three $refreshed 2>/dev/null
equal "$(state three)" "$(state one)" "three ranks, refreshed"
rm -rf "$(ls -d three/checkpoints/*8 | head -1)"
run_train 2 run.dir=three $refreshed 2>/dev/null
equal "$(state three)" "$(state one)" "resumed, refreshed"
run_train 1 run.dir=never $refreshed attention.sparsefinder.refresh_every=0 2>/dev/null
[ "$(state never)" != "$(state one)" ] || fail "refreshing changed nothing"
rm -rf one three never
for projection in kind=mlp kind=concat; do
  fitted="$refreshed attention.sparsefinder.projection.$projection"
  run_train 1 run.dir=one $fitted 2>/dev/null
  run_train 3 run.dir=three $fitted 2>/dev/null
  equal "$(state three)" "$(state one)" "three ranks, refreshed, $projection"
  rm -rf one three
done
# What a refresh needs is planned, and more than there is refused before anything is taken.
expect 0 "$STIPPLE" dry-run small.yaml $refreshed
contains "$output" "to fit what predicts graphs anew, at most"
expect 2 "$STIPPLE" train small.yaml run.dir=large $refreshed attention.sparsefinder.refresh_examples=65536 model.layers=64 model.heads=16 data.max_length=4096
contains "$output" "attention.sparsefinder.refresh_examples"
# Heads that learn their graph beside exact attention switch to it, for good, and checkpoints hold who has.
gated="$refreshed attention.sparsefinder.mode=full attention.sparsefinder.cluster.top=2 attention.sparsefinder.gate=0.001"
run_train 1 run.dir=one $gated 2>err || fail "$(cat err)"
contains "$(cat err)" "computes the predicted graph from now on: head"
run_train 3 run.dir=three $gated 2>/dev/null
equal "$(state three)" "$(state one)" "three ranks, heads switched"
rm -rf "$(ls -d three/checkpoints/*8 | head -1)"
run_train 2 run.dir=three $gated 2>/dev/null
equal "$(state three)" "$(state one)" "resumed, heads switched"
contains "$(tail -1 one/metrics.jsonl)" '"switched":['
expect 0 "$STIPPLE" eval one attention.sparsefinder.mode=predicted
rm -rf one three
# Bounds rule out nothing that matters: training is that of all pairs.
run_train 1 run.dir=one $sparsefinder attention.sparsefinder.mode=certified train.steps=4 optimizer.schedule.warmup_steps=2 2>/dev/null
run_train 2 run.dir=full $sparsefinder attention.sparsefinder.mode=full train.steps=4 optimizer.schedule.warmup_steps=2 2>/dev/null
equal "$(state one)" "$(state full)" "certified training"
rm -rf one full

# --- fitted to exact attention ---
run_train 1 run.dir=exact attention.kind=entmax 2>/dev/null
before=$(state exact)
fit="$STIPPLE sparsefinder fit exact attention.sparsefinder.cluster.clusters=4 --examples 32"
expect 0 $fit
contains "$output" "exact/sparsefinder.safetensors"
equal "$(state exact)" "$before" "the run's state after fit"
sum=$(sha256sum <exact/sparsefinder.safetensors)
expect 0 $fit threads=2
equal "$(sha256sum <exact/sparsefinder.safetensors)" "$sum" "fitted once more"
expect 0 "$STIPPLE" eval exact $sparsefinder
initial=$(figure recall)
expect 0 "$STIPPLE" eval exact $sparsefinder attention.sparsefinder.fitted=exact/sparsefinder.safetensors
fitted=$(figure recall)
awk "BEGIN { exit !($fitted > $initial) }" || fail "recall $initial, fitted $fitted"
# Exact attention beside which a prediction is measured is the run's own.
expect 0 "$STIPPLE" eval exact
loss=$(figure loss)
expect 0 "$STIPPLE" eval exact $sparsefinder attention.sparsefinder.mode=full
equal "$(figure loss)" "$loss" "loss with mode=full"
expect 0 "$STIPPLE" eval exact $sparsefinder attention.sparsefinder.mode=certified
equal "$(figure loss)" "$loss" "loss with mode=certified"
contains "$output" "computed"
# All in one cluster: everything is predicted.
expect 0 "$STIPPLE" eval exact attention.kind=sparsefinder attention.sparsefinder.cluster.clusters=1
equal "$(figure loss)" "$loss" "loss with one cluster"
# Training over the graph begins with what was fitted.
run_train 1 run.dir=predicted $sparsefinder train.steps=2 optimizer.schedule.warmup_steps=1 \
  attention.sparsefinder.fitted=exact/sparsefinder.safetensors 2>/dev/null
expect 0 "$STIPPLE" eval predicted
loss=$(figure loss)
# ... and goes on with that, whatever becomes of the file.
expect 0 $fit --epochs 1
expect 0 "$STIPPLE" eval predicted
equal "$(figure loss)" "$loss" "loss after another fit"
mv exact/sparsefinder.safetensors kept.safetensors
expect 0 "$STIPPLE" eval predicted
equal "$(figure loss)" "$loss" "loss without the file"
run_train 1 run.dir=predicted $sparsefinder train.steps=3 optimizer.schedule.warmup_steps=1 2>err || fail "$(cat err)"
mv kept.safetensors exact/sparsefinder.safetensors

# --- many ways at once ---
others="--hashes 1,2 --random-blocks 2 --random-tokens 2 --strides 8"
expect 0 "$STIPPLE" sparsefinder sweep exact --out swept --examples 32 --windows 1,3 --globals 2 --clusters 2,4 --tops 1,2 --buckets 4 --thresholds 1 $others
equal "$(wc -l <swept/sweep.csv)" 38 "lines of sweep.csv: a head, exact attention, and eighteen ways with each of two windows"
equal "$(head -1 swept/sweep.csv)" predictor,setting,window,density,sparsity,recall,precision,exact,dropped_mass,loss,accuracy,frontier "columns"
# Twice in the nearest two of two clusters is everything: exact.
row=$(grep '^cluster several,clusters=2 top=2,1,' swept/sweep.csv)
equal "$(cut -d, -f4,6,8 <<<"$row")" 1,1,1 "density, recall and exact rows of everything"
contains "$(cat swept/sweep.html)" "Dropped mass"
for way in reformer routing bigbird longformer fixed strided; do
  contains "$(cat swept/sweep.html)" "$way"
  # Each is a graph: not nothing, not everything.
  awk -F, -v way="$way" '$1 == way { n += 1; bad += !($4 > 0.01 && $4 < 0.99 && $6 > 0 && $6 < 1) } END { exit !(n >= 2 && !bad) }' swept/sweep.csv || fail "$way: $(grep "^$way," swept/sweep.csv)"
done
sum=$(sha256sum <swept/sweep.csv)
expect 0 "$STIPPLE" sparsefinder sweep exact --out swept --examples 32 --windows 1,3 --globals 2 --clusters 2,4 --tops 1,2 --buckets 4 --thresholds 1 $others threads=2
equal "$(sha256sum <swept/sweep.csv)" "$sum" "swept once more"
# A sweep is over what is predicted, whatever the run's mode.
few="$others --examples 8 --epochs 1 --windows 1 --globals 2 --clusters 4,1000 --tops 1 --buckets 4 --thresholds 1"
expect 0 "$STIPPLE" sparsefinder sweep exact --out few $few
contains "$output" "clusters=1000 top=1 is left out: sequences have at most 64 tokens"
sum=$(sha256sum <few/sweep.csv)
expect 0 "$STIPPLE" sparsefinder sweep exact attention.sparsefinder.mode=full attention.sparsefinder.predictor=bigbird --out few $few
equal "$(sha256sum <few/sweep.csv)" "$sum" "swept with mode=full"

# Queries and keys as they are, long keys brought near, through a hidden layer, and together.
for projection in kind=none mips=true "kind=none attention.sparsefinder.projection.mips=true" kind=mlp "kind=mlp attention.sparsefinder.projection.shared=false" kind=concat; do
  projection="attention.sparsefinder.projection.$projection"
  expect 0 "$STIPPLE" sparsefinder fit exact attention.sparsefinder.cluster.clusters=4 --examples 32 $projection
  contains "$output" "occupancy of clusters"
  expect 0 "$STIPPLE" eval exact $sparsefinder $projection attention.sparsefinder.fitted=exact/sparsefinder.safetensors
  awk "BEGIN { exit !($(figure recall) > 0.2) }" || fail "recall $(figure recall) with $projection"
done
expect 0 "$STIPPLE" sparsefinder sweep exact --out plain $few attention.sparsefinder.projection.kind=none
contains "$output" "quantize buckets=4 is left out: it needs the few channels of a projection"
contains "$output" "routing clusters=4 is left out: it needs the few channels of a projection"
expect 0 $fit

# --- what cannot be is refused in one line ---
expect 2 "$STIPPLE" sparsefinder fit exact attention.sparsefinder.predictor=distance attention.sparsefinder.projection.kind=none
contains "$output" "attention.sparsefinder.projection.kind: "
expect 2 "$STIPPLE" sparsefinder fit exact attention.sparsefinder.projection.kind=concat attention.sparsefinder.projection.mips=true
contains "$output" "attention.sparsefinder.projection.mips: "
expect 2 "$STIPPLE" eval exact $sparsefinder attention.sparsefinder.projection.kind=mlp attention.sparsefinder.fitted=exact/sparsefinder.safetensors
contains "$output" "has no tensor 'encoder.0.attention.hidden'"
expect 2 "$STIPPLE" sparsefinder fit exact attention.sparsefinder.predictor=bigbird
contains "$output" "attention.sparsefinder.predictor: "
contains "$output" "there is nothing to fit"
expect 2 "$STIPPLE" train small.yaml $sparsefinder attention.sparsefinder.predictor=reformer attention.sparsefinder.cluster.clusters=5
contains "$output" "attention.sparsefinder.cluster.clusters: predictor=reformer"
expect 2 "$STIPPLE" train small.yaml $sparsefinder attention.sparsefinder.predictor=routing attention.sparsefinder.cluster.clusters=31
contains "$output" "attention.sparsefinder.cluster.clusters: with predictor=routing"
run_train 1 run.dir=softmax attention.kind=softmax train.steps=2 optimizer.schedule.warmup_steps=1 2>/dev/null
expect 2 "$STIPPLE" sparsefinder fit softmax
contains "$output" "attention.kind=softmax, of which no support can be predicted"
expect 2 "$STIPPLE" sparsefinder fit softmax attention.kind=entmax
contains "$output" "was trained with attention.kind=softmax"
for wrong in "--tops 0" "--buckets 0" "--globals -3" "--windows 1,4"; do
  expect 2 "$STIPPLE" sparsefinder sweep exact --out refused $wrong
  contains "$output" "attention.sparsefinder."
done
[ ! -e refused ] || fail "a refused sweep left $(ls refused)"
echo precious >afile
expect 2 "$STIPPLE" sparsefinder sweep exact --out afile
contains "$output" "--out: afile"
mkdir others && cp afile others/sweep.csv
expect 2 "$STIPPLE" sparsefinder sweep exact --out others
contains "$output" "others/sweep.csv was not written by"
equal "$(cat others/sweep.csv)" precious "a file of somebody else"
cp exact/sparsefinder.safetensors first.safetensors
expect 2 $fit --learning-rate 1e300
contains "$output" "--learning-rate: "
equal "$(sha256sum <exact/sparsefinder.safetensors)" "$(sha256sum <first.safetensors)" "what was fitted before"
cp afile exact/sparsefinder.safetensors
expect 2 $fit
contains "$output" "is not a file that \`stipple sparsefinder fit\` wrote"
cp first.safetensors exact/sparsefinder.safetensors
run_train 1 run.dir=deeper attention.kind=entmax model.layers=3 train.steps=2 optimizer.schedule.warmup_steps=1 2>/dev/null
expect 2 "$STIPPLE" eval deeper $sparsefinder attention.sparsefinder.fitted=exact/sparsefinder.safetensors
contains "$output" "was fitted to a model with model.layers"
expect 2 run_train 3 run.dir=tight $sparsefinder attention.sparsefinder.max_density=0.01 train.steps=2 optimizer.schedule.warmup_steps=1
contains "$output" "raise max_density"
mv data others_data
"$STIPPLE" data listops --out data --seed 4 --train 300 --val 50 --test 30 --min-length 8 --max-length 60 2>/dev/null
expect 2 $fit
contains "$output" "is not what it was in the run"
rm -rf data && mv others_data data
expect 2 "$STIPPLE" eval exact attention.kind=sparsefinder attention.sparsefinder.cluster.clusters=8 \
  attention.sparsefinder.fitted=exact/sparsefinder.safetensors
contains "$output" "attention.sparsefinder.fitted: exact/sparsefinder.safetensors: tensor 'encoder.0.attention.centroids' has shape"
expect 2 "$STIPPLE" eval exact $sparsefinder attention.sparsefinder.fitted=missing
contains "$output" "attention.sparsefinder.fitted: "
expect 2 mpirun -q -np 2 "$STIPPLE" sparsefinder fit exact
contains "$output" "runs in one process"
expect 2 "$STIPPLE" train small.yaml attention.kind=sparsefinder attention.sparsefinder.cluster.clusters=1000
contains "$output" "attention.sparsefinder.cluster.clusters: 1000 clusters of sequences with at most 64 tokens"
