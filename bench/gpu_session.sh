#!/usr/bin/env bash
# One session on a machine with one Hopper GPU, under nine minutes: times everything, checks the
# kernels' numerics and races, tunes. What is most wanted comes first, and each row is in OUT as soon
# as it is measured, so that a session that is cut short at any minute keeps what it has.
#
#     bench/gpu_session.sh OUT [--dry] [WHEELS]
#
# --dry:  the same commands at tiny shapes on a CPU, in Triton's interpreter (tests/kernels).
# WHEELS: a folder of wheels of what the machine lacks (pytest, pybind11; of peers liger-kernel, quack-kernels,
#         nvidia-cutlass-dsl, cut-cross-entropy), where nothing can be downloaded.
#
# Needs torch, triton, transformers and pytest. Leaves rows.jsonl, tune.jsonl and session.log.
set -uo pipefail
cd "$(dirname "$0")/.."
usage="usage: bench/gpu_session.sh OUT [--dry] [WHEELS]"
out=$(realpath -m "${1:?$usage}")
shift
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export STEPCODER_BENCH_ROWS=$out/rows.jsonl
python=${PYTHON:-python3}
numerics=(tests/kernels/numerics_tokens.py tests/kernels/numerics_head.py
  tests/kernels/numerics_operators.py)
if [ "${1:-}" = --dry ]; then
  shift
  export STEPCODER_BENCH_DRY=1 STEPCODER_KERNELS=triton TRITON_INTERPRET=1
  numerics=(tests/kernels/numerics_head.py -k "no_rows or stride")
  compiled="and not compile" # minutes on a CPU
  patience=10
fi
if [ -n "${1:-}" ]; then
  $python -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "$1"/*.whl
  export PYTHONPATH=$PYTHONPATH:/tmp/site
fi
pytest="$python -m pytest -W default -q -rs -p no:cacheprovider"

# step SECONDS NAME COMMAND...: one that fails or overruns does not take the others along.
step() {
  local limit=$1 name=$2 began=$SECONDS
  shift 2
  echo "== $name: $*" >>"$out/session.log"
  timeout $((limit * ${patience:-1})) "$@" >>"$out/session.log" 2>&1
  echo "$name: exit $? after $((SECONDS - began)) s"
}

command -v nvidia-smi >/dev/null &&
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
# The training step and the last numerics import the sandbox; the rest does without.
if [ -z "${STEPCODER_BENCH_DRY:-}" ]; then
  step 90 build $python setup.py -q build_ext --inplace &
fi
step 60 warm $python bench/warm_cache.py
wait
step 110 head $pytest bench/test_lm_head.py -k "not peer and not grpo and not cpu"
step 40 tokens $pytest bench/test_tokens.py -k "not peer and not reference"
step 70 step bash -c "$python bench/gpu_step.py >>$STEPCODER_BENCH_ROWS"
step 90 numerics $pytest "${numerics[@]}"
if command -v compute-sanitizer >/dev/null; then
  step 40 races compute-sanitizer --tool racecheck $pytest tests/kernels/numerics_tokens.py -k "statistics"
else
  echo "races: no compute-sanitizer here"
fi
step 30 attention $pytest -m gpu tests/models/test_attention.py
step 60 tune bash -c "$python bench/tune.py >>$out/tune.jsonl"
step 80 peers $pytest bench/test_lm_head.py bench/test_tokens.py -k "(peer or grpo) ${compiled:-}"
$python - "$STEPCODER_BENCH_ROWS" <<'PYTHON'
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    shape = [row[n] for n in ("T", "H", "V", "model", "rows") if n in row]
    print(row["operation"], *shape, row["provider"], f"{row.get('active', 1):.0%}",
          f"{row['hot_ms']:.4g} ms", f"{row.get('tflops', 0):.0f} TF",
          f"{row.get('of_cublas', 0):.2f} of cuBLAS", f"{row.get('extra_mib', 0):.0f} MiB")
PYTHON
