#!/bin/sh
# Fuzzes a parser with atheris: tests/fuzz/run.sh TARGET [SECONDS] [libFuzzer options].
#   tests/fuzz/run.sh TARGET merge     keeps the few inputs that cover most, in corpus/TARGET.zip
# Needs clang (Debian: clang, libclang-rt-dev) and, for PYTHON, atheris and pybind11. New inputs go
# to build/fuzz/TARGET, those that break something to build/fuzz/TARGET-crash-...
set -eu
cd "$(dirname "$0")/../.."
TARGET=$1
TIME=${2:-600}
shift
[ $# -eq 0 ] || shift
PYTHON=${PYTHON:-python3}
OUT=build/fuzz
ZIP=tests/fuzz/corpus/$TARGET.zip
mkdir -p "$OUT/$TARGET"
[ ! -e "$ZIP" ] || "$PYTHON" -m zipfile -e "$ZIP" "$OUT/$TARGET"
if [ ! -e "$OUT/_launcher.so" ] || [ -n "$(find csrc -newer "$OUT/_launcher.so")" ]; then
  FLAGS="-std=c++20 -O1 -g1 -fPIC -Icsrc -fvisibility=hidden -fno-omit-frame-pointer
    -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=vptr,function
    -fno-sanitize-recover=undefined"
  HEADERS=$($PYTHON -c 'import pybind11, sysconfig
print("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"])')
  rm -f "$OUT"/*.o
  ls csrc/*.cpp csrc/*/*.cpp | xargs -P 2 -I{} sh -c \
    "clang++ $(echo $FLAGS) $HEADERS -c {} -o $OUT/\$(basename {}).o"
  clang++ -shared "$OUT"/*.o -o "$OUT/_launcher.so"
fi
RUNTIME=$($PYTHON -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
COMMAND=$OUT/fuzz-$TARGET
cat > "$COMMAND" <<END
#!/bin/sh
exec $PYTHON tests/fuzz/fuzz.py $OUT/_launcher.so $TARGET "\$@"
END
chmod +x "$COMMAND"
fuzz() {
  LD_PRELOAD="$RUNTIME $(gcc -print-file-name=libstdc++.so)" PYTHONPATH=. PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0 FUZZ_COMMAND="$COMMAND" "$COMMAND" "$@"
}
if [ "$TIME" = merge ]; then
  rm -rf "$OUT/merged" && mkdir "$OUT/merged"
  fuzz -merge=1 "$OUT/merged" "$OUT/$TARGET" "$@"
  rm -f "$ZIP"
  "$PYTHON" -m zipfile -c "$ZIP" "$OUT"/merged/*
else
  fuzz "$OUT/$TARGET" "-max_total_time=$TIME" -timeout=60 -print_final_stats=1 \
    "-artifact_prefix=$OUT/$TARGET-" "$@"
fi
