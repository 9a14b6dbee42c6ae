"""What the server takes and gives, as pydantic models: the OpenAPI document is made from them.

`/judge` speaks our own form, the one of problems.jsonl; `/run_code` speaks SandboxFusion's.
"""

from __future__ import annotations

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
    Verdict,
)
from stepcoder.sandbox.requests import job_of, source_too_large

MAX_TESTS_A_PROGRAM = 10_000

Seconds = Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CallTestsMessage(_Message):
    """Call the entry point with each list of arguments and compare what it returns."""

    kind: Literal["call"]
    inputs: list[list[Any]] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    outputs: list[Any] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    float_tolerance: float = Field(1e-6, ge=0, le=1, allow_inf_nan=False)


class StdinTestsMessage(_Message):
    """Run the program on each stdin and compare its stdout by tokens."""

    kind: Literal["stdin"]
    inputs: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    outputs: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)


class AssertTestsMessage(_Message):
    """Run each piece of test code after the program, in a process that it cannot reach."""

    kind: Literal["assert"]
    asserts: list[str] = Field(min_length=1, max_length=MAX_TESTS_A_PROGRAM)
    setup: str = ""


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
    tests: CallTestsMessage | StdinTestsMessage | AssertTestsMessage = Field(discriminator="kind")
    id: str | int | None = None
    entry_point: str | None = None
    preamble: str = ""
    limits: LimitsMessage | None = None
    stop_at_first_failure: bool = False

    def submission(self, default: Limits) -> Submission:
        """Return what the judge takes. Raises ValueError if it makes no sense."""
        tests: Tests
        if isinstance(self.tests, CallTestsMessage):
            inputs, outputs = tuple(self.tests.inputs), tuple(self.tests.outputs)
            tests = CallTests(inputs, outputs, self.tests.float_tolerance)
        elif isinstance(self.tests, StdinTestsMessage):
            tests = StdinTests(tuple(self.tests.inputs), tuple(self.tests.outputs))
        else:
            tests = AssertTests(tuple(self.tests.asserts), self.tests.setup)
        submission = Submission(
            Program(self.source, self.entry_point, self.preamble),
            tests,
            self.limits.over(default) if self.limits else default,
            self.stop_at_first_failure,
        )
        if not source_too_large(submission):
            # The judge would raise only when its turn comes, in the middle of the answer.
            job_of(submission, default, numpy_installed=False)
        return submission


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
