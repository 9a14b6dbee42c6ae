"""Are canonical solutions accepted? python bench/canonical_sweep.py FILE_OR_FOLDER ...

Takes problem sets in any known form (a folder: every set in it), prints for each how many canonical
solutions the judge accepts and every one that it does not. Exit status 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepcoder.problems.problem import Problem, ProblemError, load_problems, program_of
from stepcoder.sandbox import Judge, Limits, Submission, Verdict


@dataclass(frozen=True)
class Sweep:
    """One set: how many canonical solutions passed, which did not, and how long all took."""

    accepted: int
    refused: list[tuple[Problem, Verdict]]
    skipped: tuple[str, ...]
    seconds: float


def sweep(judge: Judge, path: Path) -> Sweep:
    """Judge every canonical solution of a set by all of its tests. Raises ProblemError."""
    report = load_problems(path)
    began = time.monotonic()
    problems = report.problems
    runs = (Submission(program_of(p, p.canonical_solution), p.tests) for p in problems)
    refused = []
    for index, verdict in judge.map(runs):
        if not verdict.passed:
            refused.append((problems[index], verdict))
    seconds = time.monotonic() - began
    return Sweep(len(problems) - len(refused), refused, report.skipped, seconds)


def sets_in(paths: list[Path]) -> Iterator[Path]:
    """Yield the files that may hold problems."""
    for path in paths:
        if path.is_dir():
            yield from sorted(
                file
                for file in path.rglob("*")
                if file.name.endswith((".jsonl", ".jsonl.gz", ".json"))
            )
        else:
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu-s", type=float, default=10.0, help="of a test")
    parser.add_argument("-o", "--output", type=Path, help="JSON of every figure and difference")
    arguments = parser.parse_args()
    limits = Limits(cpu_s=arguments.cpu_s, wall_s=60.0)
    rows = []
    print("| set | canonical solutions | accepted | seconds |\n|---|---|---|---|")
    with Judge(arguments.workers, limits) as judge:
        for path in sets_in(arguments.paths):
            try:
                found = sweep(judge, path)
            except ProblemError as error:
                print(f"| {path.name} | no problem set: {str(error)[:120]} | | |")
                continue
            total = found.accepted + len(found.refused)
            print(f"| {path.name} | {total} | {found.accepted} | {found.seconds:.1f} |", flush=True)
            differences = [
                {"task_id": p.task_id, "status": str(v.status), "message": v.message}
                for p, v in found.refused
            ]
            rows.append(
                {
                    "set": path.name,
                    "total": total,
                    "accepted": found.accepted,
                    "seconds": found.seconds,
                    "differences": differences,
                    "skipped": list(found.skipped),
                }
            )
    for row in rows:
        for line in row["skipped"]:
            print(f"{row['set']}: skipped: {line}")
        for one in row["differences"]:
            print(f"{row['set']}: {one['task_id']}: {one['status']}: {one['message'][:200]}")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
