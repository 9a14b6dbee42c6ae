"""Assert tests: run in a process of their own, as if they shared the program's namespace."""

import pytest

from stepcoder.sandbox import AssertTests, Judge, Program, Status

LENDS = """
import io
class Stream(io.RawIOBase):
    def readable(self): return True
    def readinto(self, buffer):
        buffer[:3] = b"abc"
        return 3
def f(n): return io.BufferedReader(Stream()).read(n).decode()
"""

PROGRAM = """
import math
LIMIT = 7
calls = 0

class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, x):
        self.items.append(x)
        return self
    def __len__(self):
        return len(self.items)
    def __eq__(self, other):
        return self.items == other.items
    def __getitem__(self, i):
        return self.items[i]

class TooBig(ValueError):
    pass

def double(x, *, times=1):
    return x * 2 * times

def fill(items, grid, d):
    items.append(1)
    grid[1][0] = 5
    d["k"] = items

def check(x):
    if x > LIMIT:
        raise TooBig(f"{x} is too big")
    return [][x]

def apply(f, xs):
    return [f(x) for x in xs]

def count():
    n = 0
    while True:
        yield n
        n += 1

def pair(a):
    return (a, {a: {a}}, None, 1.5, "s", b"b")
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert double(3) == 6 and double(x=1, times=3) == 6",
        "assert LIMIT == 7 and math.pi > 3",
        "items = []\ngrid = [[0], [0]]\nd = {}\nrow = grid[1]\nfill(items, grid, d)\n"
        "assert items == [1] and row == [5] and d == {'k': [1]}",
        "try:\n    check(9)\nexcept TooBig as e:\n    assert '9 is too big' in str(e)\n"
        "else:\n    assert False",
        "try:\n    check(9)\nexcept ValueError:\n    pass\nelse:\n    assert False",
        "try:\n    check(1)\nexcept IndexError:\n    pass\nelse:\n    assert False",
        "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]",
        "assert apply(abs, [-1, 2]) == [1, 2] and apply(str, [1]) == ['1']",
        "assert apply(double, [4]) == [8]",
        "c = count()\nassert [next(c), next(c)] == [0, 1]",
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 1, 2]",
        "s = Stack([1]).push(2)\nassert len(s) == 2 and s.items == [1, 2] and s[1] == 2",
        "assert Stack([1]) == Stack([1]) and Stack([1]) != Stack([2])",
        "assert pair(1) == (1, {1: {1}}, None, 1.5, 's', b'b')",
        "assert isinstance(pair(1), tuple) and isinstance(pair(1)[1][1], set)",
        "assert double.__name__ == 'double'",
        "import random\nrandom.seed(3)\nassert random.random() < 1",
    ],
)
def test_test_code_sees_the_program_as_if_it_were_there(judge: Judge, test: str) -> None:
    verdict = judge.run(Program(PROGRAM, "double"), AssertTests((test,)))
    assert verdict.status is Status.ACCEPTED, verdict
    assert not verdict.shared_process


def test_each_assert_has_its_own_verdict_and_lines(judge: Judge) -> None:
    source = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    tests = AssertTests(("assert f(1) == 1", "assert f(0) == 3", "assert f(0) == two"), "two = 2")
    verdict = judge.run(Program(source, "f"), tests)
    statuses = [t.status for t in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.WRONG_ANSWER, Status.ACCEPTED]
    assert verdict.tests[0].executed_lines == {1, 2, 3}
    assert verdict.tests[1].executed_lines == {1, 2, 4}
    assert verdict.executed_lines == {1, 2, 3, 4}


def test_an_exception_of_the_program_keeps_its_type_and_line(judge: Judge) -> None:
    tests = AssertTests(("assert f(1) == 1", "assert f(0) == 1"))
    verdict = judge.run(Program("def f(x):\n    return 1 // x\n", "f"), tests)
    assert (verdict.status, verdict.error_type) == (Status.RUNTIME_ERROR, "ZeroDivisionError")
    assert verdict.error_line == 2


def test_a_program_s_own_failed_assert_is_a_runtime_error(judge: Judge) -> None:
    program = Program("def f(x):\n    assert x\n", "f")
    assert judge.run(program, AssertTests(("f(0)",))).status is Status.RUNTIME_ERROR


def test_what_a_test_raises_on_a_wrong_value_is_a_wrong_answer(judge: Judge) -> None:
    program = Program("def f(x):\n    return None\n", "f")
    verdict = judge.run(program, AssertTests(("assert len(f(1)) == 2",)))
    assert verdict.status is Status.WRONG_ANSWER


def test_a_name_that_the_program_lacks_is_a_runtime_error(judge: Judge) -> None:
    verdict = judge.run(Program("def g(x): pass", "f"), AssertTests(("assert f(1) == 2",)))
    assert (verdict.status, verdict.error_type) == (Status.RUNTIME_ERROR, "NameError")


def test_test_code_that_does_not_compile_is_the_judge_s_failure(judge: Judge) -> None:
    verdict = judge.run(Program("def f(x): pass", "f"), AssertTests(("assert f(1 ==",)))
    assert verdict.status is Status.INFRASTRUCTURE_ERROR


NODE = """
class Node:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next

def chain(values):
    head = None
    for v in reversed(values):
        head = Node(v, head)
    return head

def same(a, b):
    while a and b and a.val == b.val:
        a, b = a.next, b.next
    return not a and not b
"""
REVERSE = """
class Solution:
    def reverse(self, head):
        new = None
        while head:
            head.next, new, head = new, head, head.next
        return new
"""


def test_objects_of_preamble_classes_cross_as_data(judge: Judge) -> None:
    program = Program(REVERSE, "Solution().reverse", NODE)
    big = "assert same(Solution().reverse(chain(range(5000))), chain(range(4999, -1, -1)))"
    verdict = judge.run(program, AssertTests(("assert Solution().reverse(None) is None", big)))
    assert verdict.passed, verdict.message


def test_the_preamble_s_helpers_are_the_tests_own(judge: Judge) -> None:
    liar = "same = lambda a, b: True\nclass Solution:\n    def reverse(self, head): return None\n"
    test = "assert same(Solution().reverse(chain([1, 2])), chain([2, 1]))"
    verdict = judge.run(Program(liar, "Solution().reverse", NODE), AssertTests((test,)))
    assert verdict.status is Status.WRONG_ANSWER


def test_a_crash_ends_its_test_and_those_after_it(judge: Judge) -> None:
    source = "import os\ndef f(x):\n    if x: os._exit(0)\n    return x\n"
    asserts = ("assert f(f(0)) == 0", "assert f(1) == 1", "assert f(0) == 0")
    verdict = judge.run(Program(source, "f"), AssertTests(asserts))
    statuses = [t.status for t in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.RUNTIME_ERROR, Status.NOT_RUN]


def test_shared_tests_run_in_the_program_and_say_so(judge: Judge) -> None:
    program = Program("import sys\ndef f(x): return x\n", "f")
    test = "assert sys._getframe().f_globals['f'] is f"
    verdict = judge.run(program, AssertTests((test, "assert f(1) == 2"), shared_process=True))
    assert verdict.shared_process
    assert [t.status for t in verdict.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]


def test_a_program_that_is_lent_memory_does_not_share_its_process_and_is_judged(
    judge: Judge,
) -> None:
    program = Program(LENDS, "f")
    assert judge.run(program, AssertTests(("text = f(5)\nassert text == 'abcab'",))).passed
    wrong = judge.run(program, AssertTests(("text = f(5)\nassert text == 'abcba'",)))
    assert wrong.status is Status.WRONG_ANSWER
