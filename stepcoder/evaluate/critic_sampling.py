"""python -m stepcoder.evaluate.critic_sampling RUN: critic sampling (CodeRL, section 3.3).

Takes the folder of a run with `recipe=coderl`. For each test problem it samples programs, looks at
their example tests (the first ones) and samples again: from the most promising beginnings of those
that pass (refining), or with the failed program and its error in the prompt if none does
(repairing). The program that is answered passes the examples, if one does, and has the critic's
highest probability of passing all. Ours: the policy itself repairs, where the paper trains a second
model for it; so an untrained small policy gains nothing from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from stepcoder.command import Parser, exit_status, say
from stepcoder.config import Config, load_config
from stepcoder.errors import RunError
from stepcoder.method.fgo import executed_masks
from stepcoder.method.rewards import Outcome, Reward, reward
from stepcoder.method.rows import rows_of
from stepcoder.models.batch import microbatches, pack
from stepcoder.models.load import with_template
from stepcoder.models.lora import load_own_state
from stepcoder.models.policy import OutcomeCritic, choose_device
from stepcoder.models.pretrained import load_pretrained
from stepcoder.problems.prompts import fits, starter_part
from stepcoder.problems.template import FENCE, in_own_words
from stepcoder.report.run_dir import CONFIG
from stepcoder.rollout.engine import Engine, Sampling
from stepcoder.rollout.hf_engine import HFEngine
from stepcoder.rollout.open_engine import group_size
from stepcoder.rollout.rollout import Rollout, Task, roll_out, task_of, whole_program_tasks
from stepcoder.run.checkpoint import POLICY, load_state, newest_checkpoint
from stepcoder.run.data import evenly_spaced, fitting, load_data
from stepcoder.run.held_out import pass_at_1
from stepcoder.run.open_run import open_judge
from stepcoder.sandbox import Judge, Status, Verdict

SEEDS = 2  # programs of a problem that are refined or repaired
SECOND_ROUND = 1 << 30  # keeps the seeds of both rounds apart


@dataclass(frozen=True, slots=True)
class Sampler:
    """What sampling needs."""

    config: Config
    engine: Engine
    judge: Judge
    critic: OutcomeCritic
    tokenizer: PreTrainedTokenizerBase

    def sample(self, tasks: Sequence[Task], samples: int) -> list[Rollout]:
        """Return judged programs, `samples` a task."""
        options = self.config.rollout
        sampling = Sampling(options.temperature, options.max_new_tokens)
        return roll_out(tasks, self.engine, self.judge, self.tokenizer, sampling, samples)


@dataclass(frozen=True, slots=True)
class Scored:
    """A program and what the critic thinks of it: p(passed), of all and after each token."""

    rollout: Rollout
    passing: float
    by_token: tuple[float, ...]


def critic_sampling(
    sampler: Sampler, tasks: Sequence[Task], samples: int, examples: int
) -> tuple[list[Rollout], list[Rollout]]:
    """Return all programs of the first round, and the one that is answered for each task."""
    first = sampler.sample(tasks, samples)
    by_task = [scored(sampler, first[i : i + samples]) for i in range(0, len(first), samples)]
    seeds = [next_tasks(sampler, candidates, examples) for candidates in by_task]
    again = iter(sampler.sample([task for group in seeds for task in group], samples // SEEDS))
    answers = []
    for candidates, group in zip(by_task, seeds, strict=True):
        refined = list(islice(again, len(group) * (samples // SEEDS)))
        pool = [*candidates, *scored(sampler, refined)]
        if pool:  # the judge may have failed on all of a problem's programs
            answers.append(answer(pool, examples).rollout)
    return first, answers


@torch.no_grad()
def scored(sampler: Sampler, rollouts: Sequence[Rollout]) -> list[Scored]:
    """Ask the critic about programs; those that the judge failed on are left out."""
    kept = [r for r in rollouts if reward(r.verdict) is not None]
    if not kept:
        return []
    device = sampler.critic.head.weight.device
    masks = executed_masks(kept, sampler.config.fgo)
    batch = pack(rows_of(kept, [Reward(0.0)] * len(kept), masks)).to(device)
    found: dict[int, Scored] = {}
    for rows, piece in microbatches(batch, sampler.config.ppo.tokens_per_microbatch):
        passing = torch.softmax(sampler.critic.logits(piece), -1)[:, Outcome.PASSED].tolist()
        by_token = sampler.critic.token_probabilities(piece)[:, Outcome.PASSED]
        lengths = [len(kept[row].completion.token_ids) for row in rows]
        for row, p, tokens in zip(rows, passing, by_token.split(lengths), strict=True):
            found[row] = Scored(kept[row], p, tuple(tokens.tolist()))
    return [found[row] for row in range(len(kept))]


def passes_examples(verdict: Verdict, examples: int) -> bool:
    """Whether the first tests passed; a program that never ran has none."""
    looked_at = verdict.tests[:examples]
    return bool(looked_at) and all(test.status is Status.ACCEPTED for test in looked_at)


def next_tasks(sampler: Sampler, candidates: Sequence[Scored], examples: int) -> list[Task]:
    """Return what to sample next for a problem: beginnings to go on from, or programs to repair."""
    passing = [c for c in candidates if passes_examples(c.rollout.verdict, examples)]
    best = sorted(passing or candidates, key=lambda c: -c.passing)[:SEEDS]
    next_task = refining if passing else repairing
    template = sampler.config.prompt.template
    tasks = [next_task(one, template, sampler.tokenizer) for one in best]
    most = sampler.config.prompt.max_prompt_tokens
    return [task for task in tasks if fits(sampler.tokenizer, task.prompt_text, most)]


def refining(one: Scored, template: str, tokenizer: PreTrainedTokenizerBase) -> Task:
    """Give the program's beginning, up to the token where the critic hopes most."""
    rollout, task = one.rollout, one.rollout.task
    most = max(range(len(one.by_token)), key=one.by_token.__getitem__)
    code = len(rollout.program) - len(task.given)  # what follows is the closing fence
    given = task.given + rollout.text[: min(rollout.spans[most][1], code)]
    return task_of(task.problem, 0, given, template, tokenizer, task.seed + SECOND_ROUND)


def repairing(one: Scored, template: str, tokenizer: PreTrainedTokenizerBase) -> Task:
    """Show the failed program and how it failed, and ask for it anew."""
    rollout, task, verdict = one.rollout, one.rollout.task, one.rollout.verdict
    failed = next((t for t in verdict.tests if t.status is not Status.ACCEPTED), verdict)
    how = f"{verdict.status}: {failed.message}" if failed.message else str(verdict.status)
    shown = f"{FENCE}python\n{rollout.program.rstrip()}\n{FENCE}"
    asked = f"{task.problem.prompt.strip()}\n\nThis program fails ({how}):\n{shown}\nRepair it."
    problem, seed = replace(task.problem, prompt=asked), task.seed + SECOND_ROUND
    return task_of(problem, 0, starter_part(problem), template, tokenizer, seed)


def answer(candidates: Sequence[Scored], examples: int) -> Scored:
    """Return the most promising program, of those that pass the examples if there are any."""
    passing = [c for c in candidates if passes_examples(c.rollout.verdict, examples)]
    return max(passing or candidates, key=lambda c: c.passing)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare critic sampling with plain sampling on a run's test problems."""
    name = "stepcoder.evaluate.critic_sampling"
    parser = Parser(name, "CodeRL's critic sampling with the newest checkpoint of a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run of recipe=coderl")
    parser.add_argument("--problems", type=int, metavar="N", help="so many, spread over all")
    parser.add_argument("--samples", type=int, default=8, help="programs a problem and round")
    parser.add_argument("--examples", type=int, default=1, help="tests that count as examples")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: compare(arguments), name, resumable=False)


def compare(arguments: argparse.Namespace) -> int:
    """Print pass@1 of plain sampling and of critic sampling, and return the exit status.

    Raises:
        RunError: the folder has no checkpoint of a critic of this kind.
    """
    folder: Path = arguments.run
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None or not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no run with a checkpoint is there")
    config, state = load_config(folder / CONFIG), load_state(checkpoint)
    if config.recipe != "coderl" or state["phase"] != "rl":
        raise RunError(f'{folder}: its newest checkpoint has no critic of recipe "coderl"')
    if in_own_words(config.prompt.template):
        raise RunError(
            f"{folder}: critic sampling goes on with programs, not with answers in words"
        )
    device = choose_device(config.device)
    dtype = state["critic"]["head.weight"].dtype
    tokenizer, policy = load_pretrained(checkpoint / POLICY, dtype, device, str(folder))
    config = with_template(config, tokenizer)
    critic = OutcomeCritic.from_policy(policy, len(Outcome))
    load_own_state(critic, state["critic"])
    data, left_out = fitting(load_data(config.data, config.sft.share), tokenizer, config)
    if left_out:
        say(left_out)
    problems = evenly_spaced(data.test or data.validation, arguments.problems)
    if not problems:
        raise RunError(f"{config.data.path}: no test problem; give a set with one")
    tasks = whole_program_tasks(problems, config.prompt.template, tokenizer)
    engine = HFEngine(policy, tokenizer, group_size(config.rollout))
    with open_judge(config, say) as sandbox, engine:
        sampler = Sampler(config, engine, sandbox, critic, tokenizer)
        samples = max(arguments.samples, SEEDS)
        first, answers = critic_sampling(sampler, tasks, samples, arguments.examples)
    figures = (
        f"pass@1 {pass_at_1(first):.1%} sampled, {pass_at_1(answers):.1%} with critic sampling"
    )
    say(f"{len(problems)} problems: {figures}", sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
