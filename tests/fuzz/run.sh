#!/bin/sh
# Fuzzes a target with atheris: tests/fuzz/run.sh TARGET [SECONDS] [libFuzzer options].
# Needs clang (Debian: clang libclang-rt-dev) and `pip install atheris pybind11` in PYTHON's environment.
# New inputs go to build/fuzz/TARGET; `-merge=1 tests/fuzz/corpus/TARGET build/fuzz/TARGET` keeps the
# few that cover more.
set -eu
cd "$(dirname "$0")/../.."
TARGET=$1
SECONDS_=${2:-600}
shift
[ $# -eq 0 ] || shift
PYTHON=${PYTHON:-python3}
OUT=build/fuzz
mkdir -p "$OUT/$TARGET" "tests/fuzz/corpus/$TARGET"
if [ ! -e "$OUT/_launcher.so" ] || [ -n "$(find csrc -newer "$OUT/_launcher.so")" ]; then
  FLAGS="-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -fno-omit-frame-pointer
    -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined -fno-sanitize=vptr,function"
  HEADERS=$($PYTHON -c 'import pybind11, sysconfig
print("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"])')
  ls csrc/*.cpp | xargs -P 2 -I{} sh -c \
    "clang++ $(echo $FLAGS) $HEADERS -c {} -o $OUT/\$(basename {}).o"
  clang++ -shared "$OUT"/*.o -o "$OUT/_launcher.so"
fi
RUNTIME=$($PYTHON -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
LD_PRELOAD="$RUNTIME $(gcc -print-file-name=libstdc++.so)" PYTHONPATH=. PYTHONMALLOC=malloc \
ASAN_OPTIONS=detect_leaks=0 \
exec $PYTHON tests/fuzz/fuzz.py "$OUT/_launcher.so" "$TARGET" "$OUT/$TARGET" \
  "tests/fuzz/corpus/$TARGET" "-max_total_time=$SECONDS_" -timeout=60 \
  -print_final_stats=1 "-artifact_prefix=$OUT/$TARGET-" "$@"
