#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole program on device=cuda, with the kernels run on the CPU (build with STIPPLE_CUDA=EMULATED): it trains as device=cpu does, the
# number of GPUs and a captured step do not change a bit, a killed run resumes, checkpoints move between devices, and a machine that
# cannot do what is asked gets one clear line.
. "$(dirname "$0")/support.sh"
make_data 6   # every run evaluates them all
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

for attention in "attention.kind=softmax" "attention.kind=sbm"; do
  # A captured step is padded to data.max_length; with this, so is an eager one, and must give the same bits.
  attention="$attention attention.sbm.padding=official"
  phases="step forward backward reduce optimizer"
  [[ $attention != *kind=sbm* ]] || phases="$phases sampling"
  run_train 1 run.dir=cpu $short $attention 2>/dev/null
  run_train 1 run.dir=cuda device=cuda $short $attention 2>/dev/null
  # The same graphs but for probabilities that round across a threshold.
  close cuda cpu 0.005
  [ "$(state cuda)" != "$(state cpu)" ] || fail "cuda and cpu agree to the last bit: did cuda run at all?"
  run_train 1 run.dir=bf16 device=cuda precision=bf16 $short $attention 2>/dev/null
  close bf16 cpu 0.05
  run_train 2 run.dir=two device=cuda $short $attention 2>/dev/null
  run_train 2 run.dir=graph device=cuda step.graph=true $short $attention 2>/dev/null
  for run in two graph; do
    equal "$(state $run)" "$(state cuda)" "$run, $attention"
    equal "$(history $run)" "$(history cuda)" "history of $run, $attention"
  done
  for run in cuda two graph; do measured $run $phases; done
  rm -rf cpu cuda bf16 two graph
done

# Every way to compute a graph's attention.
run_train 1 run.dir=cpu $short 2>/dev/null
for way in attention.sbm.sampler=rows attention.sbm.sampler=tiles "attention.sbm.law=poisson_multi attention.sbm.sampler=rows"; do
  run_train 1 run.dir=cpu_way $short $way 2>/dev/null
  run_train 1 run.dir=way device=cuda $short $way 2>/dev/null
  close way cpu_way 0.005
  rm -rf way cpu_way
done

run_train 1 run.dir=cusparse device=cuda attention.implementation=cusparse $short 2>/dev/null
close cusparse cpu 0.005

# Stopped and resumed, here and on the other device.
run_train 1 run.dir=whole device=cuda $short 2>/dev/null
run_train 1 run.dir=interrupted device=cuda $short 2>/dev/null &
pid=$!
for _ in $(seq 300); do [ -d interrupted/checkpoints ] && ls interrupted/checkpoints | grep -q . && break; sleep 0.1; done
kill -9 -- $(pgrep -P $pid) $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
run_train 1 run.dir=interrupted device=cuda $short 2>/dev/null
equal "$(state interrupted)" "$(state whole)" "killed and resumed"
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
