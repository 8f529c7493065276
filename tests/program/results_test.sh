#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/results.md says the truth: it knows every file and key of a run, and its Python runs and computes what the program does.
. "$(dirname "$0")/support.sh"
page=$SOURCE/docs/results.md

make_data
run_train 2 train.steps=8 eval.seeds=2 2>/dev/null
"$STIPPLE" eval run eval.split=test eval.seeds=2 attention.sbm.law=poisson_collapse >/dev/null 2>&1

for file in $(ls run | sed -E 's/^events.out.tfevents.*/events.out.tfevents.*/'); do
  grep -qE "^\|.*\`$file(/|/step-N/)?\`" "$page" || fail "docs/results.md does not list $file of a run directory"
done
/usr/bin/python3 - run/metrics.jsonl "$page" <<'PYTHON'
import json, re, sys
written = set()
def walk(x):
    if isinstance(x, dict):
        written.update(x)
        for value in x.values(): walk(value)
    if isinstance(x, list):
        for value in x: walk(value)
for line in open(sys.argv[1]): walk(json.loads(line))
table = open(sys.argv[2]).read().split("## metrics.jsonl")[1].split("In pandas")[0]
listed = set(re.findall("`([a-z_]+)`", table))
missing = written - listed
sys.exit(f"docs/results.md does not list {sorted(missing)} of metrics.jsonl" if missing or len(written) < 20 else 0)
PYTHON

# Each block of Python by itself; then the last one's forward against the program's own evaluation.
run_train 2 run.dir=runs/quickstart attention.kind=softmax train.steps=12 2>/dev/null
awk '/^```python/ { n++; inside = 1; next } /^```/ { inside = 0 } inside { print > "block" n ".py" }' "$page"
equal "$(ls block*.py | wc -l)" 2 "blocks of Python"
expect 0 /usr/bin/python3 block1.py
contains "$output" val
# A reader of safetensors of a few lines: Debian has none.
mkdir safetensors
cat >safetensors/torch.py <<'PYTHON'
import json, struct, torch
def load_file(path):
    data = bytearray(open(path, "rb").read())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name == "__metadata__": continue
        first, last = entry["data_offsets"]
        assert entry["dtype"] == "F32"
        tensors[name] = torch.frombuffer(data[begin + first:begin + last], dtype=torch.float32).reshape(entry["shape"])
    return tensors
PYTHON
cat >>block2.py <<'PYTHON'

import json
NUMBERS = {token: i + 1 for i, token in enumerate(["[MIN", "[MAX", "[MED", "[SM", "]", *"0123456789"])}
p = parameters(sorted(glob.glob("runs/quickstart/checkpoints/step-*"))[-1])
losses, hits = [], []
for line in open("data/basic_val.tsv").read().splitlines()[1:]:
    source, label = line.split("\t")
    ids = torch.tensor([[NUMBERS[token] for token in source.split() if token in NUMBERS]])
    logits = forward(p, ids, layers=2, heads=2, max_length=64)
    losses.append(F.cross_entropy(logits, torch.tensor([int(label)])).item())
    hits.append(logits.argmax().item() == int(label))
own = [r for r in map(json.loads, open("runs/quickstart/metrics.jsonl")) if r["kind"] == "eval" and r["split"] == "val"][-1]
loss, accuracy = sum(losses) / len(losses), sum(hits) / len(hits)
assert own["examples"] == len(losses) and abs(loss - own["loss"]) < 1e-6 and abs(accuracy - own["accuracy"]) < 1e-9, (loss, accuracy, own)
print("PyTorch agrees")
PYTHON
expect 0 /usr/bin/python3 block2.py
contains "$output" "PyTorch agrees"

# Several runs on one page, which takes no other file's place.
expect 0 "$STIPPLE" report run runs/quickstart
contains "$(cat comparison.html)" "attention.kind"
expect 0 "$STIPPLE" report run runs/quickstart --out both.html
cmp comparison.html both.html || fail "the same runs give another page"
echo foreign >mine.html
expect 2 "$STIPPLE" report run runs/quickstart --out mine.html
equal "$(cat mine.html)" foreign "a file that is not ours"
expect 2 "$STIPPLE" report run --out other.html
expect 2 "$STIPPLE" report run data
contains "$output" "data"
