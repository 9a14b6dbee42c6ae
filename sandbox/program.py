"""What a judge takes: a program, its tests and the limits it runs under.

Plain frozen data, shared by the judge, the trainer and the command line. Imports neither torch nor
numpy nor the rest of stepcoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepcoder.sandbox.checkers import Checker
from stepcoder.sandbox.points import Subtask
from stepcoder.sandbox.unittests import test_names

PYTHONS_INT_DIGITS = 4300


@dataclass(frozen=True, slots=True)
class CallTests:
    """Call the entry point with each argument list and compare the returned value.

    `inputs[i]` is the list of positional arguments of test i, `outputs[i]` the expected value.
    Only plain data (None, bool, int, float, str, bytes, list, tuple, set, dict) can be an input or
    an output. The outputs never enter the process that runs the program. `float_tolerance` is
    relative; 0 compares exactly (the table in `compare`). A `checker` replaces this comparison.
    With `process_per_test` each test runs in a process of its own. With `in_place` the answer of a
    function that returns None is what the call has made of this argument, counted from 0.
    `subtasks` are the groups that `Verdict.points` counts.
    """

    inputs: tuple[list[Any], ...]
    outputs: tuple[Any, ...]
    float_tolerance: float = 1e-6
    checker: Checker | None = None
    process_per_test: bool = False
    in_place: int | None = None
    subtasks: tuple[Subtask, ...] = ()

    def __len__(self) -> int:
        """Return the number of tests."""
        return len(self.inputs)


class EncodedCalls(CallTests):
    """Call tests whose lists of arguments are encoded (`_launcher.encode`) already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StdinTests:
    """Run the program (or its zero-argument entry point) on each stdin and compare its stdout.

    Stdout is compared by whitespace-separated tokens, or by a `checker`. With `keep_output` the
    verdicts of the tests hold stdout (32 MiB of all tests together) and the end of stderr.
    `input_file` and `output_file` name files in the working folder that stand for stdin and stdout
    (`file_io`). `subtasks` are the groups that `Verdict.points` counts.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keep_output: bool = False
    checker: Checker | None = None
    input_file: str = ""
    output_file: str = ""
    subtasks: tuple[Subtask, ...] = ()

    def __len__(self) -> int:
        """Return the number of tests."""
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class AssertTests:
    """Pieces of test code, each run after the program in one shared namespace; raising is failing.

    Each element of `asserts` is one test (often a single `assert`); `setup` runs once before them.
    The code runs in the program's process if the program cannot reach it there, else in one of its
    own that calls the program over a pipe (docs/sandbox.md). `shared_process` runs it in the
    program's own process and namespace in any case; a program can forge the results, and the
    verdict says so. With `process_per_test` each test runs with a
    program and a setup of its own.
    """

    asserts: tuple[str, ...]
    setup: str = ""
    shared_process: bool = False
    process_per_test: bool = False

    def __len__(self) -> int:
        """Return the number of tests."""
        return len(self.asserts)


@dataclass(frozen=True, slots=True)
class UnittestTests:
    """A module of unittest.TestCase classes; each test method is a test with its own verdict.

    `names` are the tests ("TestStack.test_push"). Without names they are read from the code, which
    raises ValueError if it has no tests or does not parse. A name that the module does not have is
    an infrastructure error. Tests run in unittest's order, with their fixtures; where they run is
    as in AssertTests, and so are `shared_process` and `process_per_test`.

    A test that its decorator skips passes, with the reason as message; if all are skipped that is
    an infrastructure error. One that skips itself while it runs has not passed, since the program
    may have caused that. Expected failures must fail.
    """

    code: str
    names: tuple[str, ...] = ()
    shared_process: bool = False
    process_per_test: bool = False

    def __post_init__(self) -> None:
        """Read the names from the code if there are none."""
        if not self.names:
            object.__setattr__(self, "names", test_names(self.code))

    def __len__(self) -> int:
        """Return the number of tests."""
        return len(self.names)


Tests = CallTests | StdinTests | AssertTests | UnittestTests
# Tests that are code, which a tester can run apart from the program.
CodeTests = AssertTests | UnittestTests


def test_code(tests: Tests) -> tuple[str, ...]:
    """Return the texts of tests that are code, nothing for others."""
    if isinstance(tests, UnittestTests):
        return (tests.code,)
    return (tests.setup, *tests.asserts) if isinstance(tests, AssertTests) else ()


def test_text(tests: CodeTests, index: int) -> str:
    """Return the code or the name of a test, for people."""
    return tests.names[index] if isinstance(tests, UnittestTests) else tests.asserts[index].strip()


# The compiler's language and standard. GNU C++17 compiles most of what was written for older ones.
LANGUAGES = {
    "c": ("c", "gnu17"),
    "cpp": ("c++", "gnu++17"),
    "cpp11": ("c++", "gnu++11"),
    "cpp14": ("c++", "gnu++14"),
    "cpp17": ("c++", "gnu++17"),
    "cpp20": ("c++", "gnu++20"),
}


@dataclass(frozen=True, slots=True)
class Program:
    """Untrusted source, and how its tests reach it.

    `entry_point` is an expression evaluated in the program's namespace after it ran, such as
    `"two_sum"` or `"Solution().twoSum"`; None means the program itself reads stdin. `preamble` runs
    before `source` in the same namespace and has its own line numbers: executed lines and error
    lines always count from the first line of `source`.

    `language` is "python", or one of LANGUAGES, which are compiled. Their programs
    read stdin: they have stdin tests, no entry point and no executed lines. `headers` are files
    that the source can include, as pairs of name and text.
    """

    source: str
    entry_point: str | None = None
    preamble: str = ""
    language: str = "python"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def line_count(self) -> int:
        """No line of the source has a higher number."""
        return self.source.count("\n") + self.source.count("\r") + 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. CPU and wall limits are seconds per test, enforced from outside.

    `int_digits` is Python's own limit of digits between int and str, 0 for none: public judges
    switch it off, as `sys.set_int_max_str_digits(0)` does.
    """

    cpu_s: float = 2.0
    wall_s: float = 6.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    int_digits: int = PYTHONS_INT_DIGITS

    def __post_init__(self) -> None:
        """Raise ValueError for a limit of digits that Python does not take."""
        if 0 != self.int_digits < 640:
            raise ValueError(f"int_digits is {self.int_digits}; at least 640, or 0 for no limit")


@dataclass(frozen=True, slots=True)
class Submission:
    """One program with its tests, a judge's unit of work. Limits None means the judge's own."""

    program: Program
    tests: Tests
    limits: Limits | None = None
    stop_at_first_failure: bool = False
    tag: Any = field(default=None, compare=False)
