"""A launcher with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, built for a test.

Takes a folder, gives the extension in it; `run` starts Python scripts that load it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("-std=c++20", "-O0", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
]


def runtime() -> list[str]:
    """Return the libraries to load before all others; empty where gcc has no sanitizers."""
    paths = []
    # With libstdc++, whose exceptions ASan watches: Python itself does not load it.
    for name in ("libasan.so", "libstdc++.so"):
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True)
        paths.append(found.stdout.strip())
    return paths if all(Path(path).is_absolute() for path in paths) else []


def build(folder: Path) -> Path:
    """Compile csrc/ into `folder` and return the extension."""
    include = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    headers = [f"-I{ROOT}/csrc", *(word for path in include for word in ("-isystem", path))]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        subprocess.run(["g++", *FLAGS, *headers, "-c", str(source), "-o", target], check=True)
        return target

    sources = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/*/*.cpp")]
    sources.sort(key=lambda path: path.stem != "bindings")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compiled, sources))
    extension = folder / "_launcher.so"
    subprocess.run(["g++", "-shared", *FLAGS, *objects, "-o", str(extension)], check=True)
    return extension


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script with the sanitizers' runtime loaded; findings go to stderr."""
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtime()),
        # Python's own allocator would hide overflows and leaks within its arenas.
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(ROOT),
        # Frames of the interpreter have no frame pointers; through it, only slow unwinding sees us.
        "ASAN_OPTIONS": "detect_leaks=1:fast_unwind_on_malloc=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
