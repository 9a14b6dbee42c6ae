"""Compares a returned value with the expected one, outside the sandbox. Both are plain data.

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
| "a " | "a" | no |
| bytes | bytes | byte by byte |
| int of any size | int | exactly; the tolerance is for floats |
| generator, map, range, deque, dict view, ... | list | as the list of its items |
| function, object | anything | no |

Checkers (`checkers`) replace these rules, and those for stdout:

| checker | values | stdout |
|---|---|---|
| none | the table; floats within 1e-6 | by tokens between white space: "1.0" is not "1" |
| Exact | the table; floats exactly (1 is 1.0, nan is nan) | by lines, but for space at their ends |
| Tolerance | the table; floats within the tolerance | by tokens; numbers as numbers: "1.0" is "1" |
| Unordered | the table; a list's items in any order | lines in any order, or their words |
| Regex | a str that the expression matches from end to end | the same, but for space at its end |
| Custom | True or False from the checker's own code | the same |
"""

from __future__ import annotations

import math
from typing import Any

FLOAT_TOLERANCE = 1e-6
# A relative tolerance allows nothing near zero, hence an absolute one: this share of it.
_ABSOLUTE_SHARE = 1e-3
# Longest list for which every pairing of items is tried; longer ones are compared sorted.
_MOST_TRIED = 300
_LONGEST_NUMBER = 400  # characters of a token of stdout


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


def _same_number(
    got: int | float, expected: int | float, tolerance: float, absolute: float | None = None
) -> bool:
    if got == expected:
        return True
    if not isinstance(got, float) and not isinstance(expected, float):
        return False
    try:
        if math.isnan(got) or math.isnan(expected):
            return math.isnan(got) and math.isnan(expected)
        least = tolerance * _ABSOLUTE_SHARE if absolute is None else absolute
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=least)
    except OverflowError:  # an int that no float can hold
        return False


def same_in_any_order(got: Any, expected: Any, tolerance: float = FLOAT_TOLERANCE) -> bool:
    """Return whether two lists have the same items (the table above), each as often.

    Both are compared sorted. Noise in one of several floats of an item may sort it elsewhere: if
    that can be, every pairing is tried, in lists of up to 300 items.
    """
    if not isinstance(expected, (list, tuple)) or not isinstance(got, (list, tuple)):
        return same_value(got, expected, tolerance)
    if len(got) != len(expected):
        return False
    left, right = sorted(got, key=_order), sorted(expected, key=_order)
    if all(same_value(g, e, tolerance) for g, e in zip(left, right, strict=True)):
        return True
    nested = any(isinstance(item, (list, tuple, dict)) for item in expected)
    return nested and tolerance > 0 and len(right) <= _MOST_TRIED and _match(left, right, tolerance)


def _order(value: Any) -> tuple[Any, ...]:
    """Return a sort key: any two have an order, and equal values (the table) have equal ones.

    Unlike hashing, sorting is not slowed down by values that a program has chosen for that.
    """
    if isinstance(value, (int, float)):
        return (1, value) if value == value else (2,)
    if isinstance(value, (list, tuple)):
        return (3, len(value), [_order(item) for item in value])
    if isinstance(value, dict):
        return (4, len(value), sorted((_order(k), _order(v)) for k, v in value.items()))
    if isinstance(value, (set, frozenset)):
        return (5, len(value), sorted(map(_order, value)))
    if isinstance(value, complex):
        return (6, _order(value.real), _order(value.imag))
    return (0, type(value).__name__, value if value is not None else 0)  # None, str, bytes


def _match(got: list[Any], expected: list[Any], tolerance: float) -> bool:
    """Return whether the items can be paired one to one (bipartite matching, augmenting paths)."""
    partners = [
        [j for j, item in enumerate(got) if same_value(item, e, tolerance)] for e in expected
    ]
    owner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j in partners[i]:
            if j not in tried:
                tried.add(j)
                if j not in owner or place(owner[j], tried):
                    owner[j] = i
                    return True
        return False

    return all(place(i, set()) for i in range(len(expected)))


def same_lines(got: str, expected: str) -> bool:
    """Return whether two texts have the same lines but for white space at their ends."""
    left, right = got.rstrip().split("\n"), expected.rstrip().split("\n")
    return len(left) == len(right) and all(
        g.rstrip() == e.rstrip() for g, e in zip(left, right, strict=True)
    )


def same_number_tokens(
    got: str, expected: str, tolerance: float, absolute: float | None = None
) -> bool:
    """Return whether two texts have the same tokens, numbers within one of the tolerances."""
    left, right = got.split(), expected.split()
    return len(left) == len(right) and all(
        g == e or _same_token(g, e, tolerance, absolute) for g, e in zip(left, right, strict=True)
    )


def same_lines_in_any_order(got: str, expected: str, tolerance: float) -> bool:
    """Return whether two texts have the same lines in any order, or any order within each line.

    A statement's "in any order" means the one or the other. Numbers are compared within the
    tolerance once both are sorted.
    """
    left, right = ([line.split() for line in text.rstrip().split("\n")] for text in (got, expected))
    if len(left) != len(right):
        return False
    orders = [(sorted(left), sorted(right)), ([*map(sorted, left)], [*map(sorted, right)])]
    return any(
        all(
            same_number_tokens(" ".join(g), " ".join(e), tolerance)
            for g, e in zip(*lines, strict=True)
        )
        for lines in orders
    )


def _same_token(got: str, expected: str, tolerance: float, absolute: float | None) -> bool:
    left, right = _number(got), _number(expected)
    return left is not None and right is not None and _same_number(left, right, tolerance, absolute)


def _number(token: str) -> int | float | None:
    if len(token) > _LONGEST_NUMBER or "_" in token:
        return None
    try:
        return int(token)
    except ValueError:
        pass
    try:
        return float(token)
    except ValueError:
        return None
