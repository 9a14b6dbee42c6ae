"""Whether a problem's answers are real numbers, and how close they have to be.

Takes a statement and expected outputs, gives the checker for them as JSON data. A statement's own
words ("an absolute or relative error of at most 10^-6") come before our default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

TOLERANCE = 1e-6

_REAL = re.compile(r"[-+]?\d+\.\d+(?:[eE][-+]?\d+)?")
_WORDS = ("error", "within", "exceed", "toleran", "precision", "accepted")
# 10^-6, 10^{-6}, 10**-6, 10<sup>-6</sup>, 1e-6; at most 12: "exceed 10 - 20" is none.
_POWER = r"(?:10\s*(?:\^|\*\*|<sup>)?\s*\{?\s*[-−–]\s*|\b1e-)0?(\d|1[0-2])\b"
_STATED = re.compile(
    rf"(?:error|difference|precision|within|exceed|tolerance|differ)[^.\n]{{0,60}}?{_POWER}",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"(?:absolute|relative)\s+(?:or\s+\w+\s+)?(?:error|difference|precision)", re.IGNORECASE
)


def stated_tolerance(prompt: str) -> float | None:
    """Return how close a statement wants numbers to be; None if it does not speak of it."""
    words = prompt.lower()
    if not any(word in words for word in _WORDS):  # the patterns below are slow
        return None
    if found := _STATED.search(prompt):
        return float(f"1e-{found[1]}")
    return TOLERANCE if _ASKED.search(prompt) else None


def number_fields(kind: str, outputs: Iterable[Any], prompt: str = "") -> dict[str, Any]:
    """Return the fields of tests that say how real numbers are compared; none where none are.

    Of stdout that is a checker, whose tolerance is absolute or relative, as statements say; calls
    have a tolerance of their own, which a statement may change.
    """
    stated = stated_tolerance(prompt)
    if kind == "call":
        return {} if stated is None else {"float_tolerance": stated}
    if stated is None and not any(map(is_real, outputs)):
        return {}
    return {"checker": tolerance_checker(stated or TOLERANCE)}


def tolerance_checker(close: float) -> dict[str, Any]:
    """Return the checker that takes numbers for equal within a tolerance, as JSON data."""
    return {"kind": "tolerance", "float_tolerance": close, "absolute_tolerance": close}


def is_real(value: Any) -> bool:
    """Return whether a value is a real number or a list with one, or a text with one in it."""
    if isinstance(value, str):
        return any(_REAL.fullmatch(token) for token in value.split())
    if isinstance(value, (list, tuple)):
        return any(
            isinstance(item, float) or (isinstance(item, list) and is_real(item)) for item in value
        )
    return isinstance(value, float)
