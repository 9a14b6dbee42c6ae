"""Executed lines: the same as a plain sys.settrace tracer reports, crash or not."""

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stepcoder.sandbox import AssertTests, CallTests, Judge, Limits, Program, StdinTests

DATA = Path(os.environ.get("STEPCODER_DATA", Path(__file__).parents[3] / "shared" / "data"))


def reference_lines(program: Program, calls: list[list[Any]]) -> set[int]:
    """Run the program here under sys.settrace and return the lines of its 'line' events."""
    code = compile(program.source, "<reference>", "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program.preamble, "<preamble>", "exec", dont_inherit=True), namespace)
    lines: set[int] = set()

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != "<reference>":
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        exec(code, namespace)
        for arguments in calls:
            eval(program.entry_point or "", namespace)(*arguments)
    finally:
        sys.settrace(before)
    return lines


def test_lines_match_the_reference_on_every_kind_of_statement(judge: Judge) -> None:
    source = '''"""Doc."""
from dataclasses import dataclass

@dataclass
class Point:
    x: int = 0

    @property
    def norm(self):
        return abs(
            self.x
        )

def decorated(f):
    return f

@decorated
def f(n):
    total = 0
    for i in range(n):
        if i % 2: continue
        elif i > 100:
            total += 1000
        else:
            total += i
    while n > 0: n -= 1
    try:
        [][0]
    except IndexError:
        total += 1
    else:
        total += 2
    finally:
        total += 3
    with open_nothing() as x: total += x
    squares = [
        i * i
        for i in range(3)
        if i
    ]
    g = lambda: (
        total
    )
    match total:
        case 1: pass
        case [a, b]:
            pass
        case _:
            total += g() + sum(squares)
    return (total,
            Point(3).norm, *gen())

def gen():
    yield 1
    yield 2
    return
    yield 3

import contextlib
@contextlib.contextmanager
def open_nothing():
    try:
        yield 1
    finally:
        pass

async def never():
    await never()

x = 1; y = 2
if x: z = 3
'''
    program = Program(source, "f")
    verdict = judge.run(program, CallTests(([5],), (0,)))
    assert verdict.executed_lines == reference_lines(program, [[5]])


def test_lines_before_a_sudden_end_are_kept(judge: Judge) -> None:
    for end in (
        "import os; os._exit(3)",
        "while True: pass",
        "import os; os.abort()",
        "f = lambda g: g(g); f(f)",
    ):
        source = f"x = 1\nif x:\n    y = 2\n    {end}\nz = 3\n"
        limits = Limits(cpu_s=0.3)
        verdict = judge.run(Program(source), StdinTests(("",), ("",)), limits)
        assert verdict.executed_lines == {1, 2, 3, 4}, end


def test_lines_belong_to_the_test_that_ran_them(judge: Judge) -> None:
    source = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    verdict = judge.run(Program(source, "f"), CallTests(([1], [0], [1]), (1, 2, 1)))
    lines = [test.executed_lines for test in verdict.tests]
    assert lines == [{1, 2, 3}, {1, 2, 4}, {1, 2, 3}]


def test_code_that_the_program_makes_itself_is_not_counted(judge: Judge) -> None:
    source = "def f():\n    exec('a = 1\\n\\n\\n\\n\\nb = 2')\n    return 0\n\n\n\n"
    verdict = judge.run(Program(source, "f"), CallTests(([],), (0,)))
    assert verdict.executed_lines == {1, 2, 3}


def test_lines_in_threads_count(judge: Judge) -> None:
    source = (
        "import threading\ndef work():\n    a = 1\n    print(a)\n"
        "t = threading.Thread(target=work)\nt.start()\nt.join()\n"
    )
    verdict = judge.run(Program(source), StdinTests(("",), ("1",)))
    assert verdict.passed
    assert verdict.executed_lines == {1, 2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    "tampering",
    [
        "sys.settrace(None)",
        "sys.settrace(lambda *a: None)",
        "sys.setprofile(None)",
        "[sys.monitoring.free_tool_id(i) for i in range(6)] if hasattr(sys, 'monitoring') else 0",
        "[sys.monitoring.set_events(i, 0) for i in range(6)] if hasattr(sys, 'monitoring') else 0",
        "threading.settrace(None)",
    ],
)
def test_tracing_cannot_be_switched_off(judge: Judge, tampering: str) -> None:
    source = (
        f"import sys, threading\ntry:\n    {tampering}\nexcept Exception: pass\n"
        "def f(x):\n    y = x\n    return y\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([1],), (1,)))
    assert verdict.passed
    assert verdict.executed_lines >= {1, 2, 3, 5, 6, 7}


def load(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: set STEPCODER_DATA")
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["leetcode_train.jsonl.gz", "quixbugs.jsonl"])
def test_lines_match_the_reference_on_real_programs(judge: Judge, name: str) -> None:
    problems = [p for p in load(name) if p["tests"]["kind"] == "call"][::17]
    for problem in problems:
        program = Program(
            problem["canonical_solution"], problem["entry_point"], problem.get("preamble", "")
        )
        inputs = [list(arguments) for arguments in problem["tests"]["inputs"]]
        tests = CallTests(tuple(inputs), tuple(problem["tests"]["outputs"]))
        verdict = judge.run(program, tests)
        assert verdict.passed, (problem["task_id"], verdict.message)
        if "kheapsort" in problem["task_id"] or "flatten" in problem["task_id"]:
            continue  # generators: the reference above does not run them
        expected = reference_lines(program, json.loads(json.dumps(inputs)))
        assert verdict.executed_lines == expected, problem["task_id"]


@pytest.mark.parametrize(
    "name", ["humaneval.jsonl", "mbpp.jsonl", "thealgorithms.jsonl.gz", "leetcode_train.jsonl.gz"]
)
def test_a_sample_of_canonical_solutions_passes(judge: Judge, name: str) -> None:
    for problem in load(name)[5::67]:
        tests = problem["tests"]
        program = Program(
            problem["canonical_solution"], problem["entry_point"], problem.get("preamble", "")
        )
        judged = (
            CallTests(tuple(tests["inputs"]), tuple(tests["outputs"]))
            if tests["kind"] == "call"
            else AssertTests(tuple(tests.get("asserts") or [tests["code"]]), tests.get("setup", ""))
        )
        verdict = judge.run(program, judged, Limits(cpu_s=10.0, wall_s=300.0))
        assert verdict.passed, (problem["task_id"], verdict.message)
