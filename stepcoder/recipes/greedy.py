"""A baseline a problem: the reward of the program that the present policy writes greedily.

RLTF and CodeRL subtract it from the rewards of the sampled programs ("relative return").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepcoder.rollout.engine import Sampling
from stepcoder.rollout.rollout import Rollout, collect, judged, requests_of, submit

if TYPE_CHECKING:
    from stepcoder.run.run import Run


def with_baselines(run: Run, rollouts: Sequence[Rollout]) -> list[tuple[Rollout, Rollout]]:
    """Return each judged rollout with the greedy program of its task: the same prompt.

    Visits whose greedy program could not be judged are left out. The greedy programs' tokens count
    against `max_tokens`.
    """
    config = run.config
    allowed = config.rollout.max_infrastructure_errors
    tasks = [r.task for r in rollouts[:: config.rollout.samples_per_task]]
    requests = requests_of(tasks, run.tokenizer, 1, config.prompt.max_prompt_tokens)
    sampling = Sampling(0.0, config.rollout.max_new_tokens)

    def generate() -> list[Rollout]:
        completions = run.pipeline.engine.generate(requests, sampling)
        return collect(submit(completions, tasks, requests, run.tokenizer, run.judge))

    greedy = run.pipeline.run(generate)
    run.tokens += sum(len(g.completion.token_ids) for g in greedy)
    of_task = {id(g.task): g for g in judged(greedy, allowed)}
    kept = judged(rollouts, allowed)
    return [(r, of_task[id(r.task)]) for r in kept if id(r.task) in of_task]
