"""Requests and answers of `/judge`, as pydantic models; the OpenAPI document is made from them.

Tests have the form of problems.jsonl (`problems.schema`), but for assert tests, which come as
pieces. `/run_code`, in SandboxFusion's form, is in `fusion`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from stepcoder.judge.record import verdict_record
from stepcoder.problems.schema import MAX_TESTS_A_REQUEST, RequestTestsSchema, Schema
from stepcoder.sandbox import Limits, Program, Status, Submission, Verdict
from stepcoder.sandbox.jobs import build_job, source_too_large
from stepcoder.sandbox.libraries import Libraries

Seconds = Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)]


class LimitsMessage(Schema):
    """What one test may use; what is absent is the server's default."""

    cpu_s: Seconds | None = None
    wall_s: Seconds | None = None
    memory_bytes: int | None = Field(None, ge=1 << 20, le=16 << 30)
    output_bytes: int | None = Field(None, ge=1, le=64 << 20)
    int_digits: int | None = Field(None, ge=0, le=1_000_000)

    def over(self, default: Limits) -> Limits:
        """Return the default limits, replaced by those that the message sets."""
        return replace(default, **self.model_dump(exclude_none=True))


class ProgramMessage(Schema):
    """One program with its tests. `id` comes back with the verdict."""

    source: str
    tests: RequestTestsSchema
    id: str | int | None = None
    entry_point: str | None = None
    preamble: str = ""
    language: str = "python"
    limits: LimitsMessage | None = None
    stop_at_first_failure: bool = False

    def submission(self, default: Limits) -> Submission:
        """Return the program as a submission. Raises ValueError if the judge would refuse it."""
        tests = self.tests.build()
        if len(tests) > MAX_TESTS_A_REQUEST:
            raise ValueError(f"{len(tests)} tests; at most {MAX_TESTS_A_REQUEST} a program")
        submission = Submission(
            Program(self.source, self.entry_point, self.preamble, self.language),
            tests,
            self.limits.over(default) if self.limits else default,
            self.stop_at_first_failure,
        )
        if not source_too_large(submission):
            # Checked here: the judge would raise later, in the middle of the streamed answer.
            build_job(submission, default, Libraries(()))
        return submission


class BatchMessage(Schema):
    """Programs to judge; the answer has one line for each."""

    programs: list[ProgramMessage] = Field(min_length=1)


class TestMessage(Schema):
    """The outcome of one test."""

    __test__ = False  # not a pytest class

    status: Status
    message: str


class VerdictMessage(Schema):
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
    points: float


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
