"""Do our verdicts agree with HumanEval's, HumanEval+'s, MBPP's and MBPP+'s own checkers?

    python bench/agreement.py DATA/upstream -o agreement.jsonl --mutants 4

Each canonical solution, and mutants of it (one fault each), is judged in our sandbox and run with
the data set's own test code by a plain CPython process, as the sets' own harnesses do. A line of
the output is one program; the same command goes on where it stopped. Where they differ, both run
once more, alone, with 20 times the time: on a busy machine a slow program can miss one limit and
keep the other. Exit status 1: some differ even then.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stepcoder.clean.mutants import mutants
from stepcoder.problems.problem import Problem, load_problems, program_of
from stepcoder.sandbox import Judge, Limits

SETS = {
    "HumanEval": "HumanEval.jsonl.gz",
    "HumanEval+": "HumanEvalPlus-OriginFmt.jsonl.gz",
    "MBPP": "mbpp.jsonl",
    "MBPP+": "MbppPlus-OriginFmt.jsonl.gz",
}
# Both sides allow a test the same CPU time; the plain process runs all tests, and has to start.
CPU_S, WALL_S, PLAIN_CPU_S, PLAIN_WALL_S = 4.0, 30.0, 8, 60.0
PLAIN_MEMORY_BYTES = 2 << 30
PATIENCE = 20


@dataclass(frozen=True)
class Case:
    """A program, and the file that runs it with the data set's own tests."""

    data_set: str
    problem: Problem
    kind: str  # "canonical", or the fault that was put in
    number: int
    source: str
    plain: str

    @property
    def key(self) -> str:
        return f"{self.data_set} {self.problem.task_id} {self.number}"


def cases(folder: Path, count: int, limit: int | None) -> Iterator[Case]:
    """Yield each problem's canonical solution and `count` mutants, drawn by its task id."""
    for data_set, name in SETS.items():
        path = folder / name
        loaded = load_problems(path, strict=True).problems
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            records = [json.loads(line) for line in file]
        for problem, record in list(zip(loaded, records, strict=True))[:: step(loaded, limit)]:
            assert problem.task_id.endswith(str(record["task_id"]))
            source = problem.canonical_solution
            found = sorted({text: kind for kind, text in mutants(source)}.items())
            random.Random(problem.task_id).shuffle(found)
            programs = [(source, "canonical"), *found[:count]]
            for number, (text, kind) in enumerate(programs):
                yield Case(data_set, problem, kind, number, text, plain_program(record, text))


def step(problems: tuple[Problem, ...], limit: int | None) -> int:
    return max(1, len(problems) // limit) if limit else 1


def plain_program(record: dict[str, Any], source: str) -> str:
    """Return the file that the data set's own harness would execute."""
    if "entry_point" in record:
        return f"{source}\n{record['test']}\ncheck({record['entry_point']})\n"
    if "test" in record:
        return f"{source}\n{record['test']}\n"
    return "\n".join([source, record["test_setup_code"], *record["test_list"], ""])


def passes_plainly(program: str, patience: int = 1) -> tuple[bool, str]:
    """Run a file in a process of its own: whether it ended well, and its last words."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (patience * PLAIN_CPU_S, patience * PLAIN_CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (PLAIN_MEMORY_BYTES, PLAIN_MEMORY_BYTES))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(path)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=patience * PLAIN_WALL_S,
                preexec_fn=limits,
            )
        except subprocess.TimeoutExpired:
            return False, "timeout"
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode == 0, words[-1][:200] if words else f"status {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the data sets in their own formats")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mutants", type=int, default=4, help="of each canonical solution")
    parser.add_argument("--limit", type=int, help="problems of each data set, evenly spaced")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    done: set[str] = set()
    if arguments.output.exists():
        done = {json.loads(x)["key"] for x in arguments.output.read_text().splitlines()}
    todo = [
        case
        for case in cases(arguments.folder, arguments.mutants, arguments.limit)
        if case.key not in done
    ]
    random.Random(0).shuffle(todo)  # so that a part of it says something of all
    limits = Limits(cpu_s=CPU_S, wall_s=WALL_S)
    with (
        Judge(arguments.workers, limits) as judge,
        ThreadPoolExecutor(arguments.workers) as pool,
        arguments.output.open("a") as file,
    ):
        records = pool.map(lambda case: (case, compare(judge, case)), todo)
        different = []
        for count, (case, record) in enumerate(records, 1):
            if record["passed"] == record["plain_passed"]:
                write(file, record)
            else:
                different.append(case)
            if count % 100 == 0:
                print(f"{count} of {len(todo)}", file=sys.stderr)
        for case in different:
            print(f"once more, alone: {case.key}", file=sys.stderr)
            write(file, compare(judge, case, PATIENCE))
    return summary([json.loads(line) for line in arguments.output.read_text().splitlines()])


def compare(judge: Judge, case: Case, patience: int = 1) -> dict[str, Any]:
    """Judge a program and run it plainly; return the line of the output."""
    limits = Limits(cpu_s=patience * CPU_S, wall_s=patience * WALL_S)
    verdict = judge.run(program_of(case.problem, case.source), case.problem.tests, limits)
    passed, words = passes_plainly(case.plain, patience)
    record: dict[str, Any] = {
        "key": case.key,
        "data_set": case.data_set,
        "kind": case.kind,
        "passed": verdict.passed,
        "plain_passed": passed,
        "patience": patience,
    }
    if verdict.passed != passed:
        record |= {
            "status": str(verdict.status),
            "message": verdict.message,
            "plain": words,
            "source": case.source,
        }
    return record


def write(file: TextIO, record: dict[str, Any]) -> None:
    """Append a line, so that a killed run has it."""
    file.write(json.dumps(record) + "\n")
    file.flush()


def summary(records: list[dict[str, Any]]) -> int:
    """Print a table and each difference; return the exit status."""
    print("| data set | canonical | pass | mutants | pass | agreement |\n|---|---|---|---|---|---|")
    for data_set in SETS:
        mine = [r for r in records if r["data_set"] == data_set]
        parts = Counter((r["kind"] == "canonical", r["passed"]) for r in mine)
        canonical, mutated = (parts[x, True] + parts[x, False] for x in (True, False))
        agree = sum(r["passed"] == r["plain_passed"] for r in mine)
        print(
            f"| {data_set} | {canonical} | {parts[True, True]} | {mutated} | "
            f"{parts[False, True]} | {agree} of {len(mine)} |"
        )
    different = [r for r in records if r["passed"] != r["plain_passed"]]
    for r in different:
        print(f"\n{r['key']} ({r['kind']}): ours {r['status']}: {r['message']}")
        print(f"  plain {'pass' if r['plain_passed'] else 'fail'}: {r['plain']}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
