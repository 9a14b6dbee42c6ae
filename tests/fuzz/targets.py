"""What is fuzzed: a function of bytes for each parser that reads what others wrote.

Each raises only on a bug: to refuse the input in the documented way is no error. `fuzz.py` feeds
them with new inputs, tests/sandbox/test_sanitizers.py with the corpus.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepcoder.command import read_samples
from stepcoder.errors import InputError
from stepcoder.judge.command import program_of_sample
from stepcoder.judge.fusion import RunCodeRequest, submission_of
from stepcoder.judge.messages import BatchMessage
from stepcoder.problems.answers import code_span, extract_completion, mended_sample
from stepcoder.problems.json_text import loads
from stepcoder.problems.layouts import read_layout
from stepcoder.problems.problem import Problem, ProblemError, load_problems
from stepcoder.problems.schema import BrokenRecordError, read_tests
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Custom,
    Limits,
    Program,
    Regex,
    Status,
    StdinTests,
    Submission,
    UnittestTests,
    Unordered,
    Verdict,
    _launcher,
)
from stepcoder.sandbox.assert_calls import compile_asserts
from stepcoder.sandbox.checker_runs import needs_checker_run, start_checker
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.grading import Runs, grade
from stepcoder.sandbox.guest import rpc
from stepcoder.sandbox.jobs import build_job
from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.program import PYTHONS_INT_DIGITS

LIMITS = Limits(cpu_s=1.0, wall_s=30.0, output_bytes=1 << 10)


def value(data: bytes) -> None:
    """A value from a program's process: refused, or data that can be written again."""
    try:
        found = _launcher.decode(data)
    except ValueError:
        return
    sys.set_int_max_str_digits(0)
    again = _launcher.decode(_launcher.encode(found, 1 << 24))
    assert type(again) is type(found)
    assert len(repr(again)) == len(repr(found))  # sets may come in another order
    assert found == "never" or not same_value(found, "never"), found


_COMPILED = compile_asserts(
    Submission(
        Program("", "f"),
        AssertTests(("assert f(1) == 'never'", "assert f(2) == ('never', [2])")),
    )
)
assert _COMPILED is not None

# What the judge expects is never in the inputs: a pass would be forged.
_TESTS = (
    CallTests(([1], [2]), ("never", "never more")),
    StdinTests(("1", "2"), ("never", "never more")),
    AssertTests(("assert f(1) == 1", "assert f(2) == 2")),
    CallTests(([1], [2]), ("never", ["never more"]), checker=Unordered(), process_per_test=True),
    UnittestTests(
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self): assert f(1) == 1\n    def test_b(self): assert f(2) == 2\n"
    ),
    _COMPILED.tests,
    CallTests(([1], [2]), ("never", "never more"), checker=Custom("def check(*_): return True")),
    StdinTests(("1", "2"), ("never", "never more"), checker=Regex()),
)


class _Judge:
    """An event loop whose workers are fake_worker.py, kept for the whole process."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_worker.py"))]
        self.loop = _launcher.EventLoop(command, [], [], "", 1)

    def runs(self, submission: Submission, script: bytes) -> Runs:
        job = build_job(submission, LIMITS, Libraries(()))
        job.request = job.tester_request = script
        self.loop.submit(job)
        results = self.loop.next(60.0)
        assert len(results) == 1, "the event loop hangs"
        return results[0].runs


_judge: _Judge | None = None


def run(data: bytes) -> None:
    """A whole run: messages on the control socket, the shared board, output, then the verdict."""
    global _judge
    if _judge is None:
        _judge = _Judge()
    kind, script = data[:1] or b"\0", data[1:]
    tests = _TESTS[kind[0] % len(_TESTS)]
    submission = Submission(Program("x = 1\n" * 20, "f"), tests, LIMITS)
    answer = b""
    checked = needs_checker_run(tests)
    if checked:  # the checker is a process like the program's
        cut = 2 + int.from_bytes(script[:2], "little")
        script, answer = script[2:cut], script[cut:]
    runs = _judge.runs(submission, script)
    assert len(runs) <= 2 * len(tests), len(runs)
    verdict: Any = start_checker(submission, runs) if checked else None
    if verdict is None:
        verdict = grade(submission, runs)
    while not isinstance(verdict, Verdict):  # a checker, and the same one on expected values
        verdict = verdict.grade(_judge.runs(verdict.checker, answer))
    # The tester and the checker are the judge's own: their word counts.
    trusted = isinstance(tests, (AssertTests, UnittestTests)) or answer != b""
    assert trusted or not verdict.passed or b"never" in data, verdict
    # No line that the board claims has its seal.
    assert not verdict.executed_lines, verdict
    assert len(verdict.tests) == len(tests) or verdict.status is Status.INFRASTRUCTURE_ERROR
    str(verdict)


def conversation(data: bytes) -> None:
    """Messages of a program to the tester, which asks it for the value of a call."""
    # From a file, what is sent goes nowhere and what comes is there at once.
    mine = os.memfd_create("messages", os.MFD_CLOEXEC)
    try:
        os.write(mine, data)
        os.lseek(mine, 0, os.SEEK_SET)
        tester = rpc.Connection(mine, {}, open_to_all=False)
        tester.send = lambda *_: None
        tester.export(_secret)
        with contextlib.suppress(rpc.GoneError, Exception):
            answer = tester.call(1, ([1], _secret), {})
            # An object of the other side is not looked into: each question is a message.
            assert answer != "never" or b"never" in data
    finally:
        os.close(mine)


def _secret(argument: object) -> object:
    return argument


def problems(data: bytes) -> None:
    """A file of problems, in any form; the first byte chooses lines or one document."""
    path = _file("problems.json" if data[:1] == b"1" else "problems.jsonl", data[1:])
    with contextlib.suppress(ProblemError):
        for problem in load_problems(path).problems:
            job = Submission(Program(problem.canonical_solution, "f"), problem.tests)
            with contextlib.suppress(ValueError, TypeError):  # TypeError: nested too deeply
                _ask(job)


def _ask(submission: Submission) -> None:
    build_job(compile_asserts(submission) or submission, LIMITS, Libraries(()))


def samples(data: bytes) -> None:
    """A file of samples for the command line; the first byte chooses the compressed form."""
    known = {"x": Problem("x", "", "def f():\n", "", StdinTests(("",), ("",)))}
    path = _file("samples.jsonl.gz" if data[:1] == b"1" else "samples.jsonl", data[1:])
    with contextlib.suppress(InputError):
        fields = ("solution", "completion")
        for sample in read_samples(path, known, fields, program_of_sample, ""):
            str(sample.program)


_folder: tempfile.TemporaryDirectory[str] | None = None


def _file(name: str, data: bytes) -> Path:
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(dir="/dev/shm")
    path = Path(_folder.name) / name
    path.write_bytes(data)
    return path


def requests(data: bytes) -> None:
    """Bodies of the server's requests."""
    with contextlib.suppress(ValidationError):
        for program in BatchMessage.model_validate_json(data).programs:
            with contextlib.suppress(ValueError, TypeError):  # answered with 422
                _ask(program.submission(LIMITS))
    with contextlib.suppress(ValidationError, ValueError):
        _ask(submission_of(RunCodeRequest.model_validate_json(data), LIMITS))


# What an answer is for, by its first byte: an entry point and what the program begins with.
_ASKED = (
    (None, ""),
    ("f", "def f(x):\n"),
    ("Solution().f", "class Solution:\n    def f(self, x: int) -> int:\n        "),
)


def answers(data: bytes) -> None:
    """A model's answer: where its code is, and the program that it gives."""
    text = data[1:].decode("utf-8", "surrogateescape")
    entry_point, starter = _ASKED[(data or b"\0")[0] % len(_ASKED)]
    begin, end = code_span(text, entry_point)
    assert 0 <= begin <= end <= len(text)
    assert text.startswith(extract_completion(text))
    problem = Problem("x", "", starter, "", StdinTests(("",), ("",)), entry_point)
    program = mended_sample(text, problem)
    # What compiles as it stands is not touched again.
    assert mended_sample(program, problem) == program


def layouts(data: bytes) -> None:
    """Tests in the layouts of other data sets, after a line that is the problem's statement."""
    prompt, _, text = data.decode("utf-8", "replace").partition("\n")
    with contextlib.suppress(BrokenRecordError):
        layout = read_layout(text, prompt)
        tests = read_tests(layout.tests)
        with contextlib.suppress(ValueError, TypeError):
            _ask(Submission(Program("", layout.called), tests))


def json_text(data: bytes) -> None:
    """JSON text: refused, or the data that Python's own reader gives."""
    try:
        found = loads(data)
    except ValueError:
        found = _NOTHING
    sys.set_int_max_str_digits(0)
    try:
        plain = json.loads(data.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        plain = _NOTHING
    same = repr(found) == repr(plain)
    sys.set_int_max_str_digits(PYTHONS_INT_DIGITS)
    assert same or found is _NOTHING


_NOTHING = object()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "value": value,
    "run": run,
    "conversation": conversation,
    "problems": problems,
    "samples": samples,
    "answers": answers,
    "layouts": layouts,
    "json_text": json_text,
    "requests": requests,
}
