"""`python -m stepcoder.judge samples.jsonl --problems problems.jsonl -o verdicts.jsonl`.

Takes samples (HumanEval's and EvalPlus's form: {"task_id", "completion" or "solution"}, .gz too)
and problems in any form of `problems`, gives one verdict a line in the order of the samples.

`python -m stepcoder.judge serve --help` shows the options of the server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stepcoder import command
from stepcoder.command import Sample
from stepcoder.errors import InputError
from stepcoder.journal import Record, append, files_fingerprint, open_to_append, read_lines
from stepcoder.judge.over_http import HttpHost
from stepcoder.judge.pool import JudgePool
from stepcoder.judge.record import failing_test, verdict_record
from stepcoder.problems.answers import mended_sample
from stepcoder.problems.problem import Problem, fingerprint, known_as, load_problems
from stepcoder.problems.source import split_lines
from stepcoder.sandbox import Judge, Status, Verdict
from stepcoder.taxonomy import bug_of
from stepcoder.user_code import is_user_code

EPILOG = f"{command.EXIT_STATUS}\n{command.for_users(__doc__)}"
MISSING = " in the --problems file; give the file that the samples were made for"


def program_of_sample(record: Record, problem: Problem) -> str:
    """Return the program of a sample; a completion goes on from the starter code."""
    if not str(record.get("language", "python")).lower().startswith("py"):
        return str(record["solution"] if "solution" in record else record["completion"])
    if "solution" in record:
        return mended_sample(str(record["solution"]), problem)
    return mended_sample(problem.starter_code + record["completion"], problem)


def already_judged(path: Path, fingerprint: str) -> int:
    """Return how many verdicts a file holds.

    Raises InputError if its first line does not say that it was made from the same input.
    """
    try:
        header, *verdicts = read_lines(path) or [{"judged_from": fingerprint}]
        is_ours = header.get("judged_from") == fingerprint
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise InputError(
            f"{path} exists and holds verdicts of other samples, problems or limits; "
            "choose another -o or remove it"
        )
    return len(verdicts)


def judge_file(
    samples: Sequence[Sample], output: Path, judge: Judge, fingerprint: str
) -> list[str]:
    """Judge what `output` does not hold yet and append it; return the status of every sample.

    Verdicts are written in the order of the samples; one that is done early waits for its turn.
    """
    before = written = already_judged(output, fingerprint)
    early: dict[int, Verdict] = {}
    with open_to_append(output) as file, command.StepProgress() as progress:
        if file.tell() == 0:
            append(file, {"judged_from": fingerprint})
        progress.begin("judging", before, len(samples))
        verdicts = judge.map(sample.submission for sample in samples[before:])
        for done, (index, verdict) in enumerate(verdicts, before + 1):
            early[before + index] = verdict
            while written in early:
                sample = samples[written]
                verdict, problem = early.pop(written), sample.problem
                bug = {"bug": bug_of(verdict, sample.program, problem.entry_point)}
                record = {"task_id": problem.task_id, "line": sample.line}
                append(file, record | verdict_record(verdict) | bug)
                written += 1
            progress.step("judging", done, len(samples))
    return [record["status"] for record in read_lines(output)[1:]]


def explain(sample: Sample, verdict: Verdict) -> str:
    """Return a program with the lines that ran marked, and its first failing test."""
    lines = [f"{sample.problem.task_id} (line {sample.line}): {verdict.status}", ""]
    for number, text in enumerate(split_lines(sample.program), 1):
        mark = "✓" if number in verdict.executed_lines else "·"
        here = "  <-- " + verdict.message if number == verdict.error_line else ""
        lines.append(f"{number:4} {mark} {text}{here}")
    lines += ["", "✓ ran, · did not run"]
    if failing := failing_test(sample.problem.tests, verdict):
        which = f"test {failing['number']} of {len(verdict.tests)}"
        lines.append(f"{which}: {failing['status']}: {failing['message']}")
        for name in ("test", "input", "expected", "got"):
            if failing.get(name) is not None:
                lines.append(f"  {name:8} " + failing[name].replace("\n", "\n" + 11 * " "))
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.Parser("stepcoder.judge", "Judge programs in the sandbox.", EPILOG)
    parser.add_argument("samples", type=Path, help="samples, .jsonl or .jsonl.gz")
    parser.add_argument("--problems", type=Path, required=True, help="problems, in any known form")
    parser.add_argument("-o", "--output", type=Path, help="verdicts; goes on where it stopped")
    parser.add_argument("--explain", metavar="TASK_ID", help="show this task's first sample")
    command.add_columns_option(parser)
    command.add_tolerance_option(parser)
    command.add_sandbox_options(parser)
    group = parser.add_argument_group("judges on other machines, in place of this one")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster, or auto: all its CPUs")
    hosts = "URLs with commas of `stepcoder judge serve`; STEPCODER_JUDGE_KEY holds their key"
    where.add_argument("--hosts", type=command.names, metavar="URL,...", help=hosts)
    arguments = parser.parse(argv, "workers", *command.LIMITS)
    if (arguments.output is None) == (arguments.explain is None):
        parser.error("give either -o or --explain")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    return command.exit_status(lambda: _run(arguments), resumable=False)


def _run(arguments: argparse.Namespace) -> int:
    report = load_problems(arguments.problems, columns=arguments.columns)
    command.say_skipped(report)
    compared = command.within_tolerance(report.problems, arguments)
    problems = {problem.task_id: problem for problem in compared}
    fields = ("solution", "completion")
    samples = command.read_samples(arguments.samples, problems, fields, program_of_sample, MISSING)
    try:
        with _judge(arguments) as judge:
            if arguments.explain:
                statuses = [_explain(arguments, samples, judge)]
            else:
                settings = repr(tuple(command.limits_given(arguments).values()))
                if arguments.float_tolerance is not None:
                    settings += repr(arguments.float_tolerance)
                paths = arguments.samples, arguments.problems
                if is_user_code(str(arguments.problems)):  # what it yields, wherever from
                    settings += fingerprint(report.problems)
                known_by = files_fingerprint(*paths, also=settings)
                statuses = judge_file(samples, arguments.output, judge, known_by)
                passed = statuses.count(Status.ACCEPTED)
                command.say(f"{passed} of {len(statuses)} samples passed", sys.stdout)
    except OSError as error:
        written = arguments.output or "standard output"
        raise InputError(f"{written} cannot be written ({error})") from None
    return 1 if Status.INFRASTRUCTURE_ERROR in statuses else 0


def _judge(arguments: argparse.Namespace) -> Judge:
    """Start the judge, here or on other machines."""
    limits = command.limits_of(arguments)
    if arguments.hosts:
        return JudgePool([HttpHost(url) for url in arguments.hosts], limits, command.say)
    if arguments.ray:
        from stepcoder.judge.over_ray import hosts_of

        settings = {"isolation": arguments.isolation, "libraries": arguments.libraries}
        return JudgePool(hosts_of(arguments.ray, settings), limits, command.say)
    return command.judge_of(arguments)


def _explain(arguments: argparse.Namespace, samples: Sequence[Sample], judge: Judge) -> str:
    """Show the verdict on the first sample of a task, and return its status."""
    known = known_as(arguments.explain, {s.problem.task_id: s.problem for s in samples})
    chosen = (s for s in samples if s.problem.task_id in known)
    sample = next(chosen, None)
    if sample is None:
        raise InputError(f"{arguments.samples} has no sample of {arguments.explain!r}")
    verdict = judge.submit_all(sample.submission).result()
    command.say(explain(sample, verdict), sys.stdout)
    return str(verdict.status)
