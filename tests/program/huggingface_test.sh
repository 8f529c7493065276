#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Models come from transformers' format and go back to it with the same bits; runs begin from other models and say what they took;
# what cannot be taken is told in one line, and nothing is left written.
. "$(dirname "$0")/support.sh"
golden=$SOURCE/tests/golden/bert

# tensors FILE: each name with its shape and a hash of its bytes.
tensors() {
  /usr/bin/python3 - "$1" <<'PYTHON'
import hashlib, json, sys
data = open(sys.argv[1], "rb").read()
size = int.from_bytes(data[:8], "little")
header = json.loads(data[8:8 + size])
for name in sorted(header):
    if name == "__metadata__": continue
    begin, end = header[name]["data_offsets"]
    print(name, header[name]["dtype"], header[name]["shape"], hashlib.sha256(data[8 + size:][begin:end]).hexdigest())
PYTHON
}

# There and back.
expect 0 "$STIPPLE" import huggingface "$golden" --out models/tiny
contains "$output" "imported BertForPreTraining, 46 tensors of"
expect 0 "$STIPPLE" export models/tiny --format huggingface --out back
equal "$(tensors back/model.safetensors)" "$(tensors "$golden/model.safetensors")" "tensors that came back"
cmp back/vocab.txt "$golden/vocab.txt" || fail "the vocabulary that came back"

# What cannot be: one line, code 2, nothing written.
refused() {
  local part=$1
  shift
  expect 2 "$@"
  contains "$output" "$part"
  equal "$(wc -l <<<"$output")" 1 "lines of: $output"
}
refused "exists already" "$STIPPLE" import huggingface "$golden" --out models/tiny
refused "has no config.json" "$STIPPLE" import huggingface . --out models/none
cp -r "$golden" other && sed -i 's/"bert"/"roberta"/' other/config.json
refused "model_type is roberta" "$STIPPLE" import huggingface other --out models/none
cp "$golden/config.json" other && head -c 20000 "$golden/model.safetensors" >other/model.safetensors
refused "other/model.safetensors" "$STIPPLE" import huggingface other --out models/none
refused "holds no model" "$STIPPLE" export data --format huggingface --out none
[ ! -e models/none ] && [ ! -e models/none.tmp ] && [ ! -e none ] || fail "something was written"

# A run of BERT's shape, exported, and another attention that begins from either.
make_data
bert=(attention.kind=softmax model.norm=post model.segments=2 model.mean_over=cls model.pooler=true eval.every=0 optimizer.schedule.warmup_steps=2)
run_train 1 "${bert[@]}" run.dir=first train.steps=4 2>/dev/null
expect 0 "$STIPPLE" export first --format huggingface --out exported --labels 0,1,2,3,4,5,6,7,8,9
contains "$output" "exported BertForSequenceClassification"
contains "$(cat exported/config.json)" '"label2id"'
expect 2 "$STIPPLE" export first --format huggingface --out twice --labels yes,no
expect 0 "$STIPPLE" import huggingface exported --out models/first
run_train 2 "${bert[@]}" attention.kind=sbm init.from=first run.dir=from_run train.steps=8 2>log || fail "$(cat log)"
contains "$(cat log)" "tensors loaded, 41: embedding.tokens"
contains "$(cat log)" "tensors left out, none"
grep -q "tensors new here, .*attention" log || fail "new tensors: $(cat log)"
run_train 1 "${bert[@]}" attention.kind=sbm init.from=models/first run.dir=from_import train.steps=8 2>/dev/null
# Resumed, it goes on from its own checkpoint, though what it began from is gone.
rm -r models/first from_import/checkpoints/step-00000008
run_train 1 "${bert[@]}" attention.kind=sbm init.from=models/first run.dir=from_import train.steps=8 2>log || fail "$(cat log)"
equal "$(grep -c 'tensors loaded' log || true)" 0 "loading when resumed"
equal "$(state from_import)" "$(state from_run)" "the state of a run that began from the same parameters"

# Another model, in one line.
expect 2 run_train 1 init.from=first attention.kind=softmax run.dir=wrong
contains "$output" "first/checkpoints/step-00000004 is another model: model.norm is post there and pre here; use its values"
expect 2 run_train 1 "${bert[@]}" init.from=first model.max_positions=70 run.dir=wrong
contains "$output" "use model.max_positions=64"
expect 2 "$STIPPLE" export from_run --format huggingface --out none
contains "$output" "attention.kind is not softmax"
