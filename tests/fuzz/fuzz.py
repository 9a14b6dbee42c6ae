"""Fuzzes one target: python tests/fuzz/fuzz.py EXTENSION TARGET [CORPUS] [libFuzzer options].

Needs atheris, clang and an instrumented launcher; `tests/fuzz/run.sh` brings the three together.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.sanitized_judge import load

if __name__ == "__main__":
    extension, target = sys.argv[1:3]
    load(extension)
    with atheris.instrument_imports(include=["stepcoder"]):
        from targets import TARGETS
    # A merge starts this again, by the name of a command without the first two arguments.
    atheris.Setup([os.environ["FUZZ_COMMAND"], *sys.argv[3:]], TARGETS[target])
    atheris.Fuzz()
