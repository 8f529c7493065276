#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A masked language model in two phases of other lengths, batches and rates, by LAMB, then a classifier with frozen parts and learning
# rates by depth: the same on any number of ranks and when it is resumed on either side of the change; told before and while it runs.
. "$(dirname "$0")/support.sh"
vocab=$SOURCE/tests/golden/bert/vocab.txt

mkdir text rows
for page in $(seq 40); do
  for line in 1 2 3 4 5 6; do echo "word$((page % 7)) word$((line + 10)) word$((page % 7 + 1)) word$((line + 11)) word$((page % 7 + 2))"; done >text/page-$page.txt
done
cat >small.yaml <<YAML
run: {dir: run}
threads: 1
train:
  steps: 10
  batch: 12
  micro_batch: 4
  phases:
    short: {steps: 60%, max_length: 8, schedule: restart}
    long: {steps: 40%, batch: 6, micro_batch: 2, schedule: restart, learning_rate: 0.005, warmup_steps: 50%}
checkpoint: {every: 1, keep: 20}
log: {every: 5}
data: {task: mlm, dir: text, vocab: $vocab, max_length: 16}
model: {layers: 2, width: 32, heads: 2, feedforward: 32, norm: post, init: bert}
attention: {kind: softmax}
optimizer:
  kind: lamb
  learning_rate: 0.01
  weight_decay: 0.01
  groups: {tables: {tensors: "embedding.tokens, embedding.positions", weight_decay: 0.01}}
  schedule: {kind: polynomial, power: 0.5, warmup_steps: 20%}
YAML

expect 0 "$STIPPLE" dry-run small.yaml --ranks 2
contains "$output" "phase short: steps 0 to 5, 8 tokens, 12 examples in leaves of 4"
contains "$output" "6 examples = 3 leaves of 2; 2 ranks with 1 to 2 leaves each"
contains "$output" "optimizer    group tables: 2 tensors"

expect 0 "$STIPPLE" train small.yaml
contains "$output" "phase long: steps 6 to 9, 16 tokens, 6 examples in leaves of 2"
contains "$(head -1 run/metrics.jsonl)" '"trust_ratio_min"'
for ranks in 2 3; do
  run_train $ranks run.dir=run$ranks 2>/dev/null
  equal "$(state run$ranks)" "$(state run)" "the state of $ranks ranks"
done
for step in 8 7 6 5; do  # the phase changes after step 6
  for late in $(seq $((step + 1)) 10); do rm -rf run2/checkpoints/step-$(printf %08d "$late"); done
  run_train 2 run.dir=run2 2>/dev/null
  equal "$(state run2)" "$(state run)" "the state after a resume at step $step"
done

# What a run was may not change, what it will be may.
rm -r run2/checkpoints/step-000000{09,10}
expect 2 "$STIPPLE" train small.yaml run.dir=run2 optimizer.kind=adamw
contains "$output" "optimizer.kind: lamb before, adamw now"
expect 2 "$STIPPLE" train small.yaml run.dir=run2 train.phases.short.batch=4
contains "$output" "has used 84 examples in 8 steps; train.batch and train.phases say 36"
expect 0 "$STIPPLE" train small.yaml run.dir=run2 train.phases.long.learning_rate=0.001
contains "$output" "train.phases.long.learning_rate: 0.005 before, 0.001 now"

# Fine-tuning.
for split in train dev test; do
  { printf 'sentence\tlabel\n'; for i in $(seq 24); do printf 'word%d word%d\t%d\n' $((i % 5)) $((i % 3 + 20)) $((i % 2)); done; } >rows/$split.tsv
done
sed '/^  phases:/,/^    long:/d; /groups:/d; s/kind: lamb/kind: adamw/' small.yaml >tune.yaml
tune=(tune.yaml init.from=run train.steps=4 train.batch=8 train.micro_batch=2 data.task=tsv data.dir=rows data.tsv.labels=0,1 optimizer.layer_decay=0.8)
expect 0 "$STIPPLE" train "${tune[@]}" run.dir=tuned optimizer.freeze.embeddings=true optimizer.freeze.layers=1
contains "$output" "optimizer: frozen: "
contains "$output" "embedding.*, encoder.0.*"
expect 2 "$STIPPLE" train "${tune[@]}" run.dir=wrong optimizer.freeze.tensors=encoder.9.*
contains "$output" "optimizer.freeze.tensors: 'encoder.9.*' matches no tensor of the model; did you mean 'encoder.0.*'?"
echo "ok"
