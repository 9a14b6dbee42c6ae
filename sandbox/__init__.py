"""Judge untrusted Python programs: fast, isolated, and by values that are compared outside.

    with Judge() as judge:
        verdict = judge.run(Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,)))

Needs neither torch nor numpy.
"""

from stepcoder.sandbox.judge import IsolationError, Judge
from stepcoder.sandbox.program import (
    AssertTests,
    CallTests,
    Limits,
    Program,
    StdinTests,
    Submission,
    Tests,
)
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

__all__ = [
    "AssertTests",
    "CallTests",
    "IsolationError",
    "Judge",
    "Limits",
    "Program",
    "Status",
    "StdinTests",
    "Submission",
    "TestVerdict",
    "Tests",
    "Verdict",
]
