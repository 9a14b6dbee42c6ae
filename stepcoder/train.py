"""python -m stepcoder.train: the StepCoder loop (arXiv 2402.01391, Algorithm 1 and section 3).

Each step samples tasks from the curriculum, lets the policy complete them, judges the programs,
rewards them, scores their tokens, updates policy and critic on the executed ones, and hands the new
weights to the engine. Rewards, advantages and update are the recipe's: StepCoder's are in
`recipes/stepcoder.py`. What a run consists of is put together in `run.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console

from stepcoder.config import parse_args, to_yaml
from stepcoder.errors import RunError
from stepcoder.method.curriculum import Task
from stepcoder.method.ppo import score
from stepcoder.method.sft import supervise
from stepcoder.models.batch import pack
from stepcoder.rollout.engine import Completion, Sampling
from stepcoder.rollout.pipeline import Generated, merged
from stepcoder.rollout.replay import dump
from stepcoder.rollout.rollout import Rollout, collect, requests_of, submit
from stepcoder.run.run import Run, open_run

# Messages hold paths and brackets that rich must not interpret or break.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def train(run: Run) -> None:
    """Run the supervised phase if it is not done, then the recipe's RL to the last step."""
    config, temperature = run.config, run.config.rollout.temperature
    supervise(run)
    recipe = run.recipe
    for step in run.steps_left():
        rollouts = judged_rollouts(run, step)
        with run.clock("reward"):
            rows = recipe.rows(run, rollouts, step)
        with run.clock("score"):
            batch = pack(rows).to(run.device)
            batch = score(batch, run.policy, run.reference, run.critic, config.ppo, temperature)
            batch = recipe.advantages(run, batch)
        with run.clock("update"):
            stats = recipe.update(run, batch, rollouts, step)
        with run.clock("sync"):
            run.pipeline.update_weights(run.policy)
        run.observe(rollouts)
        run.finish_step(step, rollouts, batch, stats)


def judged_rollouts(run: Run, step: int) -> list[Rollout]:
    """Return the step's rollouts; those of `rollout.ahead` later steps are begun meanwhile."""
    rollout, start = run.config.rollout, time.perf_counter()
    while step + len(run.pipeline) <= min(step + rollout.ahead, run.config.steps):
        if run.restored:
            run.pipeline.begin(partial(generate_and_judge, run, *run.restored.pop(0)))
        else:
            tasks = run.curriculum.sample(rollout.tasks_per_step)
            run.pipeline.begin(partial(generate_and_judge, run, tasks))
    batch = run.pipeline.take()
    run.clock.waited(batch, start, time.perf_counter())
    if rollout.dump:
        dump(run.rundir.path, step, batch.rollouts, rollout.samples_per_task)
    return batch.rollouts


def generate_and_judge(
    run: Run, tasks: Sequence[Task], recorded: Sequence[Completion] | None = None
) -> Generated:
    """Sample completions of the tasks; each program is judged while others still generate.

    `recorded` completions are judged as if they were sampled now.
    """
    rollout, start = run.config.rollout, time.perf_counter()
    sampling = Sampling(rollout.temperature, rollout.max_new_tokens)
    requests = requests_of(
        tasks, run.tokenizer, rollout.samples_per_task, run.config.prompt.max_prompt_tokens
    )
    completions = recorded or run.pipeline.engine.generate(requests, sampling)
    pending = list(submit(completions, tasks, requests, run.tokenizer, run.judge))
    generated = time.perf_counter()
    rollouts = collect(pending)
    now = time.perf_counter()
    judged = merged([(p.begun, p.ended[0] if p.ended else now) for p in pending])
    return Generated(rollouts, (start, generated), judged)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, train, and say in one line what went wrong if something did."""
    command = parse_args(sys.argv[1:] if arguments is None else arguments)
    if command.dry_run:
        sys.stdout.write(to_yaml(command.config))
        return 0
    try:
        with open_run(command.config, command.resume) as run:
            train(run)
    except RunError as error:
        Console(stderr=True).print(f"stepcoder.train: {error}", style="bold red", **PLAIN)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; continue with --resume", style="bold", **PLAIN)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
