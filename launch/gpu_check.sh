#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything worth knowing about Stipple on this machine's GPU, in one command: tests, compute-sanitizer, benchmarks, PyTorch beside
# them, and a training of ListOps. Writes gpu_check.json and gpu_check.md into --out; a step that fails or runs out of time does not stop
# the later ones. Runs in an unpacked bundle (launch/bundle.sh) as it is; elsewhere it builds the preset cuda first.
#   launch/gpu_check.sh [--minutes N] [--out DIR] [--build DIR] [--smoke]
#     --minutes N    for everything, 25 by default; building is not counted
#     --out DIR      gpu_check by default; what is there from before is replaced
#     --build DIR    use the programs of this build folder and build nothing
#     --smoke        tiny sizes: does the script work?
# Exit codes: 0 all steps passed, 1 some failed, 2 cannot be built here, 3 there is no GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
command_line="launch/gpu_check.sh $*"
minutes=25 out=gpu_check build="" smoke=""
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --build) build=$2; shift 2 ;;
    --smoke) smoke=1; shift ;;
    *) sed -n '3,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
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
rm -rf "$out"/*.log "$out"/*.jsonl "$out"/*.tsv "$out"/gpu_check.* "$out/work"
mkdir -p "$out/work"
begin=$(date +%s)
budget=$((minutes * 60))
remaining() { echo $((begin + budget - $(date +%s))); }

# step NAME LIMIT RESERVE COMMAND...: at most LIMIT seconds, and RESERVE are left for the later steps. Steps.tsv gets name, exit code,
# seconds; the output goes to NAME.log.
step() {
  local name=$1 limit=$2 reserve=$3 start code
  shift 3
  local left=$(($(remaining) - reserve))
  [ "$left" -lt "$limit" ] && limit=$left
  start=$(date +%s)
  if [ "$limit" -lt 5 ]; then
    code=skipped
  else
    printf '%-24s' "$name"
    timeout -k 20 -s TERM "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "exit $code, $(($(date +%s) - start)) s"
  fi
  printf '%s\t%s\t%s\n' "$name" "$code" "$(($(date +%s) - start))" >>"$out/steps.tsv"
}

# --- what it is, and whether it is right -----------------------------------------------------------
cd "$root" || exit 2
step doctor 60 0 "$bin/stipple" doctor
while read -r program name; do
  binary=$(find "$tests" -name "$program" -type f -perm -u+x | head -n 1)
  step "test.$name" 120 $((budget * 3 / 4)) "${binary:-$program}" --source="$name" --gtest_brief=1 </dev/null
done < <(cat launch/cuda_tests.txt 2>/dev/null || launch/cuda_tests.sh)  # the list of a bundle, which has no sources

small=$out/work/listops-small
"$bin/stipple" data listops --out "$small" --seed 1 --train 200 --val 20 --test 20 --min-length 20 --max-length 120 >"$out/data.log" 2>&1
short="device=cuda data.dir=$small data.max_length=128 train.steps=3 train.batch=8 train.micro_batch=4 eval.every=0 eval.seeds=1 log.every=1 run.resume=never
  optimizer.schedule.warmup_steps=1"
sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    for precision in bf16 fp32; do
      step "$tool.$precision" 150 $((budget / 2)) "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 9 "$bin/stipple" train \
        configs/recipe/quickstart.yaml $short precision=$precision run.dir="$out/work/$tool-$precision"
    done
  done
fi

# --- how fast --------------------------------------------------------------------------------------
step benchmarks 600 $((budget * 2 / 5)) "$bin/bench_cuda" --jsonl="$out/benchmarks.jsonl" ${smoke:+--smoke}
if python3 -c 'import torch' 2>/dev/null; then
  seconds=$(($(remaining) - budget / 4))
  step peers 400 $((budget / 4 - 20)) python3 bench/peers.py --jsonl "$out/peers.jsonl" --seconds "$seconds" ${smoke:+--smoke}
fi

# --- a training --------------------------------------------------------------------------------------
run=$out/work/lra_listops
if [ -n "$smoke" ]; then
  step training 300 10 "$bin/stipple" train configs/recipe/quickstart.yaml $short run.dir="$run"
else
  data=$out/work/listops
  step training.data 240 60 "$bin/stipple" data listops --out "$data" --seed 1
  step training 100000 30 "$bin/stipple" train configs/recipe/lra_listops_sbm.yaml device=cuda precision=bf16 step.graph=true \
    train.micro_batch=32 eval.every=250 data.dir="$data" run.dir="$run"
fi
cp "$run/metrics.jsonl" "$out/training.jsonl" 2>/dev/null

# --- the page ----------------------------------------------------------------------------------------
touch "$out/benchmarks.jsonl" "$out/peers.jsonl"
device=$(sed -nE 's/^  [0-9]+ +([^,]*, compute [0-9.]+).*/\1/p' "$out/doctor.log" | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
passed=$(cat "$out"/test.*.log 2>/dev/null | sed -nE 's/^\[  PASSED  \] ([0-9]+) tests?\..*/\1/p' | awk '{ n += $1 } END { print n + 0 }')
failed=$(cat "$out"/test.*.log 2>/dev/null | sed -nE 's/^ *([0-9]+) FAILED TESTS?$/\1/p' | awk '{ n += $1 } END { print n + 0 }')
broken=$(awk -F'\t' '$1 ~ /^test\./ && $2 != 0 { print $1 " (" $2 ")" }' "$out/steps.tsv" | tr '\n' ' ')
lines_as_list() { sed '$!s/$/,/' "$1"; }
{
  printf '{"date": "%s", "command": "%s", "device": "%s", "driver": "%s",\n' "$(date -u +%FT%TZ)" "$command_line" "$device" "$driver"
  printf '"tests": {"passed": %s, "failed": %s},\n"steps": [\n' "$passed" "$failed"
  awk -F'\t' '{ printf "%s{\"name\": \"%s\", \"exit\": \"%s\", \"seconds\": %s}", (NR > 1 ? ",\n" : ""), $1, $2, $3 }' "$out/steps.tsv"
  printf '\n],\n"benchmarks": [\n'; lines_as_list "$out/benchmarks.jsonl"
  printf '],\n"peers": [\n'; lines_as_list "$out/peers.jsonl"
  printf ']}\n'
} >"$out/gpu_check.json"

{
  echo "# Stipple on a GPU"
  echo
  echo "- device: ${device:-unknown}; driver: ${driver:-unknown}; $(date -u +%F); \`$command_line\`"
  echo "- tests: $passed passed, $failed failed${broken:+; not passed as a whole: $broken}"
  awk -F'\t' '$1 ~ /check\./ { print "- " $1 ": " ($2 == 0 ? "no errors" : "exit " $2 ", see " $1 ".log") }' "$out/steps.tsv"
  [ -n "$sanitizer" ] || echo "- compute-sanitizer: not found"
  awk -F'\t' '$1 ~ /^(benchmarks|peers|training)/ { print "- " $1 ": " ($2 == 0 ? "complete" : $2 == 124 ? "stopped for time" : "exit " $2) ", " $3 " s" }' "$out/steps.tsv"
  awk -f "$root/launch/gpu_check_page.awk" "$out/benchmarks.jsonl" "$out/peers.jsonl"
  echo
  echo "## Training"
  echo
  echo '```'
  tail -n 12 "$out/training.log" 2>/dev/null | cut -c1-160
  echo '```'
} >"$out/gpu_check.md"
rm -rf "$out/work"

echo "wrote $out/gpu_check.json and $out/gpu_check.md"
# No failures: 4, no PyTorch with a GPU; 75, the training was stopped and saved; 124 outside of tests, out of time.
awk -F'\t' '$2 !~ /^(0|4|75|124|skipped)$/ || $1 ~ /^test\./ && $2 != 0 && $2 != "skipped" { bad = 1 } END { exit bad }' "$out/steps.tsv"
