"""Programs whose executed lines are easily reported wrong, each with its calls of `f`.

What a test runs depends on what earlier tests left suspended, on code that the program copies, or
on how the compiler lays out jumps.
"""

from __future__ import annotations

from typing import Any

_LONG = "".join(
    f"        if n == {i}:\n            x.append('{i}'\n            )\n            continue\n"
    for i in range(300)
)
_MANY_NAMES = "".join(f"    v{i} = n\n    w{i} = 'text {i}'; pass\n" for i in range(300))
_FOUR: list[list[Any]] = [[0], [1], [2], [3]]

EDGE_CASES: dict[str, tuple[str, list[list[Any]]]] = {
    "a generator goes on in later tests": (
        """def g():
    yield 1
    x = (yield 2) or 5
    for i in (1, 2): yield i
    for i in (
        yield
    ) or (): pass
    while (yield 3): pass
    try:
        yield 4
    finally:
        x = 1

one = g()
def f(n):
    return next(one, None)
""",
        [[i] for i in range(9)],
    ),
    "a generator is resumed within a loop on one line": (
        """def g():
    while (yield 1): x = 2
    yield 3
one = g()
def f(n):
    return one.send(n)
""",
        [[None], [1], [1], [0]],
    ),
    "exceptions are thrown into a suspended generator": (
        """from contextlib import suppress
def g():
    while True:
        with suppress(ValueError): x = yield 1
        try: yield 2
        except KeyError: yield 3
        try: x = [
            (yield 4)]
        finally:
            yield 5

one = g()
next(one)
def f(n):
    try:
        return one.throw((ValueError, KeyError)[n % 2])
    except (ValueError, KeyError):
        return -1
""",
        _FOUR,
    ),
    "generator expressions of several lines go on in later tests": (
        """one = (
    n
    for n in range(20)
    if n and
    n % 2
)
two = (n for n in range(9) if n
       and n - 1)
def f(n):
    return next(one) + next(two) + sum(
        m for m in (1, 2)
        if m and n)
""",
        _FOUR,
    ),
    "yield from and close": (
        """def inner():
    try:
        yield 1
        yield 2
    except GeneratorExit:
        seen.append(1)
        raise
def outer():
    yield from inner()
    result = [*((yield from inner()) or ()),
              1]
    yield result
seen = []
one = outer()
def f(n):
    if n == 3: one.close()
    return next(one, None), list(seen)
""",
        _FOUR,
    ),
    "coroutines driven by hand": (
        """class Wait:
    def __await__(self):
        x = yield 1
        return x
class Context:
    async def __aenter__(self):
        await Wait()
    async def __aexit__(self, *error):
        await Wait()
        return True
class Items:
    def __aiter__(self):
        self.left = 3
        return self
    async def __anext__(self):
        await Wait()
        if not self.left: raise StopAsyncIteration
        self.left -= 1
        return self.left
async def numbers():
    for i in range(2):
        yield i
        await Wait()
async def main():
    async with Context() as a, Context(): await Wait()
    async with (
        Context()
    ):
        raise KeyError
    async for i in Items(): await Wait()
    else:
        x = [i async for i in Items()
             if i and await Wait() is None]
    async for i in numbers():
        pass
    return {
        1: await Wait(),
    }
one = main()
def f(n):
    for _ in range(3):
        try:
            one.send(None)
        except (StopIteration, RuntimeError):
            pass
    return n
""",
        [[i] for i in range(12)],
    ),
    "a thread waits from one test to a later one": (
        """import threading
go, done = threading.Event(), threading.Event()
def work():
    for i in () if go.wait() else (): x = i
    y = 1
    done.set()
thread = threading.Thread(target=work, daemon=True)
def f(n):
    if n == 0: thread.start()
    if n == 2:
        go.set()
        done.wait()
        thread.join()
    return n
""",
        _FOUR,
    ),
    "a long function": (
        f"def f(n):\n    x = []\n    for n in range(n, n + 3):\n{_LONG}    return len(x)\n",
        [[0], [250], [299]],
    ),
    "many names and constants": (
        f"def f(n):\n{_MANY_NAMES}    while n > 0: n -= 1\n    return w299\n",
        [[0], [2]],
    ),
    "code is replaced": (
        """def f(n):
    if n > 1:
        return 'big'
    return 'small'
def g(n):
    return (n,
            1)
f.__code__ = f.__code__.replace(co_name='g')
h = g.__code__.replace(co_consts=tuple(2 if c == 1 else c for c in g.__code__.co_consts))
g.__code__ = h
def f(n, f=f):
    if n == 3: f.__code__ = g.__code__
    return f(n), g(n)
""",
        _FOUR,
    ),
    "code is replaced in a test, while a generator is suspended": (
        """def g():
    yield 1
    yield 2
    for i in (1, 2): yield i
one = g()
def k(n):
    if n: return 1
    return 2
def f(n):
    if n == 1: k.__code__ = k.__code__.replace()
    return next(one), k(n % 2)
""",
        _FOUR,
    ),
    "code is run in other ways": (
        """import types
def g():
    def inner(n):
        if n:
            return 1
        return 2
    class C:
        a = 1
    return inner, C
codes = [c for c in g.__code__.co_consts if hasattr(c, 'co_code')]
copy = types.FunctionType(codes[0], globals())
def f(n):
    names = {'__name__': 'x'}
    exec(codes[1], names)
    exec('y = 1\\n\\n\\n\\n\\n\\n\\n\\nz = 2', names)
    exec(compile('\\n\\n\\n\\n\\n\\n\\nx = 1', 'other', 'exec'), names)
    return copy(n % 2), names['a']
""",
        _FOUR,
    ),
    "code comes back from marshal": (
        """import marshal, types
def g(n):
    if n: return 1
    return 2
copy = types.FunctionType(marshal.loads(marshal.dumps(g.__code__)), globals())
def f(n):
    return g(n)
""",
        [[0], [1]],
    ),
    "the truth of classes": (
        """class Empty(type):
    def __len__(cls): return 0
class False_(type):
    def __bool__(cls): return False
class A(metaclass=Empty): pass
class B(metaclass=False_): pass
class D(metaclass=type('M', (type,), {})): pass
def f(n):
    if AssertionError and bool(AssertionError):
        assert AssertionError
    try:
        assert not n, (
            AssertionError)
    except AssertionError as AssertionErrors: n = 1
    return bool(A), bool(B), bool(D), bool(type), bool(f), not AssertionError, n
""",
        [[0], [1]],
    ),
    "groups of exceptions, and finally that returns": (
        """def g(n):
    try:
        try:
            if n: raise ExceptionGroup('', [
                ValueError(),
                KeyError()])
        except* ValueError: x = 1
        except* (TypeError,
                 KeyError) as e:
            x = 2
        else: return 3
    finally:
        if n == 1: return 4
    for i in range(2):
        try: continue
        finally: x = 5
    while True:
        try:
            break
        finally:
            x = 6
    return x
def f(n):
    return g(n)
""",
        [[0], [1], [2]],
    ),
    "wrapped functions": (
        """import functools
from dataclasses import dataclass, field
def wrap(*names):
    def outer(f):
        @functools.wraps(f)
        def inner(*args, **kwargs):
            return f(*args,
                     **kwargs)
        return inner
    return outer
@dataclass(order=True,
           frozen=True)
class P:
    x: int = 0
    y: list = field(
        default_factory=lambda: [
            1])
    def __post_init__(self): super().__init__()
    @property
    def z(self):
        return self.x
@wrap(
    1,
    *[2])
@functools.lru_cache
def g(n): return P(n).z
@functools.singledispatch
def h(n): return 1
@h.register
def _(n: int): return 2
@h.register(str)
def _(n):
    return 3
def f(n):
    return g(n), h(n), h(''), P(1) < P(2)
""",
        [[0], [0], [1]],
    ),
    "deleted, global and nonlocal names": (
        """def g():
    global total
    count = 0
    def inner():
        nonlocal count
        global total
        count += 1
        total = count
        pass
    inner()
    del count
    try: count
    except NameError: pass
    del total; pass
    while True:
        pass
        if 1: break
        x = 1
    else: x = 2
    return [
        [m
         for m in range(n)
         if m]
        for n in range(3)
    ]
def f(n):
    '''text'''
    return (g()
            if n and
            n != 2 else
            None), f'''{
n}''', (y :=
    n)
""",
        _FOUR,
    ),
    "a profile function": (
        """import sys
def g(n):
    if n: return 1
    return 2
sys.setprofile(lambda *a: None)
def f(n):
    if n == 2: sys.setprofile(None)
    return g(n % 2)
""",
        _FOUR,
    ),
}
