"""A verdict as JSON data: what stands in a line of verdicts, in files and on the wire."""

from __future__ import annotations

from stepcoder.journal import Record
from stepcoder.sandbox import Status, Tests, Verdict
from stepcoder.sandbox.messages import whole_value
from stepcoder.sandbox.program import CodeTests, test_text


def verdict_record(verdict: Verdict) -> Record:
    """Return a verdict as JSON data."""
    return {
        "status": str(verdict.status),
        "passed": verdict.passed,
        "message": verdict.message,
        "error_type": verdict.error_type,
        "error_line": verdict.error_line,
        "executed_lines": sorted(verdict.executed_lines),
        "tests": [{"status": str(t.status), "message": t.message} for t in verdict.tests],
        "cpu_s": round(verdict.cpu_s, 6),
        "wall_s": round(verdict.wall_s, 6),
        "peak_memory_bytes": verdict.peak_memory_bytes,
        "tampered": verdict.tampered,
        "shared_process": verdict.shared_process,
        "points": verdict.points,
    }


def failing_test(tests: Tests, verdict: Verdict) -> Record | None:
    """Return the first test that failed, for people: what it is, what was expected and what came.

    `number` counts from 1. None: all tests passed, or none ran.
    """
    for index, test in enumerate(verdict.tests):
        if test.status is not Status.ACCEPTED:
            shown = {"number": index + 1, "status": str(test.status), "message": test.message}
            if isinstance(tests, CodeTests):
                shown["test"] = test_text(tests, index)
            else:
                shown["input"] = whole_value(tests.inputs[index])
                shown["expected"] = whole_value(tests.outputs[index])
            return {**shown, "got": test.got}
    return None
