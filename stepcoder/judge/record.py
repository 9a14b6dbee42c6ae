"""A verdict as JSON data: what stands in a line of verdicts, in files and on the wire."""

from __future__ import annotations

from typing import Any

from stepcoder.sandbox import Verdict


def verdict_record(verdict: Verdict) -> dict[str, Any]:
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
    }
