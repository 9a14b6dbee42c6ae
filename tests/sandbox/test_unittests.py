"""Unittest tests: each method is a test, run apart from the program or, on request, in it."""

import pytest

from stepcoder.sandbox import AssertTests, Judge, Program, Status, Submission, UnittestTests
from stepcoder.sandbox.unittests import test_names as names_of

A, W, R = Status.ACCEPTED, Status.WRONG_ANSWER, Status.RUNTIME_ERROR
PROGRAM = Program(
    """
class Stack:
    def __init__(self):
        self.items = []
    def push(self, x):
        self.items.append(x)
        return len(self.items)
class EmptyError(Exception):
    pass
def half(x):
    if x < 0:
        raise EmptyError(f"{x} is negative")
    return x // 2 if isinstance(x, int) else x / 2
""".lstrip(),
    "half",
)
KINDS = [
    pytest.param({}, id="apart"),
    pytest.param({"shared_process": True}, id="shared"),
    pytest.param({"process_per_test": True}, id="apart alone"),
    pytest.param({"shared_process": True, "process_per_test": True}, id="shared alone"),
]


def statuses(
    judge: Judge, code: str, options: dict[str, bool], program: Program = PROGRAM
) -> dict[str, Status]:
    tests = UnittestTests(code, **options)
    verdict = judge.run(program, tests)
    assert verdict.shared_process is bool(options.get("shared_process"))
    assert verdict.tests, verdict.message
    short = [name.partition(".test_")[2] for name in tests.names]
    return dict(zip(short, [test.status for test in verdict.tests], strict=True))


@pytest.mark.parametrize("options", KINDS)
def test_what_test_cases_are_made_of_works(judge: Judge, options: dict[str, bool]) -> None:
    code = """
import unittest
from unittest import TestCase, skip, skipIf, expectedFailure

def setUpModule():
    global module_ready
    module_ready = 1

class Base(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = [half(4)]
        cls.addClassCleanup(cls.shared.clear)
    def setUp(self):
        self.stack = Stack()
        self.addCleanup(setattr, self, "stack", None)
    def tearDown(self):
        if "torn" in self._testMethodName:
            self.assertEqual(self.stack.push(1), 7)

class TestAll(Base):
    def test_fixtures(self):
        self.assertEqual((self.shared, module_ready), ([2], 1))
        self.assertEqual(self.stack.push(1), 1)
    def test_fixtures_again(self):
        self.assertEqual(self.stack.push(1), 1)
    def test_wrong(self):
        self.assertEqual(half(3), 2)
    def test_raises(self):
        with self.assertRaises(EmptyError):
            half(-1)
        self.assertRaisesRegex(EmptyError, "is negative", half, -1)
    def test_raises_nothing(self):
        with self.assertRaises(EmptyError):
            half(1)
    def test_almost(self):
        self.assertAlmostEqual(half(0.2), 0.1)
    def test_error(self):
        half([])
    def test_subtests(self):
        for x in range(4):
            with self.subTest(x=x):
                self.assertEqual(half(2 * x), x)
    def test_subtests_wrong(self):
        for x in range(4):
            with self.subTest(x=x):
                self.assertEqual(half(x), x)
    @skip("not yet")
    def test_skipped(self):
        self.fail()
    @skipIf(False, "always")
    def test_not_skipped(self):
        self.assertEqual(half(8), 4)
    def test_skips_itself(self):
        self.skipTest("no time")
    @expectedFailure
    def test_expected(self):
        self.assertEqual(half(1), 1)
    @expectedFailure
    def test_expected_wrongly(self):
        self.assertEqual(half(2), 1)
    def test_torn_down(self):
        pass
    def helper(self):
        self.fail()

if __name__ == "__main__":
    unittest.main()
unittest.main()
"""
    assert statuses(judge, code, options) == {
        "almost": A,
        "error": R,
        "expected": A,
        "expected_wrongly": W,
        "fixtures": A,
        "fixtures_again": A,
        "not_skipped": A,
        "raises": A,
        "raises_nothing": W,
        "skipped": A,
        "skips_itself": W,
        "subtests": A,
        "subtests_wrong": W,
        "torn_down": W,
        "wrong": W,
    }


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(
    ("fixture", "failing"),
    [
        ("@classmethod\n    def setUpClass(cls): half([])", {"a": R, "b": R}),
        ("@classmethod\n    def tearDownClass(cls): assert half(2) == 2", {"b": W}),
        ("def setUp(self): assert half(2) == 2", {"a": W, "b": W}),
        ("@classmethod\n    def setUpClass(cls):\n        cls.addClassCleanup(half, [])", {"b": R}),
    ],
    ids=["setUpClass", "tearDownClass", "setUp", "class cleanup"],
)
def test_a_failing_fixture_fails_its_tests(
    judge: Judge, options: dict[str, bool], fixture: str, failing: dict[str, Status]
) -> None:
    code = f"""
from unittest import TestCase
class TestOne(TestCase):
    {fixture}
    def test_a(self): pass
    def test_b(self): pass
class TestTwo(TestCase):
    def test_c(self): self.assertEqual(half(2), 1)
"""
    if options.get("process_per_test"):  # then each test is the last of its class
        failing = {"a": next(iter(failing.values())), **failing}
    assert statuses(judge, code, options) == {"a": A, "b": A, "c": A, **failing}


@pytest.mark.parametrize("options", KINDS)
def test_a_failing_module_fixture_fails_all(judge: Judge, options: dict[str, bool]) -> None:
    code = """
import unittest
def setUpModule():
    assert half(2) == 2
class TestOne(unittest.TestCase):
    def test_a(self): pass
    def test_b(self): pass
"""
    # In the program's own process, what runs before the first test is all the program's.
    status = R if options.get("shared_process") else W
    assert statuses(judge, code, options) == {"a": status, "b": status}


@pytest.mark.parametrize("options", KINDS)
def test_each_test_has_its_own_lines_and_error(judge: Judge, options: dict[str, bool]) -> None:
    code = """
import unittest
class TestLines(unittest.TestCase):
    def test_a(self): self.assertEqual(half(2), 1)
    def test_b(self): half(-1)
    def test_c(self): Stack().push(1)
"""
    verdict = judge.run(PROGRAM, UnittestTests(code, **options))
    loading = {1, 2, 4, 7, 8, 9}
    assert [test.executed_lines - loading for test in verdict.tests] == [
        {10, 12},
        {10, 11},
        {3, 5, 6},
    ]
    assert (verdict.error_type, verdict.error_line) == ("EmptyError", 11)


@pytest.mark.parametrize("options", KINDS)
def test_a_test_that_nobody_reports_on_does_not_pass(
    judge: Judge, options: dict[str, bool]
) -> None:
    code = """
import unittest
class TestEnd(unittest.TestCase):
    def test_a(self): self.assertEqual(end(0), 0)
    def test_b(self):
        try: end(1)
        except: pass
    def test_c(self): self.assertEqual(end(0), 0)
    @unittest.expectedFailure
    def test_d(self): end(1)
"""
    program = Program("import os\ndef end(x):\n    if x: os._exit(0)\n    return x\n", "end")
    found = statuses(judge, code, options, program)
    after = Status.NOT_RUN if options == {} else A
    assert found == {"a": A, "b": R, "c": after, "d": Status.NOT_RUN if options == {} else R}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    "stop",
    [
        "import unittest\nStop = unittest.case._ShouldStop",
        "class _ShouldStop(Exception): pass\nStop = _ShouldStop\nStop.__module__ = 'unittest.case'",
        "class Stop(BaseException): pass",
        "import unittest\nStop = unittest.SkipTest",
    ],
    ids=["unittest's own", "a namesake", "no error", "a skip"],
)
def test_a_test_that_the_program_stops_has_not_passed(judge: Judge, stop: str, alone: bool) -> None:
    code = """
import unittest
class T(unittest.TestCase):
    def test_call(self):
        self.assertEqual(half(2), 7426119205)
    def test_turned(self):
        self.assertEqual(7426119205, half(2))
class U(unittest.TestCase):
    def setUp(self):
        half(2)
    def test_after_a_fixture(self):
        self.assertEqual(half(2), 7426119205)
class V(unittest.TestCase):
    def test_subtest(self):
        with self.subTest():
            self.assertEqual(half(2), 7426119205)
    def test_made_in_the_test(self):
        self.assertEqual(Stack().push(1), 7426119205)
"""
    program = Program(
        f"{stop}\ndef half(x): raise Stop()\nclass Stack:\n    def __init__(self): raise Stop()\n",
        "half",
    )
    verdict = judge.run(program, UnittestTests(code, process_per_test=alone))
    assert {test.status for test in verdict.tests} <= {W, R}, verdict
    assert verdict.status in (W, R)


def test_a_builtin_that_a_test_hands_over_opens_nothing(judge: Judge) -> None:
    walk = """
def f(function, *arguments):
    # The program does not have the number itself.
    number = "type(c) is int and c - 1 == 7426119204"
    walk = f"[c for c in __import__('sys')._getframe(%d).f_code.co_consts if {number}]"
    for depth in range(12):
        for how in (lambda: function(walk % depth),
                    lambda: function(object, "__subclasses__")()[0].__init__.__globals__):
            try:
                if found := how():
                    return found[0]
            except Exception:
                pass
"""
    for function in ("eval", "getattr", "vars", "exec", "type", "compile", "print", "map"):
        tests = AssertTests((f"x = 1\nassert f({function}, '2 + 3') == 7426119205",))
        assert not judge.run(Program(walk, "f"), tests).passed, function


def test_names_that_the_module_lacks_are_the_judge_s_failure(judge: Judge) -> None:
    code = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n"
    tests = UnittestTests(code, ("T.test_a", "T.test_b", "U.test_a", "test_c", "half.test_d"))
    verdict = judge.run(PROGRAM, tests)
    assert [t.status for t in verdict.tests] == [A, *[Status.INFRASTRUCTURE_ERROR] * 4]
    assert "the tests have no T.test_b" in verdict.message


def test_names_may_say_which_tests_run(judge: Judge) -> None:
    code = """
import unittest
for n in range(3):
    globals()[f"T{n}"] = type(f"T{n}", (unittest.TestCase,), {
        f"test_{n}": lambda self, n=n: self.assertEqual(half(2 * n), n)
    })
"""
    verdict = judge.run(PROGRAM, UnittestTests(code, ("T2.test_2", "T0.test_0")))
    assert [t.status for t in verdict.tests] == [A, A]


def test_nothing_is_accepted_where_every_test_is_skipped(judge: Judge) -> None:
    code = """
import unittest
@unittest.skip("all")
class T(unittest.TestCase):
    def test_a(self): self.fail()
    def test_b(self): self.fail()
"""
    verdict = judge.run(PROGRAM, UnittestTests(code))
    assert verdict.status is Status.INFRASTRUCTURE_ERROR
    assert verdict.message == "skipped: all"


def test_the_first_failure_can_be_the_last_test(judge: Judge) -> None:
    code = """
import unittest
class T(unittest.TestCase):
    def test_a(self): self.assertEqual(half(2), 1)
    def test_b(self): self.assertEqual(half(2), 2)
    def test_c(self): self.assertEqual(half(2), 1)
"""
    for alone in (False, True):
        tests = UnittestTests(code, process_per_test=alone)
        verdict = judge.submit_all(Submission(PROGRAM, tests, stop_at_first_failure=True)).result()
        assert [t.status for t in verdict.tests] == [A, W, Status.NOT_RUN]


def test_what_does_not_compile_or_load_is_said_for_every_test(judge: Judge) -> None:
    code = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n"
    for options in ({}, {"shared_process": True}, {"process_per_test": True}):
        tests = UnittestTests(code, **options)
        assert judge.run(Program("def f(:", "f"), tests).status is Status.COMPILE_ERROR
        assert judge.run(Program("1 // 0", "f"), tests).error_type == "ZeroDivisionError"
        broken = UnittestTests("def f(:", ("T.test_a",), **options)
        assert not judge.run(PROGRAM, broken).passed
    assert judge.run(PROGRAM, UnittestTests("def f(:", ("a.b",))).status == "infrastructure error"


def test_tests_that_need_the_program_s_own_objects_can_share_its_process(judge: Judge) -> None:
    code = """
import unittest
from unittest.mock import patch
class T(unittest.TestCase):
    def test_a(self):
        with patch("builtins.print") as out:
            greet()
        out.assert_called_once_with("hello")
"""
    program = Program("def greet(): print('hello')", "greet")
    assert judge.run(program, UnittestTests(code, shared_process=True)).passed


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (
            "import unittest\nclass B(unittest.TestCase):\n def test_2(self): pass\n"
            " async def test_1(self): pass\n def other(self): pass\n"
            "class A(B):\n def test_3(self): pass\n",
            ("A.test_1", "A.test_2", "A.test_3", "B.test_1", "B.test_2"),
        ),
        (
            "from unittest import *\nclass Mixin:\n def test_m(self): pass\n"
            "class T(Mixin, IsolatedAsyncioTestCase): pass\nclass U(Mixin): pass\n",
            ("T.test_m",),
        ),
    ],
)
def test_names_are_read_off_the_code_in_unittest_s_order(code: str, names: tuple[str, ...]) -> None:
    assert names_of(code) == names
    assert UnittestTests(code).names == names
    assert len(UnittestTests(code)) == len(names)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 1", "no class"),
        ("class A(A): pass\nclass B(C): pass\nclass C(B):\n def test_a(self): pass", "no class"),
        ("def f(", "not parse"),
        ("x = '\0'", "not parse"),
        ("(" * 10_000, "not parse"),
        ("#" * (2 << 20), "1 MiB"),
    ],
    ids=["none", "circular", "syntax", "nul", "nesting", "large"],
)
def test_code_without_tests_is_refused(code: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        UnittestTests(code)
