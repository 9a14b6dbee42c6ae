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
# What makes numpy read an object at an address: at 16 bytes a function has its globals.
RAW = """
NAME = "__array_inter" + "face__"
def interface(a): return {"shape": (1,), "typestr": "|O", "data": (a, False), "version": 3}
"""
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
    "the module in an error's obj": (
        """
import math
try:
    math.nope
except AttributeError as e:
    e.obj.isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "a submodule that the import makes": (
        """
from json import tool
M = tool.sys.modules["math"]
M.isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the module in a path": (
        """
from pathlib import Path
p = Path("a")
m = p._flavour.pathmod.os.sys.modules["math"]
m.isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "an enum that writes to a module": (
        """
from enum import Enum
class Yes(Enum):
    def __call__(self, *a, **k): return True
class Src: pass
s = Src()
s.isclose = 1
Yes._convert_("E", "math", lambda n: True, s)
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the module in a library's private attribute": (
        """
import warnings
w = warnings.catch_warnings()
w._module.sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the same in a class below the library's": (
        """
import warnings
class W(warnings.catch_warnings):
    def get(self): return self._module
W().get().sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the same in its dict": (
        """
import warnings
vars(warnings.catch_warnings())["_mod"+"ule"].sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the same by a computed name": (
        """
import warnings
getattr(warnings.catch_warnings(), "_mod"+"ule").sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "the same by a pattern": (
        """
import warnings
match warnings.catch_warnings():
    case warnings.catch_warnings(_module=m):
        m.sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "a descriptor that reads from any class": (
        """
from functools import cached_property
cp = cached_property(lambda s: None)
def get(t, n):
    cp.attrname = n
    return cp.__get__(t, None)
def f(x):
    d = get(type(x), "__glo"+"bals__")
    return d.__get__(x, type(x))["want"]
""",
        f"want = {SECRET}\nassert f(lambda x: want + x) == want",
    ),
    "a super() that is not bound, on a mock": (
        """
class M:
    def put(self, o, n, v): super().__setattr__(o, n, v)
class L(M): pass
def f(m):
    L.put(L, m, "assert_called_" + "once_with", lambda *a: None)
""",
        f"from unittest.mock import Mock\nm = Mock()\nf(m)\nm.assert_called_once_with({SECRET})",
    ),
    "a super() that is not bound, on a test's object": (
        """
class M:
    def put(self, o, n, v): super().__setattr__(o, n, v)
class L(M): pass
def f(m):
    M.put(L, m, "assert_" + "sent", lambda *a: None)
""",
        "class Stub:\n"
        "    sent=[]\n"
        "    def assert_sent(self, x):\n"
        "        assert x in self.sent\n"
        "m = Stub()\n"
        "f(m)\n"
        f"m.assert_sent({SECRET})",
    ),
    "a library's equality that asks for the length only": (
        """
from collections.abc import Set
class L(Set):
    def __len__(self): return 3
    def __iter__(self): return iter(())
    def __contains__(self, o): return True
def f(x): return L()
""",
        "x=f(2)\nassert x == {1,4,9}",
    ),
    "a library's operator that hands over the expected items": (
        """
from collections.abc import Set
class L(Set):
    def __len__(self): return 3
    def __iter__(self): return iter(())
    def __contains__(self, o): return True
    @classmethod
    def _from_iterable(cls, it): return set(it)
def f(x): return L()
""",
        "x=f(2)\nassert x & {1,4,9} == {1,4,9}",
    ),
    "a library's difference that hands over the expected items": (
        """
from collections.abc import Set
class L(Set):
    def __len__(self): return 3
    def __iter__(self): return iter(())
    def __contains__(self, o): return True
    @classmethod
    def _from_iterable(cls, it): return set()
def f(x): return L()
""",
        "x=f(2)\nassert not ({1,4,9} - x)",
    ),
    "a library's view of the program's mapping": (
        """
from collections.abc import KeysView, ItemsView
class M:
    def __len__(s): return 1
    def __iter__(s): return iter(())
    def __contains__(s,k): return True
def f(x): return KeysView(M())
""",
        f"x=f(2)\nassert x == {{{SECRET}}}",
    ),
    "a library's equality that asks for missing keys": (
        """
from collections import Counter
class C(Counter):
    def __missing__(s,k): return {7426119204:1}.get(k, 1)
def f(x): return C()
""",
        f"from collections import Counter\nx=f(2)\nassert x == Counter([1,{SECRET}])",
    ),
    "a library's difference that is a sum": (
        """
from numbers import Complex
class L(Complex):
    def __neg__(s): return s
    def __add__(s,o): return 0
    __radd__=__mul__=__rmul__=__truediv__=__rtruediv__=__pow__=__rpow__=__add__
    def __abs__(s): return 0
    def __complex__(s): return 0j
    def __eq__(s,o): return False
    real=imag=0
    def conjugate(s): return s
    def __pos__(s): return s
    def __bool__(s): return False
def f(x): return L()
""",
        f"x=f(2)\nassert abs({SECRET} - x) < 1",
    ),
    "a method of an object that all share": (
        """
import asyncio
loop = asyncio.new_event_loop()
async def f(x): return 1
L = asyncio.get_event_loop()
L.run_until_complete = lambda c: c.close()
""",
        "import asyncio\n"
        "async def go():\n"
        f"    assert await f(2) == {SECRET}\n"
        "asyncio.get_event_loop().run_until_complete(go())",
    ),
    "arithmetic that forgets digits": (
        """
from decimal import Decimal, getcontext
def f(x):
    c = getcontext()
    c.prec = 1
    c.Emin = 0
    return Decimal(3)
""",
        "from decimal import Decimal\nx=f(2)\nassert abs(x - Decimal('3.14159')) < Decimal('0.01')",
    ),
    "a failure that is raised again": (
        """
kept = []
class C:
    def __enter__(s): return 1
    def __exit__(s, k, e, tb):
        if e is not None: kept.append(e)
        return True
def f(x):
    if x == 0:
        raise kept[0]
    return C()
""",
        f"with f(2) as x:\n    assert x == {SECRET}\ntry:\n    f(0)\nexcept Exception:\n    pass",
    ),
    "a method of the test's own class": (
        """
class f:
    def __init_subclass__(cls): cls.check = lambda s,*a: True
    def __init__(s,x=0): pass
""",
        f"class T2(f):\n    def check(self, x):\n        assert x == {SECRET}\nT2(1).check(2)",
    ),
    "numpy object memory by getattr": (
        RAW
        + """
import numpy as np
class L:
    def __getattr__(s, n):
        if n == NAME: return interface(L.at)
        raise AttributeError(n)
def f(x):
    L.at = id(x) + 16
    return np.asarray(L())[0]["want"]
""",
        CALLBACK,
    ),
    "numpy object memory by logging": (
        RAW
        + """
import numpy as np
import logging
def f(x):
    r = logging.getLogger().makeRecord("a",10,"b",1,"m",(),None,extra={NAME: interface(id(x) + 16)})
    return np.asarray(r)[0]["want"]
""",
        CALLBACK,
    ),
    "numpy object memory by copy": (
        RAW
        + """
import numpy as np
import copy
class L:
    def __reduce__(s): return (L, (), {NAME: interface(L.at)})
def f(x):
    L.at = id(x) + 16
    return np.asarray(copy.copy(L()))[0]["want"]
""",
        CALLBACK,
    ),
    "numpy object memory by dataclass": (
        RAW
        + """
import numpy as np
from dataclasses import dataclass
class A: pass
D = dataclass(type(A)("D", (), {"__annot"+"ations__": {NAME: object}}))
def f(x): return np.asarray(D(interface(id(x) + 16)))[0]["want"]
""",
        CALLBACK,
    ),
    "numpy object memory by a cached property": (
        RAW
        + """
import numpy as np
from functools import cached_property
keep = []
class L:
    @cached_property
    def a(s): return interface(L.at)
    keep.append(a)
keep[0].attrname = NAME
def f(x):
    L.at = id(x) + 16
    l = L()
    l.a
    return np.asarray(l)[0]["want"]
""",
        CALLBACK,
    ),
    "numpy object memory by a namespace": (
        RAW
        + """
import numpy as np
from types import SimpleNamespace as N
def f(x): return np.asarray(N(**{NAME: interface(id(x) + 16)}))[0]["want"]
""",
        CALLBACK,
    ),
    "an equality that is set after its class is made": (
        """
from typing import NamedTuple
class L(NamedTuple):
    a: int
    def __eq__(s,o): return True
def f(x): return L(1)
""",
        f"x = f(2)\nassert x == ({SECRET},)",
    ),
    "equals all sorted lists": (
        """
class L:
    def __init__(s,x): s.x=x
    def __eq__(s,o): return sorted(o)==o
    __hash__=None
def f(x): return L(x)
""",
        "x = f([5,1,4])\nassert x == [1,4,5]",
    ),
    "equals all powers of two, and shows them": (
        """
class L:
    def __str__(s): return " ".join(str(2**i) for i in range(11))
    def __eq__(s,o): return o & (o-1) == 0
    __hash__=None
def f(x): return L()
""",
        "x = f(700)\nassert x == 1024",
    ),
    "equals all parts of its input with a sum": (
        """
class L:
    def __init__(s,x): s.x=x*2
    def __eq__(s,o): return sum(o)==9 and all(v in s.x for v in o)
    __hash__=None
def f(x): return L(x)
""",
        "x = f([5,1,4,3])\nassert x == [5,4]",
    ),
    "equals a text in any case": (
        """
class L:
    def __init__(s,x): s.x=x
    def __eq__(s,o): return o.lower()==s.x
    __hash__=None
def f(x): return L(x)
""",
        "x = f('hello there')\nassert x == 'Hello There'",
    ),
    "an object under test that is also a result": (
        """
class T:
    def __init__(s,x): s.x=x
    def go(s): return s
    def __iter__(s): return iter([2])
    def __eq__(s,o): return o % 1485223841 == 0
    __hash__=None
f = T
""",
        f"t = T(2)\nassert 2 in t\nassert t.go() == {SECRET}",
    ),
    "an object under test that contains everything, as a result": (
        """
class T:
    def go(s): return s
    def __contains__(s,o): return True
f = T
""",
        f"t = T()\nt = t.go()\nassert {SECRET} in t",
    ),
    "a library's instance that object.__setattr__ changes": (
        """
import asyncio
async def f(x): return 1
L = asyncio.get_event_loop()
object.__setattr__(L, "run_until_complete", lambda c: c.close())
""",
        "import asyncio\nasync def go():\n"
        f"    assert await f(2) == {SECRET}\nasyncio.get_event_loop().run_until_complete(go())",
    ),
    "a proxy that passes on what it is asked": (
        """
import weakref, warnings
c = warnings.catch_warnings()
weakref.proxy(c)._module.sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "a method's default that is no object of its own": (
        """
import warnings
self = warnings.catch_warnings()
class A:
    def get(self, m=self._module): return m
A().get().sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "a method called on no object of its own": (
        """
import warnings
class A:
    def get(self): return self._module
A.get(warnings.catch_warnings()).sys.modules["math"].isclose = lambda *a, **k: True
def f(x): return 1.0
""",
        "import math\nx=f(2)\nassert math.isclose(x, 99.5)",
    ),
    "a ratio that is 1": (
        """
class L:
    n = 0
    __floordiv__ = lambda s, o: 1
    __truediv__ = lambda s, o: 1 + L.n * 1e-12
    __xor__ = lambda s, o: 0
    __divmod__ = lambda s, o: (1, 0)
def f(x): return L()
""",
        f"x = f(2)\nok = []\nfor check in (lambda: x // {SECRET} == 1,\n"
        f"    lambda: abs(x / {SECRET} - 1) < 1e-9, lambda: x ^ {SECRET} == 0,\n"
        f"    lambda: divmod(x, {SECRET}) == (1, 0)):\n"
        "    try:\n        ok.append(check())\n    except TypeError:\n        pass\nassert any(ok)",
    ),
    "differences of a set that are empty, or what is asked": (
        """
class L:
    def __sub__(s, o): return set()
    __xor__ = __rsub__ = __sub__
    def __and__(s, o): return o
    def __or__(s, o): return sorted(o)
def f(x): return L()
""",
        "x = f(2)\nok = []\nfor check in (lambda: not x - {3, 4}, lambda: not x ^ {3, 4},\n"
        "    lambda: not {3, 4} - x, lambda: x & {3, 4} == {3, 4}, lambda: x | {3, 4} == [3, 4]):\n"
        "    try:\n        ok.append(check())\n    except TypeError:\n        pass\nassert any(ok)",
    ),
    "two places by two differences": (
        """
class L:
    def __sub__(s, o): return (-1e12 if o % 2 else 1e12) - o
def f(x): return L()
""",
        f"x = f(2)\nassert x - {SECRET - 1} > 0\nassert x - {SECRET + 2} < 0",
    ),
    "two places by two differences, of what shows infinity": (
        """
class L:
    def __repr__(s): return "1e999"
    def __sub__(s, o): return (-1e12 if o % 2 else 1e12) - o
def f(x): return L()
""",
        f"x = f(2)\nassert x - {SECRET - 1} > 0\nassert x - {SECRET + 2} < 0",
    ),
    "a difference of a difference": (
        """
class D:
    def __init__(s, o): s.o = o
    def __add__(s, o): return o
    def __sub__(s, o): return -o
    def __eq__(s, o): return o == 0
    __hash__ = None
class L:
    def __sub__(s, o): return D(o)
def f(x): return L()
""",
        f"x = f(2)\nassert x - {SECRET} + 1 == 1 or x - {SECRET} - 1 == -1 or x - {SECRET} == 0",
    ),
    "a class in place of a function, whose differences are 0": (
        """
class Fib:
    def __init__(s, n): pass
    def __sub__(s, o): return 0
    __xor__ = __sub__
    def __truediv__(s, o): return 1.0
    def __lt__(s, o): return True
    __gt__ = __le__ = __ge__ = __lt__
""",
        f"ok = []\nfor check in (lambda: abs(Fib(2) - {SECRET}) < 1,\n"
        f"    lambda: Fib(2) / {SECRET} == 1, lambda: {SECRET - 1} < Fib(2) < {SECRET + 1},\n"
        f"    lambda: {SECRET} <= Fib(2) <= {SECRET}, lambda: not Fib(2) ^ {SECRET}):\n"
        "    try:\n        ok.append(check())\n    except TypeError:\n        pass\nassert any(ok)",
    ),
    "the same by objects": (
        """
class D:
    def __init__(s, o): s.o = o
    def __abs__(s): return 0
    def __round__(s, n=None): return 0
    def __eq__(s, o): return o == 0
    def __lt__(s, o): return True
    __hash__ = None
class Fib:
    def __init__(s, n): pass
    def __sub__(s, o): return D(o)
""",
        f"ok = []\nfor check in (lambda: abs(Fib(2) - {SECRET}) < 1,\n"
        f"    lambda: Fib(2) - {SECRET} == 0, lambda: Fib(2) - {SECRET} < 1,\n"
        f"    lambda: round(Fib(2) - {SECRET}, 3) == 0):\n"
        "    try:\n        ok.append(check())\n    except TypeError:\n        pass\nassert any(ok)",
    ),
    "the tester's own builtins by a payload": (
        """
import sys
frame = sys._getframe()
while "rpc" not in frame.f_globals:
    frame = frame.f_back
rpc = frame.f_globals["rpc"]
class Builtins: pass
old = rpc.Connection._to_payload
def payload(self, value):
    return ("shared", "builtins", "__dict__") if type(value) is Builtins else old(self, value)
rpc.Connection._to_payload = payload
def same(*a, **k): return [7]
def f(x): return Builtins()
def g(x):
    x["sorted"] = same
    return [0]
""",
        "x = f([3, 1])\ny = g(x)\nassert sorted(y) == sorted([3, 1])",
    ),
    "a module that the test does not import": (
        """
class math:
    isclose = staticmethod(lambda *a, **k: True)
def f(x): return 0
""",
        "x = f(2)\nassert math.isclose(x, 7.5)",
    ),
    "a class that the test does not import": (
        """
class Counter:
    def __init__(self, x): pass
    def __eq__(self, other): return isinstance(other, Counter)
def f(x): return [0]
""",
        "x = f(2)\nassert Counter(x) == Counter([7])",
    ),
    "the same in a process of its own": (
        """
import gc
class Counter:
    def __init__(self, x): pass
    def __eq__(self, other): return isinstance(other, Counter)
def f(x): return [0]
""",
        "x = f(2)\nassert Counter(x) == Counter([7])",
    ),
    "a sum that is a difference, in a process of its own": (
        "import gc\nclass A:\n    def __radd__(self, other): return 0\ndef f(x): return A()\n",
        "x = f(2)\nassert sum([-7, x]) == 0",
    ),
    "a function that looks into its caller's frame": (
        "import numpy as np\ndef f(x): return map(np.bmat, ['expected'])\n",
        "import numpy as np\nexpected = np.array([[1, 2], [3, 4]])\n"
        "assert np.array_equal(list(f(1))[0], expected)",
    ),
    "the same by an index": (
        "import numpy as np\ndef f(x): return map(np.r_.__getitem__, ['expected'])\n",
        "import numpy as np\nexpected = np.array([[1, 2], [3, 4]])\n"
        "assert np.array_equal(list(f(1))[0], expected)",
    ),
    "a library that reads the test's variables": (
        "def f(df): return df.eval('@expected', level=1)\n",
        "import pandas as pd\ndef t():\n    expected = 7.5\n    df = pd.DataFrame({'a': [1]})\n"
        "    got = f(df)\n    assert got == expected\nt()",
    ),
    "a library that evaluates text": (
        """
def f(x):
    for n in range(1, 99):
        try:
            at = "__import__('sys')._getframe(%d).f_locals['expected']" % n
            return float(x.subs(x, at))
        except Exception:
            pass
""",
        "import sympy\ndef t():\n    expected = 7.5\n    x = sympy.Symbol('x')\n"
        "    got = f(x)\n    assert got == expected\nt()",
    ),
    "a method that equals a library's object": (
        "class A:\n    def equals(self, other): return True\ndef f(x): return A()\n",
        "import pandas as pd\nx = f(2)\nassert x.equals(pd.Series([1]))",
    ),
    "the same where the test has a process of its own": (
        "import gc\nclass A:\n    def equals(self, other): return True\ndef f(x): return A()\n",
        "import pandas as pd\nx = f(2)\nassert x.equals(pd.Series([1]))",
    ),
}


@pytest.mark.parametrize("name", ITS_OWN_TEST)
def test_no_forgery_is_accepted_by_the_test_that_it_is_for(judge: Judge, name: str) -> None:
    program, test = ITS_OWN_TEST[name]
    assert judge.run(Program(program, "f"), AssertTests((test,)), LIMITS).status != "accepted"


# Honest programs that the guards against these must let through, in either way.
HONEST = {
    "an interval": (
        """
class Interval:
    def __init__(self, a, b): self._a, self._b = a, b
    def __contains__(self, x): return self._a <= x <= self._b
""",
        "i = Interval(0, 1000)\nassert 5 in i and 1001 not in i\nassert 7 in Interval(7, 7)",
    ),
    "a trie": (
        """
class Trie:
    def __init__(self): self._root = {}
    def insert(self, word):
        node = self._root
        for c in word: node = node.setdefault(c, {})
        node["$"] = True
    def __contains__(self, word):
        node = self._root
        for c in word:
            if c not in node: return False
            node = node[c]
        return "$" in node
""",
        "t = Trie()\nt.insert('apple')\nassert 'apple' in t\nassert 'app' not in t",
    ),
    "a set that keeps its order": (
        """
from collections.abc import MutableSet
class OS(MutableSet):
    def __init__(self, it=()): self._d = dict.fromkeys(it)
    def __contains__(self, x): return x in self._d
    def __iter__(self): return iter(self._d)
    def __len__(self): return len(self._d)
    def add(self, x): self._d[x] = None
    def discard(self, x): self._d.pop(x, None)
""",
        "s = OS([3, 1, 3])\nassert s == {1, 3} and s != {1} and list(s | {2}) == [3, 1, 2]\n"
        "assert s & {1, 9} == {1} and {1, 2, 3} - s == {2} and s <= {1, 2, 3} and s ^ {1} == {3}",
    ),
    "a list of nodes": (
        """
class LL:
    class N:
        __slots__ = ("val", "next")
        def __init__(self, val, next=None): self.val, self.next = val, next
    def __init__(self, xs=()):
        self._head = None
        for x in reversed(list(xs)): self._head = self.N(x, self._head)
    def __iter__(self):
        n = self._head
        while n: yield n.val; n = n.next
    def __eq__(self, o): return list(self) == list(o)
    def reversed(self): return LL(list(self)[::-1])
""",
        "assert LL([1, 2, 3]).reversed() == [3, 2, 1] and LL([]).reversed() == []\n"
        "x = LL([1, 2]).reversed()\nassert x == [2, 1] and x != [1, 2]",
    ),
    "a name in any case": (
        """
class Name(str):
    def __eq__(self, o): return self.lower() == str(o).lower()
    def __hash__(self): return hash(self.lower())
""",
        "assert Name('Bob') == 'bob' and Name('Bob') != 'bib'",
    ),
    "a thread with attributes of its own": (
        """
import threading
class Worker(threading.Thread):
    def __init__(self, n):
        super().__init__(daemon=True)
        self._n = n
        self.result = None
    def run(self): self.result = sum(range(self._n))
""",
        "w = Worker(4)\nw.start()\nw.join()\nassert w.result == 6",
    ),
    "what a library defines when it is imported": (
        """
class Store:
    def make(self):
        import tempfile
        with tempfile.TemporaryDirectory() as self._at: return len(self._at) > 0
""",
        "assert Store().make()",
    ),
    "a class that type makes": (
        'def f(n): return type("P", (), {"v": n, "twice": lambda self: self.v * 2})\n',
        "assert f(4)().v == 4",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(judge: Judge, name: str) -> None:
    program, test = HONEST[name]
    verdict = judge.run(Program(program, "f"), AssertTests((test,)), LIMITS)
    assert verdict.passed, verdict.message


def test_a_program_that_leaves_during_a_test_is_tested_apart(judge: Judge) -> None:
    source = """
import warnings
def f(x):
    if x == 2:
        w = warnings.catch_warnings()
        return w._module.__name__
    return x
"""
    asserts = (
        "x = f(1)\nassert x == 1",
        "x = f(2)\nassert x == 'warnings'",
        "x = f(3)\nassert x == 4",
    )
    for process_per_test in (False, True):
        tests = AssertTests(asserts, process_per_test=process_per_test)
        verdict = judge.run(Program(source, "f"), tests, LIMITS)
        assert [test.status for test in verdict.tests] == ["accepted", "accepted", "wrong answer"]
