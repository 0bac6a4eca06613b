#!/bin/bash
# Train on a Slurm cluster, on all GPUs of some nodes:
#
#   sbatch --nodes=4 scripts/slurm.sh RECIPE FOLDER [FLAG...]
#   sbatch --nodes=4 scripts/slurm.sh own /shared/runs/photos --data 'tars:/shared/photos/*.tar' --batch-size 16384
#
# FOLDER and the data lie on a file system that all nodes share. torchrun is that of the environment in which sbatch
# is called. What sbatch gets on the command line takes the place of the options below.
#
# Five minutes before its time is up, the job asks the run for a checkpoint and goes back into the queue. There, and
# after the loss of a node, it goes on from the newest checkpoint, as often as needed.
#SBATCH --job-name=clippo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch [--nodes=N] scripts/slurm.sh RECIPE FOLDER [FLAG...]" >&2
    exit 2
fi
recipe=$1 folder=$2
shift 2
set -- "$recipe" --out "$folder" "$@"
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then set -- "$@" --resume; fi

# Wait for a process of this shell to end, and give its status. A signal that is trapped interrupts `wait`.
finish() {
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
    wait "$1"
}

# What runs on each node. Slurm signals this shell alone, and torchrun passes no USR1 on but ends of it. The
# processes that train are children of torchrun.
on_node() {
    torchrun "$@" &
    agent=$!
    trap 'pkill -USR1 --parent "$agent"' USR1
    # torchrun passes TERM on, and the run saves a checkpoint and ends. A second one would end it before.
    trap 'trap "" TERM; kill -TERM "$agent"' TERM
    finish "$agent"
}

# The newest checkpoint, or nothing.
newest_checkpoint() {
    { find "$folder/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null || true; } | sort -V | tail -n 1
}

# Ask for a checkpoint, wait for it, and go back into the queue, unless the run ends by itself.
continue_later() {
    trap '' USR1
    local before
    before=$(newest_checkpoint)
    kill -USR1 "$step" # srun passes it on to the shells of all nodes
    for _ in {1..240}; do
        if ! kill -0 "$step" 2>/dev/null; then return 0; fi
        if [ "$(newest_checkpoint)" != "$before" ]; then break; fi
        sleep 1
    done
    scontrol requeue "$SLURM_JOB_ID" || echo "the job cannot be requeued: submit it again, with --resume" >&2
}

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    bash -c "$(declare -f finish on_node); on_node \"\$@\"" on_node \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d --rdzv-endpoint="${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 10000))" \
    -m clippo train "$@" &
step=$!
trap continue_later USR1
trap : TERM # Slurm sends it to the nodes, too: this shell has to outlive them
finish "$step"
