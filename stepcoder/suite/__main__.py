"""Writes the embedded suite as a JSONL file of problems: python -m stepcoder.suite --out FILE."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from stepcoder.problems.problem import Problem
from stepcoder.sandbox.program import CallTests
from stepcoder.suite import problems


def to_record(problem: Problem) -> dict[str, object]:
    """Return a problem in the form of our JSONL files."""
    assert isinstance(problem.tests, CallTests)
    return {
        "task_id": problem.task_id,
        "source": problem.source,
        "license": "Apache-2.0",
        "difficulty": problem.difficulty,
        "prompt": problem.prompt,
        "starter_code": problem.starter_code,
        "entry_point": problem.entry_point,
        "canonical_solution": problem.canonical_solution,
        "tests": {
            "kind": "call",
            "inputs": list(problem.tests.inputs),
            "outputs": list(problem.tests.outputs),
        },
        "split": problem.split,
    }


def main() -> None:
    """Write the file named by --out and say what is in it."""
    parser = argparse.ArgumentParser(prog="python -m stepcoder.suite", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    path: Path = parser.parse_args().out
    suite = problems()
    path.write_text("".join(json.dumps(to_record(p)) + "\n" for p in suite), encoding="utf-8")
    parts = Counter(problem.split for problem in suite)
    counts = ", ".join(f"{parts[part]} {part}" for part in ("train", "validation", "eval"))
    sys.stdout.write(f"{path}: {counts} problems\n")


if __name__ == "__main__":
    main()
