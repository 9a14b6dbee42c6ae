"""Do our verdicts agree with plain CPython, which runs a set's own tests in the program's process?

    python bench/agreement.py DATA -o agreement.jsonl --mutants 2
    python bench/agreement.py DATA -o quick.jsonl --mutants 1 --limit 20

Each canonical solution, and mutants of it (one fault each), with and without `import numpy` before
it, is judged in our sandbox and run with the set's own tests by plain CPython: test code after the
program; calls whose values are compared with ==, tuples and generators as lists; or a process for
each stdin, whose output is compared by tokens. Sets that DATA does not hold are left out; of three
it may hold their repositories' own files: ClassEval_data.json, exercism/ (exercises/practice) and
kodcode/ (the .json files of its demo, pytest functions without fixtures).

A line of the output is one program; the same command goes on where it stopped. Where they differ,
both run once more, alone, with 20 times the time. Each difference that is left has an explanation,
or "unexplained". Exit status 1: some have none.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stepcoder.clean.mutants import mutants
from stepcoder.problems.problem import Problem, load_problems, program_of
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Status,
    StdinTests,
    Submission,
    UnittestTests,
    Verdict,
)
from stepcoder.sandbox.guest import screen
from stepcoder.sandbox.program import CodeTests, test_code

SETS = {
    "HumanEval": "upstream/HumanEval.jsonl.gz",
    "HumanEval+": "upstream/HumanEvalPlus-OriginFmt.jsonl.gz",
    "MBPP": "upstream/mbpp.jsonl",
    "MBPP+": "upstream/MbppPlus-OriginFmt.jsonl.gz",
    "APPS": "apps5.jsonl",
    "APPS+": "apps_plus_form.json",
    "LeetCode": "leetcode_train.jsonl.gz",
    "QuixBugs": "quixbugs.jsonl",
    "TheAlgorithms": "thealgorithms.jsonl.gz",
    "ClassEval": "ClassEval_data.json",
    "Exercism": "exercism",
    "KodCode": "kodcode",
}
# Both sides allow a test the same CPU time; the plain process runs all tests, and has to start.
CPU_S, WALL_S, PLAIN_CPU_S, PLAIN_WALL_S = 2.0, 15.0, 4, 30
PLAIN_MEMORY_BYTES = 2 << 30
PATIENCE = 20
# Root could write what a test has made read-only.
AS_A_USER = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
# Of those that the sets use, the judge gets the ones that are installed.
LIBRARIES = ("numpy", "scipy", "pandas", "PIL", "pytest")
NUMPY = "import numpy\n"
UNITTEST = "\nimport unittest\nunittest.main(failfast=True)\n"
CALLS = """
def _listed(value):
    if isinstance(value, (list, tuple, type(x for x in ""))):  # generators: so does QuixBugs
        return [_listed(item) for item in value]
    return {{k: _listed(v) for k, v in value.items()}} if isinstance(value, dict) else value
for _inputs, _expected in {tests!r}:
    _got = {entry_point}(*_inputs)
    assert _listed(_got) == _listed(_expected), _got
"""


@dataclass(frozen=True)
class Case:
    """A program, and how plain CPython tests it: `plain` after it, for each of `stdins`."""

    data_set: str
    problem: Problem
    kind: str  # "canonical", or the fault that was put in
    number: int
    source: str
    plain: str
    stdins: tuple[tuple[str, str | None], ...]  # with the expected output

    @property
    def key(self) -> str:
        numpy = " numpy" if self.source.startswith(NUMPY) else ""
        return f"{self.data_set} {self.problem.task_id} {self.number}{numpy}"


def cases(folder: Path, count: int, limit: int | None, done: set[str]) -> Iterator[Case]:
    """Yield each problem's canonical solution and `count` mutants, drawn by its task id.

    Left out are those whose keys are in `done`.
    """
    for data_set, name in SETS.items():
        if not (folder / name).exists():
            continue
        tested = list(READERS.get(data_set, loaded)(folder / name))
        for problem, plain, stdins in tested[:: max(1, len(tested) // limit) if limit else 1]:
            names = {f"{data_set} {problem.task_id} {n}" for n in range(count + 1)}
            if names | {f"{name} numpy" for name in names} <= done:
                continue  # making mutants takes long
            source = problem.canonical_solution
            found = sorted({text: kind for kind, text in mutants(source)}.items())
            random.Random(problem.task_id).shuffle(found)
            for number, (text, kind) in enumerate([(source, "canonical"), *found[:count]]):
                for start in ("", NUMPY) if "from __future__" not in text else ("",):
                    case = Case(data_set, problem, kind, number, start + text, plain, stdins)
                    if case.key not in done:
                        yield case


Tested = tuple[Problem, str, tuple[tuple[str, str | None], ...]]  # with what Case says of it


def loaded(path: Path) -> Iterator[Tested]:
    """Yield the problems of a file that stepcoder reads, each with its set's own tests."""
    problems = load_problems(path, strict=True).problems
    for problem, record in zip(problems, raw_records(path), strict=True):
        assert problem.task_id.endswith(str(record.get("task_id", "")))
        yield problem, *own_tests(problem, record)


def classeval(path: Path) -> Iterator[Tested]:
    """Yield ClassEval's classes, as its own harness puts them together."""
    for row in json.loads(path.read_bytes()):
        source = "\n".join([*row["import_statement"], row["solution_code"], ""])
        tests = UnittestTests(row["test"])
        problem = Problem(row["task_id"], "", "", source, tests)
        yield problem, f"\n{row['test']}{UNITTEST}", (("", None),)


def exercism(folder: Path) -> Iterator[Tested]:
    """Yield Exercism's exercises, but for those whose tests use the module and not its names."""
    for path in sorted(folder.glob("*/*_test.py")):
        code = without_imports(path.read_text(), path.stem.removesuffix("_test"))
        source = (path.parent / ".meta" / "example.py").read_text()
        if code is not None:
            problem = Problem(path.parent.name, "", "", source, UnittestTests(code))
            yield problem, f"\n{code}{UNITTEST}", (("", None),)


def kodcode(folder: Path) -> Iterator[Tested]:
    """Yield KodCode's verified rows: functions named test_..., which pytest would call."""
    for row in (row for path in sorted(folder.glob("*.json")) for row in raw_records(path)):
        code = without_imports(row["test_code"], "solution")
        functions = [x for x in ast.parse(code or "").body if isinstance(x, ast.FunctionDef)]
        tests = [x for x in functions if x.name.startswith("test")]
        if code is None or not tests or any(x.args.args or x.decorator_list for x in tests):
            continue
        calls = tuple(f"{x.name}()" for x in tests)
        problem = Problem(row["question_id"], "", "", row["solution"], AssertTests(calls, code))
        yield problem, "\n".join(["", code, *calls, ""]), (("", None),)


READERS = {"ClassEval": classeval, "Exercism": exercism, "KodCode": kodcode}


def without_imports(code: str, module: str) -> str | None:
    """Return tests without their imports of names of the program; None if they import it whole."""
    nodes = list(ast.walk(ast.parse(code)))
    if any(isinstance(x, ast.Import) and x.names[0].name == module for x in nodes):
        return None
    lines = code.splitlines()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == module:
            assert node.end_lineno is not None
            if any(alias.asname for alias in node.names):
                return None
            rest = [" " * node.col_offset + "pass", *[""] * (node.end_lineno - node.lineno)]
            lines[node.lineno - 1 : node.end_lineno] = rest
    return "\n".join(lines)


def raw_records(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))


def own_tests(
    problem: Problem, record: dict[str, Any]
) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Return what a set's own harness executes after the program, and on which stdins."""
    tests, entry_point = problem.tests, problem.entry_point
    if isinstance(tests, StdinTests):
        call = f"\n{entry_point}()\n" if entry_point else ""
        return call, tuple(zip(tests.inputs, tests.outputs, strict=True))
    if isinstance(tests, CallTests):
        pairs = list(zip(tests.inputs, tests.outputs, strict=True))
        plain = CALLS.format(tests=pairs, entry_point=entry_point)
    elif "tests" in record:
        plain = f"\n{record['tests']['code']}\n"
    elif "test" in record:
        check = f"check({record['entry_point']})\n" if "entry_point" in record else ""
        plain = f"\n{record['test']}\n{check}"
    else:
        plain = "\n".join(["", record["test_setup_code"], *record["test_list"], ""])
    return plain, (("", None),)


# A plain interpreter that forks for each line of its stdin, so that no program waits for its start.
PLAIN = """
import importlib.util, json, os, resource, runpy, signal, sys, unittest
if importlib.util.find_spec("numpy"):
    import numpy
for line in sys.stdin:
    folder, cpu_s, wall_s, memory = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
os.setsid()
os.chdir(folder)
for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "out", 577), (2, "err", 577)):
    os.dup2(os.open("../" + name, mode), number)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
sys.argv[:] = ["program.py"]
resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
signal.alarm(wall_s)
runpy.run_path("../program.py", run_name="__main__")
"""
_plain = threading.local()  # .server, one for each thread


def passes_plainly(case: Case, patience: int = 1) -> tuple[bool, str]:
    """Run a case in processes of its own: whether all ended well, and the last words."""
    if not hasattr(_plain, "server"):
        _plain.server = subprocess.Popen(
            [*AS_A_USER, sys.executable, "-s", "-P", "-c", PLAIN],
            env=os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    ask, answer = _plain.server.stdin, _plain.server.stdout
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        program = f"{case.problem.preamble}\n{case.source}\n{case.plain}"
        (place / "program.py").write_text(program, encoding="utf-8", errors="surrogatepass")
        for number, (stdin, expected) in enumerate(case.stdins):
            (place / "stdin").write_text(stdin)
            own = place / str(number)
            own.mkdir()
            limits = (patience * PLAIN_CPU_S, patience * PLAIN_WALL_S, PLAIN_MEMORY_BYTES)
            print(json.dumps([str(own), *limits]), file=ask, flush=True)
            status = int(answer.readline())
            words = (place / "err").read_bytes().decode("utf-8", "replace").strip().splitlines()
            if status != 0:
                return False, words[-1][:200] if words and status > 0 else f"status {status}"
            out = (place / "out").read_bytes()
            if expected is not None and out.split() != expected.encode().split():
                return False, f"printed {out[:200]!r}"
    return True, "passed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the problem sets")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mutants", type=int, default=4, help="of each canonical solution")
    parser.add_argument("--limit", type=int, help="problems of each data set, evenly spaced")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    # Where two differed in haste, they are asked again.
    done = {
        r["key"]
        for r in written(arguments.output)
        if r["passed"] == r["plain_passed"] or r["patience"] > 1
    }
    todo = list(cases(arguments.folder, arguments.mutants, arguments.limit, done))
    random.Random(0).shuffle(todo)  # so that a part of it says something of all
    limits = Limits(cpu_s=CPU_S, wall_s=WALL_S)
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(name)]
    with (
        Judge(arguments.workers, limits, libraries=libraries) as judge,
        ThreadPoolExecutor(arguments.workers) as pool,
        arguments.output.open("a") as file,
    ):
        records = pool.map(lambda case: (case, compare(judge, case)), todo)
        different = []
        for count, (case, record) in enumerate(records, 1):
            write(file, record)
            if record["passed"] != record["plain_passed"]:
                different.append(case)
            if count % 100 == 0:
                print(f"{count} of {len(todo)}", file=sys.stderr)
        for case in different:
            print(f"once more, alone: {case.key}", file=sys.stderr)
            write(file, compare(judge, case, PATIENCE))
    return summary(written(arguments.output))


def compare(judge: Judge, case: Case, patience: int = 1) -> dict[str, Any]:
    """Judge a program and run it plainly; return the line of the output."""
    limits = Limits(cpu_s=patience * CPU_S, wall_s=patience * WALL_S)
    program = program_of(case.problem, case.source)
    submission = Submission(program, case.problem.tests, limits, stop_at_first_failure=True)
    verdict = judge.submit_all(submission).result()
    passed, words = passes_plainly(case, patience)
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
            "why": explanation(case, verdict, words),
            "status": str(verdict.status),
            "message": verdict.message,
            "plain": words,
            "source": case.source,
        }
    return record


def explanation(case: Case, verdict: Verdict, words: str) -> str:
    """Return the class of a difference. What is in none of them is unexplained."""
    limits = (Status.CPU_TIME_LIMIT, Status.WALL_TIME_LIMIT, Status.MEMORY_LIMIT)
    if verdict.status in limits or words in (
        "MemoryError",
        "status -9",
        "status -14",
        "status -24",
    ):
        return "a limit that one side reached and the other did not"
    tests = case.problem.tests
    if verdict.passed and isinstance(tests, CallTests) and "AssertionError" in words:
        return "floats within the tolerance, or what counts as a list (sandbox/compare.py)"
    names = [defined(text) for text in (case.source, "\n".join(test_code(tests)))]
    if both := names[0] & names[1]:
        return (
            f"program and test each define {min(both)}; plainly the test's replaces the program's"
        )
    if isinstance(tests, CodeTests):
        try:
            numpy = "numpy" in case.source
            screen.screen(ast.parse(case.source), case.problem.entry_point, {}, numpy=numpy)
        except screen.RefusedError as error:
            return f"not on the allow-list, so the tests meet stand-ins ({error})"
    return "unexplained"


def defined(source: str) -> set[str]:
    """Return the functions and classes that code defines."""
    try:
        return {node.name for node in ast.parse(source).body if hasattr(node, "name")}
    except SyntaxError:
        return set()


def written(path: Path) -> list[dict[str, Any]]:
    """Return the last record of each key."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list({r["key"]: r for r in map(json.loads, lines)}.values())


def write(file: TextIO, record: dict[str, Any]) -> None:
    """Append a line, so that a killed run has it."""
    file.write(json.dumps(record) + "\n")
    file.flush()


def summary(records: list[dict[str, Any]]) -> int:
    """Print a table and each difference; return the exit status."""
    print(
        "| data set | canonical: agree | pass | mutants: agree | pass | canonical, numpy: agree "
        "| mutants, numpy: agree |\n|---|---|---|---|---|---|---|"
    )
    for data_set in SETS:
        parts: dict[tuple[bool, bool], list[dict[str, Any]]] = {}
        for r in records:
            if r["data_set"] == data_set:
                part = r["key"].endswith(" numpy"), r["kind"] != "canonical"
                parts.setdefault(part, []).append(r)
        cells = []
        for numpy, mutated in ((False, False), (False, True), (True, False), (True, True)):
            mine = parts.get((numpy, mutated), [])
            agree = sum(r["passed"] == r["plain_passed"] for r in mine)
            cells += [f"{agree} of {len(mine)}", f"{sum(r['passed'] for r in mine)}"][: 2 - numpy]
        if parts:
            print(f"| {data_set} | {' | '.join(cells)} |")
    different = [r for r in records if r["passed"] != r["plain_passed"]]
    for r in sorted(different, key=lambda r: (r["why"], r["key"])):
        print(f"\n{r['key']} ({r['kind']}): {r['why']}\n  ours {r['status']}: {r['message']}")
        print(f"  plain {'pass' if r['plain_passed'] else 'fail'}: {r['plain']}")
    print(f"\n{dict(Counter(r['why'] for r in different))}")
    return 1 if any(r["why"] == "unexplained" for r in different) else 0


if __name__ == "__main__":
    sys.exit(main())
