"""Checkers: other ways to compare the answer of a test with the expected one.

A checker is plain data in CallTests or StdinTests. The judge applies Exact, Tolerance and Unordered
itself (`same_answer`, `same_output`); the others run in the sandbox (`checker_runs`, `testlib`),
in another process than the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepcoder.sandbox.compare import (
    FLOAT_TOLERANCE,
    same_in_any_order,
    same_lines,
    same_lines_in_any_order,
    same_number_tokens,
    same_value,
)


@dataclass(frozen=True, slots=True)
class Exact:
    """Values without tolerance; stdout line by line, up to white space at the ends of lines."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Numbers within a relative tolerance: in values, or among the tokens of stdout.

    On stdout `absolute_tolerance` is enough as well, None meaning a thousandth of the relative one.
    """

    float_tolerance: float = FLOAT_TOLERANCE
    absolute_tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Unordered:
    """The items of a returned list in any order; what lies within an item keeps its order.

    On stdout the lines in any order, or the words of every line (`same_lines_in_any_order`).
    """

    float_tolerance: float = FLOAT_TOLERANCE


@dataclass(frozen=True, slots=True)
class Regex:
    """Expected outputs are regular expressions for all of stdout, or all of the returned str.

    White space at the end of stdout counts for nothing. Flags stand in the expression: `(?is)...`.
    """


@dataclass(frozen=True, slots=True)
class Custom:
    """Python source that defines `check(input, expected, got) -> bool`.

    It gets plain data: a call test's list of arguments, expected and returned value, or the three
    texts of a stdin test. It runs in a sandbox of its own after the program has ended. If it does
    not return True or False, that is an infrastructure error, never a verdict on the program.
    """

    source: str


@dataclass(frozen=True, slots=True)
class Testlib:
    """A C++ checker for stdout: a program that testlib's convention asks for.

    It gets the names of three files (input, output, answer) and ends with exit status 0 for a right
    answer, 1, 2 or 4 for a wrong one, and 7 for one that is partly right, when stderr begins with
    `points 0.5`; what it writes to stderr is the message. After any other end the answer is wrong
    if the checker works on the expected one, else that is an infrastructure error.
    `headers` are pairs of name and text: testlib.h, which comes from its own project.
    """

    __test__ = False  # not a pytest class

    source: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Interactor:
    """A C++ program that the program talks to: what one writes to stdout is the other's stdin.

    It gets the names of three files (input, its own output, answer), and ends as a Testlib checker
    does. It runs beside the program, in a sandbox of its own.
    """

    source: str
    headers: tuple[tuple[str, str], ...] = ()


Checker = Exact | Tolerance | Unordered | Regex | Custom | Testlib | Interactor
# Those that run in the sandbox, once the program has ended.
IN_SANDBOX = (Regex, Custom, Testlib)


def same_answer(checker: Exact | Tolerance | Unordered, got: Any, expected: Any) -> bool:
    """Return whether a returned value is the expected one."""
    if isinstance(checker, Unordered):
        return same_in_any_order(got, expected, checker.float_tolerance)
    tolerance = checker.float_tolerance if isinstance(checker, Tolerance) else 0.0
    return same_value(got, expected, tolerance)


def same_output(checker: Exact | Tolerance | Unordered, got: str, expected: str) -> bool:
    """Return whether stdout is the expected one."""
    if isinstance(checker, Tolerance):
        close = checker.float_tolerance, checker.absolute_tolerance
        return same_number_tokens(got, expected, *close)
    if isinstance(checker, Unordered):
        return same_lines_in_any_order(got, expected, checker.float_tolerance)
    return same_lines(got, expected)
