#!/usr/bin/env bash
# A Slurm cluster of one node with two CPUs on the loopback interface, for tests. As root, on Debian 12.
#   cluster.sh install      Debian's slurm-wlm and munge
#   cluster.sh start DIR    munged, slurmctld and slurmd with everything they write in DIR; export SLURM_CONF=DIR/slurm.conf
#   cluster.sh stop DIR     stop these three
set -euo pipefail

install() {
    command -v slurmctld >/dev/null && command -v munged >/dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null
}

start() {
    mkdir -p "$1/state" "$1/spool" "$1/munge"
    chmod 755 "$1"
    chmod 700 "$1/munge"
    head -c 64 /dev/urandom >"$1/munge/key"
    chmod 400 "$1/munge/key"
    # --force: munged dislikes sockets below /tmp.
    munged --force --key-file="$1/munge/key" --socket="$1/munge.socket" --pid-file="$1/munged.pid" \
        --log-file="$1/munge/log" --seed-file="$1/munge/seed"
    # Daemons recognise themselves by the machine's name; jobs see the node as localhost, which resolves everywhere.
    cat >"$1/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$1/munge.socket
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$1/slurm.conf"
    slurmctld -f "$1/slurm.conf"
    slurmd -f "$1/slurm.conf" -N localhost
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%t 2>/dev/null)" != idle ] || return 0
        sleep 0.1
    done
    echo "the node does not become idle:" >&2
    tail -n 20 "$1/slurmctld.log" "$1/slurmd.log" >&2
    return 1
}

stop() {
    export SLURM_CONF="$1/slurm.conf"
    scancel --full --user="$(id -un)" 2>/dev/null || true
    for daemon in slurmd slurmctld munged; do
        [ ! -s "$1/$daemon.pid" ] || kill "$(cat "$1/$daemon.pid")" 2>/dev/null || true
    done
}

case "${1:-}" in
    install) install ;;
    start | stop) "$1" "$(realpath -m "${2:?DIR}")" ;;
    *) sed -n '2,5p' "$0"; exit 2 ;;
esac
