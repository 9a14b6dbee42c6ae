"""The kernels install and run alone, with nothing else of StepCoder there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stepcoder

KERNELS = Path(__file__).parents[2] / "kernels"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import torch
from stepcoder.kernels import gae, reference
from stepcoder import kernels
cu_seqlens, mask = torch.tensor([0, 2, 6]).int(), torch.ones(6).bool()
inputs = (torch.rand(6), torch.rand(6), cu_seqlens, mask, 0.9, 0.8)
for found, expected in zip(gae(*inputs), reference.gae(*inputs), strict=True):
    torch.testing.assert_close(found, expected)
print(kernels.__file__)
"""


def test_a_wheel_of_the_kernels_alone_runs_them(tmp_path):
    pytest.importorskip("setuptools")
    project = tomllib.loads((KERNELS / "pyproject.toml").read_text())["project"]
    assert project["version"] == stepcoder.__version__
    shutil.copytree(KERNELS, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    built = subprocess.run(
        command, cwd=tmp_path / "source", capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    (wheel,) = tmp_path.glob("stepcoder_kernels-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    there = {path.name for path in (site / "stepcoder" / "kernels").iterdir()}
    assert there == {path.name for path in KERNELS.glob("*.py")}
    # Without site no .pth file shows the repository; torch's folder holds no stepcoder either.
    packages = Path(importlib.util.find_spec("torch").origin).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{packages}"}
    environment.pop("STEPCODER_KERNELS", None)
    if importlib.util.find_spec("triton"):
        environment |= {"STEPCODER_KERNELS": "triton", "TRITON_INTERPRET": "1"}
    used = subprocess.run(
        [sys.executable, "-S", "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert used.returncode == 0, used.stderr
    assert Path(used.stdout.strip()).is_relative_to(site)
