#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mpirun, but a stop leaves the job the time to save. All arguments are mpirun's.
#   launch/run.sh -np 4 build/bin/stipple train configs/recipe/quickstart.yaml
# INT (Ctrl-C), TERM and HUP reach mpirun as USR2, which it passes on to every rank; sent to mpirun itself they leave ranks alive for two
# seconds (Open MPI 4.1). A second INT ends the job within two seconds, saved or not. Returns what the job returns: 75 after a stop. A reader that leaves
# (`| head`) and a terminal that closes, which end mpirun, do not end the job. An mpirun that waits for itself after its ranks have ended is
# ended with 1: Open MPI 4.1 with PMIx 4.2 does so rarely, after jobs of which a rank failed.
# In a Slurm job, TERM comes to all processes at once, to ranks, too: mpirun and its daemons are started so that it does not end them before
# the ranks have saved. STIPPLE_LAUNCHER=srun starts ranks by `srun --mpi=pmix` there, whose arguments these are then.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/mpi_environment.sh"

launcher=(mpirun -q)
if [ -n "${SLURM_JOB_ID:-}" ] && env --block-signal=TERM true 2>/dev/null; then
  launcher=(env --block-signal=TERM mpirun -q)
  export OMPI_MCA_orte_launch_agent="env --block-signal=TERM orted"
fi
case "${STIPPLE_LAUNCHER:-mpirun}" in
  mpirun) ;;
  srun) launcher=(srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none) ;;
  *) echo "launch/run.sh: STIPPLE_LAUNCHER=$STIPPLE_LAUNCHER: it is mpirun or srun" >&2; exit 2 ;;
esac

job= asked= reminder=

# Tells the ranks again and again: mpirun drops what comes before it has started them.
ask() {
  [ -z "$reminder" ] || return
  while kill -s USR2 "$job"; do sleep 1; done >/dev/null 2>&1 &
  reminder=$!
}
stop() {
  local before=$asked
  asked=$1
  if [ -z "$job" ]; then return; fi
  if [ "$before $1" = "INT INT" ]; then kill -s INT "$job" 2>/dev/null; else ask; fi
}
for signal in INT TERM HUP USR1 USR2; do trap "stop $signal" $signal; done

# Ends an mpirun that has no processes left and whose first thread, which else polls them, has waited for a lock for half a minute.
end_if_stuck() {
  local seconds=0 child
  [ "${launcher[0]}" != srun ] || return 1   # which does not do that
  while sleep 1; do
    seconds=$((seconds + 1))
    [[ $(cat "/proc/$job/wchan") == futex* ]] || seconds=0
    for child in $(cat "/proc/$job/task"/*/children); do
      grep -q '^State:.*zombie' "/proc/$child/status" || seconds=0
    done
    [ $seconds -lt "${STIPPLE_STUCK_S:-30}" ] || break
  done
  kill -s KILL "$job"
}

# Copies until nobody listens, then only reads.
relay() {
  trap '' INT TERM HUP USR1 USR2
  cat 2>/dev/null || cat >/dev/null
}
exec {answers}> >(relay)
answers_relay=$!
exec {messages}> >(relay >&2)
messages_relay=$!

set -m   # a process group of its own: the terminal's Ctrl-C comes here only
"${launcher[@]}" "$@" </dev/null >&$answers 2>&$messages {answers}>&- {messages}>&- &
job=$!
set +m
end_if_stuck >/dev/null 2>&1 {answers}>&- {messages}>&- &
watch=$!
exec {answers}>&- {messages}>&-
if [ -n "$asked" ]; then ask; fi

until wait "$job"; ! kill -0 "$job" 2>/dev/null; do :; done   # wait returns early after each trapped signal
wait "$job"
code=$?
kill -s TERM $watch 2>/dev/null   # KILL would be told on standard error
if wait $watch 2>/dev/null; then
  echo "launch/run.sh: mpirun did not end although all its processes had, and was killed; start the job again to see whether it was complete" >&2
  code=1
fi
if [ -n "$reminder" ]; then kill "$reminder" 2>/dev/null; fi
wait "$answers_relay" "$messages_relay"
# Before the ranks can be told, a stop ends mpirun or a rank by the signal itself: nothing was lost, and the caller starts again as after 75.
if [ -n "$asked" ] && [ "$code" = $((128 + $(kill -l USR2))) ]; then code=75; fi
exit "$code"
