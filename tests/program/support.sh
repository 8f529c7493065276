# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests of the whole program. STIPPLE names the binary, SOURCE the repository. Each test works in its own temporary
# folder with a small ListOps data set and a recipe that trains in about a second.
set -euo pipefail
: "${STIPPLE:?path of the program}" "${SOURCE:?path of the repository}"
. "$SOURCE/launch/mpi_environment.sh"
export OMPI_MCA_odls_base_sigkill_timeout=0   # a killed job ends at once

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() { echo "FAILED: $*" >&2; exit 1; }
equal() { [ "$1" = "$2" ] || fail "$3: '$1' is not '$2'"; }
contains() { grep -qF -- "$2" <<<"$1" || fail "expected '$2' in: $1"; }

# expect CODE COMMAND...: runs it, keeps all it prints in $output, checks the exit code.
expect() {
  local wanted=$1 code=0
  shift
  output=$("$@" 2>&1) || code=$?
  [ "$code" = "$wanted" ] || fail "exit code $code instead of $wanted from: $* : $output"
}

# make_data [VALIDATION_EXAMPLES]
make_data() { "$STIPPLE" data listops --out data --seed 3 --train 300 --val "${1:-50}" --test 30 --min-length 8 --max-length 60 2>/dev/null; }

cat >small.yaml <<'YAML'
run: {dir: run}
threads: 1
train: {steps: 24, batch: 16, micro_batch: 2}
eval: {every: 8}
checkpoint: {every: 4}
log: {every: 2}
data: {task: listops, dir: data, max_length: 64}
model: {layers: 2, width: 32, heads: 2, feedforward: 32, head_hidden: 16}
attention: {kind: sbm, sbm: {clusters: 8}}
optimizer: {learning_rate: 0.003, schedule: {kind: one_cycle, warmup_steps: 6}}
YAML

# run_train RANKS [key=value...]
run_train() {
  local ranks=$1
  shift
  # In a sanitized build, MPI's own leaks are known by their callers (tests/support/lsan.supp): that takes the slow unwinding,
  # half the time of a short run: ASAN_OPTIONS=detect_leaks=0 for one whose like is looked through anyway.
  ASAN_OPTIONS=${ASAN_OPTIONS:-fast_unwind_on_malloc=0} mpirun -q -np "$ranks" "$STIPPLE" train small.yaml "$@"
}
# state RUN_DIR: the hash of parameters, moments and data position of the newest checkpoint.
state() { "$STIPPLE" inspect "$1" | sed -n 's/^state //p'; }
# history RUN_DIR: what was measured, without what depends on the clock.
history() { sed -E 's/"[a-z_]*(_s|_per_s|seconds)":[^,}]*,?//g' "$1/metrics.jsonl"; }
