#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/slurm.sbatch under a real Slurm that this test brings up: jobs run at once, are interrupted in all the ways in which Slurm and machines
# interrupt, and end in the state of a run that nobody disturbed. Skipped (77) where Slurm or root is missing.
. "$(dirname "$0")/../program/support.sh"
here=$SOURCE/tests/slurm

skip() { echo "SKIPPED: $*" >&2; exit 77; }
[ "$(id -u)" = 0 ] || skip "only root can bring up a Slurm whose jobs run as other processes"
for daemon in munged slurmctld slurmd; do
  [ -x /usr/sbin/$daemon ] || skip "there is no /usr/sbin/$daemon; launch/install_deps.sh --tests brings it"
done

chmod 755 "$work"   # munge looks at the folders above its socket
cluster=$work/cluster
clean() {
  scancel --user=root 2>/dev/null || true
  for _ in $(seq 100); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  "$here/cluster.sh" down "$cluster"
  pkill -KILL -f " train .* run.dir=$work/" || true   # ranks whose daemons went before they could end them
  rm -rf "$work"
}
trap clean EXIT
"$here/cluster.sh" up "$cluster" 28
export SLURM_CONF=$cluster/slurm.conf
# Nodes share this machine: its shared memory is not to be taken for theirs.
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
unset OMPI_MCA_hwloc_base_binding_policy OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_mpi_yield_when_idle   # the script's own
export STIPPLE STIPPLE_BACK_OFF_S=1

make_data
# Steps enough to be interrupted in their middle; every one is logged, so that the test can tell.
# A checkpoint after every step: processors that are quick do not end a run before something can happen to it.
recipe=(small.yaml train.steps=240 checkpoint.every=1 eval.every=0 log.every=1)
"$STIPPLE" train "${recipe[@]}" run.dir=undisturbed 2>/dev/null
undisturbed=$(state undisturbed)

# warn JOB: as Slurm does before the time limit: the batch script alone gets a signal. scancel is not content with a job that ends at once.
warn() { scancel --quiet --signal=USR1 --batch "$1" || true; }

# submit NAME SBATCH_OPTION... -- [key=value...]: two ranks on two nodes, in run.dir=NAME; sets job.
submit() {
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  job=$(sbatch --parsable --job-name="$name" --nodes=2 --ntasks-per-node=1 --time=10 "${options[@]}" "$SOURCE/launch/slurm.sbatch" \
    "${recipe[@]}" run.dir="$work/$name" "$@") || fail "sbatch of $name"
}
log_of() { cat "$1"-*.log 2>/dev/null; }
steps_of() { grep -c '"kind":"train"' "$1/metrics.jsonl" 2>/dev/null || true; }
# field JOB NAME: of what Slurm says of it.
field() { scontrol show job -o "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p" | head -n 1; }
# within SECONDS WHAT CONDITION...
within() {
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "not within $seconds s: $what: $(squeue -a; tail -n 30 ./*.log)"
    sleep 0.1
  done
}
has_steps() { [ "$(steps_of "$1")" -ge "$2" ] 2>/dev/null; }
is_over() { [[ "$(field "$1" JobState)" =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
says() { log_of "$1" | grep -qF -- "$2"; }
# completed NAME JOB: as if nobody had disturbed it.
completed() {
  within 120 "end of $1" is_over "$2"
  equal "$(field "$2" JobState) $(field "$2" ExitCode)" "COMPLETED 0:0" "how $1 ended: $(log_of "$1")"
  equal "$(state "$1")" "$undisturbed" "state of $1: $(log_of "$1")"
}

# --- all at once ------------------------------------------------------------------------------------
# Nobody tells this one anything. It leaves the processors to others, in other tests, too.
printf '#!/bin/sh\nexec nice -n 19 "%s" "$@"\n' "$STIPPLE" >patiently
chmod +x patiently
STIPPLE=$work/patiently submit patient --nodes=1 --time=1 -- train.steps=1000000 checkpoint.every=0
submit by_mpirun --; by_mpirun=$job
srun --mpi=list 2>&1 | grep -q pmix && with_pmix=1 || with_pmix=
if [ -n "$with_pmix" ]; then STIPPLE_LAUNCHER=srun submit by_srun --; by_srun=$job; fi
submit warned --; warned=$job
submit bereft --no-kill --; bereft=$job
submit moved --; moved=$job
# By the program's own word, from a script that holds all it needs. A rank a node, on nodes of its own.
"$STIPPLE" submit "${recipe[@]}" run.dir="$work/submitted here" --nodes 2 --time 10 --sbatch=--comment=mine >submitted.txt 2>&1 || fail "submit: $(cat submitted.txt)"
submitted=$(sed -n 's/^Submitted batch job //p' submitted.txt)
submit crashed --; crashed=$job
submit chained --array=1-4%1 --; chained=$job
submit mistaken --array=1-3%1 -- train.steps=none; mistaken=$job
cat >breaks <<BASH
#!/bin/sh
[ "\$1" = train ] || exec "$STIPPLE" "\$@"
exit 1
BASH
chmod +x breaks
STIPPLE=$work/breaks STIPPLE_RESTARTS=2 submit hopeless --; hopeless=$job
# Stops in time whenever it is started, before it has saved anything.
sed 's/^exit 1/exit 75/' breaks >stops
chmod +x stops
STIPPLE=$work/stops STIPPLE_RESTARTS=2 submit fruitless --; fruitless=$job
# The same in a chain: the next job knows what the one before has counted.
STIPPLE=$work/stops STIPPLE_RESTARTS=2 submit fruitless_chain --nodes=1 --array=1-4%1 --; fruitless_chain=$job
STIPPLE=$work/nowhere submit without_program --nodes=1 --array=1-3%1 --; without_program=$job
# A working tree and a run with blanks in their names, and nobody said how many ranks.
mkdir "a tree"
cp -r "$SOURCE/launch" "a tree/launch"
with_blanks=$(sbatch --parsable --job-name=with_blanks --time=10 "a tree/launch/slurm.sbatch" "${recipe[@]}" run.dir="$work/with blanks" train.steps=20)

# The time limit comes near.
within 60 "steps of warned" has_steps warned 5
warn "$warned"
# A node goes down: one of a job that lives on without it, and one of a job that Slurm requeues on other nodes.
within 60 "steps of bereft" has_steps bereft 5
scontrol update state=down reason=test nodename="$(scontrol show hostnames "$(field "$bereft" NodeList)" | tail -n 1)"
within 60 "steps of moved" has_steps moved 5
scontrol update state=down reason=test nodename="$(field "$moved" BatchHost)"
# A rank is killed.
within 60 "steps of crashed" has_steps crashed 5
pkill -KILL -o -f "^[^ ]*stipple train .* run.dir=$work/crashed" || fail "no rank of crashed: $(log_of crashed; ps ax -o pid,args | grep crashed)"
# The first two jobs of a chain run out of time.
for link in 1 2; do
  within 60 "steps of job $link of the chain" has_steps chained $((5 + 30 * (link - 1)))
  within 30 "job $link of the chain" eval '[ "$(field "${chained}_'$link'" JobState)" = RUNNING ]'
  warn "$(scontrol show job -o "${chained}_$link" | sed 's/^JobId=\([0-9]*\).*/\1/')"
  within 60 "end of job $link of the chain" is_over "${chained}_$link"
done

completed by_mpirun "$by_mpirun"
if [ -n "$with_pmix" ]; then completed by_srun "$by_srun"; else echo "srun has no pmix here: not tested" >&2; fi
within 120 "end of submitted" is_over "$submitted"
equal "$(field "$submitted" JobState) $(field "$submitted" Comment)" "COMPLETED mine" "how submitted ended: $(cat "submitted here"/slurm-*.log)"
equal "$(state "submitted here")" "$undisturbed" "state of submitted"
completed warned "$warned"
equal "$(field "$warned" Restarts)" 1 "times that warned was requeued"
contains "$(log_of warned)" "back to the queue"
contains "$(log_of warned)" "start 2] "
completed bereft "$bereft"
equal "$(field "$bereft" Restarts)" 0 "times that bereft was requeued"
contains "$(log_of bereft)" "1 of 2 nodes are left"
completed moved "$moved"
equal "$(field "$moved" Restarts)" 1 "times that moved was requeued"
completed crashed "$crashed"
equal "$(field "$crashed" Restarts)" 0 "times that crashed was requeued"
contains "$(log_of crashed)" "failure 1 since the last new checkpoint"
within 60 "end of the chain" is_over "${chained}_3"
equal "$(state chained)" "$undisturbed" "state of chained: $(log_of chained)"
equal "$(field "${chained}_1" ExitCode) $(field "${chained}_3" ExitCode)" "75:0 0:0" "the chain: $(log_of chained)"
within 30 "end of the rest of the chain" eval '[ -z "$(squeue -h -j "$chained" 2>/dev/null)" ]'
equal "$(log_of chained | grep -c 'train small.yaml')" 3 "jobs of the chain that started: $(log_of chained)"
# ends_chain NAME JOB CODE WORDS JOBS: no more than so many jobs of a chain started, each of which said so once, and the last ended with that code.
ends_chain() {
  within 30 "end of $1" is_over "${2}_$5"
  within 30 "end of the rest of $1" eval '[ -z "$(squeue -h -j '"$2"' 2>/dev/null)" ]'
  equal "$(field "${2}_$5" ExitCode)" "$3:0" "exit code of $1: $(log_of "$1")"
  equal "$(log_of "$1" | grep -cF -- "$4")" "$5" "jobs of $1 that started: $(log_of "$1")"
}
ends_chain mistaken "$mistaken" 2 "train.steps" 1
ends_chain without_program "$without_program" 2 "there is no $work/nowhere" 1
ends_chain fruitless_chain "$fruitless_chain" 1 "exit code 75, after none" 2
within 30 "end of fruitless" is_over "$fruitless"
equal "$(field "$fruitless" ExitCode) $(field "$fruitless" Restarts)" "1:0 1" "a program that always stops: $(log_of fruitless)"
contains "$(log_of fruitless)" "given up: 2 starts without a new checkpoint, the last ended with exit code 75"
within 60 "end of with_blanks" is_over "$with_blanks"
equal "$(field "$with_blanks" ExitCode) $("$STIPPLE" inspect "$work/with blanks" | grep -c "^state ")" "0:0 1" "blanks: $(log_of with_blanks)"
within 30 "end of hopeless" is_over "$hopeless"
equal "$(field "$hopeless" ExitCode)" 1:0 "a program that always fails: $(log_of hopeless)"
contains "$(log_of hopeless)" "given up"
equal "$(log_of hopeless | grep -c 'failure ')" 2 "starts of a program that always fails"

# --- what takes its time ---------------------------------------------------------------------------
# A cancelled job saves, although its step takes longer than mpirun lets ranks live, and does not come back.
submit slow -- train.steps=1000000 train.batch=3200 checkpoint.every=0; slow=$job
within 60 "steps of slow" has_steps slow 1
scancel "$slow"
within 60 "end of slow" is_over "$slow"
within 30 "last word of slow" says slow "Slurm ends this job"
contains "$(log_of slow)" "saved step"
# Nobody told the patient one anything: it left in time, was requeued and goes on.
within 90 "second start of patient" says patient "resuming"
contains "$(log_of patient)" "before the job ends"
equal "$(grep -c "SIG" <<<"$(log_of patient)")" 0 "signals that patient had to be told: $(log_of patient)"
# Nor has the cancelled one come back meanwhile.
equal "$(field "$slow" JobState) $(field "$slow" Restarts)" "CANCELLED 0" "what has become of slow: $(log_of slow)"
echo "all in $SECONDS s"
