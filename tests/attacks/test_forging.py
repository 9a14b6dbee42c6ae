"""Programs that try to be accepted without the right value (docs/sandbox.md, "Forging")."""

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Custom,
    Exact,
    Judge,
    Limits,
    Program,
    Regex,
    StdinTests,
    Tolerance,
    UnittestTests,
    Unordered,
    Verdict,
)

LIMITS = Limits(cpu_s=1.0, wall_s=3.0)
# Values that no program can guess, so that a pass can only be forged.
SECRET = 7_426_119_205


def attack(judge: Judge, source: str) -> list[Verdict]:
    """Judge a hostile program by every kind of test that it could be judged by."""
    program = Program(source, "f")
    asserts = (
        f"assert f(2) == {SECRET}",
        f"assert {SECRET} == f(3)",
        f"assert not f(2) != {SECRET}",
    )
    indirect = (
        f"assert abs(f(2) - {SECRET}) < 1",
        f"assert f(2) in [{SECRET}]",
        f"assert {{f(2)}} == {{{SECRET}}}",
        f"with f(2) as x:\n    assert x == {SECRET}",
        f"assert all(map(lambda x: f(x) == {SECRET}, [2]))",
        f"for x in [2]:\n    assert f(x) == {SECRET}",
    )
    return [
        judge.run(program, CallTests(([2], [3]), (SECRET, SECRET)), LIMITS),
        judge.run(program, CallTests(([2],), ([SECRET, {"k": SECRET}],)), LIMITS),
        judge.run(program, AssertTests(asserts), LIMITS),
        judge.run(program, AssertTests(indirect), LIMITS),
        judge.run(Program(source), StdinTests(("2\n",), (f"{SECRET}\n",)), LIMITS),
        judge.run(program, StdinTests(("2\n",), (f"{SECRET}\n",)), LIMITS),
        *(judge.run(program, tests, LIMITS) for tests in CHECKED),
        *(judge.run(Program(source), tests, LIMITS) for tests in CHECKED_STDIN),
        judge.run(program, UnittestTests(UNITTEST), LIMITS),
        judge.run(program, UnittestTests(UNITTEST, process_per_test=True), LIMITS),
        judge.run(program, AssertTests(asserts, process_per_test=True), LIMITS),
    ]


SAME = Custom("def check(input, expected, got):\n    return got == expected")
CHECKED = (
    CallTests(([2],), (SECRET,), checker=SAME),
    CallTests(([2],), ([SECRET, "x"],), checker=Unordered()),
    CallTests(([2],), (f"{SECRET}",), checker=Regex()),
    CallTests(([2], [3]), (SECRET, SECRET), process_per_test=True),
)
CHECKED_STDIN = (
    StdinTests(("2\n",), (f"{SECRET}\n",), checker=SAME),
    StdinTests(("2\n",), (f".*{SECRET}.*",), checker=Regex()),
    StdinTests(("2\n",), (f"{SECRET}",), checker=Exact()),
    StdinTests(("2\n",), (f"{SECRET}",), checker=Tolerance()),
)
UNITTEST = f"""
import unittest
class TestSecret(unittest.TestCase):
    def setUp(self):
        self.got = f(2)
    def test_equal(self):
        self.assertEqual(f(2), {SECRET})
    def test_equal_the_other_way(self):
        self.assertEqual({SECRET}, self.got)
    def test_almost_equal(self):
        self.assertAlmostEqual(f(2), {SECRET})
    def test_true(self):
        self.assertTrue(f(2) == {SECRET})
    def test_false(self):
        self.assertFalse(f(2) != {SECRET})
    def test_in(self):
        self.assertIn(f(2), [{SECRET}])
    def test_in_subtests(self):
        for x in (2, 3):
            with self.subTest(x=x):
                self.assertEqual(f(x), {SECRET})
    def test_list(self):
        self.assertListEqual([f(2)], [{SECRET}])
    def test_count(self):
        self.assertCountEqual([f(2)], [{SECRET}])
    def test_between(self):
        self.assertTrue({SECRET - 1} < f(2) < {SECRET + 1})
    def test_hands_itself_over(self):
        self.helper = f(self)
        self.assertEqual(f(2), {SECRET})
"""


ALWAYS_EQUAL = """
class Always(*BASES):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return hash(7426119205)
    def __abs__(self): return self
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __sub__
    def __bool__(self): return True
    def __repr__(self): return "7426119205"
    def __len__(self): return 2
    def __getitem__(self, i): return self
    def __iter__(self): return iter([self, self])
def f(x): return Always()
"""

FORGERIES = {
    "sys.exit": "import sys\ndef f(x): sys.exit(0)\n",
    "exit at load": "import sys\ndef f(x): return 1\nsys.exit(0)\n",
    "os._exit": "import os\ndef f(x): os._exit(0)\n",
    "posix._exit at load": "import posix\nposix._exit(0)\n",
    "quit": "def f(x): quit()\n",
    "raise SystemExit": "def f(x): raise SystemExit(0)\n",
    "always equal": ALWAYS_EQUAL.replace("*BASES", "object"),
    "always equal int": ALWAYS_EQUAL.replace("*BASES", "int"),
    "always equal float": ALWAYS_EQUAL.replace("*BASES", "float"),
    "always equal str": ALWAYS_EQUAL.replace("*BASES", "str"),
    "always equal list": ALWAYS_EQUAL.replace("*BASES", "list"),
    "always equal dict": ALWAYS_EQUAL.replace("*BASES", "dict"),
    "zero difference": """
class Near:
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = __mod__ = __xor__ = __sub__
    __truediv__ = __rtruediv__ = lambda self, other: 1
def f(x): return Near()
""",
    "difference in two steps": """
class Near:
    def __sub__(self, other): return self
    __rsub__ = __sub__
    def __abs__(self): return 0
    def __round__(self, n=0): return 0
    __float__ = __int__ = __index__ = __abs__
def f(x): return Near()
""",
    "learns from the difference": """
learnt = []
class Near:
    def __sub__(self, other):
        learnt.append(other)
        return 0
    __rsub__ = __sub__
def f(x): return learnt[0] if learnt else Near()
""",
    "lying metaclass": """
class Meta(type):
    def __eq__(self, other): return True
    def __instancecheck__(self, other): return True
    def __hash__(self): return 1
class int(metaclass=Meta):
    __class__ = (1).__class__
    def __eq__(self, other): return True
def f(x): return int()
""",
    "patched builtins": """
import builtins
builtins.abs = lambda x: 0
builtins.isinstance = builtins.all = builtins.any = lambda *a: True
builtins.len = lambda x: 1
builtins.AssertionError = type("AssertionError", (Exception,), {})
def f(x): return 1
""",
    "patched harness": """
import sys
for name, module in list(sys.modules.items()):
    for key, value in list(getattr(module, "__dict__", {}).items()):
        if name.startswith("_") and callable(value) and "record" in key:
            setattr(module, key, lambda *a: None)
def f(x): return 1
""",
    "own record calls": """
import sys
def f(x):
    launcher = sys.modules["_launcher"]
    for phase in range(3, 9):
        launcher.enter_phase(phase)
        launcher.record_value(True, lambda v: v)
        launcher.record_value(None, lambda v: v)
    import os
    os._exit(0)
""",
    "earlier phases": """
import sys
def f(x):
    import os
    for phase in range(4):
        sys.modules["_launcher"].enter_phase(phase)
    os._exit(0)
""",
    "every descriptor": """
import os
def f(x):
    for fd in range(64):
        for data in (b"accepted", b"\\x0d\\0\\0\\0t\\x03s\\x05valueb\\x01Nb\\x00"):
            try: os.write(fd, data)
            except OSError: pass
    return 1
f(1)
""",
    "forged messages to the tester": """
import os, sys
def f(x):
    launcher = sys.modules["_launcher"]
    for value in (None, True, 1):
        m = launcher.encode(("value", launcher.encode(value, 99), None), 999)
        try: os.write(3, (len(m).to_bytes(4, "little") + m) * 9)
        except OSError: pass
    return 1
""",
    "garbage to the tester": """
import os
def f(x):
    os.write(3, bytes(range(256)) * 99)
    return 1
""",
    "frames": """
import sys
def hunt():
    seen = []
    frame = sys._getframe()
    while frame:
        seen += [v for v in (*frame.f_locals.values(), *frame.f_globals.values())]
        frame = frame.f_back
    return seen
def f(x):
    flat = repr(hunt())
    import re
    found = [int(n) for n in re.findall(r"\\d{10}", flat)]
    return found[0] if found else 1
""",
    "garbage collector": """
import gc, re
def f(x):
    for o in gc.get_objects() + sum((gc.get_referents(o) for o in gc.get_objects()), []):
        if type(o) is int and 10**9 < o < 10**10 and o not in (2147483647, 4294967295, 4294967296):
            return o
        if type(o) is str and "74" "26" in o and len(o) < 9999:
            found = re.search("74" "26[0-9]{6}", o)
            if found: return int(found[0])
    return 1
""",
    "memory of its own": """
import re
def f(x):
    for path in ("/proc/self/mem", "/proc/1/mem", "/proc/self/environ", "/proc/self/fd/4"):
        try:
            found = re.search(rb"7426\\d{6}", open(path, "rb").read(1 << 20))
            if found: return int(found[0])
        except OSError: pass
    return 1
""",
    "request descriptor": """
import os, re
def f(x):
    for fd in range(64):
        try: data = os.pread(fd, 1 << 20, 0)
        except OSError: continue
        found = re.search(rb"7426\\d{6}", data)
        if found: return int(found[0])
    return 1
""",
    "ctypes": "import ctypes\ndef f(x):\n    return ctypes.string_at(id(x), 8)\n",
    "ctypes with numpy": "import ctypes, numpy\ndef f(x):\n    return ctypes.string_at(id(x), 8)\n",
    "raw memory through numpy": """
import numpy
def f(x):
    class Raw:
        __array_interface__ = {"shape": (1 << 15,), "typestr": "<i8", "version": 3,
                               "data": (id(x) & ~0xfffff, False)}
    near = numpy.asarray(Raw())
    found = near[(near > 7_000_000_000) & (near < 8_000_000_000)]
    return int(found[0]) if len(found) else 1
""",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 1\n",
    "excepthook": """
import sys
sys.excepthook = sys.unraisablehook = lambda *a: None
def f(x): raise ValueError
""",
    "late thread": """
import threading, time
def late():
    time.sleep(0.05)
    print("late")
threading.Thread(target=late, daemon=True).start()
def f(x): return 1
""",
    "generator": "def f(x):\n    while True: yield 1\n",
    "endless iterator": "import itertools\ndef f(x): return itertools.count()\n",
    "lying repr": """
class R:
    def __repr__(self): return "7426119205"
    __str__ = __repr__
def f(x): return R()
print(R)
""",
    "not implemented": "def f(x): return NotImplemented\n",
    "function": "def f(x): return f\n",
    "class": "class C:\n    pass\nC.__eq__ = lambda a, b: True\ndef f(x): return C\n",
    "cyclic": "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
    "raises AssertionError": "def f(x): raise AssertionError\n",
    "raises through eq": """
class E:
    def __eq__(self, o): raise SystemExit(0)
def f(x): return E()
""",
    "replaced stdout": "import sys, io\nsys.stdout = io.StringIO()\ndef f(x): return 1\n",
    "closed descriptors": "import os\nos.closerange(0, 99)\ndef f(x): return 1\n",
    "stop iteration": "def f(x): raise StopIteration\n",
    "swallows exceptions": """
class Context:
    def __enter__(self): return 7
    def __exit__(self, *error): return True
def f(x): return Context()
""",
    "skips the test": """
import unittest
def f(x): raise unittest.SkipTest("nothing to see")
""",
    "replaces the asserts of the test": """
def f(test):
    yes = lambda *a, **k: None
    for name in ("assertEqual", "assertTrue", "fail", "failureException", "_outcome"):
        try: setattr(test, name, yes)
        except BaseException: pass
    return 1
""",
    "its own unittest": """
import sys, types
class unittest:
    class TestCase:
        def assertEqual(self, *a): pass
sys.modules["unittest"] = unittest
def f(x): return 1
""",
    "its own checker": """
import builtins, sys
def check(*arguments): return True
builtins.check = sys.modules["__main__"].check = check
class Check(int):
    __eq__ = lambda *a: True
    __hash__ = int.__hash__
def f(x): return Check()
print(True)
""",
    "future of bool": "def f(x): return True\n",
    "nan": "def f(x): return float('nan')\n",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_is_accepted(judge: Judge, name: str) -> None:
    for verdict in attack(judge, FORGERIES[name]):
        assert not verdict.passed
        assert verdict.pass_fraction == 0.0
        assert verdict.status != "infrastructure error", verdict.message


def test_callbacks_do_not_open_the_tester(judge: Judge) -> None:
    source = """
def f(callback):
    found = []
    for name in ("__globals__", "__code__", "__closure__", "__defaults__", "__self__", "gi_frame"):
        try: found.append(getattr(callback, name))
        except Exception: pass
    assert not found, found
    return callback(1)
"""
    test = f"secret = {SECRET}\nassert f(lambda x: x + 1) == 2"
    assert judge.run(Program(source, "f"), AssertTests((test,))).passed


def test_a_sibling_run_leaves_nothing_to_read(judge: Judge) -> None:
    write = (
        "import os\nn = input()\nopen('answer', 'w').write(n)\nopen('/tmp/answer2', 'w').write(n)\n"
    )
    read = (
        "import os, glob\nprint(sum([f for _, _, f in os.walk('.')], []), glob.glob('/tmp/*'),"
        " glob.glob('/dev/shm/*'), glob.glob('/var/tmp/*'))\n"
    )
    for _ in range(4):
        judge.run(Program(write), StdinTests(("7",), ("",)))
        verdict = judge.run(Program(read), StdinTests(("",), ("[] [] [] []",)))
        assert verdict.passed, verdict.message


def test_state_of_one_test_process_does_not_reach_the_next_program(judge: Judge) -> None:
    poison = (
        "import builtins, math, json\nbuiltins.sum = math.sqrt = json.loads = None\n"
        "def f(): return 1\n"
    )
    for _ in range(4):
        judge.run(Program(poison, "f"), CallTests(([],), (1,)))
        source = "import math, json\ndef f(): return sum([1, json.loads('1'), math.sqrt(1)])\n"
        assert judge.run(Program(source, "f"), CallTests(([],), (3,))).passed
