"""A slice of bench/agreement.py: our verdicts are those of plain CPython."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_verdicts_agree_with_plain_python(data, tmp_path):
    if not (data / "upstream").is_dir():
        pytest.skip(f"no upstream data sets in {data}")
    output = tmp_path / "agreement.jsonl"
    command = [sys.executable, ROOT / "bench" / "agreement.py", data, "-o", output]
    done = subprocess.run(
        [*map(str, command), "--limit", "2", "--mutants", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({record["data_set"] for record in records}) == 9
    with_numpy = {record["key"] for record in records if record["key"].endswith(" numpy")}
    assert len(with_numpy) >= 18
    assert {key.removesuffix(" numpy") for key in with_numpy} < {r["key"] for r in records}
    assert all(record["passed"] for record in records if record["kind"] == "canonical")
    assert not all(record["passed"] for record in records)
