"""Verdicts: one status for the program and one for each test, with the evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Status(StrEnum):
    """How a run ended. Only ACCEPTED is a pass."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong answer"
    RUNTIME_ERROR = "runtime error"
    CPU_TIME_LIMIT = "cpu time limit"
    WALL_TIME_LIMIT = "wall time limit"
    MEMORY_LIMIT = "memory limit"
    OUTPUT_LIMIT = "output limit"
    COMPILE_ERROR = "compile error"
    SECURITY_VIOLATION = "security violation"
    INFRASTRUCTURE_ERROR = "infrastructure error"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class TestVerdict:
    """The outcome of one test.

    `message` is one line for people ("ValueError: ...", "expected 3, got 4"); `got` is the repr of
    the returned value or the tail of stdout; `error_line` is a 1-based line of the program.
    `stdout` and `stderr` are there for stdin tests with `keep_output`. `partial` is the credit that
    a checker gave an answer that is not accepted, from 0 to 1.
    """

    __test__ = False  # not a pytest class

    status: Status
    message: str = ""
    error_type: str | None = None
    error_line: int | None = None
    got: str | None = None
    executed_lines: frozenset[int] = frozenset()
    cpu_s: float = 0.0
    wall_s: float = 0.0
    stdout: str | None = None
    stderr: str | None = None
    partial: float = 0.0

    def with_line_within(self, line_count: int) -> TestVerdict:
        """Return the verdict without an error line that the program does not have."""
        has_it = 0 < (self.error_line or 0) <= line_count
        return self if has_it else replace(self, error_line=None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a submission.

    `status` follows the precedence infrastructure error, compile error, security violation, any
    other error or exceeded limit of the first test that has one, wrong answer, accepted.
    `executed_lines` is the union over the tests that ran, as 1-based lines of `Program.source`
    (raw line events: the `def` line and body lines that ran, as `sys.settrace` reports them).
    `shared_process` marks tests that ran in the program's own process, where it can forge their
    results; `tampered` marks a program that interfered with the tracing of its lines. `points` is
    the share of all points that the program earned, 0 to 1 (`points.points_of`).
    """

    status: Status
    tests: tuple[TestVerdict, ...] = ()
    message: str = ""
    error_type: str | None = None
    error_line: int | None = None
    executed_lines: frozenset[int] = frozenset()
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    shared_process: bool = False
    tampered: bool = False
    points: float = 0.0

    @property
    def passed(self) -> bool:
        """True if every test passed."""
        return self.status is Status.ACCEPTED

    @property
    def pass_fraction(self) -> float:
        """Share of the tests that passed, 0 to 1."""
        if not self.tests:
            return 0.0
        return sum(t.status is Status.ACCEPTED for t in self.tests) / len(self.tests)
