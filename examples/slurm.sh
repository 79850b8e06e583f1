#!/bin/bash
# sbatch examples/slurm.sh FOLDER: the command on 2 nodes with 4 GPUs each. One task a GPU, as Lightning expects.
# 90 s before the time is up SLURM sends SIGUSR1; Lightning saves, and asks for the job again, which then goes on.
#SBATCH --job-name=fine-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
srun lightning-finetune fit --data.root "$1" \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices 4 --trainer.strategy ddp --trainer.precision bf16-mixed
