"""How an answer must be compared: exactly, as numbers, in any order, or not at all.

Takes a problem's statement and expected outputs, gives a Comparison. A statement that accepts
any of several answers cannot be judged by comparison with one of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from stepcoder.problems.problem import Problem
from stepcoder.sandbox import CallTests
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.program import CodeTests

TOLERANCE = 1e-6


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
_ERROR = re.compile(
    r"(?:absolute|relative)\s+(?:or\s+\w+\s+)?(?:error|difference|precision)"
    r"|(?:within|error\s+of|exceed|tolerance)[^.\n]{0,30}10\s*\^?\s*\{?\s*[-−–]\s*\d",
    re.IGNORECASE,
)
_REAL = re.compile(r"[-+]?\d+\.\d+(?:[eE][-+]?\d+)?")
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
    if any(map(_is_real, _outputs(problem))):
        return Comparison.FLOAT
    told = any(word in words for word in ("error", "within", "exceed", "toleran", "precision"))
    if told and _ERROR.search(text):
        return Comparison.FLOAT
    return Comparison.EXACT


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


def _is_real(value: Any) -> bool:
    if isinstance(value, str):
        return any(_REAL.fullmatch(token) for token in value.split())
    if isinstance(value, (list, tuple)):
        return any(
            isinstance(item, float) or (isinstance(item, list) and _is_real(item)) for item in value
        )
    return isinstance(value, float)


def same_tokens(got: str, expected: str) -> bool:
    """Return whether two outputs have equal tokens, real numbers within the tolerance."""
    left, right = got.split(), expected.split()
    return len(left) == len(right) and all(map(_same_token, left, right))


def _same_token(got: str, expected: str) -> bool:
    if got == expected:
        return True
    if not (_REAL.fullmatch(got) or _REAL.fullmatch(expected)):
        return False
    try:
        return math.isclose(float(got), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False


def has_same_items(got: Any, expected: Any) -> bool:
    """Return whether two outputs have the same items: lists of values, or words of texts.

    Unlike the judge's own comparison in any order, this one takes 1 and 1.0 for different items: it
    decides whether the expected output may be replaced by the one that was got.
    """
    if isinstance(got, str) and isinstance(expected, str):
        return Counter(got.split()) == Counter(expected.split())
    if not isinstance(got, (list, tuple)) or not isinstance(expected, (list, tuple)):
        return same_value(got, expected)
    return Counter(map(_text, got)) == Counter(map(_text, expected))


def _text(value: Any) -> str:
    """Return a value's repr, the same for a tuple as for a list."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)
