#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole program on device=cuda, with the kernels run on the CPU (build with STIPPLE_CUDA=EMULATED): it trains as device=cpu does, the
# number of GPUs and a captured step do not change a bit, a killed run resumes, checkpoints move between devices, and a machine that
# cannot do what is asked gets one clear line.
. "$(dirname "$0")/support.sh"
make_data 4   # every run evaluates them all
export STIPPLE_CUDA_ON_CPU_DEVICES=8
short="train.steps=4 train.batch=4 eval.every=0 checkpoint.every=2 log.every=1 eval.seeds=1 optimizer.schedule.warmup_steps=2"

losses() { sed -nE 's/.*"kind":"train".*/&/; s/.*"loss":([-0-9.e]+).*/\1/p' "$1/metrics.jsonl"; }
# close A B TOLERANCE: the two runs' losses, line by line
close() {
  paste <(losses "$1") <(losses "$2") | awk -v t="$3" '
    { n++; d = $1 - $2; if (d < 0) d = -d; if (!(d <= t * $2)) bad = bad " " $1 "/" $2 }
    END { if (n < 4 || bad) { print "losses " n ":" bad; exit 1 } }' || fail "losses of $1 and $2 differ"
}
# measured RUN_DIR PHASE...: every step of the run says how long each phase took, and reduce_s is what communication cost beyond backward
measured() {
  local run=$1 phase steps
  shift
  for phase in "$@"; do
    steps=$(grep '"kind":"train"' "$run/metrics.jsonl" | sed -nE "s/.*\"${phase}_s\":([-0-9.e]+).*/\1/p" | awk '$1 > 0' | wc -l)
    equal "$steps" 4 "steps of $run whose $phase was measured"
  done
}

train() { run_train "$@" 2>err || fail "$(tail -n 2 err) from: $*"; }
unchecked() { ASAN_OPTIONS=detect_leaks=0 train "$@"; }   # for leaks, which are looked for in its likes

# Any two settings meet in some run, one that is named here or its plain one (1 rank, not captured), but for softmax by cuSPARSE, which is
# refused. Softmax knows no padding; auto takes tiles at the density of these graphs.
#        attention      implementation precision ranks captured padding
rows=(  "softmax        own            fp32      1     false    -"
        "softmax        own            bf16      2     true     -"
        "tiles          cusparse       bf16      2     true     excluded"
        "rows           own            bf16      1     false    excluded"
        "rows           cusparse       fp32      2     true     official"
        "poisson_multi  own            bf16      1     true     official"
        "poisson_multi  cusparse       fp32      2     false    excluded"
        "auto           own            fp32      1     false    official")
printf '%s\n' "${rows[@]}" | awk '
  { sub("^auto", "tiles")
    for (plain = 0; plain < 2; ++plain) {
      if (plain) { $4 = 1; $5 = "false" }
      for (i = 1; i <= NF; ++i) { seen[i, $i]; for (j = 1; j <= NF; ++j) met[i, $i, j, $j] }
    } }
  END { for (a in seen) for (b in seen) {
      split(a, x, SUBSEP); split(b, y, SUBSEP)
      if (x[1] < y[1] && !(x[2] == "softmax" && (y[1] == 6 || y[2] == "cusparse")) && y[2] != "-" && !((x[1], x[2], y[1], y[2]) in met)) {
        print x[2], "and", y[2], "never meet"; lacks = 1 } }
    exit lacks }' || fail "the table of runs has lost pairs"

model_of() {   # ATTENTION PADDING: the keys of what is computed; the other settings are about how
  case $1 in
    softmax) echo attention.kind=softmax ;;
    poisson_multi) echo "attention.sbm.law=poisson_multi attention.sbm.sampler=rows attention.sbm.padding=$2" ;;
    *) echo "attention.sbm.sampler=$1 attention.sbm.padding=$2" ;;
  esac
}

for row in "${rows[@]}"; do
  read -r attention implementation precision ranks captured padding <<<"$row"
  model=$(model_of "$attention" "$padding")
  way="attention.implementation=$implementation precision=$precision device=cuda"
  cpu=cpu-$attention$padding
  [ -e "$cpu" ] || unchecked 1 run.dir=$cpu $short $model
  run=train
  [ "$ranks $captured" != "2 true" ] || run=unchecked
  $run "$ranks" run.dir=cuda step.graph=$captured $short $model $way
  bits=$(state cuda)
  # The same graphs but for probabilities that round across a threshold.
  close cuda "$cpu" "$([ "$precision" = bf16 ] && echo 0.05 || echo 0.005)"
  [ "$bits" != "$(state "$cpu")" ] || fail "cuda and cpu agree to the last bit: did cuda run at all? ($row)"
  phases="step forward backward reduce optimizer"
  [ "$attention" = softmax ] || phases="$phases sampling"
  measured cuda $phases
  if [ "$ranks $captured" != "1 false" ]; then
    unchecked 1 run.dir=plain $short $model $way
    equal "$bits" "$(state plain)" "$row"
    equal "$(history cuda)" "$(history plain)" "history of $row"
  fi
  rm -rf plain whole
  mv cuda whole
done

# Stopped and resumed another way; evaluated here and on the other device.
unchecked 1 run.dir=interrupted $short $model $way &
pid=$!
for _ in $(seq 300); do [ -d interrupted/checkpoints ] && ls interrupted/checkpoints | grep -q . && break; sleep 0.1; done
kill -9 -- $(pgrep -P $pid) $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
unchecked 2 run.dir=interrupted step.graph=true $short $model $way
equal "$(state interrupted)" "$bits" "killed and resumed"
expect 0 "$STIPPLE" eval whole device=cpu
contains "$output" "step         4"
expect 0 "$STIPPLE" eval whole device=cuda

# What cannot be is refused in one line, before training.
STIPPLE_CUDA_ON_CPU_DEVICES=0 expect 2 run_train 1 run.dir=none device=cuda $short
contains "$output" "GPU"
STIPPLE_CUDA_ON_CPU_COMPUTE=7.5 expect 2 run_train 1 run.dir=none device=cuda $short
contains "$output" "8.0"
STIPPLE_CUDA_ON_CPU_DEVICES=1 expect 2 run_train 2 run.dir=none device=cuda $short
contains "$output" "2 ranks"
STIPPLE_CUDA_ON_CPU_MEMORY=200000 expect 2 run_train 1 run.dir=none device=cuda $short
contains "$output" "train.micro_batch"
expect 2 run_train 1 run.dir=none device=cuda step.graph=true guard.spike_factor=3 $short
contains "$output" "step.graph"
expect 2 run_train 1 run.dir=none precision=bf16 $short
contains "$output" "precision"
[ ! -e none/checkpoints ] || [ -z "$(ls none/checkpoints)" ] || fail "a refused run left checkpoints"
STIPPLE_NCCL_FAIL=async_error@2:1 expect 1 run_train 2 run.dir=broken device=cuda $short
contains "$output" "rank 1"
