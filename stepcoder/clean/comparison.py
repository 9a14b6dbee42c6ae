"""How an answer must be compared: exactly, as numbers, in any order, or not at all.

Takes a problem's statement and expected outputs, gives a Comparison. A statement that accepts
any of several answers cannot be judged by comparison with one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from stepcoder.problems.problem import Problem
from stepcoder.problems.tolerance import (
    TOLERANCE,
    is_real,
    stated_tolerance,
    tolerance_checker,
)
from stepcoder.sandbox import CallTests
from stepcoder.sandbox.compare import FLOAT_TOLERANCE
from stepcoder.sandbox.program import CodeTests


class Comparison(StrEnum):
    """How answers are compared."""

    EXACT = "exact"
    FLOAT = "float"
    UNORDERED = "unordered"
    ANY = "any"  # several answers are right: no comparison decides


_GIVE = r"\b(?:return|print|output|find|write|give|report|accept)(?:s|ed|ing)?\b"
_SHOW = r"\b(?:return|print|output|write|give)(?:s|ed|ing)?\b"  # what "in any order" belongs to
_ANSWERS = r"(?:answer|solution|way|option|output|result|permutation|string|sequence|subsequence)"
_MANY = rf"(?:multiple|several|many|more than one)\b[^.!?\n]{{0,60}}\b{_ANSWERS}s?"
# "print any", "return any of them", "any valid answer is accepted", "if there are several answers,
# you may output any one"; not "in any order", "in any case", "any point of time".
_ANY_ANSWER = re.compile(
    rf"{_GIVE}\s+(?:\w+\s+){{0,3}}?any(?:\s+(?:one|1))?\s*(?:of\s+(?:them|these|those|the\s+{_ANSWERS}s?)\b|[.,;!)\[]|$)"
    rf"|{_GIVE}[^.!?\n]{{0,80}}?\bcoordinates\s+of\s+any\b"
    r"|\ballowed\s+to\s+choose\s+any\s+correct\b"
    rf"|{_GIVE}\s+(?:\w+\s+){{0,2}}?any\s+(?:\w+[-\s]+){{0,2}}?(?:valid|suitable|possible|optimal|correct|appropriate|such)\b"
    rf"|\bany\s+(?:\w+\s+)?{_ANSWERS}\s+(?:is|are|will\s+be|would\s+be)\s+accept"
    rf"|\b{_MANY}[^.!?\n]{{0,60}}\bany\b"
    rf"|{_GIVE}\s+(?:\w+\s+){{0,3}}?any\s+{_ANSWERS}\b",
    re.IGNORECASE | re.MULTILINE,
)
_ANY_ORDER = re.compile(
    rf"{_SHOW}[^.!?\n]{{0,120}}\bin\s+(?:an\s+)?(?:any|arbitrary)\s+order"
    r"|\border\s+of\s+(?:the\s+)?(?:output|result|answer|returned)[^.!?\n]{0,40}"
    r"(?:does\s+not|doesn't|doesn’t)\s+matter"
    r"|\b(?:in|with)\s+any\s+order[^.!?\n]{0,30}\b(?:accept|allowed)",
    re.IGNORECASE,
)
# "Yes" in any case, a matrix that may be large: no other answers are meant.
_LETTER_CASE = re.compile(r"\b(?:in\s+)?any\s+(?:letter\s+)?(?:case|register)\b", re.IGNORECASE)


def comparison_of(problem: Problem) -> Comparison:
    """Return how answers of a problem must be compared.

    A statement's own words decide between the answers that it accepts; the expected outputs decide
    whether they are real numbers.
    """
    text = problem.prompt
    words = text.lower()
    if "any" in words or "order of" in words:  # the patterns below are slow
        text = _LETTER_CASE.sub(" ", re.sub(r"\s*\n\s*", "\n", text))
        if _ANY_ANSWER.search(_ANY_ORDER.sub(" ", text)) and not _one_word(problem):
            return Comparison.ANY
        if _ANY_ORDER.search(text) and _has_order(problem):
            return Comparison.UNORDERED
    real = any(map(is_real, _outputs(problem))) or stated_tolerance(text) is not None
    return Comparison.FLOAT if real else Comparison.EXACT


def checker_of(comparison: Comparison, problem: Problem) -> dict[str, Any] | None:
    """Return the checker that compares so, as JSON data; None where the tests do it already."""
    tests = problem.tests
    if isinstance(tests, CodeTests) or tests.checker is not None:
        return None
    given = tests.float_tolerance if isinstance(tests, CallTests) else None
    if comparison is Comparison.UNORDERED:
        return {"kind": "unordered", "float_tolerance": FLOAT_TOLERANCE if given is None else given}
    close = stated_tolerance(problem.prompt) or TOLERANCE
    chosen = given not in (None, FLOAT_TOLERANCE)
    if comparison is not Comparison.FLOAT or chosen or given == close:
        return None
    return tolerance_checker(close)


def _outputs(problem: Problem) -> Iterable[Any]:
    return () if isinstance(problem.tests, CodeTests) else problem.tests.outputs


def _one_word(problem: Problem) -> bool:
    """Return whether no expected output has room for several answers (yes and no, true, false)."""
    outputs = list(_outputs(problem))
    words = {str(value).strip().lower() for value in outputs}
    return bool(outputs) and words <= {"yes", "no", "true", "false", "possible", "impossible"}


def _has_order(problem: Problem) -> bool:
    """Return whether some expected output has items that could stand in another order."""
    if isinstance(problem.tests, CodeTests):
        return True
    if isinstance(problem.tests, CallTests):
        return any(isinstance(value, (list, tuple)) for value in problem.tests.outputs)
    return any(len(text.split()) > 1 for text in problem.tests.outputs)
