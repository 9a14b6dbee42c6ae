"""What the commands share: options, files of samples, progress, errors and exit statuses.

A command parses its arguments with `Parser` and does its work inside `exit_status`, which turns the
exceptions for wrong input into one line on standard error.

exit status:
  0  everything was done, whatever the verdicts
  1  the sandbox failed on some programs, which says nothing about them
  2  the arguments or an input are wrong; one line says what and where
  3  full isolation was asked for and this machine refuses a layer of it
130  interrupted; the same command goes on where it stopped
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich import progress
from rich.console import Console

from stepcoder.errors import InputError, RunError
from stepcoder.journal import Record
from stepcoder.options import ConfigError, LineParser
from stepcoder.problems.json_text import loads
from stepcoder.problems.problem import (
    LoadReport,
    Problem,
    ProblemError,
    known_as,
    program_of,
    with_tolerance,
)
from stepcoder.problems.sources import columns_of
from stepcoder.sandbox import (
    LANGUAGES,
    IsolationError,
    Judge,
    LibraryError,
    Limits,
    StdinTests,
    Submission,
)

LIMITS = ("cpu_s", "wall_s", "memory_mib")  # the options that are limits of a test
# The options that a policy's answers depend on.
SAMPLING = (
    *("engine", "form", "temperature", "top_p", "max_new_tokens", "max_prompt_tokens"),
    *("seed", "device", "dtype"),
)
COUNTS = ("max_new_tokens", "max_prompt_tokens", "group_size")  # of them, those above 0
QUIET_S = 30.0  # between two lines of progress where there is no terminal


def for_users(docstring: str | None) -> str:
    """Return what a module's docstring says after its first two paragraphs, to be shown as help."""
    return "\n\n".join((docstring or "").split("\n\n")[2:])


EXIT_STATUS = for_users(__doc__)


class Parser(LineParser):
    """The arguments of `python -m MODULE`; wrong ones are one line and exit status 2."""

    def __init__(self, module: str, description: str | None, epilog: str = "") -> None:
        """Make a parser without options; the lines of `epilog` are shown as they are."""
        layout = argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter
        program = f"python -m {module}"
        super().__init__(program, None, description, epilog, formatter_class=layout)

    def parse(self, argv: Sequence[str] | None, *positive: str) -> argparse.Namespace:
        """Parse; the options named in `positive`, if given, must be above 0."""
        arguments = self.parse_args(argv)
        for name in positive:
            value = getattr(arguments, name)
            if value is not None and not value > 0:
                self.error(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        return arguments


def add_sandbox_options(
    parser: argparse.ArgumentParser, title: str = "judging", wall_s: float | None = None
) -> None:
    """Add a group of options for the sandbox; `wall_s` replaces the usual default of --wall-s."""
    group, limits = parser.add_argument_group(title), Limits()
    group.add_argument("--workers", type=int, help="programs at a time (default: one per CPU)")
    group.add_argument(
        "--isolation",
        choices=("warn", "full"),
        default="warn",
        help="full: refuse to run where this machine lacks a layer (default: %(default)s)",
    )
    group.add_argument(
        "--libraries",
        type=names,
        help="what programs and tests may import: names with commas (default: numpy if installed)",
    )
    for name, default, what in (
        ("--cpu-s", limits.cpu_s, "CPU seconds a test"),
        ("--wall-s", wall_s or limits.wall_s, "seconds a test"),
        ("--memory-mib", limits.memory_bytes >> 20, "memory of a program"),
    ):
        kind, text = type(default), f"{what} (default: %(default)s)"
        group.add_argument(name, type=kind, default=default, help=text)
    group.add_argument(
        "--int-digits",
        type=_int_digits,
        default=limits.int_digits,
        help="digits that Python turns into an int or back, 0: any (default: %(default)s)",
    )


def add_policy_options(
    parser: argparse.ArgumentParser,
    title: str,
    temperature: float = 0.2,
    max_prompt_tokens: int = 1024,
) -> argparse._ArgumentGroup:
    """Add a group of options for the answers of a policy, and return it."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--temperature", type=_temperature, default=temperature, help="0 is greedy (%(default)s)"
    )
    group.add_argument("--top-p", type=_top_p, default=0.95, help="(0.95)")
    group.add_argument("--max-new-tokens", type=int, default=1024, help="(1024)")
    group.add_argument(
        "--max-prompt-tokens", type=int, default=max_prompt_tokens, help="(%(default)s)"
    )
    group.add_argument(
        "--prompt",
        dest="form",
        choices=("auto", "chat", "answer", "plain"),
        default="auto",
        help="auto: as trained, else chat if there is a chat template; chat: it, the "
        "code begun; answer: it, in the policy's own words; plain: no template",
    )
    group.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    group.add_argument("--group-size", type=int, default=64, help="answers generated together (64)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="bfloat16 on a GPU")
    return group


def _temperature(text: str) -> float:
    if not (value := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _top_p(text: str) -> float:
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _int_digits(text: str) -> int:
    try:
        return Limits(int_digits=int(text)).int_digits
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def limits_given(arguments: argparse.Namespace) -> Record:
    """Return the limits, and the libraries, that tell one judgement from another."""
    given: Record = {name: getattr(arguments, name) for name in LIMITS}
    if arguments.int_digits != Limits().int_digits:  # older files do not name it
        given["int_digits"] = arguments.int_digits
    if arguments.libraries is not None:
        given["libraries"] = arguments.libraries
    return given


def names(text: str) -> list[str]:
    """Return the names of a list with commas."""
    return text.replace(",", " ").split()


def add_tolerance_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that compares numbers within a tolerance where no checker is asked for."""
    parser.add_argument(
        "--float-tolerance",
        type=float,
        metavar="X",
        help="absolute or relative, for numbers in stdout and in the values of calls whose tests "
        "name no checker (default: stdout exactly, values 1e-6)",
    )


def add_columns_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that renames columns of problem files."""
    parser.add_argument(
        "--columns",
        type=_columns,
        metavar="OURS:THEIRS,...",
        help="columns of the problems by other names, such as prompt:question,tests:cases",
    )


def _columns(text: str) -> dict[str, str]:
    try:
        return columns_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def say_skipped(report: LoadReport, shown: int = 5) -> None:
    """Say which records of a problem file were skipped: the first one by one, all by reason."""
    for line in report.skipped[:shown]:
        say(f"skipped: {line}")
    if len(report.skipped) > shown:
        counts = "; ".join(f"{count} {reason}" for reason, count in report.reasons.items())
        say(f"skipped {len(report.skipped)} records in all: {counts}")


def within_tolerance(
    problems: Sequence[Problem], arguments: argparse.Namespace
) -> Sequence[Problem]:
    """Return the problems, compared as --float-tolerance says. Raises InputError for no share."""
    tolerance = arguments.float_tolerance
    if tolerance is None:
        return problems
    if not 0 <= tolerance <= 1:
        raise InputError(f"--float-tolerance is {tolerance}; it must be from 0 to 1")
    return [with_tolerance(problem, tolerance) for problem in problems]


def limits_of(arguments: argparse.Namespace) -> Limits:
    """Return the limits that the options give."""
    sizes = arguments.memory_mib << 20, Limits().output_bytes
    return Limits(arguments.cpu_s, arguments.wall_s, *sizes, arguments.int_digits)


def judge_of(arguments: argparse.Namespace) -> Judge:
    """Start the judge that the options describe. Raises IsolationError or LibraryError."""
    return Judge(
        arguments.workers,
        limits_of(arguments),
        arguments.isolation,
        libraries=arguments.libraries,
    )


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line as it is, by default on standard error."""
    print(line, file=file or sys.stderr)


def exit_status(work: Callable[[], int], name: str = "", *, resumable: bool = True) -> int:
    """Do the work of a command and return its exit status; errors become one line.

    Args:
        work: returns the exit status where nothing stops it.
        name: of the command, which stands before a message.
        resumable: whether an interrupted command goes on when it is called again.
    """
    try:
        return work()
    except IsolationError as error:
        say(str(error))
        return 3
    except (InputError, ProblemError, RunError, ConfigError, LibraryError, OSError) as error:
        say(f"{name}: {error}" if name else str(error))
        return 2
    except KeyboardInterrupt:
        if resumable:
            say("stopped; the same command goes on")
        return 130


def leave(status: int) -> NoReturn:
    """End the process; after an interrupt, without waiting for threads that await verdicts."""
    sys.stdout.flush()
    if status == 130:
        os._exit(status)
    sys.exit(status)


def of_split(problems: Sequence[Problem], split: str | None, option: str) -> list[Problem]:
    """Return the problems of a split, or all of them for None.

    Raises InputError, which names the option, if no problem is of the split.
    """
    chosen = [problem for problem in problems if split in (None, problem.split)]
    if problems and not chosen:
        splits = ", ".join(sorted({problem.split for problem in problems}))
        raise InputError(f"{option} {split}: the problems have {splits}")
    return chosen


@dataclass(frozen=True, slots=True)
class Sample:
    """One program to judge: the `number`-th of its problem, from a line of a file (0: of none)."""

    problem: Problem
    number: int
    program: str
    line: int = 0
    language: str = "python"

    @property
    def submission(self) -> Submission:
        """The program with the tests of its problem."""
        program = program_of(self.problem, self.program)
        if self.language != "python":
            program = replace(program, language=self.language, preamble="")  # it is Python's
        return Submission(program, self.problem.tests)


def read_samples(
    path: Path,
    problems: Mapping[str, Problem],
    fields: Sequence[str],
    program: Callable[[Record, Problem], str],
    missing: str,
) -> list[Sample]:
    """Read a file of samples; those of one problem are numbered in the order of the file.

    Args:
        path: of the file, .jsonl or .jsonl.gz.
        problems: by task_id.
        fields: that may hold the program; the first that a record has must be text.
        program: returns the program of a record.
        missing: ends the message about an unknown task_id, and names the fix.

    Raises:
        InputError: the file or a line of it cannot be used.
    """
    found: list[Sample] = []
    numbers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    where = f"{path} line {line}"
                    sample = sample_of(text, where, problems, fields, program, missing)
                    number = next(numbers[sample.problem.task_id])
                    found.append(replace(sample, number=number, line=line))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not found:
        raise InputError(f"{path} holds no sample")
    return found


def sample_of(
    text: bytes,
    where: str,
    problems: Mapping[str, Problem],
    fields: Sequence[str],
    program: Callable[[Record, Problem], str],
    missing: str,
) -> Sample:
    """Return the sample in a line of JSON; the arguments are those of `read_samples`.

    Raises InputError, which begins with `where`.
    """
    record = _sample_record(text, where, problems, fields, missing)
    problem = problems[record["task_id"]]
    language = _language(record, where, problem)
    return Sample(problem, 0, program(record, problem), language=language)


def _sample_record(
    text: bytes, where: str, problems: Mapping[str, Problem], fields: Sequence[str], missing: str
) -> Record:
    names = " or ".join(f'"{field}"' for field in sorted(fields))
    expected = f'expected {{"task_id": ..., {names}: ...}}'
    try:
        record = loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); {expected}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: not an object; {expected}")
    task_id = record.get("task_id")
    if not isinstance(task_id, (str, int)):
        raise InputError(f'{where}: field "task_id" is missing or no text; {expected}')
    known = known_as(task_id, problems)
    if len(known) != 1:
        what = (
            f"{task_id!r} may be any of {', '.join(known)}" if known else f"no problem {task_id!r}"
        )
        raise InputError(f'{where}: field "task_id": {what}{missing}')
    record["task_id"] = known[0]
    field = next((field for field in fields if field in record), fields[-1])
    if not isinstance(record.get(field), str):
        raise InputError(f'{where}: field "{field}" is missing or no text; {expected}')
    return record


def _language(record: Record, where: str, problem: Problem) -> str:
    """Return the judge's name of a sample's language."""
    given = record.get("language", "python")
    language = str(given).lower().replace("c++", "cpp")
    language = "python" if language.startswith("py") else language
    if language != "python" and language not in LANGUAGES:
        names = ", ".join(["python", *LANGUAGES])
        raise InputError(f'{where}: field "language": {given!r} is none of {names}')
    if language != "python" and (problem.entry_point or not isinstance(problem.tests, StdinTests)):
        why = f"{problem.task_id!r} has no stdin tests, and a {language} program reads stdin"
        raise InputError(f'{where}: field "language": {why}; leave the sample out')
    return language


class StepProgress(progress.Progress):
    """Shows how far each step of a command is: bars on a terminal, else a line now and then."""

    def __init__(self) -> None:
        """Prepare to show on standard error."""
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(elapsed_when_finished=False),
            progress.TextColumn("{task.fields[note]}"),
        )
        console = Console(stderr=True)
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self._steps: dict[str, progress.TaskID] = {}
        self._last_line = time.monotonic()

    def begin(self, name: str, done: int, total: int) -> None:
        """Show a step, of which `done` items are done already."""
        fields: dict[str, Any] = {"before": done, "rate": "", "note": ""}
        self._steps[name] = self.add_task(name, total=total, completed=done, **fields)

    def step(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say that `done` items of a step are done; a new step begins with this item."""
        if name not in self._steps:
            self.begin(name, done - 1, total)
        task = self.tasks[self._steps[name]]
        rate = (done - task.fields["before"]) / max(task.elapsed or 0, 1e-9)
        self.update(task.id, completed=done, rate=f"{rate:.1f}/s", note=note)
        now = time.monotonic()
        if self.disable and (now - self._last_line > QUIET_S or done == total):
            self._last_line = now
            line = f"{name} {done} of {total}"
            if rate:
                line += f", {rate:.1f}/s, {(total - done) / rate:.0f} s left"
            say(f"{line}, {note}" if note else line)
