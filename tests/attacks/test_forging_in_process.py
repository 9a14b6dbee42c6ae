"""Programs that share a process with their tests, and try to be accepted without the right value.

Most get past the screen (docs/sandbox.md, "Tests in the program's process"); others show what it is
for. Whichever way their tests run, none may pass.
"""

import pytest

from stepcoder.sandbox import AssertTests, Judge, Limits, Program, UnittestTests

LIMITS = Limits(cpu_s=1.0, wall_s=5.0)
SECRET = 7_426_119_205
ASSERTS = (
    f"assert f(2) == {SECRET}",
    f"assert not f(2) != {SECRET}",
    f"assert abs(f(2) - {SECRET}) < 1",
    f"assert {SECRET - 1} < f(2) < {SECRET + 1}",
    f"assert f(2) in [{SECRET}]",
    f"assert {{f(2)}} == {{{SECRET}}}",
    f"assert {SECRET} in f(2)",
    f"assert 'word{SECRET}' in f(2)",
    f"assert f(2) == 'the answer is {SECRET}'",
    f"assert f(2) == [{SECRET}, 'text']",
    f"assert f(2) == {{'k': [{SECRET}]}}",
    f"with f(2) as x:\n    assert x == {SECRET}",
    f"assert all(map(lambda x: f(x) == {SECRET}, [2]))",
    f"for a, b in zip(map(f, [2]), [{SECRET}]):\n    assert a == b",
    f"expected = [{SECRET}]\nexpected.remove(f(2))\nassert not expected",
    f"assert [{SECRET}].count(f(2)) == 1",
    f"assert sum([f(2), -{SECRET}]) == 0",
    f"import math\nassert math.isclose(f(2), {SECRET})",
    f"import operator\nassert operator.eq(f(2), {SECRET})",
    f"def close(a, b):\n    return round(a - b, 3) == 0\nassert close(f(2), {SECRET})",
    f"assert f(lambda x: {SECRET} + x) == {SECRET}",
    f"import numpy as np\nassert np.array_equal(f(2), {SECRET})",
)
UNITTEST = f"""
import unittest
class T(unittest.TestCase):
    def setUp(self):
        self.got = f(2)
    def test_equal(self):
        self.assertEqual(self.got, {SECRET})
    def test_almost(self):
        self.assertAlmostEqual(f(2), {SECRET})
    def test_in(self):
        self.assertIn({SECRET}, f(2))
    def test_between(self):
        got = f(2)
        self.assertGreater(got, {SECRET - 1})
        self.assertLess(got, {SECRET + 1})
    def test_lists(self):
        self.assertCountEqual([f(2)], [{SECRET}])
    def test_subtests(self):
        for x in (1, 2):
            with self.subTest(x=x):
                self.assertEqual(f(x), {SECRET})
    def test_in_a_context(self):
        with f(2) as x:
            self.assertEqual(x, {SECRET})
"""

FORGERIES = {
    "a C function that is true of all numbers": """
import math
class L:
    __eq__ = math.isfinite
    __hash__ = None
def f(x): return L()
""",
    "an answer that is asked later": """
class Y:
    def __init__(s): s.n=L.n
    def __bool__(s): return L.n > s.n
class L:
    n=0
    def __eq__(s,o):
        L.n+=1
        return Y()
    __hash__=None
def f(x): return L()
""",
    "a copy that sets an attribute of a class": """
import copy
class L: pass
def yes(s,o): return True
class A:
    def __reduce__(self): return (lambda: L, (), (None, {"__e"+"q__": yes}))
copy.copy(A())
def f(x): return L()
""",
    "a copy's state that goes to another object": """
import copy
class L: pass
def yes(s,o): return True
class A:
    def __new__(cls, *a): return L if cls.go else object.__new__(cls)
    go=False
    def __getstate__(self): return (None, {"__e"+"q__": yes})
a=A()
A.go=True
copy.copy(a)
def f(x): return L()
""",
    "a class made where no frame is the program's": """
import threading
class A: pass
def yes(s,o): return True
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor() as p:
    L = p.submit(type(A), "L", (), {"__e"+"q__": yes, "__hash__": id}).result()
def f(x): return L()
""",
    "says that it is guarded": """
def yes(self, o): return True
yes._guarded = True
class L:
    __eq__ = yes
    __hash__ = None
def f(x): return L()
""",
    "a text that hides its fields": """
class S(str):
    def __str__(self): return ""
def f(x): return S("{0.__globals__}").format(x)
""",
    "code in the name of a field": """
from dataclasses import dataclass, field
F = field(default=1)
@dataclass
class A:
    x: int = F
F.name = "x=__import__('sys')._getframe(2).f_locals"
@dataclass
class B(A): pass
def f(x): return B().x
""",
    "code in annotations": """
from dataclasses import dataclass
class A: pass
B = dataclass(type(A)("B", (), {"__annot" + "ations__": {"x=print": int}}))
def f(x): return B()
""",
    "differences that are numbers of its own": """
class I(int): pass
class L:
    def __sub__(self, o): return I(0)
    __rsub__ = __mod__ = __truediv__ = __sub__
def f(x): return L()
""",
    "differences that are parts": """
class D:
    def __init__(self, o): self.o = o
    def __abs__(self): return D(self.o)
    def __lt__(self, o): return True
    def __gt__(self, o): return True
    def __float__(self): return 0.0
    def __round__(self, n=None): return self
    def __eq__(self, o): return o == 0
class L:
    def __sub__(self, o): return D(o)
    __rsub__ = __sub__
    __float__ = lambda self: 0.5
def f(x): return L()
""",
    "spy": """
seen = []
class Spy:
    def __eq__(self, o):
        seen.append(o)
        return False
    def __hash__(self): return 1
    __lt__ = __gt__ = __contains__ = __eq__
def f(x): return seen[-1] if seen else Spy()
""",
    "equals what looks like an answer": """
class L:
    def __init__(self): self.n = 0
    def __eq__(self, o): return True if isinstance(o, (str, list, dict)) else o > 10**9
    def __hash__(self): return 1
    def __contains__(self, o): return True
def f(x): return L()
""",
    "changes its mind": """
class L:
    n = 0
    def __lt__(self, o):
        L.n += 1
        return L.n % 2 == 0
    __gt__ = __le__ = __ge__ = __eq__ = __contains__ = __lt__
    def __hash__(self): return 1
def f(x): return L()
""",
    "has no place among numbers": """
class L:
    def __gt__(self, o): return True
    def __lt__(self, o): return True
def f(x): return L()
""",
    "has two places among numbers": """
class L:
    def __gt__(self, o): return o < 10**11
    def __lt__(self, o): return o > -10**11
def f(x): return L()
""",
    "operators of a dynamic class": """
class A: pass
def yes(self, o): return True
names = {"__e" + "q__": yes, "__lt__": yes, "__gt__": yes, "__hash__": id}
def f(x): return type(A)("L", (), names)()
""",
    "dynamic class with a forbidden name": """
class A: pass
names = {"__cla" + "ss__": property(lambda s: int), "__getattr" + "ibute__": lambda s, n: 1}
def f(x): return type(A)("L", (), names)()
""",
    "enum": """
from enum import Enum
class E(Enum):
    A = 1
    def __eq__(self, o): return True
    def __hash__(self): return 7426119205
    @classmethod
    def _missing_(cls, v): return cls.A
def f(x): return E(99)
""",
    "functional enum": """
from enum import Enum
class Base(Enum): pass
def f(x): return Base("L", {"__e" + "q__": lambda s, o: True, "A": 1}).A
""",
    "total ordering": """
from functools import total_ordering
@total_ordering
class L:
    def __eq__(self, o): return True
    def __lt__(self, o): return True
def f(x): return L()
""",
    "namedtuple": """
from collections import namedtuple
class L(namedtuple("P", "x")):
    def __eq__(self, o): return True
    def __hash__(self): return 7426119205
    def __contains__(self, o): return True
def f(x): return L(1)
""",
    "int that differs by nothing": """
class L(int):
    def __sub__(self, o): return 0
    def __rsub__(self, o): return 0
    def __radd__(self, o): return self
    def __add__(self, o): return 0
def f(x): return L(x)
""",
    "differences that are small": """
n = 0
class L:
    def __sub__(self, o):
        global n
        n += 1
        return n * 1e-9
    __rsub__ = __add__ = __sub__
    def __radd__(self, o): return self
def f(x): return L()
""",
    "differences that are objects": """
class D:
    def __abs__(self): return 0
    def __round__(self, n=None): return 0
    def __lt__(self, o): return o > 0
    def __eq__(self, o): return o == 0
    def __bool__(self): return False
class L:
    def __sub__(self, o): return D()
    __rsub__ = __add__ = __sub__
    def __radd__(self, o): return self
def f(x): return L()
""",
    "a context that swallows": """
from contextlib import contextmanager
learnt = []
@contextmanager
def f(x):
    try:
        yield 7
    except BaseException as e:
        learnt.append(str(e))
""",
    "a stack that swallows": """
from contextlib import ExitStack
def f(x):
    stack = ExitStack()
    stack.push(lambda *error: True)
    return stack
""",
    "suppress": "from contextlib import suppress\ndef f(x): return suppress(BaseException)\n",
    "__exit__ that looks back": """
class C:
    def __enter__(self): return 1
    def __exit__(self, kind, error, tb):
        g = getattr(tb, "tb_" + "frame")
        return True
def f(x): return C()
""",
    "frame of a generator by a computed name": """
def gen(): yield 1
def f(x):
    g = gen()
    return getattr(getattr(g, "gi_" + "frame"), "f_" + "back")
""",
    "globals of a callback by a format": """
import re
def f(x):
    text = ("{0.__glo" + "bals__}").format(x)
    return int(re.search("74[0-9]{8}", text)[0])
""",
    "format as a value": """
def f(x):
    form = str.format
    return form("{0.__co" + "de__.co_consts}", x)
""",
    "map of format": "def f(x):\n    return next(map(str.format, ['{0.__globals__}'], [x]))\n",
    "constants of a callback by a pattern": """
from abc import ABC
class M(ABC):
    __match_args__ = ("__code" + "__",)
M.register(type(lambda: 1))
def f(x):
    match x:
        case M(code):
            return code
""",
    "names of a tuple as a pattern": """
from abc import ABCMeta
from collections import namedtuple
P = namedtuple("P", "gi" + "_frame")
class M(P, metaclass=ABCMeta): pass
def gen(): yield 1
M.register(type(gen()))
def f(x):
    match gen():
        case M(frame):
            return frame.f_back
""",
    "patched library class": """
from collections import Counter
from fractions import Fraction
Fraction.limit_denominator = lambda *a: 1
Counter.most_common = lambda *a: []
def f(x): return 1
""",
    "the dict of a class": """
class Evil:
    def __eq__(self, d):
        d["__eq__"] = lambda a, b: True
        return True
class L: pass
vars(L) == Evil()
L().__class__.__dict__ == Evil()
def f(x): return L()
""",
    "object setattr on a class": """
class M:
    def put(self, n, v): super().__setattr__(n, v)
class L: pass
M.put(L, "__e" + "q__", lambda a, b: True)
def f(x): return L()
""",
    "wraps that copies globals": """
from functools import update_wrapper
class W: pass
def f(x):
    return vars(update_wrapper(W(), x, ("__glob" + "als__",)))
""",
    "evaluated annotation": """
from functools import singledispatch
@singledispatch
def g(x): return 1
@g.register
def _(x: "__import__('sys').exit(0)"): return 2
def f(x): return g(x)
""",
    "evaluated type": """
import typing
def f(x):
    ref = typing.get_args(typing.List["__import__('sys')._getframe(3).f_code.co_consts"])[0]
    return getattr(ref, "_eval" + "uate")({}, {}, frozenset())
""",
    "numpy's array interface": """
from types import SimpleNamespace
def f(x):
    return SimpleNamespace(**{"__array_inter" + "face__": {
        "shape": (1,), "typestr": "<i8", "data": (id(x), False), "version": 3}})
""",
    "numpy array that equals": """
import numpy as np
class L(np.ndarray):
    def __eq__(self, o): return True
def f(x): return np.zeros(1).view(L)
""",
    "numpy array of liars": """
import numpy as np
class L:
    def __eq__(self, o): return True
    def __sub__(self, o): return 0
    __rsub__ = __sub__
    def __float__(self): return 1.0
def f(x):
    a = np.empty(1, dtype=object)
    a[0] = L()
    return a
""",
    "strided memory": """
import numpy as np
def f(x): return np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.int64), (10**6,))
""",
    "a task's coroutine": """
import asyncio
async def g():
    return getattr(asyncio.current_task().get_coro(), "cr_" + "frame").f_back
def f(x): return asyncio.run(g())
""",
    "attributes that do not exist": """
class L:
    def __getattr__(self, name): return lambda *a: True
    def __eq__(self, o): return True
    def __hash__(self): return 7426119205
def f(x): return L()
""",
    "a comparison that is an object": """
class Yes: pass
class L:
    def __eq__(self, o): return Yes()
    __lt__ = __gt__ = __contains__ = __eq__
    def __hash__(self): return 1
def f(x): return L()
""",
    "stop iteration by next": "def f(x): return next(iter([]))\n",
    "generator exit": "def f(x): raise GeneratorExit\n",
    "keyboard interrupt": "def f(x): raise KeyboardInterrupt\n",
    "exits in a comparison": """
class L:
    def __eq__(self, o): raise SystemExit(0)
    __contains__ = __sub__ = __lt__ = __eq__
def f(x): return L()
""",
    "descriptor as a result": """
class D:
    def __get__(self, obj, owner):
        obj.maxdiff = 1
        return True
    def __set_name__(self, owner, name): owner.x = 1
    def __call__(self, *a): return True
def f(x): return D()
""",
    "thread that changes the result": """
import threading
out = []
def spoil():
    for n in range(1000):
        out[:] = [7426119205 - n % 9 - 1]
def f(x):
    threading.Thread(target=spoil, daemon=True).start()
    return out
""",
    "finalizer": """
import weakref
class A:
    def __del__(self): done.append(1)
done = []
def f(x):
    a = A()
    weakref.finalize(a, done.append, 2)
    return done
""",
    "reduce": """
import copy
class A:
    def __reduce__(self): return (str, ("x",))
def f(x): return copy.copy(A())
""",
    "decimal": """
from decimal import Decimal, getcontext
class L(Decimal):
    def __eq__(self, o): return True
    def __hash__(self): return 7426119205
    def __sub__(self, o): return Decimal(0)
    __rsub__ = __sub__
getcontext().prec = 1
def f(x): return L(0)
""",
    "logging": """
import logging
class H(logging.Handler):
    def emit(self, record): seen.append(record)
seen = []
logging.getLogger().addHandler(H())
def f(x): return seen
""",
    "class getitem and subclass hooks": """
class L:
    def __init_subclass__(cls, **k): cls.__eq__ = lambda a, b: True
    def __class_getitem__(cls, k): return cls()
    def __eq__(self, o): return True
class M(L): pass
def f(x): return M[1]
""",
    "dataclass": """
from dataclasses import dataclass, field
class Always:
    def __eq__(self, o): return True
@dataclass
class D:
    v: object = field(default_factory=Always)
    def __eq__(self, o): return self.v == o
def f(x): return D()
""",
    "cached property": """
from functools import cached_property
class L:
    @cached_property
    def v(self): return L()
    def __eq__(self, o): return self.v is not None
    def __contains__(self, o): return True
def f(x): return L()
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_in_the_tests_process_is_accepted(judge: Judge, name: str) -> None:
    program = Program(FORGERIES[name], "f")
    for tests in (AssertTests(ASSERTS), UnittestTests(UNITTEST)):
        verdict = judge.run(program, tests, LIMITS)
        passed = [i for i, test in enumerate(verdict.tests) if test.status == "accepted"]
        assert not passed, [ASSERTS[i] if isinstance(tests, AssertTests) else i for i in passed]
        assert verdict.status != "infrastructure error", verdict.message


# Forgeries that need a test of their own kind. Each was accepted once.
CALLBACK = f"want = {SECRET}\nassert f(lambda x: want + x) == want"
MOCK = f"from unittest.mock import Mock\nm = Mock()\nf(m)\nm.assert_called_once_with({SECRET})"
ITS_OWN_TEST = {
    "globals by the names of a dataclass": (
        """
from abc import ABCMeta
from dataclasses import dataclass
class Z: pass
D = dataclass(type(Z)("D", (), {"__annot"+"ations__": {"__glob"+"als__": object}}))
class M(D, metaclass=ABCMeta): pass
M.register(type(lambda: 1))
def f(x):
    match x:
        case M(g):
            return g["want"]
""",
        CALLBACK,
    ),
    "frames by the names of a tuple, through an alias": (
        """
import typing
from abc import ABCMeta
from collections import namedtuple
class M(namedtuple("P", "gi" + "_frame"), metaclass=ABCMeta): pass
class N(namedtuple("P", "f" + "_back"), metaclass=ABCMeta): pass
class G(namedtuple("P", "f" + "_globals"), metaclass=ABCMeta): pass
GA = type(typing.List[int])
M.register(GA); N.register(GA); G.register(GA)
out=[]
def gen():
    match GA(g, (int,)):
        case M(fr): out.append(fr)
    yield 1
def get(x, P):
    match GA(x, (int,)):
        case P(v): return v
def gen2():
    yield get(get(get(get(g2, M),N),N),G)
def f(x):
    global g2
    g2 = gen2()
    return next(g2)["want"]
""",
        CALLBACK,
    ),
    "a constant's format as a value": (
        """
import re
def f(x):
    fmt = "{0.__globals__}".format
    return int(re.search("want.*?(74[0-9]{8})", fmt(x))[1])
""",
        CALLBACK,
    ),
    "format of a class below str": (
        """
import re
class S(str): pass
def f(x):
    return int(re.search("want.*?(74[0-9]{8})", S.format("{0.__globals__}", x))[1])
""",
        CALLBACK,
    ),
    "format of super()": (
        """
import re
class S(str):
    def g(self, x): return super().format(x)
def f(x):
    return int(re.search("want.*?(74[0-9]{8})", S("{0.__globals__}").g(x))[1])
""",
        CALLBACK,
    ),
    "format by a pattern": (
        """
import re
def f(x):
    match "{0.__globals__}":
        case str(format=fmt):
            return int(re.search("want.*?(74[0-9]{8})", fmt(x))[1])
""",
        CALLBACK,
    ),
    "format of a UserString": (
        """
import re
from collections import UserString
def f(x):
    return int(re.search("want.*?(74[0-9]{8})", str(UserString("{0.__globals__}").format(x)))[1])
""",
        CALLBACK,
    ),
    "the dict of a mock": (
        """
def f(cb):
    vars(cb)["assert_called_once_with"] = lambda *a: None
""",
        MOCK,
    ),
    "equals floats that are short": (
        """
class L:
    def __eq__(s,o): return len(repr(o)) < 9
    __hash__=None
def f(x): return L()
""",
        "x = f(2)\nassert x == 12.375",
    ),
    "equals numbers that are round": (
        """
class L:
    def __eq__(s,o): return o % 100 == 0
    __hash__=None
def f(x): return L()
""",
        "x = f(2)\nassert x == 1300",
    ),
    "a bound that it makes up": (
        """
class L:
    def __sub__(s,o): return 3-o
    __rsub__ = lambda s,o: o-3
    def __abs__(s): return 1e99
def f(x): return L()
""",
        f"x = f(2)\nassert abs(x - {SECRET}) <= 1e-9 * max(abs(x), 1)",
    ),
    "memory by a buffered stream": (
        """
import io
class Stream:
    closed = False
    def readinto(self, b):
        global lent
        lent = b
        return 0
    def readable(self): return True
open("a", "w").close()
r = open("a", "rb")
r.__init__(Stream())
r.read(1)
def f(x): return len(lent)
""",
        "x = f(2)\nassert x > 1",
    ),
    "an object at an address": (
        """
import numpy as np
def f(x): return type(np.zeros(1))((1,), "O", np.array([id(f)]))[0] is f
""",
        "x = f(2)\nassert x + 0 == 1",
    ),
}


@pytest.mark.parametrize("name", ITS_OWN_TEST)
def test_no_forgery_is_accepted_by_the_test_that_it_is_for(judge: Judge, name: str) -> None:
    program, test = ITS_OWN_TEST[name]
    assert judge.run(Program(program, "f"), AssertTests((test,)), LIMITS).status != "accepted"
