"""What the server takes and gives, as pydantic models: the OpenAPI document is made from them.

`/judge` speaks our own form, the one of problems.jsonl; `/run_code` speaks SandboxFusion's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepcoder.judge.record import verdict_record
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Limits,
    Program,
    Status,
    StdinTests,
    Submission,
    Tests,
    UnittestTests,
    Verdict,
)
from stepcoder.sandbox.checkers import checker_of
from stepcoder.sandbox.jobs import build_job, source_too_large

MAX_TESTS_A_PROGRAM = 10_000

FloatTolerance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExactMessage(_Message):
    """Compare values without tolerance; stdout by lines."""

    kind: Literal["exact"]


class ToleranceMessage(_Message):
    """Compare numbers within a relative tolerance; also among the tokens of stdout."""

    kind: Literal["tolerance"]
    float_tolerance: FloatTolerance = 1e-6


class UnorderedMessage(_Message):
    """Compare the items of a returned list in any order."""

    kind: Literal["unordered"]
    float_tolerance: FloatTolerance = 1e-6


class RegexMessage(_Message):
    """Take outputs as regular expressions for all of stdout, or all of a returned text."""

    kind: Literal["regex"]


class CustomMessage(_Message):
    """Compare by source that defines `check(input, expected, got) -> bool`, in a sandbox too."""

    kind: Literal["custom"]
    source: str


CheckerMessage = Annotated[
    ExactMessage | ToleranceMessage | UnorderedMessage | RegexMessage | CustomMessage,
    Field(discriminator="kind"),
]


class CallTestsMessage(_Message):
    """Call the entry point with each list of arguments and compare what it returns."""

    kind: Literal["call"]
    inputs: list[list[Any]] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    outputs: list[Any] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    float_tolerance: FloatTolerance = 1e-6
    checker: CheckerMessage | None = None
    process_per_test: bool = False


class StdinTestsMessage(_Message):
    """Run the program on each stdin and compare its stdout, by tokens without a checker."""

    kind: Literal["stdin"]
    inputs: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    outputs: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    checker: CheckerMessage | None = None


class AssertTestsMessage(_Message):
    """Run each piece of test code after the program, in a process that it cannot reach."""

    kind: Literal["assert"]
    asserts: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    setup: str = ""
    process_per_test: bool = False


class UnittestTestsMessage(_Message):
    """Run each test method of a unittest module, in a process that the program cannot reach.

    `names` ("TestStack.test_push") are read off the code where there are none. `shared_process`
    runs the tests in the program's own process, where it can lie to them.
    """

    kind: Literal["unittest"]
    code: str
    names: list[str] = Field([], max_length=MAX_TESTS_A_PROGRAM)
    shared_process: bool = False
    process_per_test: bool = False


class LimitsMessage(_Message):
    """What one test may use; what is absent is the server's default."""

    cpu_s: Seconds | None = None
    wall_s: Seconds | None = None
    memory_bytes: int | None = Field(None, ge=1 << 20, le=16 << 30)
    output_bytes: int | None = Field(None, ge=1, le=64 << 20)

    def over(self, default: Limits) -> Limits:
        """Return the default limits with what this message says in their place."""
        return Limits(
            cpu_s=self.cpu_s or default.cpu_s,
            wall_s=self.wall_s or default.wall_s,
            memory_bytes=self.memory_bytes or default.memory_bytes,
            output_bytes=self.output_bytes or default.output_bytes,
        )


class ProgramMessage(_Message):
    """One program with its tests. `id` comes back with the verdict."""

    source: str
    tests: CallTestsMessage | StdinTestsMessage | AssertTestsMessage | UnittestTestsMessage = Field(
        discriminator="kind"
    )
    id: str | int | None = None
    entry_point: str | None = None
    preamble: str = ""
    limits: LimitsMessage | None = None
    stop_at_first_failure: bool = False

    def submission(self, default: Limits) -> Submission:
        """Return what the judge takes. Raises ValueError if it makes no sense."""
        submission = Submission(
            Program(self.source, self.entry_point, self.preamble),
            _tests(self.tests),
            self.limits.over(default) if self.limits else default,
            self.stop_at_first_failure,
        )
        if not source_too_large(submission):
            # The judge would raise only when its turn comes, in the middle of the answer.
            build_job(submission, default, numpy_installed=False)
        return submission


def _tests(
    given: CallTestsMessage | StdinTestsMessage | AssertTestsMessage | UnittestTestsMessage,
) -> Tests:
    if isinstance(given, AssertTestsMessage):
        tests = AssertTests(tuple(given.asserts), given.setup)
        return replace(tests, process_per_test=given.process_per_test)
    if isinstance(given, UnittestTestsMessage):
        shared, alone = given.shared_process, given.process_per_test
        tests_of_code = UnittestTests(given.code, tuple(given.names), shared, alone)
        if len(tests_of_code) > MAX_TESTS_A_PROGRAM:
            raise ValueError(f"more than {MAX_TESTS_A_PROGRAM} unittest tests")
        return tests_of_code
    checker = checker_of(given.checker.model_dump()) if given.checker else None
    outputs = tuple(given.outputs)
    if isinstance(given, StdinTestsMessage):
        return StdinTests(tuple(given.inputs), outputs, checker=checker)
    inputs, alone = tuple(given.inputs), given.process_per_test
    return CallTests(inputs, outputs, given.float_tolerance, checker, alone)


class Batch(_Message):
    """Programs to judge; the answer has one line for each."""

    programs: list[ProgramMessage] = Field(min_length=1)


class TestMessage(_Message):
    """The outcome of one test."""

    __test__ = False  # not a pytest class

    status: Status
    message: str


class VerdictMessage(_Message):
    """One line of the answer. `index` is the program's place in the batch."""

    index: int
    id: str | int | None
    status: Status
    passed: bool
    message: str
    error_type: str | None
    error_line: int | None
    executed_lines: list[int]
    tests: list[TestMessage]
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int
    tampered: bool
    shared_process: bool


def verdict_line(index: int, program: ProgramMessage, verdict: Verdict) -> dict[str, Any]:
    """Return a VerdictMessage as JSON data."""
    return {"index": index, "id": program.id, **verdict_record(verdict)}


class ErrorMessage(BaseModel):
    """Why a request was refused: one line that names the field and the fix."""

    error: str


class HealthMessage(BaseModel):
    """The server answers. `queued` counts programs that wait or run."""

    status: Literal["ok"]
    workers: int
    queued: int
