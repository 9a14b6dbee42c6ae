"""Runs one program in a child: compiles it, loads it, calls its entry point, records the values.

Takes a request (see `jobs` on the judge's side) and writes to the board, the shared memory of
results. Runs in the same process as the program and is not trusted: it reports values, and the
judge makes the verdicts.
"""

from __future__ import annotations

import _thread
import array
import atexit
import collections
import datetime
import enum
import gc
import os
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from .. import _launcher
from . import rpc, tester, transfer, unittests
from .describe import FILENAME, describe, show

# Workers of programs do without what shares a process with tests: a fork pays for every page.
RUNS_TESTS = "unittest" in sys.modules
if RUNS_TESTS:
    from . import direct

PREAMBLE_FILENAME = "<preamble>"

# A program may replace the builtins.
_compile, _exec, _eval = compile, exec, eval

_REHEARSAL = '''\
from typing import List, Optional
import math
from collections import defaultdict

class Solution:
    def __init__(self, n=0):
        self.n = n

    def f(self, nums: List[int], k: Optional[int] = None) -> int:
        """Everything that most programs do."""
        seen, best = defaultdict(int), {}
        for i, num in enumerate(sorted(set(nums), key=lambda x: -x)):
            if num % 2 == 0 and i not in best or not num:
                best[num] = max(i, math.floor(1.5)) + seen[i]
            elif k is None:
                seen[num] += 1
        while k and k > 0:
            k -= 1
        try:
            text = f"{k} {num:>3}".split(",")
            return [x ** 2 for x in nums if x], sum(best.values()), " ".join(text)[::-1]
        except (ValueError, KeyError) as error:
            raise RuntimeError("no") from error

if __name__ == "__main__":
    import sys
    print(*map(int, sys.stdin.readline().split()), end="")
    1 / 0
'''

# The interpreter specialises code after eight runs of it, which no child gets to.
REHEARSALS = 12


def rehearse() -> Iterator[None]:
    """Make warm-up runs in the worker before it forks children; yield after each.

    Children then start with filled interpreter caches, specialised code, a fixed seed and no
    garbage.
    """
    transfer.find_numpy()
    main = sys.modules["__main__"]
    for _ in range(REHEARSALS):
        for kind, entry_point in (("calls", "Solution().f"), ("stdin", None)):
            run((kind, _REHEARSAL, "import math", entry_point, [[[3, 1, 2], 4]]), -1)
            yield
    sys.modules["__main__"] = main
    del sys.modules["program"]
    if RUNS_TESTS:
        direct.rehearse(_REHEARSAL, REHEARSALS)
    random.seed(0)
    gc.collect()
    gc.freeze()


def rehearse_small() -> None:
    """Make a warm-up run of the smallest program."""
    source = "def f(n):\n    return n\n"
    run(("calls", source, "", "f", [[1]]), -1)


def run(request: tuple[Any, ...], channel: int) -> None:
    """Run one request in this child. Returns when the run is over; the child then ends."""
    if request[0] in ("tester", "unittester", "asserts", "unittests"):  # where tests run
        direct.thaw_library()
    if request[0] in ("tester", "unittester"):
        tester.run_tester(request, channel)
        return
    kind, source, preamble, entry_point, payload = request
    program = load(source, preamble, as_main=kind == "stdin" and entry_point is None)
    if program is None:
        return
    code, module = program
    if kind == "direct":
        direct.run(source, module, entry_point, payload, execute)
        _launcher.note_tampering()
        return
    RUNS[kind](code, module, entry_point, payload, channel)
    _launcher.note_tampering()


def load(
    source: str, preamble: str, *, as_main: bool
) -> tuple[types.CodeType, types.ModuleType] | None:
    """Compile the program and run its preamble; if either fails, record the error, return None."""
    _launcher.enter_phase(_launcher.PHASE_COMPILE)
    try:
        code = _compile(source, FILENAME, "exec", dont_inherit=True)
    except BaseException as error:
        _launcher.record_error(describe(error))
        return None
    _launcher.enter_phase(_launcher.PHASE_LOAD)
    name = "__main__" if as_main else "program"
    module = types.ModuleType(name)
    if as_main:
        module.__file__ = "main.py"
    sys.modules[name] = module
    try:
        if preamble:
            _exec(_compile(preamble, PREAMBLE_FILENAME, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        _launcher.record_error(describe(error))
        return None
    return code, module


def execute(code: types.CodeType, module: types.ModuleType) -> bool:
    """Run the program's module body, traced; if it raises, record the error and return False."""
    code = _launcher.trace(code)
    try:
        _exec(code, module.__dict__)
    except BaseException as error:
        _launcher.record_error(describe(error))
        return False
    return True


def run_calls(
    code: types.CodeType,
    module: types.ModuleType,
    entry_point: str,
    inputs: list[list[Any] | None],
    _channel: int,
    normalize: Callable[[Any], Any] | None = None,
) -> None:
    """Call the entry point with each test's arguments; a test without arguments calls nothing."""
    normalize = normalize or plain
    if not execute(code, module):
        return
    entry = _compile(entry_point, "<entry point>", "eval")
    for i in range(_launcher.first_test(), len(inputs)):
        _launcher.retrace()
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + i)
        arguments = inputs[i]
        try:
            value = None if arguments is None else _eval(entry, module.__dict__)(*arguments)
            _launcher.record_value(value, normalize)
        except BaseException as error:
            _launcher.record_error(describe(error))
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + len(inputs))


def run_values(
    code: types.CodeType,
    module: types.ModuleType,
    entry_point: str,
    inputs: list[list[Any] | None],
    channel: int,
) -> None:
    """Call the entry point for compiled asserts, to which a generator does not count as a list."""
    run_calls(code, module, entry_point, inputs, channel, transfer.without_numpy)


def run_stdin(
    code: types.CodeType,
    module: types.ModuleType,
    entry_point: str | None,
    shown_source: str | None,
    channel: int,
) -> None:
    """Run the program, or its zero-argument entry point, on the stdin that the judge prepared.

    With `shown_source` what it has printed is there as soon as a line is complete, and its
    traceback goes to stderr, as where people look at both. With a channel an interactor is at the
    other end of stdin and stdout.
    """
    if channel >= 0:
        for fd in (0, 1):
            os.dup2(channel, fd)
    if isinstance(shown_source, str):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if entry_point is None:
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST)
        code = _launcher.trace(code)
        body: Callable[[], Any] = lambda: _exec(code, module.__dict__)  # noqa: E731
    else:
        if not execute(code, module):
            flush()
            return
        _launcher.retrace()
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST)
        entry = _compile(entry_point, "<entry point>", "eval")
        body = lambda: _eval(entry, module.__dict__)()  # noqa: E731
    try:
        try:
            body()
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        # What the interpreter does at exit, as far as a program can notice it.
        if _thread._count():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException as error:
        _launcher.record_error(describe(error))
        flush()
        if isinstance(shown_source, str):
            show(error, shown_source)
        return
    flush()
    _launcher.record_value(None, plain)
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + 1)


def flush() -> None:
    """Flush what print() has buffered."""
    for stream in {id(s): s for s in (sys.stdout, sys.__stdout__)}.values():
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            continue


def run_served(
    code: types.CodeType,
    module: types.ModuleType,
    _entry_point: str | None,
    test_count: int,
    channel: int,
) -> None:
    """Load the program, then serve the tester at the other end of the channel."""
    classes = {
        name: value
        for name, value in module.__dict__.items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    if not execute(code, module):
        return
    for name in classes:  # the program may define its own ListNode
        if isinstance(module.__dict__.get(name), type):
            classes[name] = module.__dict__[name]
    connection = rpc.Connection(channel, classes, open_to_all=True)
    connection.describe = describe

    def begin_test(index: int) -> None:
        _launcher.retrace()
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + index)

    def find_names(names: list[str]) -> dict[str, Any]:
        found = {name: module.__dict__[name] for name in names if name in module.__dict__}
        return {name: _shareable(value) for name, value in found.items()}

    connection.commands = {"test": begin_test, "names": find_names, "seed": random.seed}
    connection.serve()
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + test_count)


def _shareable(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, BaseException):
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in value.__mro__[:-1]]
        return (rpc.ERROR_CLASS, names)
    return value


def run_asserts(
    code: types.CodeType,
    module: types.ModuleType,
    _entry_point: str | None,
    payload: tuple[str, list[str]],
    _channel: int,
) -> None:
    """Run assert tests in the program's own process, where the program can forge their results.

    For tests with `shared_process`, which need more than calls of the program.
    """
    if not execute(code, module):
        return
    setup, asserts = payload
    try:
        _exec(_compile(setup, "<setup>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        _launcher.record_error(describe(error))
        return
    for i in range(_launcher.first_test(), len(asserts)):
        _launcher.retrace()
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + i)
        try:
            _exec(_compile(asserts[i], "<test>", "exec", dont_inherit=True), module.__dict__)
            _launcher.record_value(None, plain)
        except BaseException as error:
            _launcher.record_error(describe(error))
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + len(asserts))


def run_unittests(
    code: types.CodeType,
    module: types.ModuleType,
    _entry_point: str | None,
    payload: tuple[str, list[str]],
    _channel: int,
) -> None:
    """Run unittest tests in the program's own process, as `run_asserts` does."""
    if not execute(code, module):
        return
    tests, names = payload
    try:
        unittests.prepare(module)
        _exec(_compile(tests, "<test>", "exec", dont_inherit=True), module.__dict__)
        runner = unittests.Runner(module, names, lambda _: _launcher.retrace())
        runner.run(_launcher.first_test())
    except BaseException as error:
        _launcher.record_error(describe(error))


RUNS: dict[str, Callable[..., None]] = {
    "calls": run_calls,
    "values": run_values,
    "stdin": run_stdin,
    "asserts": run_asserts,
    "unittests": run_unittests,
    "served": run_served,
}


# Types that count as lists in a returned value, beside iterators.
_SEQUENCES: tuple[type, ...] = (
    range,
    collections.deque,
    collections.UserList,
    array.array,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_MAPPINGS = (types.MappingProxyType, collections.ChainMap, collections.UserDict)
_TEXTS = (datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, collections.UserString)
_MODULES_OF_TEXTS = frozenset({"uuid", "pathlib", "ipaddress"})


def plain(value: Any) -> Any:
    """Return the plain value that another value stands for, by the table of docs/judge.md.

    The items of an iterator are taken within the test's limits. NotImplemented: there is none.
    """
    kind = type(value)
    if isinstance(value, _SEQUENCES) or hasattr(kind, "__next__"):
        return list(value)
    if isinstance(value, _MAPPINGS):
        return dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    # pathlib is a package in 3.13.
    if isinstance(value, _TEXTS) or kind.__module__.partition(".")[0] in _MODULES_OF_TEXTS:
        return str(value)
    if kind is memoryview:
        return value.tobytes()
    match transfer.number(value):
        case ("Fraction", numerator, denominator):
            return numerator if denominator == 1 else numerator / denominator
        case ("Decimal", _):
            whole = value.is_finite() and value == value.to_integral_value()
            return int(value) if whole and value.adjusted() <= _MOST_DIGITS else float(value)
    return transfer.without_numpy(value)


_MOST_DIGITS = 1_000_000  # of a Decimal that counts as an int: 1E+999999999 is one, too
