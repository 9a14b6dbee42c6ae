"""Builds stepcoder.sandbox._launcher, the C++20 launcher of csrc/ (the rest: pyproject.toml)."""

import os
import shlex
import subprocess
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("csrc").rglob("*.cpp") if path.parent.name != "preload")
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))
# Debug information and symbols are 17 of 18 MB; STEPCODER_DEBUG=1 keeps them.
DEBUG = bool(os.environ.get("STEPCODER_DEBUG"))
FLAGS = ["-std=c++20", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
FLAGS += ["-g" if DEBUG else "-g0"]
LINKED = [] if DEBUG else ["-Wl,--strip-all"]


def static_runtime() -> list[str]:
    """Return how to link the C++ library in: each library that a worker maps costs every fork.

    Nothing where the compiler has no archive of it (Fedora: libstdc++-static).
    """
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    asked = [*compiler, "-print-file-name=libstdc++.a"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return []
    linked = ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
    return linked if os.path.isabs(found) else []


launcher = Extension(
    "stepcoder.sandbox._launcher",
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=["csrc"],
    language="c++",
    # -isystem: pybind11's own headers do not pass -Wshadow.
    extra_compile_args=[*FLAGS, "-isystem", pybind11.get_include()],
    extra_link_args=[*static_runtime(), *LINKED],
)

# Not a module: a library that workers load before their interpreter.
arena_preload = Extension(
    "stepcoder.sandbox._arena_preload",
    sources=sorted(str(path) for path in Path("csrc/worker/preload").glob("*.cpp")),
    depends=HEADERS,
    include_dirs=["csrc"],
    language="c++",
    extra_compile_args=[*FLAGS, "-fno-exceptions", "-fno-rtti"],
    extra_link_args=LINKED,
)

ParallelCompile().install()  # a file on each core
setup(ext_modules=[launcher, arena_preload])
