"""Libraries beside the standard one: who gets them, and what is said where one is missing."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    LibraryError,
    Limits,
    Program,
    Status,
    StdinTests,
    UnittestTests,
)

# A function for each library, and what it returns for 3.
USES = {
    "numpy": ("return numpy.random.default_rng(0).integers(1, 2, x).sum() * numpy.ones(1)[0]", 3),
    "sortedcontainers": ("return list(sortedcontainers.SortedList([x, 1, 2]))", [1, 2, 3]),
    "sympy": ("return str(sympy.factor(sympy.Symbol('y') ** 2 - x ** 2))", "(y - 3)*(y + 3)"),
    "scipy": ("return round(scipy.optimize.brentq(lambda y: y - x, 0, 9))", 3),
    "pandas": ("return pandas.Series([1, x], dtype='int64').mean()", 2.0),
    "networkx": ("return networkx.shortest_path(networkx.cycle_graph(5), 0, x)", [0, 4, 3]),
}  # fmt: skip
HERE = [name for name in USES if find_spec(name)]
FIX = "is not among this judge's libraries; Judge(libraries=...) or sandbox.libraries=..."


def program(name: str) -> Program:
    body = USES[name][0].replace("\n", "\n    ")
    return Program(f"import {name}\ndef f(x):\n    {body}\n", "f")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    limits = Limits(cpu_s=5.0, wall_s=60.0, memory_bytes=256 << 20)
    with Judge(workers=1, limits=limits, libraries=HERE) as judge:
        yield judge


@pytest.mark.parametrize("name", HERE)
def test_programs_and_tests_use_a_library(judge: Judge, name: str) -> None:
    expected = USES[name][1]
    verdict = judge.run(program(name), CallTests(([3],), (expected,)))
    assert verdict.passed, verdict.message
    test = f"import {name} as library\nassert library.__name__ and f(3) == {expected!r}"
    verdict = judge.run(program(name), AssertTests((test,)))
    assert verdict.passed, verdict.message
    test = f"{program(name).source}assert f(3) == {expected!r} == g()"
    verdict = judge.run(Program(f"def g(): return {expected!r}", "g"), AssertTests((test,)))
    assert verdict.passed, verdict.message


def test_more_sets_of_libraries_than_a_slot_has_workers(judge: Judge) -> None:
    for _ in range(2):
        for name in HERE:
            assert judge.run(program(name), CallTests(([3],), (USES[name][1],))).passed
            assert judge.run(Program("def f(x): return x", "f"), CallTests(([3],), (3,))).passed


def test_a_program_that_names_no_library_has_none(judge: Judge) -> None:
    source = """
import os, sys
def f():
    return [m for m in sys.modules if 'num' + 'py' in m or m == 'ctypes'], [
        name for folder, names, _ in os.walk('/') for name in names if 'num' + 'py' in name]
"""
    verdict = judge.run(Program(source, "f"), CallTests(([],), (([], []),)))
    assert verdict.passed, verdict.message


def test_only_the_libraries_are_there_not_what_lies_beside_them(judge: Judge) -> None:
    beside = Path(pytest.__file__).parent
    source = f"""
import importlib, os, {HERE[0]}
def f():
    try: return importlib.import_module('py' + 'test').__name__
    except ImportError: return os.path.exists({str(beside)!r})
"""
    assert judge.run(Program(source, "f"), CallTests(([],), (False,))).passed


def test_memory_counts_beyond_what_is_loaded(judge: Judge) -> None:
    name = HERE[-1]
    limits = Limits(cpu_s=5.0, wall_s=60.0, memory_bytes=64 << 20)
    small = Program(f"import {name}\ndef f(n): return len(bytearray(n))", "f")
    assert judge.run(small, CallTests(([32 << 20],), (32 << 20,)), limits).passed
    verdict = judge.run(small, CallTests(([80 << 20],), (80 << 20,)), limits)
    assert verdict.status is Status.MEMORY_LIMIT


@pytest.mark.parametrize("tests", [CallTests(([],), (1,)), StdinTests(("",), ("1",))])
def test_a_library_that_a_program_lacks_is_named(
    judge: Judge, tests: CallTests | StdinTests
) -> None:
    entry_point = "f" if isinstance(tests, CallTests) else None
    verdict = judge.run(Program("import absent.part\ndef f(): return 1", entry_point), tests)
    assert verdict.status is Status.RUNTIME_ERROR
    assert verdict.message == f"ModuleNotFoundError: absent {FIX}"
    assert (verdict.error_type, verdict.error_line) == ("ModuleNotFoundError", 1)
    verdict = judge.run(Program("import _ctypes_test", None), StdinTests(("",), ("1",)))
    assert FIX not in verdict.message


NEEDS = "def check(f):\n    import os, absent.part as a\n    assert f() == 1\ncheck(f)"
COPES = "try:\n    import absent\nexcept ImportError:\n    absent = None\nassert f() == 1 or absent"
QUOTES = "'''\nimport absent\n'''\nassert f() == 1"


def test_a_library_that_the_tests_lack_is_the_judges_failure(judge: Judge) -> None:
    one = Program("def f(): return 1", "f")
    cases = "import unittest, absent\nclass T(unittest.TestCase):\n    def test(self): pass"
    lacking = [
        (one, AssertTests((NEEDS,))),
        (one, AssertTests(("assert f() == 1",), setup="import absent")),
        (one, AssertTests((NEEDS,), shared_process=True)),
        (one, UnittestTests(cases)),
        (Program(one.source, "f", preamble="from absent import *"), CallTests(([],), (1,))),
    ]
    for submitted, tests in lacking:
        verdict = judge.run(submitted, tests)
        assert verdict.status is Status.INFRASTRUCTURE_ERROR
        assert verdict.message == f"the tests import absent, which {FIX}"
        assert len(verdict.tests) == 1
    for test in (COPES, QUOTES):
        assert judge.run(one, AssertTests((test,))).passed


def test_a_library_that_is_not_installed_is_refused_at_once() -> None:
    with pytest.raises(LibraryError, match="'absent' is not installed; pip install absent"):
        Judge(workers=1, libraries=("absent",))


def test_a_library_that_starts_threads_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (tmp_path / "quiet.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Judge(workers=1, libraries=("threaded", "quiet")) as judge:
        verdict = judge.run(
            Program("import threaded\ndef f(): return 7", "f"), CallTests(([],), (7,))
        )
        assert verdict.status is Status.INFRASTRUCTURE_ERROR
        assert "importing threaded starts threads; leave it out" in verdict.message
        quiet = Program("import quiet\ndef f(): return quiet.value", "f")
        assert judge.run(quiet, CallTests(([],), (7,))).passed


def test_tests_that_were_written_for_pytest_use_its_helpers() -> None:
    setup = """
import pytest
from pytest import approx, raises
def test_raises():
    with pytest.raises(ValueError, match="neg") as caught:
        half(-1)
    assert str(caught.value) == "negative"
def test_values():
    assert half(3) == approx(1.5) and [half(1)] == pytest.approx([0.5])
    with raises((TypeError, KeyError)):
        half("a")
"""
    source = """
def half(x):
    if not isinstance(x, str) and x < 0:
        raise ValueError("negative")
    return x / 2
"""
    tests = AssertTests(("test_raises()", "test_values()"), setup)
    with Judge(workers=1, limits=Limits(cpu_s=5.0, wall_s=60.0), libraries=("pytest",)) as judge:
        for start in ("", "import inspect"):  # in the program's process, and in one of their own
            assert judge.run(Program(start + source, "half"), tests).passed
            for right, wrong in (
                ("raise ValueError", "raise KeyError"),
                ("raise ValueError", "return ValueError"),
                ('"negative"', '"below 0"'),
                ("x / 2", "x / 2 + 1e-3"),
                ("x / 2", "0.5"),
            ):
                changed = source.replace(right, wrong)
                assert not judge.run(Program(start + changed, "half"), tests).passed, wrong
