"""`python -m stepcoder.judge samples.jsonl --problems problems.jsonl -o verdicts.jsonl`.

Takes samples (HumanEval's and EvalPlus's form: {"task_id", "completion" or "solution"}, .gz too)
and problems in any form of `problems`, gives one verdict a line in the order of the samples.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    TimeRemainingColumn,
)
from rich.text import Text

from stepcoder.judge.record import verdict_record
from stepcoder.problems.problem import Problem, ProblemError, load_problems, program_of
from stepcoder.problems.source import split_lines
from stepcoder.sandbox import (
    IsolationError,
    Judge,
    Limits,
    Status,
    Submission,
    Verdict,
)
from stepcoder.sandbox.program import CodeTests, test_text

EPILOG = """\
exit status:
  0  every sample was judged (whatever the verdicts)
  1  some sample ended in an infrastructure error: the judge failed, not the program
  2  the arguments or an input file are wrong; the message names file, line and field
  3  full isolation was asked for and this machine refuses a layer of it
130  interrupted; the same command goes on where it stopped

`python -m stepcoder.judge serve --help` tells of the server.
"""


class InputError(ValueError):
    """An input cannot be used: one line that names file, line, field and fix."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One program to judge: `source` is whole; `line` is where it stands in its file."""

    task_id: str
    source: str
    line: int


def read_samples(path: Path, problems: Mapping[str, Problem]) -> list[Sample]:
    """Read samples; a "completion" goes on from its problem's starter code. Raises InputError."""
    samples = []
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    samples.append(_sample(line, f"{path} line {number}", number, problems))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not samples:
        raise InputError(f"{path} holds no sample")
    return samples


def _sample(line: bytes, where: str, number: int, problems: Mapping[str, Problem]) -> Sample:
    expected = '{"task_id": ..., "completion" or "solution": ...}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected {expected}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: not an object; expected {expected}")
    task_id = record.get("task_id")
    if not isinstance(task_id, str):
        raise InputError(f'{where}: field "task_id" is missing or no text; expected {expected}')
    if task_id not in problems:
        raise InputError(
            f'{where}: field "task_id": no problem {task_id!r} in the --problems file; '
            "give the file that the samples were made for"
        )
    name = "solution" if "solution" in record else "completion"
    text = record.get(name)
    if not isinstance(text, str):
        raise InputError(f'{where}: field "{name}" is missing or no text; expected {expected}')
    if name == "completion":
        text = problems[task_id].starter_code + text
    return Sample(task_id, text, number)


def already_judged(path: Path, fingerprint: str) -> int:
    """Return how many verdicts `path` holds, cutting a last line that was not written whole.

    Raises InputError if the file is not this command's: its first line says what it was made from.
    """
    if not path.exists() or path.stat().st_size == 0:
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].splitlines()
    try:
        mine = not lines or json.loads(lines[0]).get("judged_from") == fingerprint
    except (ValueError, AttributeError):
        mine = False
    if not mine:
        raise InputError(
            f"{path} exists and holds verdicts of other samples, problems or limits; "
            "choose another -o or remove it"
        )
    with path.open("r+b") as file:
        file.truncate(whole)
    return max(len(lines) - 1, 0)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return programs a second."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


def judge_file(
    samples: Sequence[Sample],
    problems: Mapping[str, Problem],
    output: Path,
    judge: Judge,
    fingerprint: str,
) -> list[str]:
    """Judge what `output` does not hold yet and append it; return the status of every sample.

    Verdicts are written in the order of the samples; one that is done early waits for its turn.
    """
    done = already_judged(output, fingerprint)
    columns = (
        TextColumn("judging"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    held: dict[int, Verdict] = {}
    written = done
    with (
        output.open("a", encoding="utf-8") as file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        if file.tell() == 0:
            file.write(json.dumps({"judged_from": fingerprint}) + "\n")
        bar = progress.add_task("", total=len(samples), completed=done)
        for index, verdict in judge.map(_submissions(samples[done:], problems)):
            held[done + index] = verdict
            while written in held:
                record = _record(samples[written], held.pop(written))
                file.write(json.dumps(record, ensure_ascii=True) + "\n")
                file.flush()
                written += 1
            progress.update(bar, advance=1)
    with output.open(encoding="utf-8") as file:
        next(file)
        return [json.loads(line)["status"] for line in file]


def _record(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    return {"task_id": sample.task_id, "line": sample.line, **verdict_record(verdict)}


def _submissions(
    samples: Sequence[Sample], problems: Mapping[str, Problem]
) -> Iterator[Submission]:
    for sample in samples:
        problem = problems[sample.task_id]
        yield Submission(program_of(problem, sample.source), problem.tests)


def explain(problem: Problem, sample: Sample, verdict: Verdict) -> str:
    """Return a program with the lines that ran marked, and its first failing test."""
    lines = [f"{sample.task_id} (line {sample.line}): {verdict.status}", ""]
    for number, text in enumerate(split_lines(sample.source), 1):
        mark = "✓" if number in verdict.executed_lines else "·"
        here = "  <-- " + verdict.message if number == verdict.error_line else ""
        lines.append(f"{number:4} {mark} {text}{here}")
    lines += ["", "✓ ran, · did not run"]
    for i, test in enumerate(verdict.tests):
        if test.status is Status.ACCEPTED:
            continue
        lines.append(f"test {i + 1} of {len(verdict.tests)}: {test.status}: {test.message}")
        tests = problem.tests
        if isinstance(tests, CodeTests):
            lines.append("  test     " + test_text(tests, i).replace("\n", "\n" + 11 * " "))
        else:
            lines.append(f"  input    {tests.inputs[i]!r}")
            lines.append(f"  expected {tests.outputs[i]!r}")
        if test.got is not None:
            lines.append(f"  got      {test.got}")
        break
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stepcoder.judge",
        description="Judge programs in the sandbox.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("samples", type=Path, help="samples, .jsonl or .jsonl.gz")
    parser.add_argument("--problems", type=Path, required=True, help="problems, in any known form")
    parser.add_argument("-o", "--output", type=Path, help="verdicts; goes on where it stopped")
    parser.add_argument("--explain", metavar="TASK_ID", help="show this task's first sample")
    parser.add_argument("--workers", type=int, help="programs at a time (default: one per CPU)")
    parser.add_argument("--isolation", choices=("warn", "full"), default="warn")
    limits = Limits()
    parser.add_argument("--cpu-s", type=float, default=limits.cpu_s, help="CPU seconds a test")
    parser.add_argument("--wall-s", type=float, default=limits.wall_s, help="seconds a test")
    parser.add_argument("--memory-mib", type=int, default=limits.memory_bytes >> 20)
    arguments = parser.parse_args(argv)
    if (arguments.output is None) == (arguments.explain is None):
        parser.error("give either -o or --explain")
    for name in ("workers", "cpu_s", "wall_s", "memory_mib"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    return arguments


def _fingerprint(arguments: argparse.Namespace) -> str:
    digest = hashlib.sha256()
    for path in (arguments.samples, arguments.problems):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    limits = (arguments.cpu_s, arguments.wall_s, arguments.memory_mib)
    digest.update(repr(limits).encode())
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    limits = Limits(arguments.cpu_s, arguments.wall_s, arguments.memory_mib << 20)
    try:
        report = load_problems(arguments.problems)
        for line in report.skipped:
            print(line, file=sys.stderr)  # noqa: T201
        problems = {problem.task_id: problem for problem in report.problems}
        samples = read_samples(arguments.samples, problems)
        with Judge(arguments.workers, limits, arguments.isolation) as judge:
            if arguments.explain:
                sample = next((s for s in samples if s.task_id == arguments.explain), None)
                if sample is None:
                    raise InputError(f"{arguments.samples} has no sample of {arguments.explain!r}")
                problem = problems[sample.task_id]
                verdict = judge.run(program_of(problem, sample.source), problem.tests)
                print(explain(problem, sample, verdict))  # noqa: T201
                statuses = [str(verdict.status)]
            else:
                fingerprint = _fingerprint(arguments)
                statuses = judge_file(samples, problems, arguments.output, judge, fingerprint)
                passed = statuses.count(Status.ACCEPTED)
                print(f"{passed} of {len(statuses)} samples passed")  # noqa: T201
    except (InputError, ProblemError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:  # what is read has errors of its own
        written = arguments.output or "standard output"
        print(f"{written} cannot be written ({error})", file=sys.stderr)  # noqa: T201
        return 2
    except IsolationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3
    except KeyboardInterrupt:
        return 130
    return 1 if Status.INFRASTRUCTURE_ERROR in statuses else 0
