"""The launcher under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer.

The judge, its workers and the programs' processes all run with it, with the filter installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import replay
from helpers import sanitizers

from stepcoder.sandbox import _launcher


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not sanitizers.runtime():
        pytest.skip("gcc's sanitizers are not installed (libasan)")
    return str(sanitizers.build(tmp_path_factory.mktemp("sanitized")))


def check(done: subprocess.CompletedProcess[str], last_line: str) -> None:
    report = done.stderr[-12_000:]
    assert done.stdout, report
    assert done.stdout.splitlines()[-1].startswith(last_line), report
    assert "ERROR: AddressSanitizer" not in done.stderr, report
    assert "runtime error:" not in done.stderr, report
    # Libraries leak a few bytes at their import, as do names of ours from Python 3.12 on, which
    # keeps them for good.
    leaks = [part for part in done.stderr.split("\n\n") if "leak of" in part]
    ours = [leak for leak in leaks if "/csrc/" in leak or "_launcher.so" in leak]
    ours = [leak for leak in ours if "pybind11_exec__launcher" not in leak]
    assert not ours, "\n\n".join(ours)[:12_000]
    assert done.returncode == 0 or leaks, report


def test_judging_breaks_no_rule_of_memory_and_leaks_nothing(extension: str) -> None:
    script = Path(sanitizers.__file__).with_name("sanitized_judge.py")
    check(sanitizers.run(script, extension), "judged")


def test_the_fuzzed_inputs_break_no_rule_of_memory_and_leak_nothing(extension: str) -> None:
    check(sanitizers.run(Path(replay.__file__), extension), "requests")


def test_refused_values_leave_no_object_behind() -> None:
    inputs = [data for _, data in replay.inputs("value")]
    assert inputs

    def decode_all() -> None:
        for data in 50 * inputs:
            try:
                _launcher.decode(data)
            except ValueError:
                continue

    for _ in range(4):  # the interpreter's own tables grow for a while
        decode_all()
    before = sys.getallocatedblocks()
    decode_all()
    assert sys.getallocatedblocks() < before + 25
