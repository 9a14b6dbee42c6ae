"""Are executed lines those of sys.settrace? python bench/lines_sweep.py FILE_OR_FOLDER ...

Judges the canonical solutions of problem sets in any known form (a folder: every set in it), runs
them again under `tests/helpers/reference_tracer.py` with this Python, and compares the lines of
each test. That second run has no sandbox. Exit status 1 if a line differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from canonical_sweep import sets_in  # noqa: E402
from helpers.reference_runs import Run, job_of_problem, run_jobs  # noqa: E402

from stepcoder.problems.problem import Problem, ProblemError, load_problems, program_of  # noqa: E402
from stepcoder.sandbox import Judge, Limits, Submission, Verdict  # noqa: E402

BATCH = 20


@dataclass
class Comparison:
    """One set: solutions and tests with equal lines, with different ones, and those left out."""

    name: str
    solutions: int = 0
    tests: int = 0
    left_out: list[str] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)

    def add(self, problem: Problem, verdict: Verdict, run: Run | None) -> None:
        if not verdict.passed:
            self.left_out.append(f"{problem.task_id}: {verdict.status} {verdict.message[:100]}")
            return
        if run is None or run.passed < len(verdict.tests):
            why = "is too slow" if run is None else f"passes {run.passed} of {len(verdict.tests)}"
            self.left_out.append(f"{problem.task_id}: under the reference it {why}")
            return
        self.solutions += 1
        self.tests += len(verdict.tests)
        for index, (test, expected) in enumerate(
            zip(verdict.tests, run.seen_by_test, strict=True), start=1
        ):
            if test.executed_lines != expected:
                self.differences.append(
                    {
                        "task_id": problem.task_id,
                        "test": index,
                        "missing": sorted(expected - test.executed_lines),
                        "extra": sorted(test.executed_lines - expected),
                    }
                )


def reference(problems: list[Problem], max_s: int) -> dict[str, Run]:
    """Run problems together; one by one where that fails, so that one bad solution costs itself."""
    jobs = [job_of_problem(problem, max_s) | {"only_seen": True} for problem in problems]
    try:
        return run_jobs(sys.executable, jobs)
    except (AssertionError, subprocess.SubprocessError, json.JSONDecodeError):
        if len(problems) == 1:
            return {}
        return {k: v for problem in problems for k, v in reference([problem], max_s).items()}


def compare(judge: Judge, path: Path, max_s: int) -> Iterator[Comparison]:
    """Yield how far the set's comparison has come, after each batch. Raises ProblemError."""
    comparison = Comparison(path.name)
    problems = iter(load_problems(path).problems)
    while batch := list(islice(problems, BATCH)):
        submissions = [Submission(program_of(p, p.canonical_solution), p.tests) for p in batch]
        verdicts = dict(judge.map(submissions))
        runs = reference(batch, max_s)
        for index, problem in enumerate(batch):
            comparison.add(problem, verdicts[index], runs.get(problem.task_id))
        yield comparison


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-s", type=int, default=20, help="of a solution under the reference")
    parser.add_argument("-o", "--output", type=Path, help="JSON of every difference")
    arguments = parser.parse_args()
    found = []
    with Judge(arguments.workers, Limits(cpu_s=10.0, wall_s=60.0)) as judge:
        for path in sets_in(arguments.paths):
            comparison = None
            try:
                for comparison in compare(judge, path, arguments.max_s):
                    counts = f"{comparison.solutions} solutions, {len(comparison.differences)}"
                    print(f"\r{path.name}: {counts} differences", end="", file=sys.stderr)
            except ProblemError as error:
                print(f"{path.name}: no problem set: {str(error)[:120]}", file=sys.stderr)
            if comparison is not None:
                print(file=sys.stderr)
                found.append(comparison)
    print("| set | solutions | tests | tests that differ | solutions left out |")
    print("|---|---|---|---|---|")
    for one in found:
        print(
            f"| {one.name} | {one.solutions} | {one.tests} | {len(one.differences)} "
            f"| {len(one.left_out)} |"
        )
    for one in found:
        for line in one.left_out:
            print(f"{one.name}: left out: {line}")
        for difference in one.differences:
            print(f"{one.name}: {json.dumps(difference)}")
    if arguments.output:
        rows = [
            {"set": o.name, "differences": o.differences, "left_out": o.left_out} for o in found
        ]
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(one.differences for one in found))


if __name__ == "__main__":
    sys.exit(main())
