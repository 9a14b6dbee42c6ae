"""Why a problem was dropped, and what was done to one that was kept: the codes of decisions.jsonl.

The tables of docs/clean.md explain each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a problem was dropped; the first that holds, in this order."""

    MISSING_FIELD = "missing-field"
    MALFORMED = "malformed-record"
    DOES_NOT_PARSE = "does-not-parse"
    NO_ENTRY_POINT = "no-entry-point"
    REPEATED_ID = "repeated-id"
    OVERLAP = "overlap"
    AMBIGUOUS = "ambiguous-output"
    MISSING_IMPORT = "missing-import"
    RUNTIME_ERROR = "runtime-error"
    FAILS_TESTS = "fails-tests"
    TIMES_OUT = "times-out"
    OVER_LIMITS = "over-limits"
    FORBIDDEN = "forbidden-call"
    NON_DETERMINISTIC = "non-deterministic"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near-duplicate"


class Repair(StrEnum):
    """What was changed in a problem that would have been dropped."""

    LAYOUT = "source-layout"
    IMPORT = "import-added"
    ENTRY_POINT = "entry-point-found"
    WRAPPING = "output-wrapping"
    QUOTES = "quoted-strings"
    FLOATS = "float-output"
    SOLUTION = "other-solution"


class Normalization(StrEnum):
    """What was written in the one usual way; the problem would have passed as it was."""

    LINE_ENDS = "line-ends"
    SPACE = "trailing-space"
    REPEATED_TESTS = "repeated-tests"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is left out. `number` is its place in the input, from 0."""

    number: int
    task_id: str
    reason: Reason
    detail: str
