#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A language model of plain text learns, says how well in bits per byte, and gives the same on any number of ranks; what cannot
# be is told in one line.
. "$(dirname "$0")/support.sh"

mkdir text
for i in $(seq 60); do
  for j in 1 2 3 4 5 6; do echo "line $j of page $i: the quick brown fox jumps over the lazy dog $((i * j)) times."; done >text/page-$i.txt
done
cat >small.yaml <<'YAML'
run: {dir: run}
threads: 1
train: {steps: 30, batch: 16, micro_batch: 4}
log: {every: 10}
data: {task: text_lm, dir: text, max_length: 64, text_lm: {pack: true}}
model: {layers: 1, width: 32, heads: 2, feedforward: 64, dropout: 0, positions: rotary}
attention: {kind: softmax}
optimizer: {learning_rate: 0.01, clip_norm: 1, schedule: {kind: cosine, warmup_steps: 3}}
YAML

run_train 1 2>log || fail "$(cat log)"
contains "$(cat log)" bits_per_byte
equal "$(grep -c UTF-8 log || true)" 0 "a word about UTF-8"
/usr/bin/python3 - <<'PYTHON' || fail "metrics"
import json, math
records = [json.loads(line) for line in open("run/metrics.jsonl")]
for r in records: assert abs(r["bits_per_byte"] - r["loss"] / math.log(2)) < 1e-6 and abs(r["perplexity"] - math.exp(r["loss"])) < 1e-4 * r["perplexity"], r
train = [r for r in records if r["kind"] == "train"]
for r in records:
    if r["kind"] == "eval": assert min(r["bits_per_byte_by_place"]) <= r["bits_per_byte"] <= max(r["bits_per_byte_by_place"]) and len(r["bits_per_byte_by_place"]) == 8, r
assert train[-1]["bits_per_byte"] < 0.75 * train[0]["bits_per_byte"], train
PYTHON
contains "$(grep -A1 '^model:' run/config.yaml; grep causal run/config.yaml)" "causal: true"
expect 0 "$STIPPLE" eval run eval.split=test
contains "$output" "'single bytes'"
contains "$output" bits_per_byte_by_place
contains "$(cat run/report.html)" "Bits per byte by place"

# It writes: the same for the same seed, and without temperature what it has seen often.
expect 0 "$STIPPLE" sample run --length 40 --prompt "line 1 of page"
first=$output
contains "$first" "line 1 of page"
equal "$(printf %s "$first" | wc -c)" 54 "bytes of prompt and sample"
expect 0 "$STIPPLE" sample run --length 40 --prompt "line 1 of page"
equal "$output" "$first" "the same seed"
expect 0 "$STIPPLE" sample run --length 40 --prompt "line 1 of page" --seed 1
[ "$output" != "$first" ] || fail "another seed writes the same"
# Combiner by blocks keeps another cache. With blocks of one token, and with one block, it is softmax, where positions are not in scores.
run_train 1 run.dir=sines model.positions=sinusoidal 2>/dev/null
expect 0 "$STIPPLE" sample sines --length 40 --prompt "line 1 of page"
softmax=$output
for block in 1 64; do
  expect 0 "$STIPPLE" sample sines --length 40 --prompt "line 1 of page" attention.kind=combiner attention.combiner.block=$block
  equal "$output" "$softmax" "combiner by blocks of $block"
done
expect 0 "$STIPPLE" sample run --length 150 --temperature 0   # beyond data.max_length
expect 0 mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=blocks attention.kind=combiner attention.combiner.block=8
expect 0 "$STIPPLE" sample blocks --length 150 --prompt "line 1 of page"
# What cannot be is told in one line before any work.
refuses_to_write() {  # MESSAGE argument...
  local message=$1
  shift
  expect 2 "$STIPPLE" sample "$@"
  contains "$output" "$message"
  equal "$(wc -l <<<"$output")" 1 "lines that say what is wrong with sample $*"
}
for length in 0 -3 3.5 many 99999999999999999999; do refuses_to_write "--length: $length is no whole number from 1 to " run --length $length; done
for temperature in -1 nan inf cold; do refuses_to_write "--temperature: $temperature is no number of at least 0" run --temperature $temperature; done
for seed in -1 9999999999999999999; do refuses_to_write "--seed: $seed is no whole number from 0 to " run --seed $seed; done
refuses_to_write "not expected: --top_k" run --top_k 3
refuses_to_write "nowhere holds no run" nowhere --length 5
refuses_to_write "text holds no run" text --length 5
refuses_to_write "foo=bar" run foo=bar
refuses_to_write "--out: text is a folder" run --out text
refuses_to_write "--out: there is no folder nowhere" run --out nowhere/written.txt
if [ "$(id -u)" != 0 ]; then
  mkdir -m 555 closed
  refuses_to_write "--out: closed may not be written" run --out closed/written.txt
fi
mkdir unborn
cp run/config.yaml unborn/
refuses_to_write "unborn" unborn --length 5
expect 0 "$STIPPLE" sample run --length 5 --prompt ""
expect 0 "$STIPPLE" sample run --length 5 --temperature 1e-320
expect 0 "$STIPPLE" sample run --length 5 --prompt "$(printf 'caf\xe9')"
expect 0 "$STIPPLE" sample run --length 5 --prompt "$(printf 'x%.0s' $(seq 200))"
contains "$output" "--prompt is longer than the 64 tokens that the model sees"
equal "$(tail -n 1 <<<"$output" | wc -c)" 206 "bytes of a long prompt and what follows"
code=0
output=$("$STIPPLE" sample run --length 5 2>&1 >/dev/full) || code=$?
equal "$code" 1 "exit code of sample into a full device"
contains "$output" "standard output"
"$STIPPLE" sample run --length 5000 | head -c 3 >/dev/null
equal "${PIPESTATUS[0]}" 0 "exit code of sample into a closed pipe"
expect 0 "$STIPPLE" sample run --length 40 --prompt "line 1 of page" --out written.txt
equal "$(cat written.txt)" "$first" "what --out holds"
mkfifo pipe
cat pipe >piped.txt &
expect 0 "$STIPPLE" sample run --length 40 --prompt "line 1 of page" --out pipe
wait $!
equal "$(cat piped.txt)" "$first" "what came through a pipe that --out names"
[ -p pipe ] || fail "--out replaced a pipe"
if prlimit --as=300000000 "$STIPPLE" --version >/dev/null 2>&1; then  # more memory than there is: told before anything is taken
  expect 2 prlimit --as=300000000 "$STIPPLE" sample run data.max_length=65536 attention.kind=combiner attention.combiner.variant=mixture
  contains "$output" "MB of memory"
  contains "$output" "end other programs"
  # Just enough for what is planned and not for all that libraries take: it ends well or says so, and never breaks. The plan is
  # of 277 MB here; the program itself takes some 60.
  for megabytes in $(seq 330 6 396); do
    code=0
    output=$(prlimit --as=${megabytes}000000 "$STIPPLE" sample run --length 4 threads=2 data.max_length=65536 attention.kind=combiner attention.combiner.variant=mixture 2>&1 >/dev/null) || code=$?
    [ $code = 0 ] || [ $code = 2 ] || fail "exit code $code with $megabytes MB of address space: $output"
    [ $code = 0 ] || equal "$(grep -c '^error: ' <<<"$output")/$(wc -l <<<"$output")" 1/1 "lines of error with $megabytes MB: $output"
  done
fi
make_data
expect 0 mpirun -q -np 1 "$STIPPLE" train small.yaml run.dir=classifier data.task=listops data.dir=data data.text_lm.pack=false train.steps=4
expect 2 "$STIPPLE" sample classifier --length 5
contains "$output" "error: classifier is a run of data.task=listops, which does not ask for the next token"

run_train 3 run.dir=ranks 2>/dev/null
equal "$(state ranks)" "$(state run)" "three ranks and one"
run_train 3 run.dir=block_ranks attention.kind=combiner attention.combiner.block=8 2>/dev/null
equal "$(state block_ranks)" "$(state blocks)" "three ranks and one, Combiner"

refuses() {  # MESSAGE key=value...: the run says so in one line, before anything is written.
  local message=$1
  shift
  expect 2 "$STIPPLE" train small.yaml run.dir=refused "$@"
  contains "$output" "$message"
  equal "$(grep -c error: <<<"$output")" 1 "lines of error"
  [ ! -e refused/metrics.jsonl ] || fail "something ran"
}
refuses "model.causal: is set to false" model.causal=false
refuses "model.causal: attention.kind=sbm lets tokens see later ones" attention.kind=sbm
refuses "data.files: no file below text is called *.md" data.files=*.md
refuses "data.dir: cannot read nowhere" data.dir=nowhere
mkdir empty short
: >empty/a.txt
refuses "too short" data.dir=empty
echo short >short/a.txt
refuses "too short" data.dir=short
expect 0 "$STIPPLE" dry-run small.yaml
contains "$output" "task         text_lm of 64 tokens"

printf 'caf\xe9\n' >text/page-0.txt
run_train 1 run.dir=latin train.steps=4 2>log
equal "$(grep -c 'page-0.txt is not UTF-8 from byte 3 on; bytes are taken as they are' log)" 1 "a word about UTF-8"
