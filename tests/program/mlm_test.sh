#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A masked language model of plain text: begins from an imported BERT, learns, gives the same on any number of ranks and when it is
# resumed, goes to transformers' format, and a classifier begins from it.
. "$(dirname "$0")/support.sh"
golden=$SOURCE/tests/golden/bert

mkdir text rows
for page in $(seq 40); do
  for line in 1 2 3 4 5 6; do echo "word$((page % 7)) word$((line + 10)) word$((page % 7 + 1)) word$((line + 11)) word$((page % 7 + 2))"; done >text/page-$page.txt
done
cat >small.yaml <<YAML
run: {dir: run}
threads: 1
train: {steps: 12, batch: 16, micro_batch: 4}
checkpoint: {every: 4}
log: {every: 4}
data: {task: mlm, dir: text, vocab: $golden/vocab.txt, max_length: 16}
attention: {kind: softmax}
optimizer: {learning_rate: 0.01, clip_norm: 1, schedule: {kind: linear, warmup_steps: 2}}
YAML
"$STIPPLE" import huggingface "$golden" --out tiny 2>/dev/null
train() {  # RANKS [key=value...]: the tiny BERT, as the folder of the import describes it
  local ranks=$1
  shift
  ASAN_OPTIONS=${ASAN_OPTIONS:-fast_unwind_on_malloc=0} mpirun -q -np "$ranks" "$STIPPLE" train small.yaml tiny/model.yaml init.from=tiny "$@"
}

train 1 2>log || fail "$(cat log)"
contains "$(cat log)" "tensors loaded, 42: embedding.tokens"
contains "$(cat log)" "tensors left out, 4: head.hidden.bias, head.hidden.weight, relation.bias, relation.weight"
/usr/bin/python3 - <<'PYTHON' || fail "metrics"
import json
records = [json.loads(line) for line in open("run/metrics.jsonl")]
train = [r for r in records if r["kind"] == "train"]
assert train[-1]["loss"] < 0.9 * train[0]["loss"], train
assert any(r["kind"] == "eval" and 0 <= r["accuracy"] <= 1 and r["perplexity"] > 1 for r in records), records
PYTHON

# The same bits on two and three ranks, and when it goes on from a checkpoint.
for ranks in 2 3; do
  train $ranks run.dir=run$ranks 2>/dev/null
  equal "$(state run$ranks)" "$(state run)" "the state of $ranks ranks"
done
rm -r run2/checkpoints/step-00000012 run2/checkpoints/step-00000008
train 2 run.dir=run2 2>/dev/null
equal "$(state run2)" "$(state run)" "the state after a resume"
# Every rule of masking trains; sampled graphs, too.
for rule in count words ngrams; do train 1 run.dir=rule train.steps=2 data.mlm.masking.rule=$rule 2>log || fail "$rule: $(cat log)"; rm -r rule; done
train 1 run.dir=sbm train.steps=2 attention.kind=sbm attention.sbm.clusters=4 2>log || fail "$(cat log)"

# The same from shards, with weights, on any number of ranks and after a resume; whole documents by themselves; and what is refused
# leaves no run behind.
"$STIPPLE" data tokenize --vocab "$golden/vocab.txt" --out shards/a text/page-?.txt 2>/dev/null
"$STIPPLE" data tokenize --vocab "$golden/vocab.txt" --out shards/b text/page-??.txt 2>/dev/null
mixed=data.mlm.shards=shards/a:1,shards/b:2
for ranks in 1 2 3; do train $ranks run.dir=shards$ranks $mixed 2>log || fail "$(cat log)"; done
for ranks in 2 3; do equal "$(state shards$ranks)" "$(state shards1)" "the state of $ranks ranks on shards"; done
rm -r shards3/checkpoints/step-00000012 shards3/checkpoints/step-00000008
mv shards moved
train 2 run.dir=shards3 data.mlm.shards=moved/a:1,moved/b:2 2>log || fail "$(cat log)"
equal "$(state shards3)" "$(state shards1)" "the state after a resume on shards that were moved"
expect 2 train 1 run.dir=shards3 data.mlm.shards=moved/a:1,moved/b:3 train.steps=16
contains "$output" "training data"
train 1 run.dir=documents data.mlm.shards=moved/a,moved/b data.mlm.pack=false train.steps=2 2>log || fail "$(cat log)"
expect 0 "$STIPPLE" dry-run small.yaml tiny/model.yaml data.mlm.shards=moved/a,moved/b
contains "$output" "examples, "
refused() {  # WHAT key=value...
  local what=$1
  shift
  expect 2 "$STIPPLE" train small.yaml tiny/model.yaml run.dir=refused "$@"
  contains "$output" "$what"
  equal "$(grep -c error: <<<"$output")" 1 "lines of error"
  [ ! -e refused/checkpoints ] || fail "a checkpoint after: $what"
  rm -rf refused
}
refused "gives 18 examples to train on, fewer than train.batch 64" data.mlm.shards=moved/a train.batch=64
refused "moved/a has a weight, others have none" data.mlm.shards=moved/b,moved/a:1
refused "moved/a: was made in lower case" data.mlm.shards=moved/a data.lower_case=false
sed 's/^word3$/werd3/' "$golden/vocab.txt" >other.txt
refused "moved/a: was made by another vocabulary" data.mlm.shards=moved/a data.vocab=other.txt

# Pairs of texts, from text and from shards with sentences: the same bits on two ranks, and to transformers' format with both heads.
"$STIPPLE" data tokenize --sentences --vocab "$golden/vocab.txt" --out pairs text/*.txt 2>log
contains "$(cat log)" "of 40 documents, 240 sentences, to pairs.bin"
pairs=(data.mlm.pairs.kind=order data.mlm.shards=pairs)
for ranks in 1 2; do train $ranks run.dir=pairs$ranks "${pairs[@]}" 2>log || fail "$(cat log)"; done
contains "$(cat log)" "tensors left out, none"
equal "$(state pairs2)" "$(state pairs1)" "the state of 2 ranks on pairs"
grep -q '"relation_accuracy":' pairs1/metrics.jsonl || fail "no relation_accuracy"
train 1 run.dir=pairs_of_text data.mlm.pairs.kind=next data.mlm.documents=blank_line train.steps=2 2>log || fail "$(cat log)"
expect 0 "$STIPPLE" export pairs1 --format huggingface --out pairs_out
contains "$output" "exported BertForPreTraining, 46 tensors"
refused "does not know sentences" data.mlm.pairs.kind=order data.mlm.shards=moved/b
refused "use model.pooler=true" data.mlm.pairs.kind=order model.pooler=false

# Files that are missing or torn.
rm moved/a.idx
refused "moved/a.idx: is missing" data.mlm.shards=moved/a
truncate -s -2 moved/b.bin
refused "moved/b.idx: speaks of" data.mlm.shards=moved/b

# To transformers' format, with the vocabulary that it was trained with; and a classifier from it.
expect 0 "$STIPPLE" export run --format huggingface --out out
contains "$output" "exported BertForMaskedLM, 42 tensors"
cmp out/vocab.txt "$golden/vocab.txt" || fail "the vocabulary of the export"
for split in train dev test; do
  { printf 'sentence\tlabel\n'; for i in $(seq 24); do printf 'word%d word%d\t%d\n' $((i % 5)) $((i % 3 + 20)) $((i % 2)); done; } >rows/$split.tsv
done
expect 0 "$STIPPLE" train small.yaml tiny/model.yaml init.from=run run.dir=rows_run train.steps=4 data.task=tsv data.dir=rows data.tsv.labels=0,1
contains "$output" "tensors new here, 4: head.hidden.weight, head.hidden.bias, head.out.weight, head.out.bias"
expect 2 "$STIPPLE" train small.yaml init.from=run run.dir=wrong
contains "$output" "is another model: model.width is 16 there and 64 here"
expect 2 "$STIPPLE" train small.yaml tiny/model.yaml run.dir=wrong data.vocab=none.txt
contains "$output" "none.txt"
