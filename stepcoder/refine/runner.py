"""Takes many problems through a method at once: completions and runs in batches, each stored.

Every completion and verdict goes into the journal first and is served from there, so a method that
is started again walks through what is stored and goes on behind it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stepcoder.command import StepProgress
from stepcoder.errors import RunError
from stepcoder.evaluate import records
from stepcoder.evaluate.policies import Policy, asked, sample_seed
from stepcoder.journal import Journal, Record
from stepcoder.problems.problem import program_of
from stepcoder.problems.prompts import starter_part
from stepcoder.refine.steps import (
    Answer,
    Ask,
    Case,
    Meet,
    Reply,
    Run,
    Steps,
    TooLongError,
)
from stepcoder.report.samples import verdict_from
from stepcoder.rollout.rollout import Task, task_of
from stepcoder.sandbox import Judge, Status, Submission

CALLS, RUNS = "calls.jsonl", "runs.jsonl"

Method = Callable[[Case], Steps]
Key = tuple[str, str, int]  # method, task id, number of the call or run


def key_of(record: Record) -> Key:
    """Return what names a call or a run."""
    return record["method"], record["task_id"], record["number"]


@dataclass(slots=True)
class Walk:
    """One problem on its way through a method.

    `answers` has a record for each answer: the program, and what was spent until then. `step` is
    the one whose results are missing, None at the end; `tasks` are its prompts, if it asks.
    """

    method: str
    case: Case
    steps: Steps
    policy: Policy
    seed: int
    spent: Record = field(
        default_factory=lambda: dict.fromkeys(("tokens", "prompt_tokens", "calls", "runs"), 0)
    )
    answers: list[Record] = field(default_factory=list)
    step: Any = None
    tasks: list[Task] = field(default_factory=list)
    cut_short: bool = False

    def take(self, result: Any = None) -> None:
        """Take the next step that has to wait; a prompt that is too long raises in the method."""
        self.step = None
        try:
            step = self.steps.send(result)
            while True:
                self.tasks = [self._task(*one) for one in _of_kind(step, Ask)]
                if isinstance(step, Answer):
                    self.answers.append({"solution": step.program, **self.spent})
                    step = self.steps.send(None)
                elif all(map(self.policy.fits, self.tasks)):
                    break
                else:
                    self.cut_short = True
                    step = self.steps.throw(TooLongError())
        except (StopIteration, TooLongError):
            # What a method spent behind its last answer is its price too; of resampling that is
            # a program beyond the budget, which does not count.
            last = self.answers[-1] if self.answers else self.spent
            if self.case.budget is None and last["tokens"] < self.spent["tokens"]:
                self.answers.append({**last, **self.spent})
            return
        self.step = step

    def go(self, journal: Journal) -> None:
        """Go on as far as the results are stored."""
        while self.step is not None and not isinstance(self.step, Meet):
            name = CALLS if self.tasks else RUNS
            keys = [self.key(place) for place, _ in enumerate(self.step)]
            if not all(key in journal[name] for key in keys):
                return
            found = [journal[name][key] for key in keys]
            self.spent[name.partition(".")[0]] += len(found)
            if name == RUNS:
                self.take([verdict_from(record["verdict"]) for record in found])
                continue
            for count in ("tokens", "prompt_tokens"):
                self.spent[count] += sum(record[count] for record in found)
            self.take([self._reply(*one) for one in zip(self.tasks, found, strict=True)])

    def key(self, place: int) -> Key:
        """Return the key of one of the step's calls or runs."""
        return (
            self.method,
            self.case.problem.task_id,
            self.spent["calls" if self.tasks else "runs"] + place,
        )

    def _task(self, place: int, ask: Ask) -> Task:
        problem = self.case.problem
        seed = sample_seed(self.seed, problem.task_id, self.spent["calls"] + place)
        if ask.in_words:
            return self.policy.question(problem, ask.text, seed)
        given = starter_part(problem) if ask.given is None else ask.given
        asking = replace(problem, prompt=ask.text)
        return task_of(asking, 0, given, self.policy.template, self.policy.tokenizer, seed)

    def _reply(self, task: Task, record: Record) -> Reply:
        program = records.program_in(record, self.case.problem)
        text = record["answer"] if "answer" in record else record["completion"]
        return Reply(text, program, record["tokens"], task, tuple(record["token_ids"]))


def _of_kind(step: Any, kind: type) -> list[tuple[int, Any]]:
    """Return the parts of a step that are of a kind, each with its place."""
    parts = step if isinstance(step, list) else []
    return [(place, part) for place, part in enumerate(parts) if isinstance(part, kind)]


def drive(
    name: str,
    method: Method,
    cases: Sequence[Case],
    journal: Journal,
    policy: Policy,
    judge: Judge,
    options: argparse.Namespace,
) -> list[Walk]:
    """Take all cases through a method, and return their ways.

    Raises:
        RunError: the sandbox failed on a program, which says nothing about it.
    """
    walks = [Walk(name, case, method(case), policy, options.seed) for case in cases]
    for walk in walks:
        walk.take()
    with StepProgress() as progress:
        progress.begin(name, 0, len(walks))
        while True:
            for walk in walks:
                walk.go(journal)
            waiting = [walk for walk in walks if walk.step is not None]
            spent = {key: sum(walk.spent[key] for walk in walks) for key in walks[0].spent}
            note = "{calls:,} answers, {tokens:,} tokens, {runs:,} runs".format(**spent)
            progress.step(name, len(walks) - len(waiting), len(walks), note)
            if asking := [walk for walk in waiting if walk.tasks]:
                _ask(asking, journal, policy, options)
            elif running := [walk for walk in waiting if not isinstance(walk.step, Meet)]:
                _run(running, journal, judge)
            elif waiting:
                share = sum(walk.step.solved for walk in waiting) / len(walks)
                for walk in waiting:
                    walk.take(share)
            else:
                return walks


def _ask(
    asking: Sequence[Walk], journal: Journal, policy: Policy, options: argparse.Namespace
) -> None:
    """Generate and store what the steps ask for, as far as it is not stored."""
    groups: defaultdict[tuple[float, float], list[tuple[Key, Task]]] = defaultdict(list)
    for walk in asking:
        for place, ask in _of_kind(walk.step, Ask):
            if (key := walk.key(place)) not in journal[CALLS]:
                temperature = options.temperature if ask.temperature is None else ask.temperature
                top_p = options.top_p if ask.top_p is None else ask.top_p
                groups[temperature, top_p].append((key, walk.tasks[place]))
    for sampling, wanted in groups.items():
        tasks = [task for _, task in wanted]
        for place, answer in asked(policy, tasks, *sampling, options.max_new_tokens):
            journal.add(CALLS, named(wanted[place][0]) | answer)


def _run(running: Sequence[Walk], journal: Journal, judge: Judge) -> None:
    """Run the steps' programs on their tests and store the verdicts, as far as they are not."""
    wanted = [
        (walk.key(place), Submission(program_of(walk.case.problem, run.program), run.tests))
        for walk in running
        for place, run in _of_kind(walk.step, Run)
        if walk.key(place) not in journal[RUNS]
    ]
    for index, verdict in judge.map(submission for _, submission in wanted):
        key = wanted[index][0]
        if verdict.status is Status.INFRASTRUCTURE_ERROR:
            raise RunError(
                f"the sandbox failed on a program of {key[1]} ({verdict.message}); run the same "
                "command again"
            )
        data = json.loads(json.dumps(asdict(verdict), default=sorted))
        journal.add(RUNS, named(key) | {"verdict": data})


def named(key: Key) -> Record:
    """Return a record with the fields of a key."""
    return dict(zip(("method", "task_id", "number"), key, strict=True))
