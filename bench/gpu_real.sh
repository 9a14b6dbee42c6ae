#!/usr/bin/env bash
# On a machine with one GPU, in under nine minutes: the real run of configs/smollm2.yaml with full
# batches, true rewards for 300 s, then a control with shuffled ones from the same start for 120 s.
# Not yet run on a GPU. Leaves in OUT: run/ and control/ (report.html, metrics.jsonl), logs.
#
#     bench/gpu_real.sh OUT CHECKPOINT [OVERRIDE...]
#
# CHECKPOINT: what `python -m stepcoder.models.smollm2 CHECKPOINT` made, on a machine with a network.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?usage: bench/gpu_real.sh OUT CHECKPOINT [OVERRIDE...]}")
checkpoint=$(realpath "${2:?usage: bench/gpu_real.sh OUT CHECKPOINT [OVERRIDE...]}")
shift 2
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
command -v nvidia-smi >/dev/null &&
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
options=(--config stepcoder/configs/smollm2.yaml steps=30 rollout.tasks_per_step=128
  rollout.samples_per_task=8 rollout.group_size=512 ppo.tokens_per_microbatch=65536
  eval.every=10 eval.limit=null)
# SIGTERM at the end of its time: the run finishes its step, saves and leaves.
timeout --kill-after=30 300 $python -m stepcoder.train "${options[@]}" model.path="$checkpoint" \
  run_dir="$out/run" "$@" 2>&1 | tee "$out/train.log"
timeout --kill-after=30 120 $python bench/real_control.py "${options[@]}" sft.steps=0 \
  model.path="$out/run/start" run_dir="$out/control" "$@" 2>&1 | tee "$out/control.log"
