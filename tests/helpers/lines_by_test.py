"""Executed lines of loading a program and of each call of it, as sys.settrace reports them."""

from __future__ import annotations

import itertools
import sys
import threading
from typing import Any

from stepcoder.sandbox import CallTests, Judge, Program, Verdict

# Each run has its own file name, since generators of an earlier run can end during the next.
_numbers = itertools.count()


def reference(program: Program, calls: list[list[Any]]) -> tuple[list[frozenset[int]], list[Any]]:
    """Run a program here; return the lines of each call, those of loading in each, and its value.

    A function that the program starts as a thread is traced too.
    """
    file = f"<reference {next(_numbers)}>"
    code = compile(program.source, file, "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program.preamble, "<preamble>", "exec", dont_inherit=True), namespace)
    lines: list[set[int]] = [set()]

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            lines[-1].add(frame.f_lineno)
        return trace

    values = []
    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        exec(code, namespace)
        for arguments in calls:
            lines.append(set())
            values.append(eval(program.entry_point or "", namespace)(*arguments))
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
    return [frozenset(lines[0] | one) for one in lines[1:]], values


def judged(judge: Judge, program: Program, calls: list[list[Any]]) -> Verdict:
    return judge.run(program, CallTests(tuple(calls), tuple([None] * len(calls))))
