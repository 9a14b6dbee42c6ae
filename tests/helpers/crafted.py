"""Programs with every kind of layout that lines and offsets can go wrong on; all run as they are.

Most leave something unexecuted.
"""

from __future__ import annotations

BRANCHES = '''\
def grade(score):
    """Name a score."""
    # the best first
    if score > 90:
        return "A"
    elif score > 50:

        # the middle
        return "B"
    elif score > 10: return "C"
    else:
        return "D"


def total(values):
    result = 0
    for value in values:
        if value < 0:
            continue
        while value > 10:
            value -= 10
        else:
            result += 1
        result += value
    # all added
    return result

grade(60)
grade(20)
total([1, -1])
'''

TRIES = """\
import io

def read(text):
    try:
        value = int(text)
    except ValueError as error:
        # not a number
        return str(error)
    except (
        TypeError,
        KeyError,
    ):
        return "odd"
    except:
        raise
    else:
        value += 1
    finally:
        done = True
    return value

def leave(flag):
    try:
        if flag:
            return 1
        raise KeyError(flag)
    finally:
        flag = 2

read("1")
read([])
leave(1)
try:
    leave(0)
except ValueError: pass
except KeyError: pass
finally: last = 1
try:
    raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
except* ValueError:
    x = 1
except* KeyError:
    x = 2
except* TypeError as group:
    x = 3
with io.StringIO() as a, \\
        io.StringIO() as b:
    a.write("x")
"""

MATCHES = """\
class Point:
    __match_args__ = ("x", "y")
    def __init__(self, x, y):
        self.x, self.y = x, y

def where(thing):
    match thing:
        case Point(0, 0):
            return "origin"
        case Point(x, y) if x == y: return "diagonal"
        case [first, *rest]:
            # a list
            return first
        case {"k": v}:
            return v
        case str() | bytes():
            return "text"
        case _:
            return None

where(Point(1, 1))
where("abc")
where([])
match = case = 3
match (case):
    case 4:
        print(match)
    case 3:
        pass
"""

SCOPES = """\
counter = 0
def outer():
    global counter
    counter += 1
    local = 1
    def inner(step=[
        1,
        2,
    ]):
        nonlocal local
        local += len(step)
        return lambda x: (
            x + 1
        )
    inner()
    x: int
    return inner

def never():
    "docstring"
    global counter
    counter = 9
    pass

class Thing:
    '''A thing
    with
    text.'''
    size: int = 3
    name: str

    @property
    def double(self):
        return self.size * 2

    @staticmethod
    def unused(
        a,
        b,
    ):
        return a

    def empty(self): ...

outer()
Thing().double
"""

LONG_STATEMENTS = '''\
text = """
if this:
    # not a comment
for that in text:
"""
def f(a,
      b):

    # before
    return g(
        a,

        # inside
        b,
    )

def g(a, b): return (a or
                     b)
value = f(0,
          1) if text else [
    n
    for n in range(3)
    if n
]
ok = 1 \\
    + 2
if (value and
        ok):
    done = {
        "a": 1,
    }
else:
    done = (
        1,
        2,
    )
empty = [x for x in (
    1, 2) if x > 5]
assert (
    done
), (
    "message"
)
'''

ONE_LINERS = """\
def sign(n): return 1 if n > 0 else -1
for i in range(3): sign(i); last = i
while False: break
if last: a = 1; b = 2
else: a = 2
class Empty: pass
try: sign("x")
except TypeError: b = 3
with open(0, closefd=False) as f: pass
x = 1; y = 2; z = [i for i in (x, y)]
if x: pass
if not x: pass
elif not y: z = 1
else: z = 0
lam = lambda v: v if v else 0
"""

ASYNC = """\
import asyncio

class Lines:
    def __aiter__(self):
        self.left = 2
        return self
    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left
    async def __aenter__(self):
        return self
    async def __aexit__(self, *error):
        return None

async def main():
    async for line in Lines():
        if line > 5:
            print(line)
    else:
        seen = True
    async with Lines() as lines:
        values = [x async for x in lines if x]
    return values

asyncio.run(main())
"""

GENERATORS = """\
def count(n):
    i = 0
    while True:
        if i == n:
            break
        yield i
        i += 1
    else:
        yield -1
    yield from ()

def deco(f):
    return f

@deco
@(lambda f:
  f)
def used():
    yield 1
    yield 2

@deco
def unused():
    for x in (): yield x

next(count(3))
list(count(2))
next(used())
def raises():
    x = 1
    raise ValueError(
        x,
    )
    x = 2
try:
    raises()
except ValueError:
    pass
while 1:
    break
if 0:
    never = 1
"""

NON_ASCII = '''\
größe = "ä" * 3; π = 3.14  # ünïcode
名前 = """多
行"""
if größe == "äää" and π:
    for ö in 名前:
        if ö == "行": print("→", ö); break
    else:
        print("ß")
elif "𝔘𝔫𝔦" in größe:
    print("🙂🙃")
'''

TABS = (
    "def f(x):\n\tif x:\n\t\treturn 1\n\t# tab\n\tfor i in (1, 2):\n\t\t \n\t\tx = i\n"
    "\treturn x\nf(0)\n"
)
FORM_FEEDS = (
    "import sys\n\f\ndef f(x):\n\f    if x:\n        return 1\n\f    # c\n    while x: x = 0\n"
    "\n\x0c\nclass A:\n  if 1:\n    s = 'a\x0bb\x1cc\x85d\u2028e'\n  else:\n    s = 2\nf(0)\n"
)
NO_FINAL_NEWLINE = "x = 0\nif x:\n    y = 1\nelse:\n    y = 2"
COMMENT_ENDS = """\

# top

def f(x):

    if x:
        y = 1
        # ends the if

    # of the function

    else:
        y = 2
        # ends the else
    return y
    # ends f

# of g
def g():
    pass
        # deep

f(1)
# the end

"""

_WITH_LF = {
    "branches": BRANCHES,
    "tries": TRIES,
    "matches": MATCHES,
    "scopes": SCOPES,
    "long statements": LONG_STATEMENTS,
    "one-liners": ONE_LINERS,
    "async": ASYNC,
    "generators": GENERATORS,
    "non-ASCII": NON_ASCII,
    "tabs": TABS,
    "form feeds": FORM_FEEDS,
    "no final newline": NO_FINAL_NEWLINE,
    "comments at block ends": COMMENT_ENDS,
}
CRAFTED = _WITH_LF | {
    f"{name} with {kind}": text.replace("\n", newline)
    for name, text in _WITH_LF.items()
    for kind, newline in (("CR LF", "\r\n"), ("CR", "\r"))
}
CRAFTED["mixed line ends"] = "if 1:\r\n    x = 1\r    y = 2\n\r\nelse:\r    z = 3\n"
