"""One Problem type, and loaders for every form in which problems come."""

from __future__ import annotations

from dataclasses import dataclass

from stepcoder.sandbox.program import Tests


@dataclass(frozen=True, slots=True)
class Problem:
    """A programming problem with its tests and one correct program.

    `prompt` is the description in words; `starter_code` is what a solution is to begin with (often
    a `def` line, may be empty); `canonical_solution` is a whole program; `entry_point` is what the
    tests call (see `sandbox.Program.entry_point`), None for programs that read stdin.
    """

    task_id: str
    prompt: str
    starter_code: str
    canonical_solution: str
    tests: Tests
    entry_point: str | None = None
    preamble: str = ""
    source: str = ""
    difficulty: str = "unknown"
    split: str = "train"
