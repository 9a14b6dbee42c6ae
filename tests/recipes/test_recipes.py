"""Each recipe's formulas against numbers worked out by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.tiny_policy import tiny_policy

from stepcoder.config import FGOConfig, PPOConfig
from stepcoder.errors import RunError
from stepcoder.method.ppo import Learner, policy_figures, score, shaped_rewards, update, weighted
from stepcoder.method.rewards import Outcome, judged, outcome, reward_of
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.models.policy import OutcomeCritic, frozen_copy
from stepcoder.problems.answers import extract_completion
from stepcoder.problems.problem import Problem
from stepcoder.recipes import RECIPES, coderl, grpo, ppocoder, rlcf, rloo, rltf
from stepcoder.recipes.static_checks import static_error
from stepcoder.recipes.structure import ast_match, data_flow, data_flow_match
from stepcoder.rollout.engine import Completion
from stepcoder.rollout.rollout import Rollout, Task
from stepcoder.sandbox.program import CallTests
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

SOLUTION = (
    "def f(x):\n    total = 0\n    for i in x:\n        total = total + i\n    return total\n"
)
PPO = PPOConfig(kl_beta=0.5, max_grad_norm=1e9, minibatches=1, critic_warmup_steps=0)


def row(response: int, reward: float, prompt: int = 2, **more: Any) -> Row:
    """A row of a prompt and `response` tokens."""
    count = [0.0] * response
    return Row([prompt, 3], [4] * response, count, [True] * response, reward, **more)


def verdict(status: Status, passed: int = 0, failed: int = 0, **more: Any) -> Verdict:
    tests = [TestVerdict(Status.ACCEPTED)] * passed + [TestVerdict(Status.WRONG_ANSWER)] * failed
    return Verdict(status, tuple(tests), **more)


def rollout(completion: str, ended: Verdict, given: str = "def f(x):\n") -> Rollout:
    """A rollout with a token a character."""
    problem = Problem("t", "Add.", "def f(x):\n", SOLUTION, CallTests(([[1]],), (1,)), "f")
    task = Task(problem, 0, given, "prompt", 0)
    spans = [(i, i + 1) for i in range(len(completion))]
    ids = tuple(range(4, 4 + len(completion)))
    made = Completion(0, ids, tuple([0.0] * len(ids)), stopped=True)
    program = given + extract_completion(completion)
    return Rollout(task, (2, 3), made, completion, spans, program, ended)


def with_logprobs(batch: Batch, difference: float) -> Batch:
    """The batch of a policy that is `difference` nats a token from its reference."""
    mask = batch.response_mask.float()
    return replace(batch, old_logprobs=-mask, ref_logprobs=-mask * (1 + difference))


def test_a_reward_on_a_token_adds_to_those_at_the_ends():
    batch = with_logprobs(pack([row(2, 1.0), row(3, -1.0, token_rewards=[0.0, 7.0, 0.0])]), 0.1)
    found = shaped_rewards(batch, kl_beta=0.5)
    assert found.tolist() == pytest.approx([0, 0, -0.05, 0.95, -0.05, 6.95, -1.05])


def test_values_of_rows_go_to_their_response_tokens():
    batch = pack([row(2, 0), row(1, 0), row(3, 0, prompt=5)])
    assert batch.broadcast_rows(torch.tensor([1.0, 2.0, 3.0])).tolist() == [
        0,
        0,
        1,
        1,
        2,
        0,
        0,
        3,
        3,
        3,
    ]
    assert batch.select([2, 0]).broadcast_rows(torch.tensor([1, 2])).tolist() == [
        0,
        0,
        1,
        1,
        1,
        0,
        0,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.ACCEPTED, Outcome.PASSED),
        (Status.WRONG_ANSWER, Outcome.WRONG_ANSWER),
        (Status.MEMORY_LIMIT, Outcome.RUNTIME_ERROR),
        (Status.COMPILE_ERROR, Outcome.COMPILE_ERROR),
    ],
)
def test_the_four_outcomes_are_those_of_the_four_rewards(status, expected):
    assert outcome(Verdict(status)) is expected


def test_rollouts_that_the_judge_failed_on_are_dropped_up_to_a_share():
    good, bad = rollout("a", verdict(Status.ACCEPTED)), rollout("b", Verdict(Status.NOT_RUN))
    assert judged([good, bad, good], 0.5) == [good, good]
    for rollouts, allowed in [([good, bad], 0.4), ([bad], 1.0)]:
        with pytest.raises(RunError, match="sandbox failed"):
            judged(rollouts, allowed)


# --- GRPO


def test_grpo_divides_by_the_groups_own_deviation():
    rewards = torch.tensor([1.0, -0.3, 1.0, 1.0, 1.0, -1.0, -0.6])
    group = torch.tensor([0, 0, 1, 1, 4, 4, 4])
    # Group 4: mean -0.2, deviations 1.2, -0.8, -0.4, their root mean square 0.864099.
    expected = [1, -1, 0, 0, 1.388730, -0.925820, -0.462910]
    assert grpo.group_normalized(rewards, group).tolist() == pytest.approx(expected, abs=1e-5)


def test_grpo_weighs_every_program_the_same_whatever_its_length():
    batch = grpo.advantages(pack([row(1, 1.0), row(4, -0.3)]), PPO)
    batch = weighted(batch, PPO, grpo.RECIPE.loss)
    tokens = batch.response_mask.sum()
    in_the_loss = (batch.advantages / tokens)[batch.response_mask]  # eq. 3: A_i / (G |o_i|)
    assert in_the_loss.tolist() == pytest.approx([1 / 2, *[-1 / 8] * 4])


def test_grpo_needs_no_pass_for_log_probabilities_before_the_update():
    policy, reference = tiny_policy(layers=1), frozen_copy(tiny_policy(1, layers=1))
    rows = pack([row(2, 1.0), row(3, -0.3), row(2, -1.0)])
    config = replace(PPO, tokens_per_microbatch=8)
    found = []
    for scorer in (policy, None):
        batch = grpo.advantages(score(rows, scorer, reference, None, config, 1.0), config)
        learner = Learner.create(Masters(copy.deepcopy(policy)), None, config)
        generator = torch.Generator().manual_seed(0)
        stats = update(learner, batch, config, 1.0, generator, grpo.RECIPE.loss)
        found.append((learner.policy.state_dict(), stats, batch))
    (weights, _, scored), (own_weights, stats, unscored) = found
    assert unscored.old_logprobs is None
    for name, mean in policy_figures(scored).items():
        assert stats[name] == pytest.approx(mean.item())
    for name, weight in weights.items():
        torch.testing.assert_close(own_weights[name], weight, atol=1e-9, rtol=1e-9)


def test_grpo_has_the_kl_in_its_loss():
    """With equal rewards nothing but beta times the mean of k3 = exp(d) - 1 - d is left."""
    policy, reference = tiny_policy(layers=1), frozen_copy(tiny_policy(1, layers=1))
    batch = score(pack([row(2, 1.0), row(3, 1.0)]), policy, reference, None, PPO, 1.0)
    batch = grpo.advantages(batch, PPO)
    learner = Learner.create(Masters(policy), None, PPO)
    stats = update(learner, batch, PPO, 1.0, torch.Generator().manual_seed(0), grpo.RECIPE.loss)
    d = (batch.ref_logprobs - batch.old_logprobs)[batch.response_mask].tolist()
    k3 = sum(math.exp(x) - 1 - x for x in d) / 5
    assert stats["policy_loss"] == pytest.approx(0.5 * k3, rel=1e-6)
    assert k3 > 0.01
    assert stats["value_loss"] == 0


# --- RLOO


def test_rloo_compares_with_the_mean_of_the_others():
    rewards, group = torch.tensor([1.0, 0.0, -1.0, 5.0]), torch.tensor([0, 0, 0, 3])
    assert rloo.leave_one_out(rewards, group).tolist() == [1.5, 0.0, -1.5, 0.0]


def test_rloo_has_the_kl_of_the_whole_program_in_its_reward():
    batch = with_logprobs(pack([row(1, 1.0), row(3, 1.0)]), 0.2)
    found = rloo.advantages(batch, PPO)
    # R = 1 - 0.5 * 0.2 * (1, 3) = 0.9, 0.7
    assert found.advantages.tolist() == pytest.approx([0, 0, 0.2, -0.2, -0.2, -0.2])


def test_rloo_does_not_clip():
    """A policy that has moved far: PPO clips tokens of it, RLOO's loss is ratio x advantage."""
    policy = tiny_policy(layers=1)
    batch = score(pack([row(2, 1.0), row(2, -1.0)]), policy, frozen_copy(policy), None, PPO, 1.0)
    batch = replace(
        batch,
        advantages=batch.broadcast_rows(torch.tensor([1.0, -1.0])),
        importance=torch.ones(len(batch.tokens)),
        old_logprobs=batch.old_logprobs - 1.0 * batch.response_mask,  # ratio e
    )
    learner = Learner.create(Masters(policy), None, PPO)
    batch = replace(batch, advantages=batch.advantages.abs())
    stats = update(learner, batch, PPO, 1.0, torch.Generator().manual_seed(0), rloo.RECIPE.loss)
    assert stats["clip_fraction"] == 0
    assert stats["policy_loss"] == pytest.approx(-math.e, rel=1e-5)


# --- PPOCoder


def test_a_program_matches_its_own_structure_whatever_its_names():
    other = SOLUTION.replace("total", "s").replace("for i", "for k").replace("+ i", "+ k")
    assert ast_match(other, SOLUTION) == 1
    assert data_flow_match(other, SOLUTION) == 1
    assert ast_match("def f(:", SOLUTION) == data_flow_match("def f(:", SOLUTION) == 0


def test_the_tree_match_is_the_share_of_the_references_subtrees():
    # x + 1: Module(Expr(BinOp(..))) has three subtrees; y * 2 + 3 has BinOp and not that nesting.
    assert ast_match("a - 2", "x + 1") == 1
    assert ast_match("y * 2 + 3", "x + 1") == pytest.approx(1 / 3)
    assert ast_match("f(x)", "x + 1") == 0


def test_data_flow_says_what_comes_from_where():
    assert data_flow("def f(x):\n    y = x + 1\n    y += x\n    return y\n") == [
        ("var_0", "comesFrom", ("var_0",)),
        ("var_1", "computedFrom", ("var_0",)),
        ("var_0", "comesFrom", ("var_0",)),
        ("var_1", "computedFrom", ("var_1", "var_0")),
        ("var_1", "comesFrom", ("var_1",)),
    ]
    assert data_flow_match("def f(x):\n    y = x\n", "def f(x):\n    y = x\n    return y\n") == (
        pytest.approx(2 / 3)
    )
    assert data_flow_match(SOLUTION, "pass") == 0


def test_ppocoder_adds_structure_to_the_tests():
    whole = rollout(SOLUTION.removeprefix("def f(x):\n"), verdict(Status.ACCEPTED))
    assert ppocoder.total_reward(whole) == 3.0
    broken = rollout("  return (", verdict(Status.COMPILE_ERROR))
    assert ppocoder.total_reward(broken) == -1.0


def test_the_weight_of_the_kl_follows_its_target():
    assert ppocoder.adapted(0.05, kl=1.1, programs=1000) == pytest.approx(0.05 * 1.01)
    assert ppocoder.adapted(0.05, kl=30.0, programs=1000) == pytest.approx(0.05 * 1.02)
    assert ppocoder.adapted(0.05, kl=0.0, programs=1000) == pytest.approx(0.05 * 0.98)
    twice = ppocoder.adapted(0.05, kl=2.2, programs=1000, target=2.0)  # ppo.kl_target
    assert twice == pytest.approx(0.05 * 1.01)


# --- RLTF


def test_rltf_adds_coarse_and_adaptive_feedback_over_the_baseline():
    half, crash = verdict(Status.WRONG_ANSWER, 2, 2), verdict(Status.RUNTIME_ERROR)
    assert rltf.adaptive(half) == pytest.approx(0.35)
    assert rltf.adaptive(crash) == -0.6
    # Coarse: 0.3 better than the baseline; adaptive: 0.95 better.
    assert rltf.relative_reward(half, crash) == pytest.approx(1.25)
    assert rltf.relative_reward(crash, half) == pytest.approx(-1.25)
    passed = verdict(Status.ACCEPTED, 4)
    assert rltf.relative_reward(passed, passed) == 0


@pytest.mark.parametrize(
    ("ended", "place"),
    [
        (verdict(Status.RUNTIME_ERROR, error_type="IndexError", error_line=2), "line"),
        (verdict(Status.RUNTIME_ERROR, error_type="AssertionError", error_line=2), "nowhere"),
        (verdict(Status.RUNTIME_ERROR, error_type="RecursionError", error_line=2), "whole"),
        (verdict(Status.CPU_TIME_LIMIT), "whole"),
        (verdict(Status.MEMORY_LIMIT), "nowhere"),
        (verdict(Status.WRONG_ANSWER), "nowhere"),
        (verdict(Status.ACCEPTED), "nowhere"),
        (verdict(Status.COMPILE_ERROR, error_type="SyntaxError", error_line=2), "line"),
        (verdict(Status.COMPILE_ERROR, error_type="SyntaxError", error_line=3), "whole"),
        (verdict(Status.COMPILE_ERROR, error_type="IndentationError", error_line=2), "nowhere"),
        (
            verdict(
                Status.COMPILE_ERROR,
                error_type="SyntaxError",
                error_line=2,
                message="unterminated string literal",
            ),
            "nowhere",
        ),
    ],
)
def test_each_error_has_its_place(ended, place):
    assert rltf.error_place(ended, "def f(x):\n    x[9]\n    return x\n") == place


def test_rltf_condemns_the_tokens_of_the_errors_line():
    text = "    a = x[9]\n    return a\n```"
    ended = verdict(Status.RUNTIME_ERROR, error_type="IndexError", error_line=2)
    found = rltf.fine_rewards(rollout(text, ended))
    line = len("    a = x[9]\n")
    assert found == pytest.approx([-0.3 * len(text) / line] * line + [0.0] * (len(text) - line))
    whole = rltf.fine_rewards(rollout(text, verdict(Status.CPU_TIME_LIMIT)))
    assert whole == pytest.approx([-0.3] * len(text))
    given = verdict(Status.RUNTIME_ERROR, error_type="IndexError", error_line=1)
    assert rltf.fine_rewards(rollout(text, given)) == [0.0] * len(text)


def test_rltf_weighs_tokens_by_all_three():
    batch = pack([row(2, 1.25, token_rewards=[-0.6, 0.0])])
    assert rltf.advantages(batch, PPO).advantages.tolist() == pytest.approx([0, 0, 0.65, 1.25])


# --- CodeRL


def test_the_outcome_critic_reads_packed_rows_as_it_reads_them_alone():
    torch.manual_seed(0)
    critic = OutcomeCritic.from_policy(tiny_policy(layers=1), 4).double()
    torch.nn.init.normal_(critic.head.weight, std=1.0)
    rows = [row(2, 0, outcome=3), row(3, 0, outcome=1), row(2, 0, prompt=7, outcome=0)]
    whole = pack(rows)
    alone = [pack([one]) for one in rows]
    torch.testing.assert_close(critic.logits(whole), torch.cat([critic.logits(a) for a in alone]))
    torch.testing.assert_close(critic(whole), torch.cat([critic(a) for a in alone]))
    # By hand: each token's own state for its probability, their maximum for the program's.
    plain = copy.deepcopy(critic.backbone)
    plain.set_attn_implementation("eager")
    for one, batch in zip(rows, alone, strict=True):
        ids = torch.tensor([[*one.prompt_ids, *one.response_ids]])
        states = plain(ids).last_hidden_state[0, 2:]
        expected = torch.softmax(critic.head(states).float(), -1)[:, one.outcome]
        pooled = critic.head(states.max(dim=0).values).float()
        torch.testing.assert_close(critic(batch), expected)
        torch.testing.assert_close(critic.logits(batch)[0], pooled)
        loss = -torch.log_softmax(pooled, -1)[one.outcome]
        torch.testing.assert_close(critic.loss(batch, None, batch, 0.2), loss)


def test_coderl_weighs_tokens_by_the_critics_probability():
    batch = pack([row(2, 1.6), row(1, -0.3)])
    batch = replace(batch, values=torch.tensor([0, 0, 0.5, 0.25, 1.0]))
    found = coderl.advantages(batch, PPO).advantages
    assert found.tolist() == pytest.approx([0, 0, 0.8, 0.4, -0.3])


# --- RLCF


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (SOLUTION, None),
        ("def f(x):\n    return y\n", 2),
        ("def f(x):\n    return (\n", 2),
        ("import os.path as p, sys\nprint(p, sys, __name__)\n", None),
        ("from math import *\nprint(sqrt(2))\n", None),
        ("try:\n    pass\nexcept E as e:\n    print(e)\n", 3),
        ("print([k for k in range(3)])\n\nprint(k2)\n", 3),
        ("match 1:\n    case [a, *b] | {'k': a, **b}:\n        print(a, b)\n", None),
        ("def g():\n    global z\n    return z\n", None),
        ("class A:\n    def m(self, *args, **kw):\n        return A, args, kw\n", None),
    ],
)
def test_static_checks_find_syntax_and_unbound_names(source, line):
    assert static_error(source) == line


def test_rlcf_rewards_the_place_of_the_error_or_the_likeness():
    text = "    return y\n    pass\n```"
    broken = rlcf.reward(rollout(text, verdict(Status.RUNTIME_ERROR)), 0.9)
    assert broken.reward == 0
    assert [i for i, r in enumerate(broken.token_rewards) if r] == [len("    return y\n") - 1]
    assert sum(broken.token_rewards) == -1
    fine = rlcf.reward(rollout("    return x\n", verdict(Status.WRONG_ANSWER)), 0.9)
    assert (fine.reward, fine.token_rewards) == (0.9, ())


def test_an_error_in_the_given_part_falls_on_the_first_token():
    broken = rollout("    return x\n", verdict(Status.RUNTIME_ERROR), given="def f(x):\n    y\n")
    assert rlcf.last_token_of_line(broken, 2) == 0


def test_every_recipe_rewards_by_the_papers_four_values_or_says_otherwise():
    assert {name for name in RECIPES if RECIPES[name].rewards.__module__.endswith(f".{name}")} == {
        *("stepcoder", "grpo", "ppocoder", "rltf", "coderl", "rlcf")
    }
    assert reward_of(verdict(Status.WRONG_ANSWER)) == -0.3
    assert FGOConfig().enabled
