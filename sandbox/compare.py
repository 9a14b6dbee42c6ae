"""Whether a returned value is the expected one: plain data against plain data, outside the sandbox.

| returned | expected | equal? |
|---|---|---|
| tuple | list, and the other way | if their items are |
| numpy scalar, numpy array | number, list | as the plain value (the child converts it) |
| subclass of a plain type (IntEnum, Counter) | its base type | as the base type's value |
| 1, True | 1.0, 1 | yes, as Python's == says |
| float | number | within the relative tolerance, or closer to it than 1e-9 times that around 0 |
| nan | nan | yes |
| -0.0 | 0.0 | yes |
| set | frozenset | if their items are |
| dict | dict | if keys and values are, in any order |
| str | bytes, number | no |
| "a " | "a" | no: only stdout is compared by tokens |
| bytes | bytes | byte by byte |
| int of any size | int | exactly; the tolerance is for floats |
| generator, map, range, deque, dict view, ... | list | as the list of its items |
| function, object | anything | no |
"""

from __future__ import annotations

import math
from typing import Any

FLOAT_TOLERANCE = 1e-6
# Near zero a relative tolerance allows nothing.
_ABSOLUTE_SHARE = 1e-3


def same_value(got: Any, expected: Any, tolerance: float = FLOAT_TOLERANCE) -> bool:
    """Return whether `got` counts as `expected` (the table above). `tolerance` 0 means exact."""
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(expected)
            and all(same_value(g, e, tolerance) for g, e in zip(got, expected, strict=True))
        )
    if isinstance(expected, dict):
        if not isinstance(got, dict) or len(got) != len(expected):
            return False
        return all(
            key in got and same_value(got[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, (set, frozenset)):
        return isinstance(got, (set, frozenset)) and _same_set(got, expected, tolerance)
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return _same_number(got, expected, tolerance)
    return type(got) is type(expected) and bool(got == expected)


def _same_set(
    got: set[Any] | frozenset[Any], expected: set[Any] | frozenset[Any], tolerance: float
) -> bool:
    if got == expected:
        return True
    if len(got) != len(expected) or not any(isinstance(item, float) for item in expected):
        return False
    try:
        return same_value(sorted(got), sorted(expected), tolerance)
    except TypeError:
        return False


def _same_number(got: int | float, expected: int | float, tolerance: float) -> bool:
    if got == expected:
        return True
    if not isinstance(got, float) and not isinstance(expected, float):
        return False
    try:
        if math.isnan(got) or math.isnan(expected):
            return math.isnan(got) and math.isnan(expected)
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance * _ABSOLUTE_SHARE)
    except OverflowError:  # an int that no float can hold
        return False
