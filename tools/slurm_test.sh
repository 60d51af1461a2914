#!/usr/bin/env bash
# Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# Environment: GPUS (8 in all), GPUS_PER_NODE (8; 0 for none), TASKS_PER_NODE, CPUS_PER_TASK (5), SRUN_ARGS.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,3p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
tasks_per_node=${TASKS_PER_NODE:-$((per_node > 0 ? per_node : gpus))}
gres=()
[ "$per_node" -eq 0 ] || gres=(--gres="gpu:$per_node")

# SRUN_ARGS is a list of words.
# shellcheck disable=SC2086
exec srun -p "$1" --job-name="$2" "${gres[@]}" \
    --ntasks="$gpus" --ntasks-per-node="$tasks_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$here/test.py" "$3" "$4" --launcher slurm "${@:5}"
