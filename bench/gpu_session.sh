#!/usr/bin/env bash
# One session on a machine with one Hopper GPU, under nine minutes: checks the kernels' numerics,
# tunes, times everything against its peers. Leaves JSON, logs and plots in the folder given.
#
#     bench/gpu_session.sh OUT [WHEELS]
#
# WHEELS: a folder of wheels of peers and of what the machine lacks (liger-kernel,
# nvidia-cutlass-dsl with its libraries for Liger's CuTe kernels, cut-cross-entropy, pytest-benchmark,
# ...), where nothing can be downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?usage: bench/gpu_session.sh OUT [WHEELS]}")
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${2:-}" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "$2"/*.whl
  export PYTHONPATH=$PYTHONPATH:/tmp/site
fi

bench="python3 -m pytest -W default -q -rs -p no:cacheprovider"

# step SECONDS NAME COMMAND...: one that fails or overruns does not take the others along.
step() {
  local limit=$1 name=$2 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit $? after $((SECONDS - began)) s"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
step 100 numerics python3 -m pytest -W default -q -x -p no:cacheprovider tests/kernels/numerics_*.py
tail -n 3 "$out/numerics.log"
step 40 attention python3 -m pytest -W default -q -rs -p no:cacheprovider -m gpu \
  tests/models/test_attention.py
tail -n 3 "$out/attention.log"
step 110 tune python3 bench/tune.py "$out/tune.json"
head -n 25 "$out/tune.log"
step 60 tokens $bench bench/test_tokens.py \
  --benchmark-json="$out/tokens.json"
step 110 head $bench bench/test_lm_head.py -k "not peer and not grpo" \
  --benchmark-json="$out/head.json"
step 100 peers $bench bench/test_lm_head.py -k "peer or grpo" \
  --benchmark-json="$out/peers.json"
for name in tokens head peers; do tail -n 4 "$out/$name.log"; done
python3 - "$out" <<'PYTHON'
import json, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    for entry in json.loads(path.read_text()).get("benchmarks", []):
        row = entry["extra_info"]
        if "gpu" in row:
            shape = [row[n] for n in ("T", "H", "V") if n in row]
            print(row["operation"], *shape, row.get("rows", ""), row["provider"],
                  f"{row.get('active', 1):.0%}", f"{row['hot_ms']:.4g} ms",
                  f"{row.get('tflops', 0):.0f} TF", f"{row.get('of_cublas', 0):.2f} of cuBLAS",
                  f"{row.get('extra_mib', 0):.0f} MiB")
PYTHON
