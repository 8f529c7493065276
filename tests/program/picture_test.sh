#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A language model of pictures learns and writes one as PNG; what cannot be written is told in one line before any work.
. "$(dirname "$0")/support.sh"

/usr/bin/python3 - <<'PYTHON'
# Pictures of one colour each, red or green, in CIFAR-10's layout with 16 pixels.
for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
    with open(name, "wb") as file:
        for i in range(20):
            red, green, blue = (250, 10, 20) if i % 2 else (10, 250, 20)
            file.write(bytes([0] + [red] * 16 + [green] * 16 + [blue] * 16))
PYTHON
cat >small.yaml <<'YAML'
run: {dir: run}
threads: 1
train: {steps: 80, batch: 16, micro_batch: 4}
data: {task: image_lm, dir: ., image_lm: {side: 4}}
model: {layers: 2, width: 32, heads: 2, feedforward: 64, dropout: 0}
attention: {kind: combiner, combiner: {block: 12}}
optimizer: {learning_rate: 0.02, clip_norm: 1, schedule: {kind: cosine, warmup_steps: 3}}
YAML
run_train 1 2>/dev/null
expect 0 "$STIPPLE" sample run --out one.png
contains "$output" "wrote one.png"
expect 0 "$STIPPLE" sample run --out same.png
cmp one.png same.png || fail "the same seed writes another picture"
/usr/bin/python3 - <<'PYTHON' || fail "the picture"
import struct, zlib
data = open("one.png", "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n"
at, packed = 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at:at + 8])
    if kind == b"IHDR": assert struct.unpack(">IIBBB", data[at + 8:at + 19]) == (4, 4, 8, 2, 0), "4 x 4 pixels, 8 bits, RGB"
    if kind == b"IDAT": packed += data[at + 8:at + 8 + size]
    at += 12 + size
rows, above, pixels = zlib.decompress(packed), [0] * 12, []
for y in range(4):
    kind, row = rows[13 * y], list(rows[13 * y + 1:13 * y + 13])
    assert kind in (0, 1, 2), "a filter that this test does not undo"
    for x in range(12): row[x] = (row[x] + (0, row[x - 3] if x > 2 else 0, above[x])[kind]) % 256
    above = row
    pixels += [tuple(row[x:x + 3]) for x in range(0, 12, 3)]
learned = sum(p in ((250, 10, 20), (10, 250, 20)) for p in pixels)
assert learned >= 14, pixels
PYTHON

expect 2 "$STIPPLE" sample run
contains "$output" "--out FILE.png"
expect 2 "$STIPPLE" sample run --out one.png --prompt red
contains "$output" "--prompt is of texts"
expect 2 "$STIPPLE" sample run --out one.png --length 5
contains "$output" "a picture of this run has 48 values"
expect 2 "$STIPPLE" sample run --out nowhere/one.png
contains "$output" "there is no folder nowhere"
