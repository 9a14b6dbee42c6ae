"""Builds stepcoder.sandbox._launcher, the C++20 launcher of csrc/ (the rest: pyproject.toml)."""

from pathlib import Path

import pybind11
from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))

launcher = Extension(
    "stepcoder.sandbox._launcher",
    sources=SOURCES,
    depends=HEADERS,
    language="c++",
    extra_compile_args=[
        "-std=c++20",
        "-O2",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Werror",
        # -isystem: pybind11's own headers do not pass -Wshadow.
        "-isystem",
        pybind11.get_include(),
    ],
)

setup(ext_modules=[launcher] if SOURCES else [])
