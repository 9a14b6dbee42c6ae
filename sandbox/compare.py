"""Compares a returned value with the expected one, outside the sandbox. Both are plain data.

docs/judge.md has the table of what equals what, and of what each checker changes. Values come here
only if they have as many parts as the expected one (`returned`). Comparing takes about as long as
sorting them; only pairing items that noise has moved takes longer, and is limited.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

FLOAT_TOLERANCE = 1e-6
# A relative tolerance allows nothing near zero, hence an absolute one: this share of it.
_ABSOLUTE_SHARE = 1e-3
# Most comparisons of parts (items in items count) for which every pairing of two lists is tried.
_MOST_TRIED = 400_000
# Bits of the longest int that can be a key of JSON.
_MOST_KEY_BITS = 1 << 12
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
        got = _with_keys_of_json(got, expected)
        return all(
            key in got and same_value(got[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, (set, frozenset)):
        return isinstance(got, (set, frozenset)) and _same_set(got, expected, tolerance)
    if isinstance(expected, (int, float, complex)) and isinstance(got, (int, float, complex)):
        return _same_number(got.real, expected.real, tolerance) and _same_number(
            got.imag, expected.imag, tolerance
        )
    return type(got) is type(expected) and bool(got == expected)


def _with_keys_of_json(got: dict[Any, Any], expected: dict[Any, Any]) -> dict[Any, Any]:
    """Return a dict with its keys as texts, as JSON has them, if the expected one has only such."""
    if not all(type(key) is str for key in expected) or all(type(key) is str for key in got):
        return got
    return {_key_of_json(key): value for key, value in got.items()}


def _key_of_json(key: Any) -> Any:
    if key is None or type(key) is bool:
        return {None: "null", True: "true", False: "false"}[key]
    small = type(key) is int and key.bit_length() <= _MOST_KEY_BITS
    return repr(key) if small or type(key) is float else key


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
    """Return whether two lists have the same items, each as often. A returned set counts as a list.

    Equal items are found by hashing. If they do not all have partners, and noise may be why, both
    lists are compared sorted. Noise in one of several floats of an item may sort it elsewhere: such
    items are paired by trying, if they are not too many.
    """
    if isinstance(got, (set, frozenset)) and isinstance(expected, (list, tuple)):
        got = list(got)
    if not isinstance(expected, (list, tuple)) or not isinstance(got, (list, tuple)):
        return same_value(got, expected, tolerance)
    if len(got) != len(expected):
        return False
    kinds: set[type] = set()
    keys, expected_keys = _keys(got, kinds), _keys(expected, kinds)
    if kinds <= _HASHABLE:
        if _same_keys(keys, expected_keys):
            return True
        if tolerance == 0 or not kinds & {float, complex}:
            return False
    order = None if kinds <= _REAL else _order
    pairs = list(zip(sorted(got, key=order), sorted(expected, key=order), strict=True))
    moved = [(g, e) for g, e in pairs if g != e and not same_value(g, e, tolerance)]
    if not moved:
        return True
    nested = any(isinstance(item, (list, tuple, dict)) for item in expected)
    # That the others fit does not mean that they are partners, hence all of them at last.
    return nested and tolerance > 0 and (_match(moved, tolerance) or _match(pairs, tolerance))


class _Nan:
    """Stands for nan among keys, which equals itself there."""


_SIMPLE = {type(None), bool, str, bytes}
_HASHABLE = {*_SIMPLE, int, float, complex, tuple, _Nan}
_REAL = {bool, int, float}
_LARGE = 1 << 60  # from here on ints can have equal hashes


def _keys(items: Sequence[Any], kinds: set[type]) -> Sequence[Any]:
    """Return what is equal where items are, and hashable if all of `kinds` are.

    Adds to `kinds` the types that the items are made of: tuple for lists, _Nan for nan.
    """
    found = set(map(type, items))
    small = found <= {int, bool} and items and min(items) > -_LARGE and max(items) < _LARGE
    if small or found <= _SIMPLE:
        kinds |= found
        return items
    return [_key(item, kinds) for item in items]


def _key(value: Any, kinds: set[type]) -> Any:
    if isinstance(value, (list, tuple)):
        kinds.add(tuple)
        return tuple(_keys(value, kinds))
    kinds.add(type(value))
    if isinstance(value, (int, float)):
        if value != value:
            kinds.add(_Nan)
            return _Nan
        return (
            value if -_LARGE < value < _LARGE or abs(value) == math.inf else (_Nan, hex(int(value)))
        )
    if isinstance(value, complex) and not abs(value.real) + abs(value.imag) < _LARGE:
        kinds.add(object)  # to be compared as it is
    return value


def _same_keys(keys: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Return whether two lists have the same keys, each as often.

    Those of an answer are only looked up: a program can choose such as make a table slow.
    """
    left = Counter(expected)
    for key in keys:
        if not left.get(key, 0):
            return False
        left[key] -= 1
    return True


def _order(value: Any) -> tuple[Any, ...]:
    """Return a sort key: any two have an order, and equal values (the table) have equal ones."""
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


def _match(pairs: Sequence[tuple[Any, Any]], tolerance: float) -> bool:
    """Return whether the left items can be paired one to one with the right ones.

    Bipartite matching with augmenting paths. False if it would take too long.
    """
    got, expected = zip(*pairs, strict=True)
    if len(pairs) * sum(map(_parts, expected)) > _MOST_TRIED:
        return False
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


def _parts(value: Any) -> int:
    """Return how many values a value consists of."""
    if isinstance(value, dict):
        return 1 + sum(_parts(key) + _parts(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return 1 + sum(map(_parts, value))
    return 1


def same_lines(got: str, expected: str) -> bool:
    """Return whether two texts have the same lines but for white space at their ends."""
    right = expected.rstrip().split("\n")
    left = got.rstrip().split("\n", len(right))
    return len(left) == len(right) and all(
        g.rstrip() == e.rstrip() for g, e in zip(left, right, strict=True)
    )


def same_number_tokens(
    got: str, expected: str, tolerance: float, absolute: float | None = None
) -> bool:
    """Return whether two texts have the same tokens, numbers within one of the tolerances."""
    right = expected.split()
    left = got.split(maxsplit=len(right))
    return len(left) == len(right) and all(
        g == e or _same_token(g, e, tolerance, absolute) for g, e in zip(left, right, strict=True)
    )


def same_lines_in_any_order(got: str, expected: str, tolerance: float) -> bool:
    """Return whether two texts have the same lines in any order, or any order within each line.

    A statement's "in any order" means the one or the other. Numbers are compared within the
    tolerance once both are sorted.
    """
    got, words = got.rstrip(), len(expected.split())
    if got.count("\n") != expected.rstrip().count("\n") or len(got.split(None, words)) != words:
        return False  # before a list is made of every line
    left, right = ([line.split() for line in text.rstrip().split("\n")] for text in (got, expected))
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
