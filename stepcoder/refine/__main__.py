"""`python -m stepcoder.refine PROBLEMS --policy DIR --method NAME -o OUT`.

Gets more out of a policy at inference, and compares that with plain resampling of as many tokens.
Methods see the tests that a problem's statement shows; all tests score what they answer. Killed at
any moment, the same command goes on.

what lies in OUT afterwards:
  report.html     the page: pass@1 by round and by tokens, what became of the first answers
  results.md/.json  the table
  samples.jsonl   the answers of the method, for stepcoder.evaluate and stepcoder.judge
  resample.jsonl  those of plain resampling
  rounds.jsonl    a line an answer of each round: tokens and runs until then, verdict, kind of bug
  calls.jsonl, runs.jsonl, verdicts.jsonl  completions, visible tests, all tests
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stepcoder import command
from stepcoder.command import Sample
from stepcoder.errors import RunError
from stepcoder.evaluate import records
from stepcoder.evaluate.__main__ import chosen_problems
from stepcoder.journal import Journal, Record, replace_file
from stepcoder.problems.problem import Problem, fingerprint
from stepcoder.sandbox import AssertTests, Judge, Status

if TYPE_CHECKING:
    from stepcoder.refine.runner import Method, Walk
    from stepcoder.refine.steps import Case

EPILOG = f"{command.for_users(__doc__)}\n{command.EXIT_STATUS}"
METHODS = ("self-critique", "mufix", "epic", "critic-sampling", "resample")
VERDICTS = "verdicts.jsonl"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Refine a policy's answers at inference, against resampling at equal tokens."
    parser = command.Parser("stepcoder.refine", description, EPILOG)
    parser.add_argument("problems", type=Path, help="in a form of docs/data.md")
    parser.add_argument(
        "--policy", type=Path, required=True, help="checkpoint or hub id, run, checkpoint of it"
    )
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument("--split", help="only problems of this split, such as eval")
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    parser.add_argument(
        "--examples",
        type=int,
        default=0,
        metavar="N",
        help="show the first N tests of a problem whose statement shows none (0)",
    )
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--rounds", type=int, default=2, help="self-critique, resample: rounds at most (2)"
    )
    group.add_argument(
        "--samples", type=int, default=20, help="critic-sampling: programs of each half (20)"
    )
    group.add_argument("--top", type=int, default=1, help="critic-sampling: programs repaired (1)")
    group.add_argument(
        "--chop", action="store_true", help="critic-sampling: cut where failing is likelier"
    )
    group.add_argument(
        "--mutator", choices=("llm", "words"), default="llm", help="epic (llm); docs/refine.md"
    )
    command.add_policy_options(parser, "sampling", temperature=0.7)
    command.add_columns_option(parser)
    command.add_tolerance_option(parser)
    command.add_sandbox_options(parser)
    parser.set_defaults(canonical=False)
    counts = ("limit", "rounds", "samples", "top", *command.COUNTS, "workers", *command.LIMITS)
    arguments = parser.parse(argv, *counts)
    if arguments.examples < 0:
        parser.error(f"--examples is {arguments.examples}; it must be 0 or more")
    return arguments


def cases_of(problems: Sequence[Problem], arguments: argparse.Namespace) -> list[Case]:
    """Return what the methods may see of the problems."""
    from stepcoder.refine.steps import Case, Options
    from stepcoder.refine.visible import shown_too, visible_of

    options = Options(**{f.name: getattr(arguments, f.name) for f in fields(Options)})
    cases = []
    for problem in problems:
        seen, visible = problem, visible_of(problem)
        if visible is None and arguments.examples:
            seen, visible = shown_too(problem, arguments.examples)
        tests = visible.tests if visible else AssertTests(())
        cases.append(Case(replace(seen, tests=tests), visible, options))
    if without := sum(case.visible is None for case in cases):
        command.say(
            f"{without} of {len(cases)} problems show no test, so that their first answer stands "
            "(--examples shows some)"
        )
    return cases


def method_of(arguments: argparse.Namespace, policy: Any) -> Method:
    """Return the method that is asked for. Raises RunError where it cannot be used."""
    from stepcoder.refine import critic_sampling, epic, mufix, resample, self_critique, words

    if arguments.method == "critic-sampling":
        return critic_sampling.critic_sampling(arguments.policy, policy, arguments.device)
    if arguments.method == "epic" and arguments.mutator == "words":
        words.check_data()
    return {
        "self-critique": self_critique.self_critique,
        "mufix": mufix.mufix,
        "epic": epic.epic,
        "resample": resample.resample,
    }[arguments.method]


def settings_of(arguments: argparse.Namespace, problems: Sequence[Problem]) -> Record:
    """Return all that the records depend on; a folder with other settings is refused."""
    from stepcoder.evaluate.policies import find_checkpoint

    names = ("method", "examples", "rounds", "samples", "top", "chop", "mutator", *command.SAMPLING)
    checkpoint = find_checkpoint(arguments.policy)
    return {
        "problems": str(arguments.problems),
        "problems_fingerprint": fingerprint(problems),
        "policy": str(checkpoint.folder.resolve()),
        "weights_fingerprint": checkpoint.fingerprint,
        **{name: getattr(arguments, name) for name in names},
        **command.limits_given(arguments),
    }


def run(arguments: argparse.Namespace) -> int:
    """Refine, score, write the files, print the table, and return the exit status."""
    problems, out = chosen_problems(arguments), arguments.output
    from stepcoder.evaluate.policies import find_checkpoint, open_policy
    from stepcoder.refine import results
    from stepcoder.refine.page import render
    from stepcoder.refine.resample import resample
    from stepcoder.refine.runner import CALLS, RUNS, drive, key_of

    settings = settings_of(arguments, problems)
    names = (CALLS, RUNS, VERDICTS)
    journal = Journal(out, settings, names, key_of, "a refinement", [out / n for n in names])
    cases = cases_of(problems, arguments)
    checkpoint = find_checkpoint(arguments.policy)
    with (
        journal,
        command.judge_of(arguments) as judge,
        open_policy(checkpoint, arguments, command.say) as policy,
    ):
        go = partial(drive, journal=journal, policy=policy, judge=judge, options=arguments)
        walks = {arguments.method: go(arguments.method, method_of(arguments, policy), cases)}
        if arguments.method != "resample":
            within = [
                replace(walk.case, budget=walk.spent["tokens"]) for walk in walks[arguments.method]
            ]
            walks["resample"] = go("resample", resample, within)
        rounds = score(problems, walks, journal, judge)
    if not rounds:
        raise RunError("nothing was answered: no prompt fits; raise --max-prompt-tokens")
    shown = sum(case.visible is not None for case in cases)
    found = results.refinement_of(rounds, len(cases), shown)
    for name, text in (
        ("rounds.jsonl", "".join(json.dumps(record) + "\n" for record in rounds)),
        ("samples.jsonl", results.samples(rounds, arguments.method)),
        ("resample.jsonl", results.samples(rounds, "resample")),
        ("results.md", results.to_markdown(found)),
        ("results.json", results.to_json(found)),
        (
            "report.html",
            render(f"{arguments.method} on {arguments.problems.name}", found, settings),
        ),
    ):
        replace_file(out / name, text)
    Console().print(results.to_table(found), soft_wrap=True)
    command.say(str(out / "report.html"), sys.stdout)
    return 0


def score(
    problems: Sequence[Problem], walks: dict[str, list[Walk]], journal: Journal, judge: Judge
) -> list[Record]:
    """Judge every answer on all tests of its problem, and return a record of each round."""
    by_id = {problem.task_id: problem for problem in problems}
    rounds = []
    for method, of_all in walks.items():
        for walk in of_all:
            task_id = walk.case.problem.task_id
            shared = {"method": method, "task_id": task_id, "cut_short": walk.cut_short}
            for number, answer in enumerate(walk.answers):
                rounds.append({**shared, "round": number, **answer})
    lacking = [walk for walk in walks[next(iter(walks))] if not walk.answers]
    if lacking:
        ids = ", ".join(walk.case.problem.task_id for walk in lacking[:3])
        command.say(f"{len(lacking)} problems have no answer, their prompt is too long: {ids}")
    wanted = {}
    for record in rounds:
        digest = hashlib.sha256(record["solution"].encode("utf-8", "replace")).hexdigest()
        record["verdict"] = key = (digest, record["task_id"], 0)
        if key not in journal[VERDICTS]:
            wanted[key] = Sample(by_id[record["task_id"]], 0, record["solution"])
    keys = list(wanted)
    with command.StepProgress() as progress:
        verdicts = judge.map(sample.submission for sample in wanted.values())
        for done, (index, verdict) in enumerate(verdicts, 1):
            if verdict.status is Status.INFRASTRUCTURE_ERROR:
                raise RunError(f"the sandbox failed: {verdict.message}; run the command again")
            judged = records.judged_record(wanted[keys[index]], verdict)
            journal.add(VERDICTS, {"method": keys[index][0], "number": 0, **judged})
            progress.step("scored", done, len(keys))
    for record in rounds:
        judged = journal[VERDICTS][record.pop("verdict")]
        record |= {name: judged[name] for name in ("passed", "status", "bug")}
    return rounds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    return command.exit_status(lambda: run(arguments), "stepcoder.refine")


if __name__ == "__main__":
    command.leave(main())
