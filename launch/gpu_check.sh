#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything worth knowing about Stipple on this machine's GPU, in one command and ten minutes: tests, targets with their results checked,
# ceilings, a captured training, profiles, sanitizers, benchmarks, PyTorch beside them. Writes gpu_check.tar (all output, added to after each
# step), gpu_check.md and gpu_check.json (written anew after each) into --out, so that a run that is cut short has told what it knew; a step
# that fails or runs out of time does not stop the later ones. Runs in an unpacked bundle (launch/bundle.sh) as it is; elsewhere it builds the
# preset cuda first.
#   launch/gpu_check.sh [--minutes N] [--out DIR] [--build DIR] [--smoke]
#     --minutes N    for everything, 10 by default; building is not counted
#     --out DIR      gpu_check by default; what is there from before is replaced
#     --build DIR    use the programs of this build folder and build nothing
#     --smoke        tiny sizes and a few of the tests: does the script work?
# Exit codes: 0 all steps passed, 1 some failed, 2 cannot be built here, 3 there is no GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
command_line="launch/gpu_check.sh $*"
minutes=10 out=gpu_check build="" smoke=""
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --build) build=$2; shift 2 ;;
    --smoke) smoke=1; shift ;;
    *) sed -n '3,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

no_gpu() { echo "gpu_check: no GPU: ${1:-no device that the driver of NVIDIA shows}" >&2; exit 3; }

shows_gpu() { compgen -G '/dev/nvidia[0-9]*' >/dev/null || nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# --- the programs --------------------------------------------------------------------------------
if [ -n "$build" ]; then
  bin=$(cd "$build" && pwd)/bin
  tests=$(cd "$build" && pwd)/tests
elif [ -x "$root/programs/stipple" ]; then
  bin=$root/bin tests=$root/bin
else
  # Nobody wants to wait for a build that cannot be used.
  shows_gpu || no_gpu
  echo "Building the preset cuda"
  mapfile -t programs < <("$root/launch/cuda_tests.sh" | cut -d' ' -f1 | sort -u)
  if ! (cd "$root" && launch/build.sh cuda stipple bench_cuda "${programs[@]}"); then
    echo "gpu_check: Stipple cannot be built here (docs/dependencies.md lists what it needs). Run launch/bundle.sh on a machine where it" \
      "can, unpack the bundle here, and run its launch/gpu_check.sh." >&2
    exit 2
  fi
  bin=$root/build-cuda/bin tests=$root/build-cuda/tests
fi
why=$("$bin/bench_cuda" --benchmark_list_tests 2>&1 >/dev/null)
case $? in
  0) ;;
  3) no_gpu "${why#bench_cuda: }" ;;
  *) shows_gpu || no_gpu; echo "gpu_check: bench_cuda does not start: $why" >&2; exit 2 ;;
esac
[ -f "$root/launch/mpi_environment.sh" ] && . "$root/launch/mpi_environment.sh"

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/gpu_check.{tar,md,json}
log=$(mktemp -d)  # what the evidence is made of
work=$(mktemp -d)
trap 'rm -rf "$log" "$work"' EXIT
touch "$log"/{steps.tsv,benchmarks.jsonl,peers.jsonl}
begin=$(date +%s)
budget=$((minutes * 60))
cd "$root" || exit 2

# --- steps -----------------------------------------------------------------------------------------
# Ends of steps are given in seconds of a check of ten minutes.
left_until() { echo $((begin + $1 * budget / 600 - $(date +%s))); }

# run NAME END COMMAND...: runs until END at most. steps.tsv gets name, exit code, seconds; the output goes to NAME.log.
run() {
  local name=$1 limit code start
  limit=$(left_until "$2")
  shift 2
  start=$(date +%s)
  if [ "$limit" -lt 3 ]; then
    code=skipped
  else
    timeout -k 5 -s TERM "$limit" "$@" >"$log/$name.log" 2>&1 </dev/null
    code=$?
  fi
  printf '%s\t%s\t%s\n' "$name" "$code" "$(($(date +%s) - start))" >>"$log/steps.tsv"
  [ "$code" = skipped ] || code="exit $code"
  printf '%-48s%s, %s s\n' "$name" "$code" "$(($(date +%s) - start))"
}

# Keeps what has been found so far: a tar reader takes the last of files that are in it more than once.
keep() {
  page >"$out/gpu_check.md.new" && mv "$out/gpu_check.md.new" "$out/gpu_check.md"
  json >"$out/gpu_check.json.new" && mv "$out/gpu_check.json.new" "$out/gpu_check.json"
  tar -C "$log" -rf "$out/gpu_check.tar" "$@" steps.tsv benchmarks.jsonl peers.jsonl
}
kept() { local name=$1; if [ -f "$log/$name.log" ]; then keep "$name.log"; else keep; fi; }

step() { run "$@"; kept "$1"; }

# tests END SUFFIX PATTERN [VARIABLE=VALUE]: the test programs whose file matches, as many at a time as there are cores.
tests() {
  local end=$1 suffix=$2 pattern=$3 program name binary running=()
  while read -r program name; do
    [[ $name =~ $pattern ]] || continue
    [[ -z ${seen[$name$suffix]:-} ]] || continue
    seen[$name$suffix]=1
    binary=$(find "$tests" -name "$program" -type f -perm -u+x | head -n 1)
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do
      wait -n
      keep $(cd "$log" && ls "${running[@]}" 2>/dev/null)
    done
    run "test.$name$suffix" "$end" env ${smoke:+GTEST_TOTAL_SHARDS=50} ${smoke:+GTEST_SHARD_INDEX=0} "${@:4}" "${binary:-$program}" \
      --source="$name" --gtest_brief=1 &
    running+=("test.$name$suffix.log")
  done < <(cat launch/cuda_tests.txt 2>/dev/null || launch/cuda_tests.sh)  # the list of a bundle, which has no sources
  while [ "$(jobs -rp | wc -l)" -gt 0 ]; do
    wait -n
    keep $(cd "$log" && ls "${running[@]}" 2>/dev/null)
  done
}
declare -A seen=()

tool() { command -v "$1" || ls "${CUDA_HOME:-/usr/local/cuda}/bin/$1" 2>/dev/null; }

# --- the pages, as far as it has come ----------------------------------------------------------------
sum_of() { cat "$log"/test.*.log 2>/dev/null | sed -nE "$1" | awk '{ n += $1 } END { print n + 0 }'; }
device() { sed -nE 's/^  [0-9]+ +([^,]*, compute [0-9.]+).*/\1/p' "$log/doctor.log" 2>/dev/null | head -n 1; }
driver() { nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1; }
passed() { sum_of 's/^\[  PASSED  \] ([0-9]+) tests?\..*/\1/p'; }
failed() { sum_of 's/^ *([0-9]+) FAILED TESTS?$/\1/p'; }

json() {
  lines_as_list() { sed '$!s/$/,/' "$1"; }
  printf '{"date": "%s", "command": "%s", "device": "%s", "driver": "%s",\n' "$(date -u +%FT%TZ)" "$command_line" "$(device)" "$(driver)"
  printf '"tests": {"passed": %s, "failed": %s},\n"steps": [\n' "$(passed)" "$(failed)"
  awk -F'\t' '{ printf "%s{\"name\": \"%s\", \"exit\": \"%s\", \"seconds\": %s}", (NR > 1 ? ",\n" : ""), $1, $2, $3 }' "$log/steps.tsv"
  printf '\n],\n"benchmarks": [\n'; lines_as_list "$log/benchmarks.jsonl"
  printf '],\n"peers": [\n'; lines_as_list "$log/peers.jsonl"
  printf ']}\n'
}

page() {
  echo "# Stipple on a GPU"
  echo
  echo "- device: $(device); driver: $(driver); $(date -u +%F); \`$command_line\`"
  echo "- tests: $(passed) passed, $(failed) failed"
  awk -F'\t' '{
    what = $2 == 0 ? "" : $2 == 124 ? "stopped for time" : $2 == "skipped" ? "no time" : "exit " $2
    if ($1 ~ /^test/) { if (what != "") print "- " $1 ": " what }
    else print "- " $1 ": " (what == "" ? "complete" : what) ", " $3 " s"
  }' "$log/steps.tsv"
  awk -f "$root/launch/gpu_check_page.awk" "$log/benchmarks.jsonl" "$log/peers.jsonl"
  printf '\n## Training, eager and captured\n\n```\n'
  tail -qn 4 "$log"/training.*.log 2>/dev/null | cut -c1-160
  echo '```'
}

# --- 0 to 25: what it is -----------------------------------------------------------------------------
step doctor 25 "$bin/stipple" doctor
step nvidia-smi 25 nvidia-smi -q -d MEMORY,CLOCK,POWER
step warm 25 "$bin/bench_cuda" --only=ceilings ${smoke:+--smoke} --benchmark_filter=matmul

# --- 25 to 100: whether it is right --------------------------------------------------------------------
tests 75 "" '^(attend|sampler_(cuda_)?test|matmul)'
tests 100 .one_multiprocessor '^attend_(tiles|gather)' STIPPLE_MULTIPROCESSORS=1

# --- 100 to 190: how fast, and what could be ---------------------------------------------------------------
step benchmarks.targets 150 "$bin/bench_cuda" --only=targets --jsonl="$log/benchmarks.jsonl" ${smoke:+--smoke}
step ceilings 165 "$bin/bench_cuda" --only=ceilings --jsonl="$log/benchmarks.jsonl" ${smoke:+--smoke}
has_torch=$(python3 -c 'import torch' 2>/dev/null && echo 1)
[ -z "$has_torch" ] || step peers.dense 190 python3 bench/peers.py --dense --jsonl "$log/peers.jsonl" --seconds 20 ${smoke:+--smoke}

# --- 190 to 260: a training -----------------------------------------------------------------------------------
tests 225 "" '^trainer'
data=$work/listops
"$bin/stipple" data listops --out "$data" --seed 1 --train 200 --val 20 --test 20 ${smoke:+--min-length 20} ${smoke:+--max-length 120} \
  >"$log/data.log" 2>&1
settings="device=cuda precision=bf16 data.dir=$data train.steps=20 eval.every=0 eval.seeds=1 log.every=1 run.resume=never optimizer.schedule.warmup_steps=1"
recipe="configs/recipe/lra_listops_sbm.yaml train.micro_batch=32"
[ -z "$smoke" ] || recipe="configs/recipe/quickstart.yaml data.max_length=128 train.batch=8 train.micro_batch=4 train.steps=3"
for captured in false true; do
  step training.graph-$captured 260 "$bin/stipple" train ${recipe%% *} $settings ${recipe#* } step.graph=$captured run.dir="$work/graph-$captured"
done

# --- 260 to 450: the profiler and the sanitizers, which need the programs themselves -----------------------------
export STIPPLE_HOST_LOADER=1  # bundle_run.sh: not by the bundle's own loader
small='*Tiles*:*Sampler*'
[ -z "$smoke" ] || small='*NothingIsThisName*'
ncu=$(tool ncu)
if [ -n "$ncu" ]; then
  shape=$([ -n "$smoke" ] && echo BH:2 || echo 'BH:256/N:4096/d:64')
  profile() {
    step "ncu.$1" "$4" "$ncu" --target-processes all --clock-control none --section SpeedOfLight --section WarpStateStats \
      --section SchedulerStats --kernel-name "regex:$2" --launch-skip 1 --launch-count "$5" "$bin/bench_cuda" --only=targets ${smoke:+--smoke} \
      --benchmark_filter="^$3/tiles/$shape"
  }
  profile forward 'attend_tiles_kernel' forward 290 1
  profile backward 'attend_tiles_backward_kernel' backward_ste 320 2
  profile sampler 'sample_fast_tiles' sample 350 1
fi
sanitizer=$(tool compute-sanitizer)
if [ -n "$sanitizer" ]; then
  kernels=$(find "$tests" -name kernels_tests -type f -perm -u+x | head -n 1)
  end=350
  for check in racecheck memcheck synccheck; do
    end=$((end + 33))
    step $check $end "$sanitizer" --tool $check --target-processes all --error-exitcode 9 "$kernels" --source=attend_tiles_test \
      --gtest_filter="$small" --gtest_brief=1
  done
fi
unset STIPPLE_HOST_LOADER

# --- 450 to the end: the rest ---------------------------------------------------------------------------------------
tests 500 "" .
step benchmarks.steps 540 "$bin/bench_cuda" --only=steps --jsonl="$log/benchmarks.jsonl" ${smoke:+--smoke}
[ -z "$has_torch" ] || step peers 570 python3 bench/peers.py --jsonl "$log/peers.jsonl" --seconds 25 ${smoke:+--smoke}
step benchmarks.sweep 595 "$bin/bench_cuda" --only=sweep --jsonl="$log/benchmarks.jsonl" ${smoke:+--smoke}

echo "wrote $out/gpu_check.tar, gpu_check.md and gpu_check.json"
# No failures: 4, no PyTorch with a GPU; 124 outside of tests, out of time; 127, no nvidia-smi.
awk -F'\t' '$2 !~ /^(0|4|124|127|skipped)$/ || $1 ~ /^test\./ && $2 != 0 && $2 != "skipped" { bad = 1 } END { exit bad }' "$log/steps.tsv"
