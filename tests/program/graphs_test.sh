#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The graphs of a run as files: `stipple eval RUN --dump-graphs N` writes the same bytes on any number of ranks, says beforehand what they
# take, and refuses what cannot be.
. "$(dirname "$0")/support.sh"
make_data 12
run_train 1 2>/dev/null

file=run/graphs-val-step-00000024.safetensors
expect 0 "$STIPPLE" eval run --dump-graphs 3
contains "$output" "the graphs of 3 examples will take"
contains "$output" "$file"
[ -s $file ] || fail "no $file"
header=$(head -c 20000 $file | tr -d '\0')
for name in __metadata__ '"examples":"0 1 2"' '"step":"24"' example.0/ids example.2/labels example.1/layer.1/mask \
  example.1/layer.0/probability example.0/layer.1/query_memberships layer.1/blocks; do
  contains "$header" "$name"
done
sum=$(sha256sum <$file)
for ranks in 2 3; do
  rm $file
  expect 0 mpirun -q -np $ranks "$STIPPLE" eval run --dump-graphs 3
  equal "$(sha256sum <$file)" "$sum" "graphs written by $ranks ranks"
done
# Another seed draws others; another split is another file.
expect 0 "$STIPPLE" eval run run.seed=7 --dump-graphs 3
[ "$(sha256sum <$file)" != "$sum" ] || fail "graphs do not depend on the seed"
contains "$(head -c 20000 $file | tr -d '\0')" '"overrides":"run.seed=7"'
expect 0 "$STIPPLE" eval run eval.split=test --dump-graphs 1
[ -s run/graphs-test-step-00000024.safetensors ] || fail "no graphs of the test split"

# --- what cannot be is refused before anything is evaluated ---
for count in 0 -1 many; do
  expect 2 "$STIPPLE" eval run --dump-graphs $count
done
expect 2 mpirun -q -np 2 "$STIPPLE" eval run --dump-graphs 13
contains "$output" "the split 'val' has 12 examples"
equal "$(grep -c "12 examples" <<<"$output")" 1 "ranks that tell of too many examples"
run_train 1 run.dir=softmax attention.kind=softmax 2>/dev/null
expect 2 "$STIPPLE" eval softmax --dump-graphs 1
contains "$output" "draws no graph"

# --- the lines of Python in docs/graphs.md run; Debian has no reader of safetensors: this one is of a few lines ---
mkdir safetensors
cat >safetensors/numpy.py <<'PYTHON'
import json, struct, numpy
def load_file(path):
    data = open(path, "rb").read()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    types = {"F32": numpy.float32, "I64": numpy.int64, "U8": numpy.uint8}
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name == "__metadata__": continue
        first, last = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[begin + first:begin + last], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors
PYTHON
awk '/^```python/ { inside = 1; next } /^```/ { inside = 0 } inside' "$SOURCE/docs/graphs.md" | sed "s|runs/mine/graphs-val-step-00002000|run/graphs-val-step-00000024|" >block.py
cat >>block.py <<'PYTHON'

import numpy
for name, array in graphs.items(): print(name, array.dtype, array.shape)
n = len(graphs["example.0/ids"])
y, z, s = (graphs[name][1] for name in ("example.0/layer.1/query_memberships", "example.0/layer.1/key_memberships", "layer.1/blocks"))
assert numpy.abs(y @ s @ z.T - graphs["example.0/layer.1/probability"][1]).max() < 1e-5
assert mask.shape == (2, n, n) and set(mask.flat) == {0, 1}
PYTHON
expect 0 /usr/bin/python3 block.py
contains "$output" "density by head"
contains "$output" "example.0/labels int64 (1,)"
