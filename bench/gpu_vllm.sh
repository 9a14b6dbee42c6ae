#!/usr/bin/env bash
# On a machine with one GPU: a few steps of a 1.5-billion-parameter model with random weights, with
# the trainer and a sleeping vLLM server on the same GPU. Not yet run. Leaves in OUT: run/report.html
# (time line), run/metrics.jsonl, memory.csv (every half second), train.log.
#
#     bench/gpu_vllm.sh OUT [OVERRIDE...]
#
# SHAPE="layers width heads kv_heads" makes another model (with SHAPE="1 64 2 1" it runs on a CPU).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?usage: bench/gpu_vllm.sh OUT [OVERRIDE...]}")
shift
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
# shellcheck disable=SC2086
$python bench/random_model.py "$out/model" ${SHAPE:-}
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader -lms 500 \
    >"$out/memory.csv" &
  trap "kill $!" EXIT
fi
$python -m stepcoder.train model.path="$out/model" dtype=bfloat16 run_dir="$out/run" \
  rollout.engine=vllm rollout.dump=true sft.steps=0 steps=6 eval.every=6 eval.limit=8 \
  checkpoint.every=1000 checkpoint.keep=1 rollout.tasks_per_step=64 rollout.samples_per_task=8 \
  rollout.group_size=512 rollout.max_new_tokens=512 ppo.tokens_per_microbatch=16384 \
  "$@" 2>&1 | tee "$out/train.log"
$python - "$out" <<'PYTHON'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
for line in (folder / "run/metrics.jsonl").read_text().splitlines():
    r = json.loads(line)
    if r["phase"] == "rl" and r["step"]:
        split = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in r["time"].items())
        rate = r["tokens"] / max(r["time"]["generate"], 1e-9)
        print(f"step {r['step']}: {split}; {r['tokens']} tokens, {rate:,.0f} a second of generation; "
              f"judging hidden {r['hidden_judge_share']:.1%}; mismatch {r['engine_kl']:.2g} nats; "
              f"prompt tokens shared {r['prefix_cache_hit_rate']:.0%}")
memory = folder / "memory.csv"
if memory.exists():
    used = [int(line.split(",")[1].split()[0]) for line in memory.read_text().splitlines()]
    print(f"GPU memory: {max(used)} MiB at most")
PYTHON
