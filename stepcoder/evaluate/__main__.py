"""`python -m stepcoder.evaluate PROBLEMS --policy DIR -o OUT`: pass@k of a policy or of samples.

Takes problems in any form of `problems` and a policy, a file of samples or the canonical solutions;
leaves verdicts, tables and a page in a folder. Killed at any moment, the same command goes on.

what lies in OUT afterwards:
  report.html     the page: pass@k with intervals, plots, the first failure of each problem
  results.md/.csv/.json  the table
  problems.jsonl  a line a problem: how many pass, and its first failing test
  verdicts.jsonl  a line a program: status and failing test
  samples.jsonl   a line an answer, as the policy wrote it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from stepcoder import command
from stepcoder.command import Sample
from stepcoder.errors import InputError, RunError
from stepcoder.evaluate import records, results
from stepcoder.evaluate.page import render
from stepcoder.evaluate.records import SAMPLES, VERDICTS
from stepcoder.evaluate.results import Evaluation, evaluation_of
from stepcoder.journal import Journal, Record, replace_file
from stepcoder.problems.problem import Problem, fingerprint, load_problems
from stepcoder.sandbox import Judge, Status, Submission
from stepcoder.user_code import is_user_code

EPILOG = f"{command.for_users(__doc__)}\n{command.EXIT_STATUS}"
MISSING = "; give the problems that the samples were made for (--split and --limit leave some out)"
KS = (1, 5, 10)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Measure pass@k in the sandbox, with a 95% interval over problems."
    parser = command.Parser("stepcoder.evaluate", description, EPILOG)
    parser.add_argument("problems", type=Path, help="in a form of docs/data.md")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--policy", type=Path, help="transformers checkpoint or hub id, run, or checkpoint of it"
    )
    what.add_argument(
        "--samples", type=Path, help="file of samples: answer, completion or solution"
    )
    what.add_argument("--canonical", action="store_true", help="the problems' own solutions")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument("-k", type=int, nargs="+", help="default: 1 5 10, as far as -n goes")
    parser.add_argument("--split", help="only problems of this split, such as eval")
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    parser.add_argument("--extract", action="store_true", help="find the code in all samples' text")
    group = command.add_policy_options(parser, "sampling (defaults: StepCoder's evaluation)")
    group.add_argument("-n", type=int, default=10, help="programs a problem (10)")
    command.add_columns_option(parser)
    command.add_tolerance_option(parser)
    command.add_sandbox_options(parser)
    arguments = parser.parse(argv, "n", "limit", *command.COUNTS, "workers", *command.LIMITS)
    if any(k < 1 for k in arguments.k or ()):
        parser.error(f"-k holds {min(arguments.k)}; it must be above 0")
    if arguments.policy and arguments.k and max(arguments.k) > arguments.n:
        parser.error(f"-k holds {max(arguments.k)}, but only -n {arguments.n} programs are sampled")
    if arguments.policy and arguments.temperature == 0 and arguments.n > 1:
        parser.error("--temperature 0 gives the same program each time; add -n 1")
    return arguments


def chosen_problems(arguments: argparse.Namespace) -> list[Problem]:
    """Load the problems that the options choose. Raises ProblemError or InputError."""
    if not is_user_code(str(arguments.problems)) and not arguments.problems.exists():
        raise InputError(f"{arguments.problems}: no such file or folder of problems")
    report = load_problems(arguments.problems, columns=arguments.columns)
    command.say_skipped(report)
    problems = command.of_split(report.problems, arguments.split, "--split")
    if arguments.canonical and (without := [p for p in problems if not p.canonical_solution]):
        command.say(f"{len(without)} of {len(problems)} problems have no solution: left out")
        problems = [p for p in problems if p.canonical_solution]
    if not problems:
        raise InputError(f"{arguments.problems} holds no usable problem")
    return list(command.within_tolerance(problems[: arguments.limit], arguments))


def evaluation_settings(arguments: argparse.Namespace, problems: Sequence[Problem]) -> Record:
    """Return all that the verdicts depend on; a folder with other settings is refused."""
    settings: Record = {
        "problems": str(arguments.problems),
        "problems_fingerprint": fingerprint(problems),
        **command.limits_given(arguments),
    }
    if arguments.policy:
        # Imported where it is needed: torch takes seconds, and files of samples need none of it.
        from stepcoder.evaluate.policies import find_checkpoint

        checkpoint = find_checkpoint(arguments.policy)
        return settings | {
            "policy": str(checkpoint.folder.resolve()),
            "weights_fingerprint": checkpoint.fingerprint,
            **{name: getattr(arguments, name) for name in ("n", *command.SAMPLING)},
        }
    if arguments.samples:
        try:
            data = arguments.samples.read_bytes()
        except OSError as error:
            raise RunError(f"{arguments.samples} cannot be read ({error.strerror})") from None
        return settings | {
            "samples": str(arguments.samples),
            "samples_fingerprint": hashlib.sha256(data).hexdigest(),
            "extract": arguments.extract,
        }
    return settings | {"canonical": True}


def judge_samples(journal: Journal, judge: Judge, samples: Iterator[Sample], total: int) -> int:
    """Judge samples as they come and store the verdicts; return how many the sandbox failed on."""
    taken: list[Sample] = []

    def submissions() -> Iterator[Submission]:
        for sample in samples:
            taken.append(sample)
            yield sample.submission

    done, failed = len(journal[VERDICTS]), 0
    passed = sum(record["passed"] for record in journal[VERDICTS].values())
    with command.StepProgress() as progress:
        progress.begin("judged", done, total)
        for index, verdict in judge.map(submissions()):
            done += 1
            if verdict.status is Status.INFRASTRUCTURE_ERROR:
                failed += 1
                command.say(f"the sandbox failed: {verdict.message}")
            else:
                journal.add(VERDICTS, records.judged_record(taken[index], verdict))
                passed += verdict.passed
            share = f"{passed / max(done - failed, 1):.1%} pass"
            progress.step("judged", done, total, share)
    return failed


def policy_samples(
    journal: Journal, problems: Sequence[Problem], arguments: argparse.Namespace
) -> Generator[Sample]:
    """Yield the stored answers that have no verdict yet, then new ones, which are stored first."""
    by_id = {problem.task_id: problem for problem in problems}
    waiting = [r for key, r in journal[SAMPLES].items() if key not in journal[VERDICTS]]
    for record in chain(waiting, new_answers(journal, problems, arguments)):
        problem = by_id[record["task_id"]]
        yield Sample(problem, record["sample"], records.program_in(record, problem))


def new_answers(
    journal: Journal, problems: Sequence[Problem], arguments: argparse.Namespace
) -> Iterator[Record]:
    """Sample the answers that are not stored yet, and store and yield each."""
    numbers, stored = range(arguments.n), journal[SAMPLES]
    missing = [(p, i) for p in problems for i in numbers if (p.task_id, i) not in stored]
    if not missing:
        return
    from stepcoder.evaluate.policies import find_checkpoint, open_policy, sampled_answers

    with open_policy(find_checkpoint(arguments.policy), arguments, command.say) as policy:
        for record in sampled_answers(missing, policy, arguments, command.say):
            journal.add(SAMPLES, record)
            yield record


def given_samples(arguments: argparse.Namespace, problems: Sequence[Problem]) -> list[Sample]:
    """Return the samples of the file, or the canonical solutions. Raises InputError."""
    if not arguments.samples:
        return [Sample(p, 0, p.canonical_solution) for p in problems]
    by_id = {problem.task_id: problem for problem in problems}
    program = records.extracted_program if arguments.extract else records.program_in
    found = command.read_samples(arguments.samples, by_id, records.FIELDS, program, MISSING)
    lacking = len(by_id) - len({s.problem.task_id for s in found})
    if lacking:
        command.say(f"{lacking} of {len(by_id)} problems have no sample: left out")
    return found


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the files, print the table, and return the exit status."""
    problems, out = chosen_problems(arguments), arguments.output
    settings = evaluation_settings(arguments, problems)
    names = (SAMPLES, VERDICTS)
    foreign = [out / name for name in names]
    journal = Journal(out, settings, names, records.key_of, "an evaluation", foreign)
    if arguments.policy:
        total, samples = len(problems) * arguments.n, policy_samples(journal, problems, arguments)
    else:
        given = given_samples(arguments, problems)
        judged = set(journal[VERDICTS])
        total = len(given)
        samples = (s for s in given if (s.problem.task_id, s.number) not in judged)
    # Closing the samples ends the engine of a policy when judging stops before their end.
    with journal, command.judge_of(arguments) as judge, closing(samples):
        failed = judge_samples(journal, judge, samples, total)
    if not journal[VERDICTS]:
        raise RunError("nothing was judged: no prompt fits, or the sandbox failed on every program")
    evaluation = evaluation_of(problems, journal[VERDICTS], sorted(set(arguments.k or KS)))
    if not evaluation.ks:
        raise InputError(f"-k {arguments.k}: no problem has so many samples")
    write(out, evaluation, settings)
    Console().print(results.to_table(evaluation), soft_wrap=True)
    command.say(str(out / "report.html"), sys.stdout)
    if failed:
        command.say(f"the sandbox failed on {failed} programs; run the same command again")
    return 1 if failed else 0


def write(folder: Path, evaluation: Evaluation, settings: dict[str, Any]) -> None:
    """Write tables, problems and page."""
    lines = "".join(json.dumps(problem) + "\n" for problem in evaluation.problems)
    what = settings.get("policy") or settings.get("samples") or "canonical solutions"
    title = f"{Path(what).name} on {Path(settings['problems']).name}"
    for name, text in (
        ("problems.jsonl", lines),
        ("results.md", results.to_markdown(evaluation)),
        ("results.csv", results.to_csv(evaluation)),
        ("results.json", results.to_json(evaluation)),
        ("report.html", render(title, evaluation, settings)),
    ):
        replace_file(folder / name, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    return command.exit_status(lambda: run(arguments), "stepcoder.evaluate")


if __name__ == "__main__":
    command.leave(main())
