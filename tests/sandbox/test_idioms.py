"""Everyday idioms of tests: the judge's verdict is plain CPython's, for right and wrong programs.

Each idiom is a test and a change that makes the program wrong for it; many bring a program of their
own. CPython's verdict comes from running program and test in one namespace of another interpreter.
"""

import json
import subprocess
import sys
from pathlib import Path

from stepcoder.sandbox import AssertTests, Judge, Limits, Program, UnittestTests

PROGRAM = """
import asyncio
import copy
import functools
import json
import os
import sqlite3
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Point = namedtuple("Point", "x y")
LIMIT = 7
calls = 0

class Pair(NamedTuple):
    left: int
    right: int = 2

class Colour(Enum):
    RED = "r"
    BLUE = "b"

class Level(IntEnum):
    LOW = 1
    HIGH = 2

@dataclass(order=True)
class Item:
    name: str
    price: float = 1.0
    tags: list = field(default_factory=list)

@dataclass(frozen=True)
class Key:
    a: int

class Money:
    def __init__(self, v):
        self.v = v
        self.log = []
    def __eq__(self, o):
        return self.v == (o.v if isinstance(o, Money) else o)
    def __lt__(self, o):
        return self.v < (o.v if isinstance(o, Money) else o)
    def __gt__(self, o):
        return self.v > (o.v if isinstance(o, Money) else o)
    def __hash__(self):
        return hash(self.v)
    def __add__(self, o):
        return Money(self.v + (o.v if isinstance(o, Money) else o))
    __radd__ = __add__
    def __sub__(self, o):
        return Money(self.v - (o.v if isinstance(o, Money) else o))
    def __truediv__(self, k):
        return Money(self.v / k)
    def __mul__(self, k):
        return Money(self.v * k)
    def __neg__(self):
        return Money(-self.v)
    def __abs__(self):
        return abs(self.v)
    def __bool__(self):
        return self.v != 0
    def __int__(self):
        return int(self.v)
    def __float__(self):
        return float(self.v)
    def __index__(self):
        return self.v
    def __repr__(self):
        return f"Money({self.v})"
    def __str__(self):
        return f"${self.v}"
    def __format__(self, spec):
        return format(self.v, spec)
    def __call__(self, k):
        return self.v * k
    def __contains__(self, k):
        return k == self.v

class Euro(Money):
    rate = 2
    @property
    def dollars(self):
        return self.v * self.rate
    @classmethod
    def of(cls, text):
        return cls(int(text))
    @staticmethod
    def sign():
        return "E"

class Bag:
    def __init__(self, items=()):
        self._items = list(items)
    @property
    def items(self):
        return list(self._items)
    def add(self, x):
        self._items.append(x)
        return self
    def __len__(self):
        return len(self._items)
    def __iter__(self):
        return iter(self._items)
    def __getitem__(self, i):
        return self._items[i]
    def __setitem__(self, i, x):
        self._items[i] = x
    def __delitem__(self, i):
        del self._items[i]
    def __contains__(self, x):
        return x in self._items
    def __reversed__(self):
        return reversed(self._items)
    def __eq__(self, o):
        return self._items == (o._items if isinstance(o, Bag) else o)

class Shape(ABC):
    __slots__ = ()
    @abstractmethod
    def area(self):
        ...

class Square(Shape):
    __slots__ = ("side",)
    def __init__(self, side):
        self.side = side
    def area(self):
        return self.side ** 2

class Box(Generic[T]):
    def __init__(self, v):
        self.v = v

class TooBig(ValueError):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code

class Node:
    def __init__(self, v, next=None):
        self.v, self.next = v, next

def clean(xs):
    return list(xs)

def leak(bag):
    return bag.items

def fail(code):
    raise TooBig(code)

def fail_from():
    try:
        1 / 0
    except ZeroDivisionError as e:
        raise TooBig(4) from e

def say(text):
    print(text)

def warn_of(text):
    sys.stderr.write(text)

def documented(a, b=2, *rest, c, **more):
    "What it does."
    return a

def count_up(n):
    global calls
    calls += 1
    for i in range(n):
        yield i

def ask():
    return input("name? ").strip()

def total():
    return sum(int(line) for line in sys.stdin)

def store(path, value):
    with open(path, "w") as f:
        json.dump(value, f)

def rows(path):
    with sqlite3.connect(path) as db:
        db.execute("create table if not exists t (a int)")
        db.execute("insert into t values (3)")
    db.close()

def roll(rng):
    return rng.randint(1, 6)

def now_year():
    return datetime.now().year

def helper():
    return 1

def uses_helper():
    return helper() + 1

@contextmanager
def opened(log):
    log.append("in")
    try:
        yield 5
    finally:
        log.append("out")

class Suppress:
    def __enter__(self):
        return self
    def __exit__(self, kind, error, tb):
        return kind is not None and issubclass(kind, KeyError)

@functools.lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def twice(f):
    @functools.wraps(f)
    def inner(*a):
        return f(f(*a))
    return inner

async def later(x):
    await asyncio.sleep(0)
    return x + 1

class Registry:
    _one = None
    def __new__(cls):
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

class Typed:
    def __set_name__(self, owner, name):
        self.name = "_" + name
    def __get__(self, obj, owner=None):
        return self if obj is None else getattr(obj, self.name)
    def __set__(self, obj, value):
        if not isinstance(value, int):
            raise TypeError("int wanted")
        setattr(obj, self.name, value)

class Person:
    age = Typed()
    def __init__(self, age):
        self.age = age
    def __getattr__(self, name):
        return f"no {name}"

def in_threads(n):
    out = []
    ts = [threading.Thread(target=out.append, args=(i,)) for i in range(n)]
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    return out

def show(template, x):
    return template.format(x)

def tag(o):
    return o.__class__.__name__, o.__dict__

class MyInt(int):
    pass

class Stamp(datetime):
    pass
"""

# Blocks of a program, where it is not PROGRAM, a test, and the text of the program whose change
# makes it wrong for that test. Tests that define a class T are unittest's.
IDIOMS = [
    (program or PROGRAM, test, tuple(change.removesuffix("\n").split("\n====\n")))
    for block in (Path(__file__).parent / "idioms.txt").read_text().split(">>>>\n")
    for first, change in [block.split("\n<<<<\n")]
    for program, _, test in [first.rpartition("\n----\n")]
]

UNITTEST = """
import io
import unittest
from unittest.mock import MagicMock, patch

class T(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bag = Bag([1, 2])
    def setUp(self):
        self.m = Money(3)
    def test_isinstance(self):
        self.assertIsInstance(Euro(1), Money)
        self.assertNotIsInstance(self.m, Euro)
    def test_equal(self):
        self.assertEqual(self.m, Money(3))
        self.assertNotEqual(self.m, Money(4))
    def test_equal_to_data(self):
        self.assertEqual(self.bag, [1, 2])
        self.assertEqual(self.m, 3)
    def test_in(self):
        self.assertIn(1, self.bag)
        self.assertNotIn(5, self.bag)
    def test_order(self):
        self.assertLess(self.m, Money(4))
        self.assertGreater(self.m, Money(2))
    def test_is(self):
        self.assertIs(Registry(), Registry())
        self.assertIsNone(Node(1).next)
    def test_truth(self):
        self.assertFalse(Money(0))
        self.assertTrue(Money(1))
    def test_raises(self):
        with self.assertRaises(TooBig) as caught:
            fail(5)
        self.assertEqual(caught.exception.code, 5)
        with self.assertRaisesRegex(TooBig, "code 5"):
            fail(5)
    def test_count(self):
        self.assertCountEqual(self.bag, [2, 1])
        self.assertCountEqual([Money(1), Money(2)], [Money(2), Money(1)])
    def test_stdout(self):
        with patch("sys.stdout", new_callable=io.StringIO) as out:
            say("hello")
        self.assertEqual(out.getvalue(), "hello\\n")
    def test_inputs(self):
        with patch("builtins.input", side_effect=["a", "b"]):
            self.assertEqual([ask(), ask()], ["a", "b"])
    def test_mock(self):
        rng = MagicMock()
        rng.randint.return_value = 2
        self.assertEqual(roll(rng), 2)
        rng.randint.assert_called_once()
    def test_patched_method(self):
        with patch.object(Square, "area", return_value=7):
            self.assertEqual(Square(1).area(), 7)
        self.assertEqual(Square(2).area(), 4)
    def test_patched_helper(self):
        with patch(f"{__name__}.helper", return_value=5):
            self.assertEqual(uses_helper(), 6)
        self.assertEqual(uses_helper(), 2)
    def test_subtests(self):
        for n, want in ((1, 1), (10, 55)):
            with self.subTest(n=n):
                self.assertEqual(fib(n), want)
    def test_list_of_objects(self):
        self.assertListEqual([Money(1)], [Money(1)])
        self.assertDictEqual({"a": Money(1)}, {"a": Money(1)})
"""
# A change to the program for each unittest test.
WRONG = {
    "T.test_isinstance": ("Euro(Money)", "Euro"),
    "T.test_equal": ("return self.v == (", "return True or ("),
    "T.test_equal_to_data": ("return self._items == (", "return self._items != ("),
    "T.test_in": ("return x in self._items", "return True"),
    "T.test_order": ("return self.v < (", "return self.v > ("),
    "T.test_is": ("if cls._one is None", "if True"),
    "T.test_truth": ("return self.v != 0", "return True"),
    "T.test_raises": ("self.code = code", "self.code = 0"),
    "T.test_count": ("return self.v == (", "return self is ("),
    "T.test_stdout": ("print(text)", "print(text, text)"),
    "T.test_inputs": ("return input", "return 'a' or input"),
    "T.test_mock": ("return rng.randint(1, 6)", "return 2"),
    "T.test_patched_method": ("self.side ** 2", "self.side * 3"),
    "T.test_patched_helper": ("return helper() + 1", "return 2"),
    "T.test_subtests": ("n < 2", "n < 3"),
    "T.test_list_of_objects": ("return self.v == (", "return self is ("),
}

REFERENCE = """
import json, os, sys, types, unittest
def passes(source, test):
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(source, "program", "exec"), main.__dict__)
    code, _, name = test.partition("\\0")
    exec(compile(code, "test", "exec"), main.__dict__)
    if name:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromName(name, main).run(result)
        assert result.wasSuccessful() and result.testsRun
for source, test in json.load(sys.stdin):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        out = "false"
        try:
            sys.stdout = open(os.devnull, "w")
            passes(source, test)
            out = "true"
        except BaseException:
            pass
        os.write(write, out.encode())
        os._exit(0)
    os.close(write)
    print(os.read(read, 9).decode())
    os.waitpid(child, 0)
    os.close(read)
"""


def wrong(program: str, change: tuple[str, ...]) -> str:
    old, new = change
    assert old in program, change
    return "SHARED = []\n" + program.replace(old, new)


def cpython(pairs: list[tuple[str, str]], folder: Path) -> list[bool]:
    """Return whether plain CPython passes each (program, test)."""
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return [line == "true" for line in done.stdout.split()]


def test_everyday_idioms_have_cpython_s_verdict(judge: Judge, tmp_path: Path) -> None:
    cases = [(program, test) for program, test, _ in IDIOMS]
    changed = [(wrong(program, change), test) for program, test, change in IDIOMS]
    # The name of a class follows for the reference.
    plainly = [[(p, f"{t}\0T" if "\nclass T(" in t else t) for p, t in x] for x in (cases, changed)]
    right, refused = (cpython(pairs, tmp_path) for pairs in plainly)
    assert all(right), [case for case, passed in zip(cases, right, strict=True) if not passed]
    assert not any(refused), [c for c, passed in zip(changed, refused, strict=True) if passed]
    limits = Limits(cpu_s=10, wall_s=60)
    futures = [
        judge.submit(
            Program(program),
            UnittestTests(test) if "\nclass T(" in test else AssertTests((test,)),
            limits,
        )
        for program, test in [*cases, *changed]
    ]
    verdicts = [future.result() for future in futures]
    count = len(cases)
    bad = [
        (*case, v.message) for case, v in zip(cases, verdicts[:count], strict=True) if not v.passed
    ]
    assert not bad
    assert not [c for c, v in zip(changed, verdicts[count:], strict=True) if v.passed]


def test_many_tests_of_one_program_have_cpython_s_verdict(judge: Judge) -> None:
    tests = [test for program, test, _ in IDIOMS if program == PROGRAM]
    verdict = judge.run(Program(PROGRAM), AssertTests(tuple(tests)), Limits(cpu_s=10, wall_s=60))
    assert not [
        (t, v.message) for t, v in zip(tests, verdict.tests, strict=True) if v.status != "accepted"
    ]


def test_unittests_have_cpython_s_verdict(judge: Judge, tmp_path: Path) -> None:
    names = tuple(WRONG)
    changed = [wrong(PROGRAM, change) for change in WRONG.values()]
    assert all(cpython([(PROGRAM, f"{UNITTEST}\0{name}") for name in names], tmp_path))
    pairs = [(s, f"{UNITTEST}\0{name}") for s, name in zip(changed, names, strict=True)]
    refused = cpython(pairs, tmp_path)
    assert not any(refused), [n for n, passed in zip(names, refused, strict=True) if passed]
    limits = Limits(cpu_s=10, wall_s=60)
    verdict = judge.run(Program(PROGRAM), UnittestTests(UNITTEST, names), limits)
    bad = [
        (n, v.message) for n, v in zip(names, verdict.tests, strict=True) if v.status != "accepted"
    ]
    assert not bad
    for source, name in zip(changed, names, strict=True):
        assert not judge.run(Program(source), UnittestTests(UNITTEST, (name,)), limits).passed, name
