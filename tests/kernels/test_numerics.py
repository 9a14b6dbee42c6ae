"""Runs the numerics_*.py files in Triton's interpreter, each in its own process.

The interpreter must be chosen before Triton is imported, and holds for the whole process. On a
machine with CUDA the same files run as they are: `pytest tests/kernels/numerics_*.py`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def numpy_fits() -> bool:
    """Triton 3.6's interpreter does not start with numpy 2.4."""
    import numpy
    import triton

    def version(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(".")[:2])

    return version(triton.__version__) >= (3, 7) or version(numpy.__version__) < (2, 4)


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("numerics_*.py")))
def test_interpreted_kernels_match_their_definitions(file):
    if not numpy_fits():
        pytest.skip("triton 3.6's interpreter needs numpy < 2.4")
    path = [os.environ.get("PYTHONPATH", ""), str(HERE.parents[1])]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(path)}
    environment.pop("STEPCODER_KERNELS", None)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)],
        env=environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
