"""What all tests share: the folder of problem sets, and the helpers folder on the import path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# Of several processes of tests none takes the others' cores: threads that wait for work spin.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test may fail for a slow machine: hypothesis' own limit is 0.2 s an example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DATA = Path(os.environ.get("STEPCODER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest: of two processes none is left alone with them."""
    items.sort(key=lambda item: not item.path.name.startswith("test_vllm"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the problem sets (set STEPCODER_DATA if it lies elsewhere)."""
    if not DATA.is_dir():
        pytest.skip(f"no problem sets at {DATA} (set STEPCODER_DATA)")
    return DATA
