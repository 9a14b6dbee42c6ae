"""python -m stepcoder.train: the StepCoder loop (arXiv 2402.01391, Algorithm 1 and section 3).

Each step gives the policy tasks from the curriculum (CCCS), runs the tests of its programs, rewards
them, masks the tokens that no test executed (FGO), scores the others, estimates advantages, updates
policy and critic (PPO), hands the weights to the engine, and moves the curriculum. What a recipe
other than StepCoder changes stands in its file in `recipes/`: rewards, advantages, the loss.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from stepcoder.config import parse_args, to_yaml

if __name__ == "__main__":
    parse_args(sys.argv[1:])  # --help and mistakes are answered before torch takes its seconds

from rich.console import Console

from stepcoder.errors import RunError
from stepcoder.method.fgo import executed_masks
from stepcoder.method.groups import gated_masks, mixed_tasks, without_overlong
from stepcoder.method.ppo import score, update, weighted
from stepcoder.method.rows import rows_of
from stepcoder.models.batch import pack
from stepcoder.models.ranks import from_first, is_first
from stepcoder.rollout.engine import Completion
from stepcoder.rollout.pipeline import Generated, merged
from stepcoder.rollout.replay import dump
from stepcoder.rollout.rollout import Rollout, Task, collect, requests_of, sampling_of, submit
from stepcoder.run.open_run import open_run
from stepcoder.run.recipe_steps import further_updates, replayed, with_evidence
from stepcoder.run.run import Run
from stepcoder.run.stop import Stopped, stop_signals
from stepcoder.run.supervised_phase import supervise

# Messages hold paths and brackets, which rich would otherwise read as markup, color or wrap.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def train(run: Run) -> None:
    """Run the supervised phase if it is not done, then RL to the last step."""
    config, recipe, clock = run.config, run.recipe, run.clock
    supervise(run)
    run.begin_rl()
    learner, temperature = run.learner, config.rollout.temperature
    for step in run.steps_left():
        rollouts = judged_rollouts(run, step)  # CCCS prompts, completions, verdicts
        with clock("reward"):
            kept = with_evidence(run, rollouts)  # without those that the sandbox failed on
            rewards = recipe.rewards(kept)  # +1, -0.3, -0.6, -1
            rewards = without_overlong(rewards, kept, config.rollout)
            if recipe.scales_rewards and config.ppo.scale_rewards:
                rewards = run.deviation.scaled(rewards)
            masks = executed_masks(kept, config.fgo)  # FGO
            masks = gated_masks(kept, masks, config)
            rows = replayed(run, rows_of(kept, rewards, masks), step)
        with clock("score"):
            batch = pack(rows).to(run.device)
            policy = None if run.scores_in_update else run.policy
            batch = score(batch, policy, run.reference, learner.critic, config.ppo, temperature)
            batch = recipe.advantages(batch, run.ppo)  # GAE
            batch = weighted(batch, run.ppo, recipe.loss)
        with clock("update"):
            trains_policy = recipe.critic is None or step > config.ppo.critic_warmup_steps
            stats = update(
                learner,
                batch,
                run.ppo,
                temperature,
                run.generator(step),
                recipe.loss,
                train_policy=trains_policy,
                normalize_by_response=config.fgo.normalizer == "response",
            )
            stats |= further_updates(run, batch, kept, step, trains_policy, stats)
        with clock("sync"):
            run.pipeline.update_weights(run.policy)
        run.curriculum.observe_rollouts(rollouts)
        run.finish_step(step, rollouts, batch, stats)


def judged_rollouts(run: Run, step: int) -> list[Rollout]:
    """Return the step's rollouts, which with torchrun the first process makes for all."""
    return from_first(partial(_judged_rollouts, run, step), run.data.problems)


def _judged_rollouts(run: Run, step: int) -> list[Rollout]:
    """Those of `rollout.ahead` later steps are begun meanwhile."""
    rollout, start = run.config.rollout, time.perf_counter()
    # Begin batches until this step's and the next `ahead` ones are under way.
    while step + len(run.pipeline) <= min(step + rollout.ahead, run.config.steps):
        if run.restored:  # a checkpoint holds what was generated ahead
            run.pipeline.begin(partial(generate_and_judge, run, *run.restored.pop(0)))
        else:
            tasks = run.curriculum.sample(rollout.tasks_per_step)
            run.pipeline.begin(partial(generate_and_judge, run, tasks))
    batch = run.pipeline.take()
    run.clock.record_wait(batch, start, time.perf_counter())
    rollouts = batch.rollouts
    for _ in range(rollout.refill):  # dynamic sampling, off by default
        missing = rollout.tasks_per_step - len(mixed_tasks(rollouts))
        if missing <= 0:
            break
        start = time.perf_counter()
        more = generate_and_judge(run, run.curriculum.sample(missing))
        run.clock.record_wait(more, start, time.perf_counter())
        rollouts = [*rollouts, *more.rollouts]
    if rollout.dump:
        dump(run.run_dir.path, step, rollouts, rollout.samples_per_task)
    return rollouts


def generate_and_judge(
    run: Run, tasks: Sequence[Task], restored: Sequence[Completion] | None = None
) -> Generated:
    """Sample completions of the tasks; each program is judged while others still generate.

    `restored` completions come from a checkpoint and are judged again.
    """
    rollout, start = run.config.rollout, time.perf_counter()
    template = run.config.prompt.template
    sampling = sampling_of(template, rollout.temperature, rollout.max_new_tokens)
    requests = requests_of(tasks, run.tokenizer, rollout.samples_per_task)
    completions = restored or run.pipeline.engine.generate(requests, sampling)
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
        with open_run(command.config, command.resume) as run, stop_signals(run):
            train(run)
    except RunError as error:
        Console(stderr=True).print(f"stepcoder.train: {error}", style="bold red", **PLAIN)
        return 2
    except Stopped as stop:
        if is_first():
            Console(stderr=True).print(f"{stop}", style="bold", **PLAIN)
        return stop.status
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped before the first step", style="bold", **PLAIN)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
