"""Options and fixtures of the benchmarks: `pytest bench/`, on CUDA or for the CPU references.

STEPCODER_BENCH_ROWS=FILE appends each row to that file as soon as it is measured, so that a session
that is cut short keeps what it has. STEPCODER_BENCH_DRY=1 runs everything at tiny shapes on the
CPU, in Triton's interpreter: that shows whether the commands run, and no time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

import measure

ROWS = "STEPCODER_BENCH_ROWS"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every shape, not the quick selection")


if not importlib.util.find_spec("pytest_benchmark"):

    class Record:
        """What the benchmarks need of pytest-benchmark, where it is not installed."""

        def __init__(self) -> None:
            self.extra_info: dict[str, Any] = {}

        def pedantic(self, run: Callable[[], object], rounds: int = 1) -> None:
            for _ in range(rounds):
                run()

        __call__ = pedantic

    @pytest.fixture
    def benchmark() -> Record:
        """Take a benchmark's row."""
        return Record()


@pytest.fixture(autouse=True)
def keep_row(request: pytest.FixtureRequest) -> Iterator[None]:
    """Append a benchmark's row to the file of rows, once it is measured."""
    measures = ROWS in os.environ and "benchmark" in request.fixturenames
    row = request.getfixturevalue("benchmark").extra_info if measures else {}
    yield
    if "operation" in row:
        with open(os.environ[ROWS], "a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether every shape was asked for."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def cuda() -> torch.device:
    """The GPU, without which a benchmark of kernels says nothing."""
    if not torch.cuda.is_available() and not measure.DRY:
        pytest.skip("no CUDA device: times of kernels need one")
    return measure.DEVICE
