"""Runs `reference_tracer.py` on many programs, under this Python or another."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.random_programs import PREAMBLE

from stepcoder.problems.problem import Problem
from stepcoder.sandbox.program import AssertTests, CallTests

SCRIPT = Path(__file__).with_name("reference_tracer.py")


@dataclass(frozen=True)
class Run:
    """What one program did: lines seen by settrace, lines of started statements, open questions.

    `seen_by_test` has the lines of loading and of that test.
    """

    seen: frozenset[int]
    probed: frozenset[int]
    unclear: frozenset[int]
    passed: int
    seen_by_test: tuple[frozenset[int], ...] = ()


def job_of_problem(problem: Problem, max_s: int = 10) -> dict[str, Any]:
    tests = problem.tests
    described: dict[str, Any]
    if isinstance(tests, AssertTests):
        described = {"kind": "assert", "asserts": tests.asserts, "setup": tests.setup}
    else:
        kind = "call" if isinstance(tests, CallTests) else "stdin"
        described = {"kind": kind, "inputs": tests.inputs, "outputs": tests.outputs}
    return {
        "id": problem.task_id,
        "source": problem.canonical_solution,
        "preamble": problem.preamble,
        "entry_point": problem.entry_point,
        "tests": described,
        "max_s": max_s,
    }


def job_of_program(name: str, source: str) -> dict[str, Any]:
    tests = {"kind": "stdin", "inputs": [""], "outputs": [""]}
    return {
        "id": name,
        "source": source,
        "preamble": PREAMBLE,
        "entry_point": None,
        "tests": tests,
    }


def run_jobs(python: str, jobs: Iterable[dict[str, Any]]) -> dict[str, Run]:
    """Return the run of each job by id, without those that took too long."""
    lines = "".join(json.dumps(job) + "\n" for job in jobs)
    # The sandbox's hash seed. Another one changes the order of sets, and so the lines that run.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [python, str(SCRIPT)],
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=environment,
    )
    runs = {}
    for answer in map(json.loads, done.stdout.splitlines()):
        if answer.get("error") == "slow":
            continue
        assert "error" not in answer, answer
        seen, probed, unclear = (
            frozenset(answer.get(key, ())) for key in ("seen", "probed", "unclear")
        )
        by_test = tuple(frozenset(lines) for lines in answer["seen_by_test"])
        runs[answer["id"]] = Run(seen, probed, unclear, answer["passed"], by_test)
    return runs


def other_python(version: str) -> str | None:
    """Return an interpreter of another version ("3.12") if this machine has one that starts."""
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    installed = glob.glob(f"{root}/versions/{version}.*/bin/python")
    for python in [shutil.which(f"python{version}"), *sorted(installed)]:
        if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None
