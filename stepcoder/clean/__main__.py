"""`python -m stepcoder.clean PROBLEMS -o OUT`: verified problems from raw ones.

Takes problems in any form of `problems`; leaves problems.jsonl, decisions.jsonl and a page in a
folder. Killed at any moment, the same command goes on; the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stepcoder.clean.judges import Judges
from stepcoder.clean.page import render
from stepcoder.clean.pipeline import Cleaning, Options, Record, clean, decisions, write
from stepcoder.clean.records import read_candidates
from stepcoder.clean.outcomes import Store, fingerprint_of
from stepcoder.judge.command import InputError
from stepcoder.problems.problem import Problem, ProblemError, load_problems
from stepcoder.report.run_dir import replace_file
from stepcoder.sandbox import IsolationError, Limits

EPILOG = """\
what lies in OUT afterwards:
  problems.jsonl   the problems that are kept, for stepcoder.train, .judge and .evaluate
  decisions.jsonl  a line a record of the input: kept, repaired or dropped, and why
  report.html      the page: what was kept and why not, coverage, tests, curricula
  journal/         what the sandbox said, so that a killed command goes on

exit status:
  0  every record was decided on
  1  the sandbox failed on some; the same command tries them again
  2  the arguments or an input are wrong; one line says what and where
  3  full isolation was asked for and this machine refuses a layer of it
130  interrupted; the same command goes on where it stopped
"""
QUIET_S = 30.0  # between two lines of progress where there is no terminal
STEPS = {"verify": "verifying", "extend": "more tests"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Leave with one line instead of the usage."""
        self.exit(2, f"stepcoder.clean: {message}\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m stepcoder.clean",
        description="Make verified problems from raw ones: check, repair, deduplicate, add tests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("problems", type=Path, help="our JSONL, APPS(+), HumanEval(+) or MBPP(+)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument(
        "--overlap",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="problems that must not be in the result, such as HumanEval and MBPP's test split",
    )
    parser.add_argument(
        "--overlap-split", metavar="SPLIT", help="only this split of the --overlap files (eval)"
    )
    parser.add_argument(
        "--tests", type=int, default=8, help="tests a problem shall have; 0 adds none (8)"
    )
    parser.add_argument(
        "--similarity", type=float, default=0.8,
        help="share of word triples from which on two statements are the same (0.8); 1: equal ones",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the generated tests (0)")
    group = parser.add_argument_group("running")
    limits = Limits()
    group.add_argument(
        "--runs", type=int, default=3, help="runs, each with other seeds, that must agree (3)"
    )
    group.add_argument("--workers", type=int, help="programs at a time (one per CPU)")
    group.add_argument("--isolation", choices=("warn", "full"), default="warn")
    group.add_argument("--cpu-s", type=float, default=limits.cpu_s, help="CPU seconds a test (2)")
    # Decisions must not depend on what else the machine does: CPU time ends programs.
    group.add_argument("--wall-s", type=float, default=10 * limits.cpu_s, help="(20)")
    group.add_argument("--memory-mib", type=int, default=limits.memory_bytes >> 20)
    arguments = parser.parse_args(argv)
    for name in ("runs", "workers", "cpu_s", "wall_s", "memory_mib"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    if arguments.tests < 0:
        parser.error(f"--tests is {arguments.tests}; it must be at least 0")
    if not 0 < arguments.similarity <= 1:
        parser.error(f"--similarity is {arguments.similarity}; it must be above 0 and at most 1")
    if arguments.overlap_split and not arguments.overlap:
        parser.error("--overlap-split needs --overlap")
    return arguments


def references(arguments: argparse.Namespace) -> list[Problem]:
    """Load the problems that must not be in the result. Raises ProblemError or InputError."""
    found: list[Problem] = []
    for path in arguments.overlap:
        if not path.exists():
            raise InputError(f"--overlap {path}: no such file or folder of problems")
        found += load_problems(path).problems
    if not arguments.overlap_split:
        return found
    chosen = [problem for problem in found if problem.split == arguments.overlap_split]
    if not chosen:
        splits = ", ".join(sorted({problem.split for problem in found}))
        raise InputError(f"--overlap-split {arguments.overlap_split}: the problems have {splits}")
    return chosen


def settings_of(arguments: argparse.Namespace) -> Record:
    """Return all that the results depend on; a folder with other settings is not gone on with."""
    return {
        "problems": str(arguments.problems),
        "problems_fingerprint": fingerprint_of(arguments.problems),
        "overlap": [str(path) for path in arguments.overlap],
        "overlap_fingerprints": [fingerprint_of(path) for path in arguments.overlap],
        "overlap_split": arguments.overlap_split,
        "tests": arguments.tests,
        "similarity": arguments.similarity,
        "seed": arguments.seed,
        "runs": arguments.runs,
        "cpu_s": arguments.cpu_s,
        "wall_s": arguments.wall_s,
        "memory_mib": arguments.memory_mib,
    }


class _Reporter:
    """Shows how far a cleaning is: bars on a terminal, else a line now and then."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bars: dict[str, Any] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last = time.monotonic()

    def step(self, name: str, done: int, total: int) -> None:
        """Say that so many problems of a step are done."""
        now = time.monotonic()
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(STEPS[name], total=total, completed=done - 1)
            self._begun[name] = now, done - 1
        self._progress.update(self._bars[name], completed=done)
        if not self._console.is_terminal and (now - self._last > QUIET_S or done == total):
            self._last = now
            begun, first = self._begun[name]
            rate = (done - first) / max(now - begun, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            line = f"{STEPS[name]}: {done} of {total}, {rate:.1f}/s, {left:.0f} s left"
            self._console.print(line, markup=False, highlight=False)

    def failure(self, task_id: str, error: Exception) -> None:
        """Say that the sandbox failed on a problem."""
        self._console.print(f"{task_id}: the sandbox failed: {error}", markup=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return problems a second."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def _reporter(console: Console) -> Iterator[_Reporter]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Reporter(console, progress)


def run(arguments: argparse.Namespace, console: Console) -> tuple[Cleaning, list[Record]]:
    """Clean, write the files, and return the result with its decisions."""
    if not arguments.problems.exists():
        raise InputError(f"{arguments.problems}: no such file or folder of problems")
    settings = settings_of(arguments)
    known = references(arguments)
    try:
        records = list(read_candidates(arguments.problems))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{arguments.problems} cannot be read ({error})") from None
    if not records:
        raise InputError(f"{arguments.problems} holds no record")
    options = Options(arguments.tests, arguments.similarity, arguments.seed)
    limits = Limits(arguments.cpu_s, arguments.wall_s, arguments.memory_mib << 20)
    store = Store(arguments.output, settings)
    with (
        store.writing(),
        Judges(arguments.runs, arguments.workers, limits, arguments.isolation) as judges,
        _reporter(console) as reporter,
    ):
        try:
            cleaning = clean(records, known, options, judges, store, reporter)
        except BaseException:
            judges.close()
            raise
    lines = decisions(cleaning)
    write(arguments.output, cleaning, lines)
    replace_file(arguments.output / "report.html", render(lines, settings))
    return cleaning, lines


def summary(cleaning: Cleaning, lines: Sequence[Record]) -> str:
    """Return the result in three lines."""
    kept = [line for line in lines if line["decision"] != "dropped"]
    repaired = sum(line["decision"] == "repaired" for line in kept)
    counts: dict[str, int] = {}
    for line in lines:
        if line["decision"] == "dropped":
            counts[line["reason"]] = counts.get(line["reason"], 0) + 1
    reasons = ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda c: -c[1]))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in cleaning.seconds.items())
    dropped = f"{len(lines) - len(kept)} dropped" + (f" ({reasons})" if reasons else "")
    text = f"{len(kept)} of {len(lines)} kept, {repaired} of them repaired; {dropped}"
    if kept:
        tests = sum(line["tests"] for line in kept)
        given = tests - sum(line["generated_tests"] for line in kept)
        before, after = (
            sum(line[name] for line in kept) / len(kept) for name in ("coverage_before", "coverage")
        )
        text += f"\ntests {given} -> {tests}, coverage of the solutions {before:.1%} -> {after:.1%}"
    return f"{text}\nseconds: {seconds}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    console = Console(stderr=True)
    try:
        cleaning, lines = run(arguments, console)
    except (InputError, ProblemError, OSError) as error:
        console.print(f"stepcoder.clean: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except IsolationError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 3
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    out = Console()
    for text in (summary(cleaning, lines), str(arguments.output / "report.html")):
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    if cleaning.failed:
        console.print(f"the sandbox failed on {cleaning.failed} problems; run the command again")
    return 1 if cleaning.failed else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # After an interrupt, threads that still wait for programs must not hold the exit up.
    os._exit(status) if status == 130 else sys.exit(status)
