"""PPOCoder (Shojaee et al. 2023, arXiv 2301.13816, section 3.2): PPO with a reward for structure.

    R = R_tests + R_ast + R_dfg - beta KL                       (section 3.2)
    R_ast: share of the canonical solution's subtrees that the program has
    R_dfg: share of the canonical solution's data-flow edges that the program has
    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), after a step of n programs

R_tests is StepCoder's four-valued reward, which is the paper's for program synthesis. Followed from
the authors' code: the parts add up unweighted on the last token, and beta adapts with target 1 and
horizon 10,000 to the KL of whole programs, from `ppo.kl_beta` on. Ours: trees and data flow come
from Python's own parser (`structure`); the code takes CodeBLEU's, on tree-sitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepcoder.method.rewards import Reward, reward_of
from stepcoder.recipes import stepcoder
from stepcoder.recipes.structure import ast_match, data_flow_match
from stepcoder.rollout.rollout import Rollout

KL_TARGET = 1.0  # nats a program
KL_HORIZON = 10_000.0  # programs


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward tests passed, and likeness to the canonical solution."""
    return [Reward(total_reward(rollout)) for rollout in rollouts]


def total_reward(rollout: Rollout) -> float:
    """Return R without the KL."""
    solution = rollout.task.problem.canonical_solution
    structure = ast_match(rollout.program, solution) + data_flow_match(rollout.program, solution)
    return reward_of(rollout.verdict) + structure


def adapted(beta: float, kl: float, programs: int, target: float = KL_TARGET) -> float:
    """Return the weight after a step: up where the KL exceeds the target, else down."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * programs / KL_HORIZON)


RECIPE = replace(stepcoder.RECIPE, rewards=rewards, adapts_kl=True)
