"""Reads what a program returned, no more of it than the expected value can be worth.

Takes the encoded value of a test, gives whether it is right and how it is shown. A program writes
32 MiB at will, which may stand for gigabytes of objects. But equal values have as many parts, so
one that has more, or far larger ones, is wrong before any of it is made: `_launcher.weigh` walks
over the bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.assert_calls import CompiledAsserts
from stepcoder.sandbox.checkers import IN_SANDBOX, Interactor, same_answer
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.messages import shown_value
from stepcoder.sandbox.program import CallTests
from stepcoder.sandbox.verdict import TestVerdict

# Bytes of memory, about: of a value that no expected one bounds (an assert on its length, a checker
# of the user's own); of one that is made only to be shown.
LARGEST = 48 << 20
_SHOWN = 1 << 16
# A set is this many times as large as the list of its items.
_SLACK = 8
# Bytes of encoded expected values that are kept for further answers to the same tests.
_KEPT = 8 << 20

# Answers for a checker that runs in the sandbox: whether the value of a test is right, or a verdict
# if the checker has failed.
Check = Callable[[int, Any], "bool | TestVerdict"]


def judged(
    tests: CallTests, index: int, payload: bytes, check: Check | None
) -> tuple[bool | TestVerdict, str]:
    """Return whether the value of a test is right, and its repr. Raises ValueError: no value."""
    expected = tests.outputs[index]
    in_sandbox = isinstance(tests.checker, IN_SANDBOX)
    compiled = isinstance(tests, CompiledAsserts)
    if in_sandbox or (compiled and expected.code is not None):
        got = _launcher.decode(payload, None, LARGEST)
        if in_sandbox:
            return check is not None and check(index, payload), shown_value(got)
        return expected.holds(got), shown_value(got)
    wanted, (most_values, most_size) = _wanted(tests, index)
    if payload == wanted and not compiled:  # to Python nan is not nan
        return True, shown_value(expected)
    values, size = _launcher.weigh(payload)
    if values != most_values or size > _SLACK * most_size:
        if size > _SHOWN:
            return False, f"a value of {values:,} parts that is too large to show"
        return False, shown_value(_launcher.decode(payload))
    got = _launcher.decode(payload)
    if compiled:
        return expected.holds(got), shown_value(got)
    if tests.checker is None:
        return same_value(got, expected, tests.float_tolerance), shown_value(got)
    assert not isinstance(tests.checker, (*IN_SANDBOX, Interactor))
    return same_answer(tests.checker, got, expected), shown_value(got)


# By the identity of a test set's outputs, which are held so that nothing else can have it.
_wanted_values: dict[tuple[int, int], tuple[tuple[Any, ...], bytes, tuple[int, int]]] = {}
_kept = 0


def _wanted(tests: CallTests, index: int) -> tuple[bytes, tuple[int, int]]:
    """Return an expected value as bytes, and its weight; none for what is no plain data."""
    global _kept
    found = _wanted_values.get((id(tests.outputs), index))
    if found is None:
        expected = tests.outputs[index]
        if isinstance(tests, CompiledAsserts):
            expected = expected.expected
        try:
            encoded = _launcher.encode(expected, 1 << 30)
        except (TypeError, ValueError):  # nothing equals it
            encoded = b""
        found = tests.outputs, encoded, _launcher.weigh(encoded)
        _kept += len(encoded) + 256
        if _kept > _KEPT:
            _wanted_values.clear()
            _kept = 0
        else:
            _wanted_values[id(tests.outputs), index] = found
    return found[1:]
