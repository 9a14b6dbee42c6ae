"""SandboxFusion's `/run_code` for Python: its clients can use this judge by changing a URL.

Takes its request, gives its response (github.com/bytedance/SandboxFusion, sandbox_api.py). Return
code 0 means only that the program ended without an error; `/judge` says whether it is right.
"""

from __future__ import annotations

import base64
import binascii
import signal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stepcoder.sandbox import Limits, Program, Status, StdinTests, Submission, Verdict

# More than for /judge: here people debug programs, which may print a lot.
OUTPUT_BYTES = 4 << 20


class RunCodeRequest(BaseModel):
    """A program to run. Fields that only other languages use are accepted and ignored."""

    model_config = ConfigDict(strict=True)

    code: str
    language: Literal["python"]
    stdin: str | None = None
    run_timeout: float = Field(10, gt=0, le=120, allow_inf_nan=False)
    compile_timeout: float = Field(10, description="ignored: Python has no such step")
    memory_limit_MB: int = Field(-1, ge=-1, le=16 << 10)
    files: dict[str, str | None] = Field({}, description="paths in scratch to base64 contents")
    fetch_files: list[str] = Field([], max_length=0, description="not supported")
    args: list[str] = Field([], max_length=0, description="not supported")


class CommandRunResult(BaseModel):
    """How the run ended. `return_code` is -n for a program that signal n ended."""

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResponse(BaseModel):
    """`status` is Success for return code 0, SandboxError where the sandbox itself failed."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str = ""
    compile_result: CommandRunResult | None = None
    run_result: CommandRunResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


def submission_of(request: RunCodeRequest, default: Limits) -> Submission:
    """Return the run as a submission. Raises ValueError if a file is not base64."""
    memory_bytes = default.memory_bytes
    if request.memory_limit_MB > 0:
        memory_bytes = request.memory_limit_MB << 20
    limits = Limits(request.run_timeout, request.run_timeout, memory_bytes, OUTPUT_BYTES)
    program = Program(request.code, preamble=_files(request.files))
    return Submission(program, StdinTests((request.stdin or "",), ("",), True), limits)


def _files(files: dict[str, str | None]) -> str:
    """Return code that writes the files to the scratch folder before the program runs."""
    if not files:
        return ""
    contents = {}
    for name, text in files.items():
        try:
            contents[name] = base64.b64decode(text or "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"files[{name!r}] is not base64; encode the file's bytes") from None
    return (
        "def _lay_out(files):\n"
        "    import os\n"
        "    for name, content in files.items():\n"
        "        os.makedirs(os.path.dirname(name) or '.', exist_ok=True)\n"
        "        with open(name, 'wb') as file:\n"
        "            file.write(content)\n"
        f"_lay_out({contents!r})\n"
        "del _lay_out\n"
    )


def response_of(verdict: Verdict) -> RunCodeResponse:
    """Return SandboxFusion's response for this run."""
    if verdict.status is Status.INFRASTRUCTURE_ERROR:
        return RunCodeResponse(status="SandboxError", message=verdict.message)
    test = verdict.tests[0]
    result = CommandRunResult(
        status="Finished", execution_time=verdict.wall_s, stdout=test.stdout or ""
    )
    result.stderr = (test.stderr or "").replace('File "<program>"', 'File "main.py"')
    if verdict.status in (Status.CPU_TIME_LIMIT, Status.WALL_TIME_LIMIT):
        result.status = "TimeLimitExceeded"
        return RunCodeResponse(status="Failed", run_result=result)
    result.return_code = _return_code(verdict)
    message = verdict.message if verdict.status is Status.MEMORY_LIMIT else ""
    is_told = verdict.error_type == "SystemExit" or "Traceback (most recent" in result.stderr
    if result.return_code and not is_told:
        where = f'  File "main.py", line {verdict.error_line}\n' if verdict.error_line else ""
        result.stderr += f"Traceback (most recent call last):\n{where}{verdict.message}\n"
    status = "Failed" if result.return_code else "Success"
    return RunCodeResponse(status=status, message=message, run_result=result)


def status_of(verdict: Verdict) -> str:
    """Return the verdict's status, or "finished": the output of a run is compared with nothing."""
    ended_well = verdict.status in (Status.ACCEPTED, Status.WRONG_ANSWER)
    return "finished" if ended_well else str(verdict.status)


def _return_code(verdict: Verdict) -> int:
    if status_of(verdict) == "finished":
        return 0
    if verdict.status is Status.SECURITY_VIOLATION:
        return -signal.SIGSYS
    if verdict.status is Status.OUTPUT_LIMIT:
        return -signal.SIGXFSZ
    if verdict.error_type is None and verdict.status is Status.MEMORY_LIMIT:
        return -signal.SIGKILL
    if verdict.error_type == "SystemExit":
        code = verdict.message.rpartition(" ")[2]
        return int(code) % 256 or 1 if code.isdecimal() else 1
    if verdict.error_type and verdict.error_type in signal.Signals.__members__:
        return -signal.Signals[verdict.error_type]
    return 1
