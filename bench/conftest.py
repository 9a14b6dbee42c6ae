"""Options and fixtures of the benchmarks: `pytest bench/`, on CUDA or for the CPU references."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every shape, not the quick selection")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether every shape was asked for."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def cuda() -> torch.device:
    """The GPU, without which a benchmark of kernels says nothing."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: times of kernels need one")
    return torch.device("cuda")
