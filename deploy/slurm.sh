#!/usr/bin/env bash
# One training over the nodes of a Slurm job:
#
#   sbatch deploy/slurm.sh RUN_DIR --config my.yaml [section.key=value ...]
#
# The same command goes on from the newest checkpoint of RUN_DIR where there is one, and so does the
# job when Slurm requeues it. The folder, data and model must be at the same path on all nodes.
#SBATCH --job-name=stepcoder
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Ten minutes before the time is up the trainer is told to finish its step, save and stop.
#SBATCH --signal=TERM@600
set -euo pipefail
run=${1:?RUN_DIR is missing: sbatch $0 RUN_DIR [options of stepcoder.train]}
shift
if compgen -G "$run/checkpoints/*" >/dev/null; then
  options=(--resume "$run")
else
  options=("$@" "run_dir=$run")
fi
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# How long torchrun lets a step end after the signal; without it, 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=540
exec srun --kill-on-bad-exit=1 python -m torch.distributed.run \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$host:${PORT:-29500}" \
  -m stepcoder.train "${options[@]}"
