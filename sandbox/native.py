"""C and C++ programs: compiled in the sandbox, each once, and kept for the runs that follow.

The compiler runs as programs do: isolated, limited, on a source of which it is told nothing else.
Its output is untrusted; it is only ever run in the sandbox.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.failures import died
from stepcoder.sandbox.grading import Runs
from stepcoder.sandbox.jobs import MAX_REQUEST_BYTES, new_job
from stepcoder.sandbox.messages import decoded, one_line
from stepcoder.sandbox.pending import Pending
from stepcoder.sandbox.program import LANGUAGES, Limits, Program, StdinTests, Submission
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

# For each process of the compiler; the output is the program.
COMPILE_LIMITS = Limits(cpu_s=10.0, wall_s=60.0, memory_bytes=1 << 30, output_bytes=64 << 20)
MAX_KEPT_BYTES = 256 << 20
MAX_KEPT = 100  # each has a descriptor

_ERROR = re.compile(
    r"^(?:<stdin>:(\d{1,9}):(?:\d+:)? |.{0,200}: )?(?:fatal )?error: (.*)$"
    r"|(undefined reference to .*)$",
    re.M,
)

# The system's own: one that does not exist, or is no program, would look like the judge's failure.
_INTERPRETER = re.compile(rb"/lib(32|64)?/ld-[\w.-]+\.so\.\d\0")
_PT_LOAD, _PT_INTERP = 1, 3


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled program, and the memory that it takes before it does anything."""

    binary: _launcher.Binary
    memory_bytes: int


@dataclass(slots=True)
class _Kept:
    future: Future[Built | Verdict]
    size: int = 0


class Builds:
    """The compiled programs of one judge. The least used are dropped beyond a size."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self.compiler_runs = 0

    def of(
        self, program: Program, start: Callable[[Pending, Future[Any]], None]
    ) -> Future[Built | Verdict]:
        """Return the future of a compiled program, or of the verdict on one that does not compile.

        Equal programs are compiled once. `start` hands a job to the event loop.
        """
        job = _compile_job(program)
        key = hashlib.sha256(repr((program.language, program.headers)).encode())
        key.update(_text(program))
        with self._lock:
            if kept := self._kept.get(key.digest()):
                self._kept.move_to_end(key.digest())
                return kept.future
            kept = self._kept[key.digest()] = _Kept(Future())
            self.compiler_runs += 1
        submission = Submission(program, StdinTests(("",), ("",)))
        finish = partial(self._finish, key.digest(), kept)
        start(Pending(submission, COMPILE_LIMITS, finish, job), kept.future)
        return kept.future

    def forget(self) -> None:
        """Drop all programs: the judge is closed."""
        with self._lock:
            self._kept.clear()

    def _finish(self, key: bytes, kept: _Kept, runs: Runs) -> Built | Verdict:
        """Return what a run of the compiler made."""
        build = _built(runs[0])
        with self._lock:
            if isinstance(build, Verdict) and build.status is Status.INFRASTRUCTURE_ERROR:
                self._kept.pop(key, None)
            else:
                kept.size = len(runs[0].stdout) + 1000
            total = sum(one.size for one in self._kept.values())
            while total > MAX_KEPT_BYTES or len(self._kept) > MAX_KEPT:
                total -= self._kept.popitem(last=False)[1].size
        return build


def _text(program: Program) -> bytes:
    preamble = f"{program.preamble}\n#line 1\n" if program.preamble else ""
    return (preamble + program.source).encode("utf-8", "surrogatepass")


def _compile_job(program: Program) -> _launcher.Job:
    """Return the compiler's run, which reads the source on stdin and writes the program."""
    job = new_job(COMPILE_LIMITS, 1)
    job.runner = _launcher.Runner.COMPILER
    job.kind = _launcher.JobKind.STDIN
    job.run_for_each_test = True
    headers = {name: text.encode("utf-8", "surrogatepass") for name, text in program.headers}
    job.request = _launcher.encode((*LANGUAGES[program.language], headers), MAX_REQUEST_BYTES)
    job.add_stdin(_text(program), b"")
    return job


def _built(run: _launcher.RunResult) -> Built | Verdict:
    """Return the program that a run of the compiler left, or the verdict on its source."""
    if run.infrastructure_error:
        message = one_line(decoded(run.infrastructure_message)) or "the sandbox failed"
        return Verdict(Status.INFRASTRUCTURE_ERROR, message=message)
    if run.wait_status == 0 and run.stdout and not run.killed_for:
        return _program(run.stdout)
    stderr = decoded(run.stderr)
    if error := _ERROR.search(stderr):
        line = int(error[1]) if error[1] else None
        message = one_line(f"error: {error[2] or error[3]}")
        return Verdict(Status.COMPILE_ERROR, message=message, error_line=line)
    first_line = one_line(stderr.partition("\n")[0])
    message = f"compiling: {first_line if first_line else died(run).message}"
    return Verdict(Status.COMPILE_ERROR, message=message)


def _program(elf: bytes) -> Built | Verdict:
    """Return the program in a file that the linker has written; asm can ask for odd ones."""
    try:
        (offset,) = struct.unpack_from("<Q", elf, 32)
        size, count = struct.unpack_from("<HH", elf, 54)
        memory_bytes = 0
        for i in range(count):
            kind, _, start, _, _, _, memory, _ = struct.unpack_from(
                "<IIQQQQQQ", elf, offset + size * i
            )
            memory_bytes += memory if kind == _PT_LOAD else 0
            if kind == _PT_INTERP and not _INTERPRETER.match(elf, start):
                raise ValueError
    except (struct.error, ValueError, OverflowError):
        message = "the source makes a program that cannot be run"
        return Verdict(Status.COMPILE_ERROR, message=message)
    return Built(_launcher.Binary(elf), memory_bytes)


def not_built(built: Built | Verdict, submission: Submission, *, is_checker: bool) -> Verdict:
    """Return the verdict of a submission whose program, or checker, is missing or does not fit."""
    if isinstance(built, Built):
        message = f"memory limit exceeded by {built.memory_bytes >> 20} MiB of global variables"
        built = Verdict(Status.MEMORY_LIMIT, message=message)
    if is_checker and built.status is not Status.INFRASTRUCTURE_ERROR:
        message = one_line(f"the checker does not compile: {built.message}")
        built = Verdict(Status.INFRASTRUCTURE_ERROR, message=message)
    if built.status is Status.INFRASTRUCTURE_ERROR:
        return built
    test = TestVerdict(built.status, built.message, error_line=built.error_line)
    test = test.with_line_within(submission.program.line_count)
    tests = (test,) * len(submission.tests)
    return replace(built, tests=tests, error_line=test.error_line)
