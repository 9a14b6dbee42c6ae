"""Everyday idioms of tests: the judge's verdict is that of plain CPython, for right and wrong programs.

Each idiom is a test and a change that makes the program wrong for it. CPython's verdict comes from
running program and test in one namespace of another interpreter.
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

# fmt: off
IDIOMS = [
    ("assert Point(1, 2).x == 1 and Point(1, 2) == (1, 2)", ('"x y"', '"y x"')),
    ("assert Pair(1).right == 2 and Pair(1)._asdict() == {'left': 1, 'right': 2}", ("right: int = 2", "right: int = 3")),
    ("assert Colour('r') is Colour.RED and Colour.RED.name == 'RED'", ('"r"', '"R"')),
    ("assert [c.value for c in Colour] == ['r', 'b']", ('BLUE = "b"', 'BLUE = "c"')),
    ("assert Level.LOW < Level.HIGH and Level.HIGH == 2 and max(Level) is Level.HIGH", ("HIGH = 2", "HIGH = 0")),
    ("assert Item('a') == Item('a') and Item('a') < Item('b') and Item('a').tags is not Item('b').tags", ("default_factory=list", "default_factory=lambda L=[]: L")),
    ("assert repr(Item('a')) == \"Item(name='a', price=1.0, tags=[])\"", ("price: float = 1.0", "price: float = 2.0")),
    ("import dataclasses\nassert dataclasses.asdict(Item('a', 2)) == {'name': 'a', 'price': 2, 'tags': []}", ("price: float", "cost: float")),
    ("try:\n    Key(1).a = 2\nexcept AttributeError:\n    pass\nelse:\n    assert False", ("frozen=True", "unsafe_hash=True")),
    ("assert {Key(1): 'x'}[Key(1)] == 'x'", ("frozen=True", "eq=False")),
    ("assert isinstance(Euro(1), Money) and issubclass(Euro, Money)", ("Euro(Money)", "Euro(Bag, object)")),
    ("assert type(Euro(1)) is Euro and type(Euro(1)).__name__ == 'Euro'", ("class Euro(Money):", "class Euro(Money):\n    def __new__(cls, v): return Money(v)\nclass Other(Money):")),
    ("assert sorted([Money(2), Money(1)])[0].v == 1", ("return self.v < (", "return self.v > (")),
    ("assert min(Money(3), Money(1)).v == 1 and max([Money(3), Money(1)]).v == 3", ("return self.v < (", "return self.v > (")),
    ("assert len({Money(1), Money(1)}) == 1", ("return hash(self.v)", "return id(self)")),
    ("assert Money(1) in [Money(0), Money(1)]", ("return self.v == (", "return self is (")),
    ("assert [Money(1), Money(2)].index(Money(2)) == 1", ("return self.v == (", "return self is (")),
    ("assert Money(5) == 5", ("return self.v == (", "return self.v - 1 == (")),
    ("assert 5 == Money(5) and Money(4) != 5", ("return self.v == (", "return self.v - 1 == (")),
    ("assert Money(3) < 5 and not Money(7) < 5", ("return self.v < (", "return self.v + 9 < (")),
    ("assert Money(7) > 5 and 5 < Money(7)", ("return self.v > (", "return self.v - 9 > (")),
    ("assert (Money(4) / 2).v == 2", ("self.v / k", "self.v * k")),
    ("assert (Money(4) - 1).v == 3 and Money(4) - Money(1) == Money(3)", ("Money(self.v - (", "Money(self.v + (")),
    ("assert (Money(4) + 1).v == 5 and (1 + Money(4)).v == 5", ("Money(self.v + (", "Money(self.v - (")),
    ("assert sum([Money(1), Money(2)], Money(0)) == Money(3)", ("Money(self.v + (", "Money(self.v - (")),
    ("assert sum([Money(1), Money(2)]).v == 3", ("__radd__ = __add__", "__radd__ = __sub__")),
    ("assert (Money(2) * 3).v == 6 and (-Money(2)).v == -2", ("self.v * k)\n    def __neg__", "self.v + k)\n    def __neg__")),
    ("assert abs(Money(-2)) == 2 and int(Money(3)) == 3 and float(Money(3)) == 3.0", ("return abs(self.v)", "return self.v")),
    ("assert not Money(0) and Money(1)", ("return self.v != 0", "return True")),
    ("assert [10, 20, 30][Money(1)] == 20", ("def __index__(self):\n        return self.v", "def __index__(self):\n        return 0")),
    ("assert repr(Money(1)) == 'Money(1)' and str(Money(1)) == '$1' and f'{Money(3):03}' == '003'", ('f"${self.v}"', 'f"{self.v}"')),
    ("assert Money(3)(4) == 12 and callable(Money(3))", ("return self.v * k\n    def __contains__", "return self.v\n    def __contains__")),
    ("assert 1 in Money(1) and 2 not in Money(1)", ("return k == self.v", "return k != self.v")),
    ("class Pound(Money):\n    pass\nassert Pound(5).v == 5 and isinstance(Pound(1), Money)", ("self.v = v\n        self.log", "self.v = 0\n        self.log")),
    ("class Pound(Money):\n    def __str__(self):\n        return 'P' + super().__str__()\nassert str(Pound(5)) == 'P$5'", ('f"${self.v}"', 'f"{self.v}"')),
    ("m = Money(1)\nm.log.append(1)\nassert m.log == [1] and Money(2).log == []", ("self.log = []", "self.log = SHARED", )),
    ("m = Money(1)\nm.extra = 3\nassert m.extra == 3 and vars(m)['extra'] == 3", ("    def __init__(self, v):\n        self.v = v\n", "    def __setattr__(self, n, v): pass\n    def __init__(self, v):\n        self.v = v\n")),
    ("assert vars(Money(1)) == {'v': 1, 'log': []}", ("self.log = []", "self.log = [0]")),
    ("assert Euro(3).dollars == 6 and Euro.of('4').v == 4 and Euro.sign() == 'E'", ("rate = 2", "rate = 3")),
    ("assert hasattr(Money(1), 'v') and not hasattr(Money(1), 'w')", ("self.v = v\n        self.log", "self.v = self.w = v\n        self.log")),
    ("assert getattr(Money(1), 'v') == 1 and getattr(Money(1), 'w', 5) == 5", ("self.v = v\n        self.log", "self.v = self.w = v\n        self.log")),
    ("b = Bag([1])\nb.items.append(2)\nassert len(b) == 1", ("return list(self._items)", "return self._items")),
    ("xs = [1]\nassert clean(xs) == xs and clean(xs) is not xs", ("return list(xs)", "return xs")),
    ("b = Bag([1])\nassert leak(b) is not b._items", ("return list(self._items)", "return self._items")),
    ("assert list(Bag([1, 2])) == [1, 2] and [*Bag([3])] == [3]", ("return iter(self._items)", "return iter(self._items[1:])")),
    ("b = Bag([1, 2])\nb[0] = 5\ndel b[1]\nassert b[0] == 5 and len(b) == 1", ("self._items[i] = x", "pass")),
    ("assert 1 in Bag([1]) and 2 not in Bag([1])", ("return x in self._items", "return True")),
    ("assert Bag([1, 2]) == [1, 2] and Bag([1]) == Bag([1])", ("return self._items == (", "return self._items != (")),
    ("assert list(reversed(Bag([1, 2]))) == [2, 1]", ("return reversed(self._items)", "return iter(self._items)")),
    ("a, b = Bag([1, 2])\nassert (a, b) == (1, 2)", ("return iter(self._items)", "return iter(self._items * 2)")),
    ("b = Bag()\nassert b.add(1) is b", ("return self\n    def __len__", "return Bag(self._items)\n    def __len__")),
    ("assert not Bag() and Bag([0])", ("return len(self._items)", "return len(self._items) + 1")),
    ("try:\n    Shape()\nexcept TypeError:\n    pass\nelse:\n    assert False, 'abstract'", ("@abstractmethod", "")),
    ("assert Square(3).area() == 9 and isinstance(Square(1), Shape)", ("self.side ** 2", "self.side * 2")),
    ("try:\n    Square(1).other = 2\nexcept AttributeError:\n    pass\nelse:\n    assert False", ("class Square(Shape):\n    __slots__ = (\"side\",)", "class Square(Shape):")),
    ("assert Box[int](3).v == 3", ("class Box(Generic[T]):", "class Box:")),
    ("try:\n    fail(3)\nexcept TooBig as e:\n    assert e.code == 3 and str(e) == 'code 3' and e.args == ('code 3',)\nelse:\n    assert False", ("self.code = code", "self.code = 0")),
    ("try:\n    fail(3)\nexcept ValueError as e:\n    assert isinstance(e, TooBig)", ("class TooBig(ValueError)", "class TooBig(Exception)")),
    ("try:\n    fail_from()\nexcept TooBig as e:\n    assert isinstance(e.__cause__, ZeroDivisionError)", ("raise TooBig(4) from e", "raise TooBig(4) from None")),
    ("import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    say('hi')\nassert b.getvalue() == 'hi\\n'", ("print(text)", "print(text, text)")),
    ("import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\ntry:\n    say('hi')\n    text = sys.stdout.getvalue()\nfinally:\n    sys.stdout = old\nassert text == 'hi\\n'", ("print(text)", "print(text, text)")),
    ("import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stderr(b):\n    warn_of('w')\nassert b.getvalue() == 'w'", ("sys.stderr.write(text)", "sys.stdout.write(text)")),
    ("import io, sys\nsys.stdin = io.StringIO('1\\n2\\n')\nassert total() == 3", ("sum(int(", "len(list(")),
    ("from unittest.mock import patch\nwith patch('builtins.input', return_value=' Al '):\n    assert ask() == 'Al'", (".strip()", "")),
    ("from unittest.mock import patch\nwith patch('builtins.print') as p:\n    say('x')\np.assert_called_once_with('x')", ("print(text)", "print(text, end='')")),
    ("from unittest.mock import patch\nimport random\nwith patch('random.Random.randint', return_value=4):\n    assert roll(random.Random()) == 4", ("randint(1, 6)", "randint(1, 6) + 1")),
    ("from unittest.mock import Mock\nrng = Mock()\nrng.randint.return_value = 3\nassert roll(rng) == 3\nrng.randint.assert_called_once_with(1, 6)", ("randint(1, 6)", "randint(0, 6)")),
    ("import inspect\nassert list(inspect.signature(documented).parameters) == ['a', 'b', 'rest', 'c', 'more']", ("def documented(a, b=2", "def documented(a, z=2")),
    ("assert documented.__doc__ == 'What it does.' and documented.__name__ == 'documented'", ("What it does.", "What.")),
    ("assert documented.__defaults__ == (2,)", ("documented(a, b=2", "documented(a, b=3")),
    ("g = count_up(2)\nassert next(g) == 0 and next(g) == 1\ntry:\n    next(g)\nexcept StopIteration:\n    pass\nelse:\n    assert False", ("range(n)", "range(n + 1)")),
    ("import types\nassert isinstance(count_up(1), types.GeneratorType)", ("yield i", "pass")),
    ("before = calls\nlist(count_up(1))\nassert calls == before + 1", ("calls += 1", "calls += 2")),
    ("import os, json\nstore('a.json', [1])\nassert json.load(open('a.json')) == [1]\nos.remove('a.json')", ("json.dump(value, f)", "json.dump(None, f)")),
    ("import sqlite3\nrows('x.db')\nassert sqlite3.connect('x.db').execute('select a from t').fetchall() == [(3,)]\nimport os\nos.remove('x.db')", ("values (3)", "values (4)")),
    ("import random\nassert roll(random.Random(1)) == random.Random(1).randint(1, 6)", ("randint(1, 6)", "randint(2, 6)")),
    ("import datetime as dt\nassert now_year() == dt.datetime.now().year", ("now().year", "now().month")),
    ("log = []\nwith opened(log) as x:\n    assert x == 5\nassert log == ['in', 'out']", ("yield 5", "yield 6")),
    ("with Suppress():\n    raise KeyError(1)\nassert True", ("KeyError)", "IndexError)")),
    ("assert fib(30) == 832040 and fib.cache_info().hits > 0", ("maxsize=None", "maxsize=0")),
    ("@twice\ndef inc(x):\n    return x + 1\nassert inc(1) == 3 and inc.__name__ == 'inc'", ("@functools.wraps(f)", "")),
    ("import inspect\nassert inspect.iscoroutinefunction(later)", ("async def later(x):\n    await asyncio.sleep(0)\n", "def later(x):\n")),
    ("assert Registry() is Registry()", ("if cls._one is None", "if True")),
    ("p = Person(3)\ntry:\n    p.age = 'x'\nexcept TypeError:\n    pass\nelse:\n    assert False\nassert p.age == 3", ("raise TypeError", "print")),
    ("assert Person(3).hair == 'no hair'", ("no {name}", "{name}")),
    ("assert sorted(in_threads(3)) == [0, 1, 2]", ("t.join()", "out.append(1)")),
    ("assert show('<{}>', 3) == '<3>'", ("template.format(x)", "template.format(0)")),
    ("assert tag(Money(1)) == ('Money', {'v': 1, 'log': []})", ("o.__class__.__name__", "str(o.__class__)")),
    ("assert isinstance(MyInt(3), int) and MyInt(3) == 3 and MyInt(3) + 1 == 4", ("MyInt(int)", "MyInt(str)")),
    ("import copy\nm = Money(1)\nc = copy.deepcopy(m)\nassert c == m and c is not m and c.log is not m.log", ("    def __hash__", "    def __deepcopy__(self, memo): return self\n    def __hash__")),
    ("import pickle\nassert pickle.loads(pickle.dumps(Key(1))).a == 1", ("class Key:\n", "class Key:\n    __reduce__ = lambda self: (Key, (2,))\n")),
    ("assert list(map(Money, [1]))[0].v == 1 and [f(2) for f in (Money,)][0].v == 2", ("self.v = v\n        self.log", "self.v = -v\n        self.log")),
    ("n = Node(1, Node(2))\nout = []\nwhile n:\n    out.append(n.v)\n    n = n.next\nassert out == [1, 2]", ("v, next=None", "v, next=next")),
    ("match Money(3):\n    case Money(v=x):\n        assert x == 3\n    case _:\n        assert False", ("self.v = v\n        self.log", "self.v = -v\n        self.log")),
    ("assert Stamp(2020, 1, 1) < Stamp(2021, 1, 1) and Stamp(2020, 1, 1).year == 2020", ("Stamp(datetime)", "Stamp(date)\nclass Stamp(Stamp):\n    year = 1")),
    ("assert any(m == Money(2) for m in [Money(1), Money(2)])", ("return self.v == (", "return self is (")),
    ("f = documented\nassert f(1, c=2) == 1\ntry:\n    f(1)\nexcept TypeError:\n    pass\nelse:\n    assert False", ("*rest, c,", "*rest, c=0,")),
    ("assert 'Money' in repr([Money(1)]) and '%s' % Money(2) == '$2'", ('f"${self.v}"', 'f"{self.v}"')),
    ("d = {}\nd[Money(1)] = 'a'\nassert d[Money(1)] == 'a' and d.get(Money(2)) is None", ("return hash(self.v)", "return id(self)")),
    ("import math\nassert math.isclose(Money(3), 3.0)", ("return float(self.v)", "return 0.0")),
]
# fmt: on

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
import json, os, sys, unittest
for source, test in json.load(sys.stdin):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        out = "false"
        try:
            sys.stdout = open(os.devnull, "w")
            main = {"__name__": "__main__"}
            sys.modules["__main__"].__dict__.update(main)
            exec(compile(source, "program", "exec"), sys.modules["__main__"].__dict__)
            code, _, name = test.partition("\\0")
            exec(compile(code, "test", "exec"), sys.modules["__main__"].__dict__)
            if name:
                suite = unittest.defaultTestLoader.loadTestsFromName(name, sys.modules["__main__"])
                result = unittest.TestResult()
                suite.run(result)
                assert result.wasSuccessful() and result.testsRun == 1
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


def wrong(change: tuple[str, str]) -> str:
    assert change[0] in PROGRAM, change
    return "SHARED = []\n" + PROGRAM.replace(*change)


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


def test_asserts_have_cpython_s_verdict(judge: Judge, tmp_path: Path) -> None:
    tests = [test for test, _ in IDIOMS]
    changed = [wrong(change) for _, change in IDIOMS]
    expected = cpython([(PROGRAM, test) for test in tests], tmp_path)
    assert all(expected), [t for t, passed in zip(tests, expected, strict=True) if not passed]
    refused = cpython(list(zip(changed, tests, strict=True)), tmp_path)
    assert not any(refused), [t for t, passed in zip(tests, refused, strict=True) if passed]
    limits = Limits(cpu_s=10, wall_s=60)
    verdict = judge.run(Program(PROGRAM), AssertTests(tuple(tests)), limits)
    bad = [(t, v.message) for t, v in zip(tests, verdict.tests, strict=True) if v.status != "accepted"]
    assert not bad
    futures = [
        judge.submit(Program(source), AssertTests((test,)), limits)
        for source, test in zip(changed, tests, strict=True)
    ]
    assert not [t for t, f in zip(tests, futures, strict=True) if f.result().passed]


def test_unittests_have_cpython_s_verdict(judge: Judge, tmp_path: Path) -> None:
    names = tuple(WRONG)
    changed = [wrong(change) for change in WRONG.values()]
    assert all(cpython([(PROGRAM, f"{UNITTEST}\0{name}") for name in names], tmp_path))
    pairs = [(s, f"{UNITTEST}\0{name}") for s, name in zip(changed, names, strict=True)]
    refused = cpython(pairs, tmp_path)
    assert not any(refused), [n for n, passed in zip(names, refused, strict=True) if passed]
    limits = Limits(cpu_s=10, wall_s=60)
    verdict = judge.run(Program(PROGRAM), UnittestTests(UNITTEST, names), limits)
    bad = [(n, v.message) for n, v in zip(names, verdict.tests, strict=True) if v.status != "accepted"]
    assert not bad
    for source, name in zip(changed, names, strict=True):
        assert not judge.run(Program(source), UnittestTests(UNITTEST, (name,)), limits).passed, name
