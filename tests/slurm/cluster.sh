#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Slurm cluster on this machine, of nodes n1, n2, ... with a processor each, in a folder of its own, with its own munged; nothing of the
# machine's configuration is read or changed. As root: the daemons start jobs as whoever submits them.
#   cluster.sh up FOLDER NODES     then SLURM_CONF=FOLDER/slurm.conf
#   cluster.sh down FOLDER
set -euo pipefail
folder=$(realpath -m "$2")

# A process that has ended and that nobody has waited for is no longer there.
is_alive() { [ -d "/proc/$1" ] && ! grep -q '^State:.*zombie' "/proc/$1/status" 2>/dev/null; }

# Ends what wrote a pid file here, and nothing else.
down() {
  local file pid
  for file in "$folder"/slurmctld.pid "$folder"/slurmd.*.pid "$folder"/munged.pid; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 40); do is_alive "$pid" || break; sleep 0.05; done
    if is_alive "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
    rm -f "$file"
  done
}

# free_ports COUNT: the first of so many ports in a row that nobody listens on.
free_ports() {
  local port first
  while :; do
    first=$((20000 + RANDOM % 10000))
    for port in $(seq $first $((first + $1))); do
      ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    echo $first
    return
  done
}

# TmpFS by node: the nodes' PMIx servers would share a folder otherwise. cred_expire is also how long a requeued job waits: five seconds
# are the least, two minutes the default. cgroup/v1 is what never looks for cgroups here. A node says it has one processor, whatever the machine has.
configure() {
  local nodes=$1 host port
  host=$(hostname -s)
  port=$(free_ports $((nodes + 3)))
  cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort=$port
SlurmdPort=$((port + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
TmpFS=$folder/tmp/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1,bf_continue
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=30
InactiveLimit=0
KillWait=20
MinJobAge=600
WaitTime=0
JobRequeue=1
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
CommunicationParameters=NoInAddrAny
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 2))-$((port + 1 + nodes))] CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
  printf 'CgroupPlugin=cgroup/v1\n' >"$folder/cgroup.conf"
}

up() {
  local nodes=$1 node idle
  mkdir -p "$folder"/state "$folder"/log
  for node in $(seq "$nodes"); do mkdir -p "$folder/spool/n$node" "$folder/tmp/n$node"; done
  chmod 755 "$folder"   # munge refuses a socket below a folder that others can write to
  configure "$nodes"
  export SLURM_CONF=$folder/slurm.conf
  (umask 077; head -c 128 /dev/urandom >"$folder/munge.key")
  /usr/sbin/munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" --num-threads=2
  /usr/sbin/slurmctld -c -f "$SLURM_CONF"
  for node in $(seq "$nodes"); do /usr/sbin/slurmd -N "n$node" -f "$SLURM_CONF"; done
  for _ in $(seq 200); do
    idle=$(sinfo -h -N -o %T 2>/dev/null | grep -c '^idle' || true)
    [ "$idle" != "$nodes" ] || return 0
    sleep 0.1
  done
  echo "cluster.sh: the nodes did not come up" >&2
  sinfo -N -l >&2 || true
  tail -n 20 "$folder"/log/*.log >&2
  return 1
}

case "${1:-}" in
  up) up "$3" ;;
  down) down ;;
  *) echo "usage: cluster.sh up FOLDER NODES | down FOLDER" >&2; exit 2 ;;
esac
