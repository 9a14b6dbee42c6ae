"""Options of today's PPO against numbers worked out by hand; each names its paper in the code."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_policy import tiny_policy

from stepcoder.config import Config, PPOConfig, load_config
from stepcoder.method.groups import gated_masks, mixed_tasks, without_overlong
from stepcoder.method.ppo import (
    Learner,
    PolicyLoss,
    score,
    update,
    weighted,
    with_policy,
    with_sequence_ratio,
)
from stepcoder.method.rewards import Reward
from stepcoder.method.schedule import rate_factor
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.recipes import dapo, gspo
from stepcoder.rollout.engine import Completion

PPO = PPOConfig(max_grad_norm=1e9, minibatches=1, kl_beta=0.0)


def row(engine: list[float], executed: list[bool] | None = None, reward: float = 1.0) -> Row:
    """A row whose engine reported these log-probabilities."""
    return Row([2, 3], [4] * len(engine), engine, executed or [True] * len(engine), reward)


def rollouts_of(*attempts: str) -> list[Any]:
    """Rollouts of tasks, each "+" one that passed, "-" one that failed, "." one cut off."""
    found = []
    for attempt in attempts:
        task = object()
        for mark in attempt:
            tokens = (1,) * (10 if mark == "." else 4)
            completion = Completion(0, tokens, (0.0,) * len(tokens), stopped=mark != ".")
            ended = SimpleNamespace(passed=mark == "+")
            found.append(SimpleNamespace(task=task, completion=completion, verdict=ended))
    return found


# --- Learning rates


def test_rates_rise_and_fall_as_scheduled():
    def factors(warmup: int, schedule: Any) -> list[float]:
        return [rate_factor(step, 6, warmup, schedule) for step in range(1, 7)]

    assert factors(0, "constant") == [1.0] * 6
    assert factors(2, "constant") == [0.5, 1, 1, 1, 1, 1]
    assert factors(2, "linear") == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    root = math.sqrt(0.5)
    assert factors(2, "cosine") == pytest.approx([0.5, 1, 1, (1 + root) / 2, 0.5, (1 - root) / 2])
    assert factors(6, "linear") == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def test_the_rate_of_a_step_reaches_the_optimizer():
    moved = []
    for rate in (1e-3, 5e-4):
        policy = tiny_policy(layers=1)
        before = policy.lm_head.weight.detach().clone()
        batch = score(pack([row([-1.0, -2.0])]), policy, None, None, PPO, 1.0)
        batch = replace(batch, advantages=batch.broadcast_rows(torch.tensor([1.0])))
        learner = Learner.create(Masters(policy), None, replace(PPO, policy_lr=1e-2))
        step = replace(PPO, policy_lr=rate)
        update(learner, batch, step, 1.0, torch.Generator().manual_seed(0))
        moved.append((policy.lm_head.weight - before).abs().max().item())
    assert moved[0] == pytest.approx(2 * moved[1], rel=1e-2)
    assert moved[0] == pytest.approx(1e-3, rel=0.1)  # AdamW's first step is about its rate


# --- Which rollouts are trained


def test_only_problems_with_both_outcomes_pass_the_gate():
    rollouts = rollouts_of("++", "+-", "--", "-+")
    assert {id(r.task) for r in rollouts[2:4] + rollouts[6:]} == mixed_tasks(rollouts)
    masks = [[True, False]] * 8
    gate = load_config(None, ["ppo.outcome_gate=true"])
    kept = [any(mask) for mask in gated_masks(rollouts, masks, gate)]
    assert kept == [False, False, True, True, False, False, True, True]
    assert gated_masks(rollouts, masks, Config()) == masks


def test_completions_that_the_limit_cut_off_can_be_left_out_or_lose_reward():
    rollouts = rollouts_of("+.")
    masks = [[True] * 4, [True] * 10]
    config = load_config(None, ["rollout.overlong=mask", "rollout.max_new_tokens=10"])
    assert gated_masks(rollouts, masks, config) == [[True] * 4, [False] * 10]

    def penalized(length: int, buffer: int | None) -> float:
        overrides = ["rollout.overlong=penalty", "rollout.max_new_tokens=10"]
        options = load_config(None, overrides).rollout
        long = SimpleNamespace(completion=SimpleNamespace(token_ids=[1] * length))
        options = replace(options, overlong_buffer=buffer)
        return without_overlong([Reward(1.0, (0.5,))], [long], options)[0].reward

    # DAPO, eq. 13, with 10 tokens and a buffer of 4: 0 up to 6, then -1/4 a token.
    assert [penalized(n, 4) for n in (5, 6, 7, 9, 10)] == [1, 1, 0.75, 0.25, 0]
    assert [penalized(n, None) for n in (8, 9, 10)] == [1, 0.5, 0]  # a fifth of 10 is 2
    assert without_overlong([Reward(1.0)], rollouts[:1], Config().rollout) == [Reward(1.0)]


def test_a_step_whose_problems_are_all_left_out_leaves_the_policy_as_it_is():
    policy = tiny_policy(layers=1)
    before = policy.lm_head.weight.detach().clone()
    rows = [row([-1.0, -2.0], [False, False]), row([-1.0], [False])]
    batch = score(pack(rows), policy, None, None, PPO, 1.0)
    batch = replace(batch, advantages=batch.broadcast_rows(torch.ones(2)))
    learner = Learner.create(Masters(policy), None, PPO)
    stats = update(learner, batch, PPO, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(policy.lm_head.weight, before)
    assert stats["policy_loss"] == stats["policy_grad_norm"] == 0


# --- The weights of tokens and programs


def test_tokens_or_programs_weigh_the_same():
    batch = pack([row([0.0] * 4, [True, True, True, False]), row([0.0])])
    batch = replace(batch, advantages=batch.broadcast_rows(torch.tensor([1.0, -1.0])))
    programs = PolicyLoss(mean="sequence")
    # Three trained tokens and one: two programs of 2 tokens on average.
    by_program = [2 / 3] * 4 + [-2.0]
    for config, loss, expected in [
        (PPO, PolicyLoss(), [1, 1, 1, 1, -1]),
        (PPO, programs, by_program),
        (replace(PPO, loss_mean="sequence"), PolicyLoss(), by_program),
        (replace(PPO, loss_mean="token"), programs, [1, 1, 1, 1, -1]),
    ]:
        found = weighted(batch, config, loss).advantages[batch.response_mask]
        assert found.tolist() == pytest.approx(expected)


def importance_of(**options: Any) -> list[float]:
    """Weights of two programs whose tokens the trainer gives other probabilities."""
    batch = pack([row([-1.0, -1.0]), row([-1.0, -1.0, -1.0])])
    shifts = [math.log(4.0), math.log(0.25), math.log(1.5), math.log(1.5), math.log(1.5)]
    old = batch.scatter_responses(torch.tensor([s - 1.0 for s in shifts]))
    config = replace(PPO, importance_cap=2.0, **options)
    found = with_policy(batch, old, torch.zeros_like(old), config)
    return found.importance[batch.response_mask].tolist()


def test_what_the_engine_computes_differently_is_truncated_or_left_out():
    assert importance_of() == pytest.approx([2.0, 0.25, 1.5, 1.5, 1.5])
    assert importance_of(importance="mask") == pytest.approx([0, 0.25, 1.5, 1.5, 1.5])
    icepop = importance_of(importance="mask", importance_floor=0.5)
    assert icepop == pytest.approx([0, 0, 1.5, 1.5, 1.5])
    # Products of whole programs: 1 and 3.375.
    assert importance_of(importance_level="sequence") == pytest.approx([1, 1, 2, 2, 2])
    masked = importance_of(importance_level="sequence", importance="mask")
    assert masked == pytest.approx([1, 1, 0, 0, 0])


# --- GSPO and DAPO


def moved(policy, rows: list[Row], by: list[float]) -> Batch:
    """A scored batch whose old policy gave each token exp(by) times less."""
    batch = score(pack(rows), policy, None, None, PPO, 1.0)
    return replace(
        batch,
        old_logprobs=batch.old_logprobs - batch.scatter_responses(torch.tensor(by)),
        importance=torch.ones(len(batch.tokens)),
        advantages=batch.broadcast_rows(torch.tensor([1.0, -1.0])),
    )


def test_a_programs_ratio_is_the_geometric_mean_of_its_trained_tokens():
    policy = tiny_policy(layers=1)
    rows = [row([0.0] * 3, [True, False, True]), row([0.0])]
    batch = moved(policy, rows, [0.3, 5.0, 0.1, -0.4])
    own = score(pack(rows), policy, None, None, PPO, 1.0).old_logprobs
    ratios = (own - with_sequence_ratio(batch, own).old_logprobs)[batch.executed_mask].exp()
    assert ratios.tolist() == pytest.approx([math.exp(0.2)] * 2 + [math.exp(-0.4)], rel=1e-5)


def test_gspo_follows_the_gradient_of_its_papers_objective():
    """Eq. 5 written out, with the ratio of eq. 7 of each whole program, and autograd."""
    rows = [row([0.0] * 3), row([0.0])]
    config = replace(PPO, clip=0.25, clip_high=0.3)
    policy = tiny_policy(layers=1)
    batch = weighted(moved(policy, rows, [0.3, -0.2, 0.2, 0.1]), config, gspo.RECIPE.loss)
    learner = Learner.create(Masters(policy), None, config)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    grads: dict[str, torch.Tensor] = {}

    def look(*_: Any) -> None:
        masters = learner.policy_optimizer.masters.of_weight
        names = {p: n for n, p in policy.named_parameters()}
        grads.update({names[w]: m.grad.clone() for w, m in masters.items()})

    learner.policy_optimizer.parts[0].register_step_pre_hook(look)
    update(learner, batch, config, 1.0, torch.Generator().manual_seed(0), gspo.RECIPE.loss)

    policy.load_state_dict(before, strict=False)
    for parameter in policy.parameters():
        parameter.requires_grad_(requires_grad=True)
        parameter.grad = None
    policy.set_attn_implementation("eager")
    objective = torch.zeros((), dtype=torch.float64)
    old = batch.old_logprobs[batch.response_mask].split([3, 1])
    for (
        length,
        advantage,
        before_,
    ) in zip((3, 1), (1.0, -1.0), old, strict=True):
        tokens = torch.tensor([[2, 3] + [4] * length])
        logprobs = policy(tokens).logits[0, 1:-1].log_softmax(-1)[:, 4]
        s = (logprobs - before_).mean().exp()
        objective = objective + torch.minimum(s * advantage, s.clamp(0.75, 1.3) * advantage) / 2
    (-objective).backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(
            grads[name].double(), parameter.grad.double(), atol=1e-6, rtol=1e-3
        )


def test_dapo_sets_what_its_paper_sets_and_overrides_win():
    config = load_config(None, ["recipe=dapo"])
    assert (config.ppo.clip, config.ppo.clip_high, config.ppo.kl_beta) == (0.2, 0.28, 0.0)
    assert config.ppo.outcome_gate
    assert (config.rollout.refill, config.rollout.overlong) == (3, "penalty")
    assert dapo.RECIPE.loss.mean == "token"
    changed = load_config(None, ["recipe=dapo", "ppo.clip_high=0.3", "rollout.refill=0"])
    assert (changed.ppo.clip_high, changed.rollout.refill) == (0.3, 0)
    assert load_config(None, ["recipe=gspo"]).ppo.clip == 3e-4
    assert load_config().ppo.clip_high is None
