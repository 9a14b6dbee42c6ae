"""The PPO update against an independent scalar implementation and finite differences."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers.tiny_policy import stepping, tiny_policy

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import (
    CLIPPED,
    Learner,
    PolicyLoss,
    RunningDeviation,
    advantages,
    score,
    shaped_rewards,
    update,
)
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.models.policy import (
    Critic,
    ValueHead,
    frozen_copy,
    hidden_states,
    response_logprobs,
)
from stepcoder.run.metrics import batch_metrics

TEMPERATURE = 0.8
CONFIG = PPOConfig(
    epochs=1,
    minibatches=1,
    tokens_per_microbatch=16,  # forces several microbatches
    kl_beta=0.3,
    gamma=0.97,
    lam=0.9,
    clip=0.2,
    value_clip=0.2,
    entropy_bonus=0.01,
    max_grad_norm=1e9,
    policy_lr=1.0,  # that of `stepping`
    critic_lr=1.0,
    whiten_advantages="none",
)


ROWS = [
    Row([2, 3, 4], [5, 6, 7, 1], [-1.0, -2.0, -1.5, -0.5], [True, True, False, True], 1.0),
    Row([2, 3, 4], [8, 8, 3], [-2.5, -2.0, -2.2], [True, False, True], -0.3),  # shares its prompt
    Row([4, 5], [11, 12, 2, 2, 1], [-2.0] * 5, [False] * 5, -1.0),  # FGO masked all of it
]


@pytest.fixture
def parts():
    policy = tiny_policy()
    reference = frozen_copy(tiny_policy(seed=1))
    critic = Critic.from_policy(policy).double()
    torch.nn.init.normal_(critic.head.weight, std=0.5)
    return policy, reference, critic


def scored(parts, rows=None) -> Batch:
    policy, reference, critic = parts
    batch = score(pack(rows or ROWS), policy, reference, critic, CONFIG, TEMPERATURE)
    return advantages(batch, CONFIG)


def scalar_logprobs(model, row: Row) -> tuple[list[float], list[float]]:
    """Token by token with plain lists, from the unpacked forward of one row."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    tokens = [*row.prompt_ids, *row.response_ids]
    with torch.no_grad():
        logits = plain(torch.tensor([tokens])).logits[0].tolist()
    logprobs, entropies = [], []
    for t in range(len(row.prompt_ids), len(tokens)):
        z = [value / TEMPERATURE for value in logits[t - 1]]
        log_sum = math.log(sum(math.exp(v) for v in z))
        logprobs.append(z[tokens[t]] - log_sum)
        entropies.append(-sum(math.exp(v - log_sum) * (v - log_sum) for v in z))
    return logprobs, entropies


def scalar_values(critic, row: Row) -> list[float]:
    backbone = copy.deepcopy(critic.backbone)
    backbone.set_attn_implementation("eager")
    tokens = [*row.prompt_ids, *row.response_ids]
    with torch.no_grad():
        values = critic.head(backbone(torch.tensor([tokens])).last_hidden_state[0]).squeeze(-1)
    return values[len(row.prompt_ids) - 1 : -1].tolist()


def scalar_rollout_quantities(parts) -> list[dict[str, list[float]]]:
    """Rewards, values, advantages and returns of each row, in the words of the paper."""
    policy, reference, critic = parts
    result = []
    for row in ROWS:
        old, _ = scalar_logprobs(policy, row)
        ref, _ = scalar_logprobs(reference, row)
        values = scalar_values(critic, row)
        rewards = [-CONFIG.kl_beta * (o - r) for o, r in zip(old, ref, strict=True)]
        rewards[-1] += row.reward
        advantage, estimates = 0.0, []
        for t in reversed(range(len(rewards))):
            following = values[t + 1] if t + 1 < len(values) else 0.0
            delta = rewards[t] + CONFIG.gamma * following - values[t]
            advantage = delta + CONFIG.gamma * CONFIG.lam * advantage
            estimates.insert(0, advantage)
        result.append(
            {
                "old": old,
                "values": values,
                "rewards": rewards,
                "advantages": estimates,
                "returns": [a + v for a, v in zip(estimates, values, strict=True)],
            }
        )
    return result


def scalar_policy_loss(model, quantities) -> float:
    trained = sum(sum(row.executed) for row in ROWS)
    loss = 0.0
    for row, q in zip(ROWS, quantities, strict=True):
        logprobs, entropies = scalar_logprobs(model, row)
        for t, executed in enumerate(row.executed):
            if not executed:
                continue
            ratio = math.exp(logprobs[t] - q["old"][t])
            clipped = min(max(ratio, 1 - CONFIG.clip), 1 + CONFIG.clip)
            gain = min(ratio * q["advantages"][t], clipped * q["advantages"][t])
            weight = min(math.exp(q["old"][t] - row.logprobs[t]), CONFIG.importance_cap)
            loss -= weight * gain + CONFIG.entropy_bonus * entropies[t]
    return loss / trained


def scalar_value_loss(critic, quantities) -> float:
    responses = sum(len(row.response_ids) for row in ROWS)
    loss = 0.0
    for row, q in zip(ROWS, quantities, strict=True):
        for value, old, target in zip(
            scalar_values(critic, row), q["values"], q["returns"], strict=True
        ):
            clipped = old + min(max(value - old, -CONFIG.value_clip), CONFIG.value_clip)
            loss += 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
    return loss / responses


def test_scores_and_advantages_equal_the_scalar_implementation(parts):
    batch = scored(parts)
    expected = scalar_rollout_quantities(parts)
    for name, field in [
        ("old", batch.old_logprobs),
        ("values", batch.values),
        ("advantages", batch.advantages),
        ("returns", batch.returns),
        ("rewards", shaped_rewards(batch, CONFIG.kl_beta)),
    ]:
        flat = torch.tensor([x for q in expected for x in q[name]], dtype=torch.float64)
        torch.testing.assert_close(
            field[batch.response_mask].double(), flat, atol=1e-6, rtol=1e-6, msg=name
        )
        assert not field[~batch.response_mask].any()


def drifted(model, seed: int):
    """A model that has moved since the batch was scored, so that some ratios clip."""
    generator = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.05 * noise)
    return moved


def test_an_update_follows_the_finite_differences_of_the_scalar_losses(parts):
    policy, _reference, critic = parts
    batch = scored(parts)
    quantities = scalar_rollout_quantities(parts)
    policy, critic = drifted(policy, 2), drifted(critic, 3)
    learner = Learner(
        policy,
        critic,
        stepping(policy, torch.optim.SGD, lr=1.0),
        stepping(critic, torch.optim.SGD, lr=1.0),
    )
    before = {name: copy.deepcopy(model) for name, model in [("p", policy), ("c", critic)]}
    expected_policy = scalar_policy_loss(policy, quantities)
    expected_value = scalar_value_loss(critic, quantities)
    stats = update(learner, batch, CONFIG, TEMPERATURE, torch.Generator().manual_seed(0))

    assert stats["policy_loss"] == pytest.approx(expected_policy, abs=1e-6)
    assert stats["value_loss"] == pytest.approx(expected_value, abs=1e-6)
    assert stats["clip_fraction"] > 0  # the drift is large enough to exercise clipping
    for start, model, loss in [
        (before["p"], policy, scalar_policy_loss),
        (before["c"], critic, scalar_value_loss),
    ]:
        check_gradient(start, model, lambda m, loss=loss: loss(m, quantities))


def check_gradient(start, stepped, loss, epsilon: float = 1e-5, samples: int = 12) -> None:
    """One SGD step of rate 1 moved each parameter by minus its gradient."""
    generator = torch.Generator().manual_seed(0)
    names = [name for name, p in start.named_parameters()]
    for _ in range(samples):
        name = names[int(torch.randint(len(names), (), generator=generator))]
        parameter = start.get_parameter(name)
        where = int(torch.randint(parameter.numel(), (), generator=generator))
        moved = stepped.get_parameter(name).view(-1)[where]
        with torch.no_grad():
            flat = parameter.view(-1)
            centre = flat[where].item()
            flat[where] = centre + epsilon
            above = loss(start)
            flat[where] = centre - epsilon
            below = loss(start)
            flat[where] = centre
        slope = (above - below) / (2 * epsilon)
        assert (centre - moved).item() == pytest.approx(slope, abs=2e-5, rel=1e-3), name


def test_the_first_minibatch_has_ratio_one_and_clips_nothing(parts):
    policy, _, critic = parts
    batch = scored(parts)
    learner = Learner.create(Masters(policy), critic, CONFIG)
    stats = update(learner, batch, CONFIG, TEMPERATURE, torch.Generator().manual_seed(0))
    assert stats["ratio_min"] == pytest.approx(1.0, abs=1e-9)
    assert stats["ratio_max"] == pytest.approx(1.0, abs=1e-9)
    assert stats["clip_fraction"] == 0


def test_masked_tokens_get_exactly_zero_policy_gradient(parts):
    """A row whose tokens FGO masks all away changes the policy not at all."""
    policy, _, critic = parts
    batch = scored(parts)
    only_masked = batch.select([2])
    learner = Learner.create(Masters(policy), critic, CONFIG)
    before = copy.deepcopy(policy.state_dict())
    critic_before = copy.deepcopy(critic.state_dict())
    update(learner, only_masked, CONFIG, TEMPERATURE, torch.Generator().manual_seed(0))
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())
    assert any(not torch.equal(critic_before[k], v) for k, v in critic.state_dict().items())


def test_the_advantage_of_a_masked_token_does_not_reach_the_policy(parts):
    policy, _, critic = parts
    batch = scored(parts)
    disturbed = replace(
        batch,
        advantages=torch.where(batch.executed_mask, batch.advantages, batch.advantages + 7.0),
    )
    results = []
    for variant in (batch, disturbed):
        learner = Learner.create(Masters(copy.deepcopy(policy)), copy.deepcopy(critic), CONFIG)
        update(learner, variant, CONFIG, TEMPERATURE, torch.Generator().manual_seed(0))
        results.append(learner.policy.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_microbatches_accumulate_to_the_gradient_of_the_whole_batch(parts):
    policy, _, critic = parts
    batch = scored(parts)
    results = []
    for tokens in (1, 16, 10_000):
        config = replace(CONFIG, tokens_per_microbatch=tokens)
        mine, theirs = copy.deepcopy(policy), copy.deepcopy(critic)
        learner = Learner(
            mine,
            theirs,
            stepping(mine, torch.optim.SGD, lr=1.0),
            stepping(theirs, torch.optim.SGD, lr=1.0),
        )
        update(learner, batch, config, TEMPERATURE, torch.Generator().manual_seed(0))
        results.append((mine.state_dict(), theirs.state_dict()))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            for key in one:
                torch.testing.assert_close(one[key], two[key], atol=1e-12, rtol=1e-9)


def test_whitening_centers_the_advantages_on_the_step_or_on_each_prompt(parts):
    policy, reference, critic = parts
    batch = score(pack(ROWS), policy, reference, critic, CONFIG, TEMPERATURE)
    groups = {"step": [[0, 1, 2]], "prompt": [[0, 1], [2]]}
    for way, expected in groups.items():
        done = advantages(batch, replace(CONFIG, whiten_advantages=way))
        assert done.advantages[done.response_mask].std(correction=0).item() == pytest.approx(1)
        for rows in expected:
            piece = done.select(rows)
            mean = piece.advantages[piece.response_mask].mean()
            assert mean.item() == pytest.approx(0, abs=1e-6)


def test_without_weight_the_reference_changes_nothing_and_none_is_needed(parts):
    policy, reference, critic = parts
    config = replace(CONFIG, kl_beta=0.0)
    with_one, without = (
        advantages(score(pack(ROWS), policy, r, critic, config, TEMPERATURE), config)
        for r in (reference, None)
    )
    assert without.ref_logprobs is None
    assert torch.equal(without.advantages, with_one.advantages)
    assert torch.equal(without.values, with_one.values)
    assert not without.kl_by_row().any()
    assert "kl" in batch_metrics(with_one)
    assert batch_metrics(without) == {
        name: value for name, value in batch_metrics(with_one).items() if name != "kl"
    }
    for loss in (CLIPPED, PolicyLoss(has_kl=True)):
        after = []
        for batch in (with_one, without):
            learner = Learner.create(Masters(copy.deepcopy(policy)), None, config)
            generator = torch.Generator().manual_seed(0)
            update(learner, batch, config, TEMPERATURE, generator, loss)
            after.append(learner.policy.state_dict())
        assert all(torch.equal(after[0][name], weight) for name, weight in after[1].items())


def test_a_positive_advantage_makes_a_token_more_likely(parts):
    policy, _, critic = parts
    batch = scored(parts)
    batch = replace(batch, advantages=batch.executed_mask.to(batch.advantages.dtype))
    before, _ = response_logprobs(policy, batch, TEMPERATURE)
    config = replace(CONFIG, policy_lr=1e-3, entropy_bonus=0.0)
    learner = Learner.create(Masters(policy), critic, config)
    update(learner, batch, config, TEMPERATURE, torch.Generator().manual_seed(0))
    after, _ = response_logprobs(policy, batch, TEMPERATURE)
    chosen = batch.executed_mask[batch.response_positions]
    assert (after - before)[chosen].sum() > 0


def test_the_running_deviation_equals_that_of_all_rewards():
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randn(n, generator=generator) * 3 + 2 for n in (1, 5, 17)]
    running = RunningDeviation()
    for piece in pieces:
        running.observe(piece)
    assert running.value == pytest.approx(torch.cat(pieces).std(correction=0).item(), rel=1e-5)
    constant = RunningDeviation()
    constant.observe(torch.full((4,), -1.0))
    assert constant.value == 1.0


def test_a_value_head_reads_the_policys_states_and_trains_nothing_but_itself(parts):
    policy, reference, _ = parts
    torch.manual_seed(0)
    critic = ValueHead(policy)
    batch = score(pack(ROWS), policy, reference, critic, CONFIG, TEMPERATURE)
    batch = advantages(batch, CONFIG)
    expected = critic.head(hidden_states(policy, batch).float()).squeeze(-1)[batch.predictor_index]
    mask = batch.response_mask
    torch.testing.assert_close(batch.values[mask], expected[mask].detach())
    learner = Learner.create(Masters(policy), critic, CONFIG)
    alone = Learner.create(Masters(copy.deepcopy(policy)), None, CONFIG)
    before = critic.head.weight.clone()
    for each in (learner, alone):
        update(each, batch, CONFIG, TEMPERATURE, torch.Generator().manual_seed(0))
    assert not torch.equal(critic.head.weight, before)
    for name, weight in policy.state_dict().items():
        assert torch.equal(weight, alone.policy.state_dict()[name]), name
