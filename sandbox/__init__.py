"""Judges untrusted Python programs: fast, isolated, with values compared outside the sandbox.

    with Judge() as judge:
        verdict = judge.run(Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,)))

Needs neither torch nor numpy. `guest` holds what runs in the sandboxed processes; all other modules
are the judge's side, which trusts nothing that a process says.
"""

from stepcoder.sandbox.checkers import (
    Checker,
    Custom,
    Exact,
    Interactor,
    Regex,
    Testlib,
    Tolerance,
    Unordered,
)
from stepcoder.sandbox.judge import Judge
from stepcoder.sandbox.libraries import LibraryError
from stepcoder.sandbox.program import (
    LANGUAGES,
    AssertTests,
    CallTests,
    Limits,
    Program,
    StdinTests,
    Submission,
    Tests,
    UnittestTests,
)
from stepcoder.sandbox.service import IsolationError
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

__all__ = [
    "LANGUAGES",
    "AssertTests",
    "CallTests",
    "Checker",
    "Custom",
    "Exact",
    "Interactor",
    "IsolationError",
    "Judge",
    "LibraryError",
    "Limits",
    "Program",
    "Regex",
    "Status",
    "StdinTests",
    "Submission",
    "TestVerdict",
    "Testlib",
    "Tests",
    "Tolerance",
    "UnittestTests",
    "Unordered",
    "Verdict",
]
