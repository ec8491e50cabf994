#!/usr/bin/env bash
# Train on all GPUs of one machine, or on several machines that start this script at the same time.
#
#   examples/launch/train-node.sh SHARDS RUN [OPTIONS OF tagmoe train...]                    # one machine
#   NODES=4 MAIN=host0:29500 examples/launch/train-node.sh SHARDS RUN [OPTIONS...]           # on each of four
#
# Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint first; the same command goes on from it, also on another number of
# machines. torchrun ends with code 1 then, whatever its processes said.
set -euo pipefail

SHARDS="${1:?usage: train-node.sh SHARDS RUN [OPTIONS...]}"
RUN="${2:?usage: train-node.sh SHARDS RUN [OPTIONS...]}"
shift 2
GPUS="${GPUS:-gpu}" # processes on this machine: a number, gpu (one each) or cpu
NODES="${NODES:-1}"

if ((NODES == 1)); then
    place=(--standalone)
else
    place=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-endpoint="${MAIN:?with NODES set MAIN to HOST:PORT of one}"
        --rdzv-id="${JOB:-tagmoe}")
fi

# torchrun would kill its processes 30 seconds after a signal, and not pass SIGUSR1 on: saving 22 B needs longer.
exec torchrun "${place[@]}" --nproc-per-node="$GPUS" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --shutdown-timeout="${SAVE_SECONDS:-600}" -m tagmoe.cli train "$SHARDS" --out "$RUN" "$@"
