"""CCCS: how much of the canonical solution a prompt gives, and when to give less.

Takes Problems, gives Tasks to roll out, and moves each problem from its last stage to stage 0 as
its rollouts pass (StepCoder, arXiv 2402.01391, section 3 and Algorithm 1).
"""

from __future__ import annotations

import ast
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isqrt
from typing import TYPE_CHECKING, Any, Literal

from stepcoder.errors import RunError
from stepcoder.method.rewards import reward
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import starter_part
from stepcoder.problems.source import line_starts, outline
from stepcoder.problems.template import TEMPLATE
from stepcoder.rollout.rollout import Rollout, Task, task_of

if TYPE_CHECKING:  # see `rollout.py`
    from transformers import PreTrainedTokenizerBase

Scopes = Literal["branches", "all"]

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)
_OTHER_SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


@dataclass(frozen=True, slots=True)
class ProblemProgress:
    """Where one problem stands: its stage and rho, the moving average of its rollouts' passes."""

    stage: int
    rho: float = 0.0


def stage_count(conditionals: int) -> int:
    """Return n = ceil(sqrt(E)), the number of stages of a program with E conditional statements.

    It is at least 1: without conditional statements only stage 0 exists, ordinary RL.
    """
    return isqrt(conditionals - 1) + 1 if conditionals > 0 else 1


def start_index(conditionals: int, stage: int) -> int:
    """Return which conditional statement (1-based) a stage starts at: stride * stage; 0 for none.

    The stride is ceil(E / n). Raises ValueError unless 0 <= stage < n.
    """
    stages = stage_count(conditionals)
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} of {stages} (of {conditionals} conditional statements)")
    return ceil(conditionals / stages) * stage


def start_points(source: str, scopes: Scopes = "branches") -> list[int]:
    """Return where the conditional statements start, as character offsets in order.

    Each offset is the start of a line, so that the statement's indentation comes after the cut.
    Conditional statements are If (every `elif` is one), For, While, Try and Match. "all" adds what
    the authors' data marks besides: functions, classes, lambdas and comprehensions, at the line on
    which the statement around them starts (one cut, however many share it). A source that does not
    parse has none.
    """
    try:
        program = outline(source)
    except SyntaxError:
        return []
    kinds = _BRANCHES if scopes == "branches" else _BRANCHES + _OTHER_SCOPES
    wanted = {node.lineno for node in ast.walk(program.tree) if isinstance(node, kinds)}
    starts = line_starts(source)
    first_lines = [line.first for line in program.lines]
    cuts = {first_lines[bisect_right(first_lines, line) - 1] for line in wanted}
    return [starts[line - 1] for line in sorted(cuts)]


class Curriculum:
    """Chooses problems in seeded order, gives each the prompt of its stage, and moves the stages.

    Every epoch is a permutation of the problems that depends on the seed and the epoch's number
    only. Stages move by Algorithm 1: with `passed` the share of an attempt's rollouts that pass,
    rho <- (1 - alpha) rho + alpha passed; if rho > threshold, rho <- 0 and stage <- max(stage - 1,
    0). The paper leaves alpha, the threshold and the moment of the update open: 0.5, 0.5 and one
    update an attempt are ours.

    Conditional statements inside the starter code, which is always given, do not count. `cccs`
    False keeps every problem at stage 0, where one without a solution always is.
    `full_prompt_share` is the share of attempts that start at stage 0 whatever the problem's stage
    (against forgetting; they do not move it). An epoch has each problem as often as its weight
    says, and once where `weights` (by task_id) has none.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        cccs: bool = True,
        scopes: Scopes = "branches",
        alpha: float = 0.5,
        threshold: float = 0.5,
        full_prompt_share: float = 0.0,
        template: str = TEMPLATE,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Start every problem at its last stage. Raises ValueError for a repeated task_id."""
        self._problems = {problem.task_id: problem for problem in problems}
        if len(self._problems) != len(problems):
            counts = Counter(problem.task_id for problem in problems)
            repeated = next(task_id for task_id, count in counts.items() if count > 1)
            raise ValueError(f"two problems have the task_id {repeated!r}: rename one of them")
        if not problems:
            raise ValueError("a curriculum needs at least one problem")
        self._tokenizer = tokenizer
        self._seed = seed
        self._alpha = alpha
        self._threshold = threshold
        self._full_prompt_share = full_prompt_share
        self._template = template
        self._weights = weights or {}
        self._given_parts = {
            problem.task_id: given_parts(problem, scopes) if cccs else [starter_part(problem)]
            for problem in problems
        }
        self._stages = {task_id: len(parts) - 1 for task_id, parts in self._given_parts.items()}
        self._rhos = dict.fromkeys(self._stages, 0.0)
        self._tries = dict.fromkeys(self._stages, 0)  # attempts at what has not passed yet
        self._epoch = 0
        self._position = 0
        self._moves = 0

    def sample(self, count: int) -> list[Task]:
        """Return the next `count` attempts; a new epoch begins where one runs out of problems."""
        tasks: list[Task] = []
        order = self._order(self._epoch)
        while len(tasks) < count:
            if self._position == len(order):
                self._epoch += 1
                self._position = 0
                order = self._order(self._epoch)
            tasks.append(self._task(order[self._position]))
            self._position += 1
        return tasks

    def observe(self, task: Task, passes: Sequence[float]) -> None:
        """Learn how the rollouts of an attempt ended: `passes` has 1 for each that passed, else 0.

        Only reward 1 counts as a pass. An attempt at another stage than the problem's present one
        (from `rollout.ahead` or `full_prompt_share`) moves nothing, nor does one without rollouts.
        """
        task_id = task.problem.task_id
        if any(passes):
            self._tries.pop(task_id, None)
        elif passes and task_id in self._tries:
            self._tries[task_id] += 1
        if task.stage != self._stages[task_id] or not passes:
            return
        passed = sum(passes) / len(passes)
        rho = (1 - self._alpha) * self._rhos[task_id] + self._alpha * passed
        self._rhos[task_id] = rho
        if rho > self._threshold:
            self._rhos[task_id] = 0.0
            self._moves += min(task.stage, 1)
            self._stages[task_id] = max(task.stage - 1, 0)

    def observe_rollouts(self, rollouts: Sequence[Rollout]) -> None:
        """Learn how the rollouts of a step ended, task by task; unjudged ones do not count."""
        for _, group in groupby(rollouts, key=lambda r: id(r.task)):
            attempt = list(group)
            passes = [float(r.verdict.passed) for r in attempt if reward(r.verdict) is not None]
            self.observe(attempt[0].task, passes)

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next attempt belongs to, from 0."""
        return self._epoch

    @property
    def moves(self) -> int:
        """How many times a problem moved back one stage, since the start of the run."""
        return self._moves

    def progress(self, task_id: str) -> ProblemProgress:
        """Return where one problem stands."""
        return ProblemProgress(self._stages[task_id], self._rhos[task_id])

    def never_passed(self, tries: int) -> dict[str, int]:
        """Return the problems that no rollout solved in so many attempts or more, at any stage.

        The values are their attempts; those with the most come first.
        """
        stuck = [(task_id, n) for task_id, n in self._tries.items() if n >= tries]
        return dict(sorted(stuck, key=lambda item: (-item[1], item[0])))

    def stage_histogram(self) -> dict[int, int]:
        """Return the number of problems at each stage, from stage 0 on."""
        return dict(sorted(Counter(self._stages.values()).items()))

    def state_dict(self) -> dict[str, Any]:
        """Return all that moves, as plain data; problems and settings are not in it."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "moves": self._moves,
            "stages": dict(self._stages),
            "rhos": dict(self._rhos),
            "tries": dict(self._tries),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. Raises RunError if it is of other problems."""
        if state["stages"].keys() != self._problems.keys():
            raise RunError(
                "the saved curriculum is of other problems: resume with the same data.*, sft.share "
                "and prompt.*"
            )
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._moves = state["moves"]
        self._stages, self._rhos = dict(state["stages"]), dict(state["rhos"])
        self._tries = dict(state.get("tries", self._tries))  # older checkpoints did not count

    def _order(self, epoch: int) -> list[str]:
        order = sorted(self._problems)
        if self._weights:
            order = [name for name in order for _ in range(self._copies(name, epoch))]
        random.Random(f"order {self._seed} {epoch}").shuffle(order)
        return order

    def _copies(self, task_id: str, epoch: int) -> int:
        """Return how often an epoch has a problem: its weight, rounded up or down by chance."""
        draw = random.Random(f"copies {self._seed} {epoch} {task_id}").random()
        return floor(self._weights.get(task_id, 1.0) + draw)

    def _task(self, task_id: str) -> Task:
        draw = random.Random(f"visit {self._seed} {self._epoch} {self._position}")
        seed = draw.getrandbits(31)
        full_prompt = draw.random() < self._full_prompt_share
        problem = self._problems[task_id]
        stage = 0 if full_prompt else self._stages[task_id]
        given = self._given_parts[task_id][stage]
        return task_of(problem, stage, given, self._template, self._tokenizer, seed)


def given_parts(problem: Problem, scopes: Scopes = "branches") -> list[str]:
    """Return the given part of each stage of a problem, stage 0 (least given) first."""
    solution = problem.canonical_solution
    starter = starter_part(problem)
    cuts = [cut for cut in start_points(solution, scopes) if cut >= len(starter)]
    given = [starter]
    for stage in range(1, stage_count(len(cuts))):
        given.append(solution[: cuts[start_index(len(cuts), stage) - 1]])
    return given
