"""Executed lines of each test equal those of sys.settrace, whatever a program does to itself."""

from __future__ import annotations

import sys

import pytest
from helpers.coverage_edge_cases import EDGE_CASES
from helpers.crafted import CRAFTED
from helpers.lines_by_test import judged, reference
from helpers.random_programs import GENERATOR_CALLS, PREAMBLE, random_generators, random_program
from helpers.reference_runs import job_of_program, run_jobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepcoder.sandbox import CallTests, Judge, Program, StdinTests, Submission

# With sys.monitoring a generator that goes on in a later test can report its line less often.
ACROSS_TESTS = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="settrace and sys.monitoring differ on resumed lines"
)
CLASS_BODY_ALONE = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="of a class body that runs without its statement sys.monitoring leaves out line 1",
)
RESUMED = (
    "a generator goes on in later tests",
    "a generator is resumed within a loop on one line",
    "coroutines driven by hand",
    "exceptions are thrown into a suspended generator",
    "generator expressions of several lines go on in later tests",
    "yield from and close",
    "a thread waits from one test to a later one",
    "code is replaced in a test, while a generator is suspended",
)


MARKS = {name: ACROSS_TESTS for name in RESUMED} | {"code is run in other ways": CLASS_BODY_ALONE}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in EDGE_CASES]
)
def test_each_test_has_the_lines_of_settrace(judge: Judge, name: str) -> None:
    source, calls = EDGE_CASES[name]
    program = Program(source, "f")
    expected, values = reference(program, calls)
    verdict = judge.run(program, CallTests(tuple(calls), tuple(values)))
    assert verdict.passed, verdict.message
    assert [test.executed_lines for test in verdict.tests] == expected
    assert not verdict.tampered


def test_crafted_and_random_programs_have_the_lines_of_settrace(judge: Judge) -> None:
    sources = CRAFTED | {f"random {seed}": random_program(seed) for seed in range(400)}
    jobs = [job_of_program(*item) | {"only_seen": True} for item in sources.items()]
    expected = run_jobs(sys.executable, jobs)
    runs = (
        Submission(Program(s, None, PREAMBLE), StdinTests(("",), ("",))) for s in sources.values()
    )
    found = {list(sources)[i]: verdict.executed_lines for i, verdict in judge.map(runs)}
    assert {name for name in sources if found[name] != expected[name].seen} == set()


@ACROSS_TESTS
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10**6))
@pytest.mark.filterwarnings("ignore")  # generators that go on when they are closed
def test_generators_that_outlive_a_test_have_the_lines_of_settrace(judge: Judge, seed: int) -> None:
    program = Program(random_generators(seed), "f", PREAMBLE)
    calls = [[i] for i in range(GENERATOR_CALLS)]
    try:
        expected, _ = reference(program, calls)
    except SyntaxError:  # `return` or `yield` where there may be none
        return
    found = judged(judge, program, calls)
    assert [test.executed_lines for test in found.tests] == expected


def test_code_compiled_under_the_programs_own_file_name_is_none_of_its_source(judge: Judge) -> None:
    source = (
        "def f(n):\n    if n:\n        text = '\\n' * 5 + 'x = 1'\n"
        "        exec(compile(text, f.__code__.co_filename, 'exec'))\n    return n\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([0], [1], [0]), (0, 1, 0)))
    assert verdict.passed
    assert verdict.tampered
    assert verdict.executed_lines == set()


def test_an_error_names_its_line(judge: Judge) -> None:
    text = "    x = [1,\n         2]\n" * 200
    source = f"def f(n):\n{text}    return (1 +\n        n /\n        0)\n"
    verdict = judge.run(Program(source, "f"), CallTests(([1],), (1,)))
    assert verdict.error_line == 403
    assert verdict.executed_lines == set(range(1, 405))


def test_no_object_of_the_tracers_is_found(judge: Judge) -> None:
    source = """
import gc, dis, types
def g(n):
    return n
def f(n):
    known = (int, str, float, bytes, tuple, frozenset, type(None), bool, types.CodeType)
    odd = [repr(c) for c in g.__code__.co_consts if not isinstance(c, known)]
    odd += [repr(o) for o in gc.get_objects() if 'probe' in type(o).__name__.lower()]
    odd += [name for name in g.__code__.co_names + g.__code__.co_varnames if name != 'n']
    return odd, g(n), hash(g.__code__) == hash(g.__code__.replace()), len(dis.Bytecode(g).dis()) > 0
"""
    verdict = judge.run(Program(source, "f"), CallTests(([1],), ([[], 1, True, True],)))
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    "attack",
    [
        "import _imp; _imp._fix_co_filename(f.__code__, 'other')",
        "import _imp, importlib.util as u; _imp.create_builtin(u.find_spec('sys')); "
        "f.__code__ = f.__code__.replace(); sys.settrace(None)",
        "f.__code__ = f.__code__.replace(); sys._getframe().f_trace = None; sys.settrace(print)",
        "f.__code__ = f.__code__.replace(co_filename='other')",
        "import marshal; f.__code__ = marshal.loads(marshal.dumps(f.__code__))",
        "import types; c = f.__code__; f = types.FunctionType(c.replace(co_filename='x'), {})",
        "import _launcher; _launcher.trace((lambda: 0).__code__); _launcher.retrace()",
    ],
)
def test_lines_are_right_or_the_verdict_says_tampered(judge: Judge, attack: str) -> None:
    source = (
        f"import sys\ndef f(n):\n    if n:\n        return 1\n    return 2\n"
        f"try: {attack}\nexcept ImportError: pass\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([0],), (2,)))
    assert verdict.passed, verdict.message
    assert verdict.tampered or verdict.executed_lines >= {1, 2, 3, 5}
