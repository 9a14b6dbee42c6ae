"""What crosses into the sandbox: a submission as a job of the event loop.

Takes a Submission, gives the launcher's Job. Expected outputs of call and stdin tests stay behind;
the test code of assert tests goes to the tester, not to the program (`harness`).
"""

from __future__ import annotations

import re
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.by_value import ValueTests
from stepcoder.sandbox.program import CallTests, Limits, StdinTests, Submission

MAX_SOURCE_BYTES = 8 << 20
MAX_REQUEST_BYTES = 256 << 20

_IMPORTS_NUMPY = re.compile(r"\bnumpy\b")


def job_of(
    submission: Submission,
    limits: Limits,
    *,
    numpy_installed: bool,
    values: ValueTests | None = None,
) -> _launcher.Job:
    """Return the job for a submission, without an id. Raises ValueError if it makes no sense.

    `values` are assert tests that need no tester (`by_value`).
    """
    program, tests = submission.program, submission.tests
    if len(tests) == 0:
        raise ValueError("the submission has no tests; a program without tests cannot be judged")
    if len(tests) > _launcher.MAX_TESTS:
        raise ValueError(f"{len(tests)} tests; at most {_launcher.MAX_TESTS} are possible")
    job = _launcher.Job()
    job.test_count = len(tests)
    job.line_count = program.source.count("\n") + program.source.count("\r") + 1
    job.cpu_ns = round(limits.cpu_s * 1e9)
    job.wall_ns = round(limits.wall_s * 1e9)
    job.memory_bytes = limits.memory_bytes
    job.output_bytes = limits.output_bytes
    job.stop_at_first_failure = submission.stop_at_first_failure
    job.numpy = numpy_installed and _uses_numpy(program.source, program.preamble)
    kind: str
    entry_point = program.entry_point
    payload: Any = None
    if values is not None:
        job.kind = _launcher.JobKind.CALLS
        entry_point = values.entry_point
        kind, payload = "values", [test.arguments for test in values.tests]
    elif isinstance(tests, CallTests):
        if program.entry_point is None:
            raise ValueError("call tests need Program.entry_point, the function to call")
        if len(tests.inputs) != len(tests.outputs):
            raise ValueError(f"{len(tests.inputs)} inputs but {len(tests.outputs)} outputs")
        job.kind = _launcher.JobKind.CALLS
        kind, payload = "calls", list(tests.inputs)
    elif isinstance(tests, StdinTests):
        if len(tests.inputs) != len(tests.outputs):
            raise ValueError(f"{len(tests.inputs)} inputs but {len(tests.outputs)} outputs")
        job.kind = _launcher.JobKind.STDIN
        job.run_for_each_test = job.compares_stdout = True
        kind = "stdin"
        for text, expected in zip(tests.inputs, tests.outputs, strict=True):
            job.add_stdin(_bytes(text), _bytes(expected))
    elif tests.shared_process:
        job.kind = _launcher.JobKind.CALLS
        job.numpy = job.numpy or (numpy_installed and _uses_numpy(tests.setup, *tests.asserts))
        kind, payload = "asserts", (tests.setup, list(tests.asserts))
    else:
        job.kind = _launcher.JobKind.PAIR
        job.tester_numpy = numpy_installed and _uses_numpy(
            program.preamble, tests.setup, *tests.asserts
        )
        kind, payload = "served", len(tests)
        job.tester_request = _launcher.encode(
            (
                "tester",
                program.preamble,
                program.entry_point,
                tests.setup,
                list(tests.asserts),
                submission.stop_at_first_failure,
            ),
            MAX_REQUEST_BYTES,
        )
    request = (kind, program.source, program.preamble, entry_point, payload)
    job.request = _launcher.encode(request, MAX_REQUEST_BYTES)
    return job


def source_too_large(submission: Submission) -> bool:
    """Return whether the source is refused without being compiled."""
    source = submission.program.source
    if 4 * len(source) <= MAX_SOURCE_BYTES:  # no character takes more bytes
        return False
    return len(source) > MAX_SOURCE_BYTES or len(_bytes(source)) > MAX_SOURCE_BYTES


def _uses_numpy(*texts: str) -> bool:
    return any("numpy" in text and _IMPORTS_NUMPY.search(text) for text in texts)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
