"""Builds the event loop's job for a submission: the requests that cross into the sandbox.

Expected outputs of call and stdin tests stay with the judge. The test code of assert tests goes to
the tester's process, not to the program's.

The program's request is (kind, source, preamble, entry point, payload), read by `guest/harness.py`:

    calls, values   a list of argument lists
    stdin           the source again if the output is kept, else None; the event loop hands each
                    test its text (C and C++: `native_request`)
    asserts         (setup, list of asserts), both run in the program's own process
    unittests       (code, list of test names), likewise
    direct          (asserts or unittests, code, the list), in that process too, but guarded
    served          the number of tests: the program answers a tester in another process

The tester's is (tester or unittester, preamble, entry point, code, whether to stop at the first
failure, list of asserts or names), read by `guest/tester.py` and `guest/unittests.py`. With a
process for each test the lists come one by one, each to a run of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.assert_calls import CompiledAsserts
from stepcoder.sandbox.checkers import Interactor, Regex, Testlib
from stepcoder.sandbox.file_io import with_files
from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.points import check_subtasks
from stepcoder.sandbox.program import (
    LANGUAGES,
    PYTHONS_INT_DIGITS,
    CallTests,
    CodeTests,
    EncodedCalls,
    Limits,
    Program,
    StdinTests,
    Submission,
    UnittestTests,
)

# The arguments of checkers and interactors.
TESTLIB_FILES = ("input.txt", "output.txt", "answer.txt")
MAX_SOURCE_BYTES = 8 << 20
MAX_REQUEST_BYTES = 256 << 20

_ENCODED_NONE = _launcher.encode(None, 8)
# An entry point that returns an argument where the program's own returns None.
_IN_PLACE = (
    "(lambda call: lambda *given: "
    "(lambda got: given[{0}] if got is None else got)(call(*given)))({1})"
)
_FILE_NAME = re.compile(r"[\w+-][\w.+-]{0,99}")


def build_job(
    submission: Submission, limits: Limits, libraries: Libraries, *, apart: bool = False
) -> _launcher.Job:
    """Return the job for a submission, without an id. Raises ValueError if it makes no sense.

    Tests that are code get a process of their own if `apart`.
    """
    if limits.int_digits != PYTHONS_INT_DIGITS:
        line = f"__import__('sys').set_int_max_str_digits({limits.int_digits})"
        preamble = f"{submission.program.preamble}\n{line}"
        submission = replace(submission, program=replace(submission.program, preamble=preamble))
    program, tests = submission.program, submission.tests
    if len(tests) == 0:
        raise ValueError("the submission has no tests; a program without tests cannot be judged")
    if len(tests) > _launcher.MAX_TESTS:
        raise ValueError(f"{len(tests)} tests; at most {_launcher.MAX_TESTS} are possible")
    check_subtasks(getattr(tests, "subtasks", ()), len(tests))
    job = new_job(limits, len(tests))
    job.line_count = program.line_count
    job.stop_at_first_failure = submission.stop_at_first_failure
    job.libraries = libraries.argument(program.source, program.preamble)
    if program.language != "python" and not isinstance(tests, StdinTests):
        raise ValueError(f"a {program.language} program reads stdin; its tests must be StdinTests")
    if isinstance(tests, CallTests):
        _add_calls(job, program, tests)
    elif isinstance(tests, StdinTests):
        _add_stdins(job, program, tests)
    else:
        _add_test_code(job, submission, tests, libraries, apart=apart)
    return job


def new_job(limits: Limits, test_count: int) -> _launcher.Job:
    """Return a job that has nothing but its limits."""
    job = _launcher.Job()
    job.test_count = test_count
    job.cpu_ns = round(limits.cpu_s * 1e9)
    job.wall_ns = round(limits.wall_s * 1e9)
    job.memory_bytes = limits.memory_bytes
    job.output_bytes = limits.output_bytes
    return job


def _add_calls(job: _launcher.Job, program: Program, tests: CallTests) -> None:
    if program.entry_point is None:
        raise ValueError("call tests need Program.entry_point, the function to call")
    if len(tests.inputs) != len(tests.outputs):
        raise ValueError(f"{len(tests.inputs)} inputs but {len(tests.outputs)} outputs")
    if isinstance(tests.checker, (Testlib, Interactor)):
        raise ValueError(f"{type(tests.checker).__name__} is for stdin tests")
    if isinstance(tests.checker, Regex) and not all(type(o) is str for o in tests.outputs):
        raise ValueError("an expected output of a Regex checker is no text")
    if tests.in_place is not None:
        if any(tests.in_place >= len(arguments) for arguments in tests.inputs):
            raise ValueError(f"in_place is {tests.in_place}, but a test has fewer arguments")
        program = replace(
            program, entry_point=_IN_PLACE.format(tests.in_place, program.entry_point)
        )
    job.kind = _launcher.JobKind.CALLS
    kind = "values" if isinstance(tests, CompiledAsserts) else "calls"
    if isinstance(tests, EncodedCalls):
        encoded: tuple[Any, ...] = tests.inputs
        count = len(encoded)
        nones = _launcher.encode([None] * count, 2 * count + 16)
        start = without_end(_request(kind, program, None)) + nones[:-count]
        job.request = start + b"".join(encoded)
    elif tests.process_per_test:
        job.request = without_end(_request(kind, program, None))
        _add_runs(job, tests.inputs)
    else:
        job.request = _request(kind, program, list(tests.inputs))


def _add_stdins(job: _launcher.Job, program: Program, tests: StdinTests) -> None:
    if len(tests.inputs) != len(tests.outputs):
        raise ValueError(f"{len(tests.inputs)} inputs but {len(tests.outputs)} outputs")
    if tests.input_file or tests.output_file:
        if program.language != "python" or isinstance(tests.checker, Interactor):
            raise ValueError("only Python programs have files for stdin and stdout, and only alone")
        preamble = with_files(program.preamble, tests.input_file, tests.output_file)
        program = replace(program, preamble=preamble)
    for name, _ in (*program.headers, *getattr(tests.checker, "headers", ())):
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header, such as 'testlib.h'")
    job.kind = _launcher.JobKind.STDIN
    job.run_for_each_test = True
    job.compares_stdout = tests.checker is None
    if program.language == "python":
        job.request = _request("stdin", program, program.source if tests.keep_output else None)
    else:
        job.runner = _launcher.Runner.NATIVE
        job.request = native_request(program)
        job.line_count, job.libraries = 0, ""
    if isinstance(tests.checker, Interactor):
        job.kind = _launcher.JobKind.PAIR
        files = zip(tests.inputs, tests.outputs, strict=True)
        contents = [{"input.txt": text, "answer.txt": answer} for text, answer in files]
        job.tester_request = request_on_files(job, ["interactor", *TESTLIB_FILES], contents)
        return
    for text, expected in zip(tests.inputs, tests.outputs, strict=True):
        job.add_stdin(_bytes(text), _bytes(expected))


def _add_test_code(
    job: _launcher.Job,
    submission: Submission,
    tests: CodeTests,
    libraries: Libraries,
    *,
    apart: bool,
) -> None:
    program = submission.program
    if isinstance(tests, UnittestTests):
        shared, tester, code, items = "unittests", "unittester", tests.code, list(tests.names)
    else:
        shared, tester, code, items = "asserts", "tester", tests.setup, list(tests.asserts)
    code = code.removeprefix("\ufeff")
    given = None if tests.process_per_test else items
    if tests.shared_process or not apart:
        job.kind = _launcher.JobKind.CALLS
        job.libraries = libraries.argument(program.source, program.preamble, code, *items)
        job.among_testers = True
        if tests.shared_process:
            encoded = _request(shared, program, (code, given))
        else:
            encoded = _request("direct", program, (shared, code, given))
        job.request = encoded if given else without_end(encoded)
    else:
        job.kind = _launcher.JobKind.PAIR
        job.tester_libraries = libraries.argument(program.preamble, code, *items)
        job.request = _request("served", program, len(items) if given else 1)
        stops = submission.stop_at_first_failure
        request = (tester, program.preamble, program.entry_point, code, stops, given)
        encoded = _launcher.encode(request, MAX_REQUEST_BYTES)
        job.tester_request = encoded if given else without_end(encoded)
    if given is None:
        _add_runs(job, items)


def _add_runs(job: _launcher.Job, items: Sequence[Any]) -> None:
    """Give each test a run of its own, whose request ends with it alone."""
    job.run_for_each_test = True
    for item in items:
        job.add_test_request(_launcher.encode([item], MAX_REQUEST_BYTES))


def _request(kind: str, program: Program, payload: Any) -> bytes:
    # Of a file the compiler would drop the mark; of a text it does not.
    source = program.source.removeprefix("\ufeff")
    request = (kind, source, program.preamble, program.entry_point, payload)
    return _launcher.encode(request, MAX_REQUEST_BYTES)


def native_request(program: Program) -> bytes:
    """Return the request for a compiled program: argv, whether it reads /dev/stdin, and files."""
    if program.language not in LANGUAGES:
        raise ValueError(f"{program.language!r} is none of {', '.join(['python', *LANGUAGES])}")
    if program.entry_point is not None:
        raise ValueError(f"a {program.language} program has no entry point; its tests are stdin")
    no_files: dict[str, bytes] = {}
    request = (["program"], "/dev/stdin" in program.source, no_files)
    return _launcher.encode(request, MAX_REQUEST_BYTES)


def request_on_files(job: _launcher.Job, argv: list[str], files: list[dict[str, str]]) -> bytes:
    """Return the request for a compiled program that has these arguments, and files in each test.

    Gives the job the files.
    """
    for of_test in files:
        contents = {name: _bytes(text) for name, text in of_test.items()}
        job.add_test_request(_launcher.encode(contents, MAX_REQUEST_BYTES))
    return without_end(_launcher.encode((argv, False, None), MAX_REQUEST_BYTES))


def without_end(encoded: bytes) -> bytes:
    """Return a request without the None at its end, which the event loop replaces for each test.

    This works because the items of a tuple are encoded one after the other.
    """
    return encoded[: -len(_ENCODED_NONE)]


def source_too_large(submission: Submission) -> bool:
    """Return whether the source is too large to be compiled."""
    source = submission.program.source
    if 4 * len(source) <= MAX_SOURCE_BYTES:  # no character takes more bytes
        return False
    return len(source) > MAX_SOURCE_BYTES or len(_bytes(source)) > MAX_SOURCE_BYTES


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
