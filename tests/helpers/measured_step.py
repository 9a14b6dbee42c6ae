"""Peaks of a process that does steps of RL on rows as long as the options allow, beside the plan's.

    PYTHONPATH=tests python -m helpers.measured_step MODEL [section.key=value ...]

With torchrun it is the first process's, which then does not generate.

Without a sandbox: rewards are drawn. What the interpreter and its libraries take is subtracted.
Tensors of 128 KiB and more are allocated apart, so that what is freed goes back to the system, as a
GPU's allocator has it back at once; glibc by itself keeps part of it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read when a process starts
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    os.execv(sys.executable, [sys.executable, "-m", "helpers.measured_step", *sys.argv[1:]])

from functools import partial

import peft  # noqa: F401  (part of the base)
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.utils import logging

from stepcoder.config import load_config
from stepcoder.method.ppo import Learner, score, update
from stepcoder.models import ranks
from stepcoder.models.batch import Row, pack
from stepcoder.models.load import load_policy_and_tokenizer, new_critic
from stepcoder.models.optim import Masters
from stepcoder.models.policy import frozen_copy
from stepcoder.models.sharding import gathered, sharded
from stepcoder.plan.account import account_of, shape_of
from stepcoder.recipes.own import recipe_of
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine
from stepcoder.rollout.open_engine import group_size


def memory(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+)", status)[0]) * 1024


def main(model: str, *overrides: str) -> None:
    """Print {"measured": bytes by phase, "planned": the same} as JSON."""
    config = load_config(None, [f"model.path={model}", "device=cpu", "threads=1", *overrides])
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    some = torch.randn(64, 64, requires_grad=True)
    (some @ some).bfloat16().square().sum().backward()  # autograd and the kernels' library load
    planned = account_of(config, shape_of(model, "MODEL"), processes=ranks.count()).sums
    base, measured = memory("VmRSS"), {}

    recipe, rollout, ppo = recipe_of(config), config.rollout, config.ppo
    tokenizer, policy = load_policy_and_tokenizer(config, [], torch.device("cpu"), Path())
    several, whole = ranks.count() > 1, gathered(policy)

    def spread(make):
        return sharded(ranks.from_first_alone(make), torch.device("cpu"))

    of_whole = partial(new_critic, recipe.critic, whole, config, tokenizer, 4)
    critic = recipe.critic and spread(of_whole)
    reference = spread(partial(frozen_copy, whole)) if ppo.kl_beta else None
    learner = Learner.create(Masters(policy), critic, ppo)
    engine = None if several else HFEngine(policy, tokenizer, group_size(rollout))
    del whole, of_whole
    tokenizer.eos_token_id = tokenizer.pad_token_id = 0  # never likely
    generator = torch.Generator().manual_seed(0)
    size = (config.prompt.max_prompt_tokens,)
    new, samples = rollout.max_new_tokens, rollout.samples_per_task

    def peak_of(phase: str, work):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        result = work()
        measured[phase] = memory("VmHWM") - base
        return result

    for _ in range(2):  # in the second step the optimizers' states are there
        prompts = [
            tuple(torch.randint(9, 250, size, generator=generator).tolist())
            for _ in range(rollout.tasks_per_step)
        ]
        asked = [Request(p, seed) for p in prompts for seed in range(samples)]
        sampling = Sampling(1.0, new, stop=())
        if several:
            done = [Completion(i, (9,) * new, (-5.0,) * new, False) for i in range(len(asked))]
        else:
            done = peak_of("generate", lambda a=asked, s=sampling: list(engine.generate(a, s)))
        rows = [
            Row(asked[c.index].prompt_ids, c.token_ids, c.logprobs, [True] * len(c.token_ids), r)
            for r, c in enumerate(sorted(done, key=lambda c: c.index))
        ]
        batch = pack(rows)
        del done, rows
        batch = peak_of("score", lambda b=batch: score(b, policy, reference, critic, ppo, 1.0))
        batch = recipe.advantages(batch, ppo)
        peak_of("update", lambda b=batch: update(learner, b, ppo, 1.0, generator, recipe.loss))
        if engine:
            engine.update_weights(policy)
    if ranks.is_first():
        print(json.dumps({"measured": measured, "planned": planned}))


if __name__ == "__main__":
    with ranks.joined(torch.device("cpu")):
        main(*sys.argv[1:])
