"""python -m stepcoder.train: the StepCoder loop (arXiv 2402.01391, Algorithm 1 and section 3).

Each step samples tasks from the curriculum, lets the policy complete them, judges the programs,
scores the tokens, updates policy and critic on the executed ones, and hands the new weights to the
engine. What a run consists of is put together in `run.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from stepcoder.batch import pack
from stepcoder.config import parse_args, to_yaml
from stepcoder.curriculum import Task
from stepcoder.errors import RunError
from stepcoder.ppo import advantages, score, update
from stepcoder.rollout.engine import Sampling
from stepcoder.rollout.rollouts import Rollout, collect, requests_of, submit
from stepcoder.run import Run, open_run
from stepcoder.supervised import supervise

# Messages hold paths and brackets that rich must not interpret or break.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def train(run: Run) -> None:
    """Run the supervised phase if it is not done, then StepCoder's RL to the last step."""
    config, temperature = run.config, run.config.rollout.temperature
    supervise(run)
    for step in run.steps_left():
        tasks = run.curriculum.sample(config.rollout.tasks_per_step)
        rollouts = generate_and_judge(run, tasks)
        with run.clock("score"):
            batch = pack(run.rows(rollouts)).to(run.device)
            batch = score(batch, run.policy, run.reference, run.critic, config.ppo, temperature)
            batch = advantages(batch, config.ppo)
        with run.clock("update"):
            stats = update(
                run.learner,
                batch,
                config.ppo,
                temperature,
                run.generator(step),
                train_policy=step > config.ppo.critic_warmup_steps,
                normalize_by_response=config.fgo.normalizer == "response",
            )
        with run.clock("sync"):
            run.engine.update_weights(run.policy)
        run.observe(rollouts)
        run.finish_step(step, rollouts, batch, stats)


def generate_and_judge(run: Run, tasks: Sequence[Task]) -> list[Rollout]:
    """Sample completions of the tasks; each program is judged while others still generate."""
    rollout = run.config.rollout
    sampling = Sampling(rollout.temperature, rollout.max_new_tokens)
    with run.clock("generate"):
        requests = requests_of(
            tasks, run.tokenizer, rollout.samples_per_task, run.config.prompt.max_prompt_tokens
        )
        completions = run.engine.generate(requests, sampling)
        pending = list(submit(completions, tasks, requests, run.tokenizer, run.judge))
    with run.clock("judge"):
        return collect(pending)


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
