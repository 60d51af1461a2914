#!/usr/bin/env bash
# Usage: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
# MAX_RESTARTS (0): how often a run whose process died goes on from its last checkpoint.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}

if [ "${MAX_RESTARTS:-0}" -gt 0 ]; then
    # A meeting place of its own for each attempt: in a shared one, processes find the addresses of those that died.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meet=(--max_restarts="$MAX_RESTARTS" --rdzv_backend=c10d --rdzv_endpoint="$address:$port" --rdzv_id=lad)
else
    meet=(--node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$port")
fi
exec python -m torch.distributed.run --nnodes="${NNODES:-1}" --nproc_per_node="$2" "${meet[@]}" \
    "$here/train.py" "$1" --launcher pytorch "${@:3}"
