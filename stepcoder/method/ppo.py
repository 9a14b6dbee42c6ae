"""PPO: score a batch, shape its rewards, estimate advantages, update policy and critic.

Follows StepCoder (arXiv 2402.01391, section 3) and PPO (arXiv 1707.06347). Every function takes and
gives a packed `Batch`; the operations on tensors are those of `stepcoder.kernels`. Tokens that FGO
masks are dropped before the update's LM head, so their logits are never computed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stepcoder.config import PPOConfig
from stepcoder.kernels.packed_gae import gae
from stepcoder.kernels.policy_head import ppo_head
from stepcoder.kernels.reference import ClipRange, HeadStatistics
from stepcoder.method.rewards import Reward
from stepcoder.models import ranks
from stepcoder.models.batch import Batch, minibatches, shared_microbatches
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import (
    AnyCritic,
    Head,
    ValueHead,
    at_hand,
    hidden_states,
    lm_head,
    response_logprobs,
)

UNCLIPPED = 1e9  # a clip range that no ratio leaves
# What an update sums up: some figures are logged per trained token, the others per minibatch.
PER_TOKEN = ("clip_fraction", "approx_kl")
SUMMED = ("policy_loss", "value_loss", *PER_TOKEN, "policy_grad_norm", "critic_grad_norm")


@torch.no_grad()
def score(
    batch: Batch,
    policy: PreTrainedModel | None,
    reference: PreTrainedModel | None,
    critic: AnyCritic | None,
    config: PPOConfig,
    temperature: float,
) -> Batch:
    """Fill in old_logprobs, ref_logprobs, entropy, the critic's values, and importance weights.

    Log-probabilities are those of sampling at `temperature`. The importance weight corrects what
    the engine computes differently. Without a critic there are no values, without a reference no
    ref_logprobs.
    Without the policy, its figures are left to the update's own forward pass.
    """

    def scores(piece: Batch) -> Iterator[Tensor]:
        states = None if policy is None else hidden_states(policy, piece)
        if reference is not None:
            yield response_logprobs(reference, piece, temperature)[0]
        if critic is not None:
            yield critic(piece, states)
        if policy is not None:
            yield from response_logprobs(policy, piece, temperature, states)

    with at_hand(reference, batch.tokens.device):
        found = iter(_score_pieces(batch, config, scores))
    if reference is not None:
        batch = replace(batch, ref_logprobs=next(found))
    if critic is not None:
        batch = replace(batch, values=next(found))
    if policy is None:
        return batch
    return with_policy(batch, next(found), next(found), config)


def with_policy(batch: Batch, old_logprobs: Tensor, entropy: Tensor, config: PPOConfig) -> Batch:
    """Fill in what the policy gives (T,) before the update, and importance weights.

    Weights pi_old / pi_engine of tokens, or their product over a program, are lowered to a cap
    (truncated importance sampling) or left out beyond it or below a floor (masked importance
    sampling; with tokens, IcePop).
    """
    mismatch = torch.where(batch.response_mask, old_logprobs - batch.engine_logprobs, 0.0)
    if config.importance_level == "sequence":
        mismatch = batch.broadcast_rows(batch.sum_by_row(mismatch))
    weights, cap = mismatch.exp(), config.importance_cap
    if config.importance == "truncate":
        importance = weights.clamp(max=cap)
    else:
        kept = (weights >= config.importance_floor) & (weights <= cap)
        importance = torch.where(kept, weights, 0.0)
    return replace(batch, old_logprobs=old_logprobs, entropy=entropy, importance=importance)


def policy_figures(batch: Batch) -> dict[str, Tensor]:
    """Return means over the response tokens of what the policy gave before the update, in nats.

    They are () float64, on the device: reading them waits for it.
    """
    assert batch.old_logprobs is not None
    assert batch.entropy is not None
    positions = batch.response_positions
    mismatch = (batch.engine_logprobs - batch.old_logprobs)[positions]
    figures = {
        **({} if batch.ref_logprobs is None else {"kl": batch.kl[positions]}),
        "engine_kl": mismatch,
        "engine_difference": mismatch.abs(),
        "entropy": batch.entropy[positions],
    }
    return {name: values.mean().double() for name, values in figures.items()}


def _score_pieces(
    batch: Batch, config: PPOConfig, scores: Callable[[Batch], Iterable[Tensor]]
) -> list[Tensor]:
    """Run `scores` (N,)-tensors over the microbatches, and place the results in (T,) tensors.

    Each process does its share of them, and gets the others' results.
    """
    placed: list[Tensor] = []
    for rows, piece, counts in shared_microbatches(batch, config.tokens_per_microbatch):
        _, index = batch.index(rows)
        results = list(scores(piece))
        if not placed:
            placed = [
                torch.zeros(len(batch.tokens), dtype=r.dtype, device=r.device) for r in results
            ]
        for whole, result in zip(placed, results, strict=True):
            if counts:
                whole[index] = piece.scatter_responses(result)
    return [ranks.summed(whole) for whole in placed]


def shaped_rewards(batch: Batch, kl_beta: float) -> Tensor:
    """Token rewards (T,): -beta (log pi_old - log pi_ref), plus the task reward on the last token.

    This is StepCoder's reward with its KL term taken token by token; a recipe may reward further
    tokens (`token_rewards`).
    """
    rewards = -kl_beta * batch.kl  # zero outside the responses
    rewards[batch.response_ends] += batch.task_rewards
    return rewards if batch.token_rewards is None else rewards + batch.token_rewards


def advantages(batch: Batch, config: PPOConfig) -> Batch:
    """Fill in advantages and returns: GAE over the response tokens of each row."""
    assert batch.values is not None
    estimates, returns = gae(
        shaped_rewards(batch, config.kl_beta),
        batch.values,
        batch.cu_seqlens,
        batch.response_mask,
        config.gamma,
        config.lam,
    )
    if config.whiten_advantages != "none":
        chosen = batch.response_positions
        centre = (
            prompt_means(batch, estimates)
            if config.whiten_advantages == "prompt"
            else estimates[chosen].mean()
        )
        centered = torch.where(batch.response_mask, estimates - centre, 0.0)
        scale = centered[chosen].std(correction=0).clamp(min=1e-6)
        estimates = centered / scale
    return replace(batch, advantages=estimates, returns=returns)


def prompt_means(batch: Batch, values: Tensor) -> Tensor:
    """Mean of (T,) values over all response tokens of a prompt, at each of its tokens: (T,)."""
    packing, mask = batch.packing, batch.response_mask
    prompt = packing.prompt_of.repeat_interleave(packing.lengths)  # (T,) its prompt's segment
    sums = values.new_zeros(len(packing.lengths)).index_add_(0, prompt[mask], values[mask])
    return sums[prompt] / prompt[mask].bincount(minlength=len(sums))[prompt]


@dataclass
class Learner:
    """What an update changes: the models with their optimizers; some recipes have no critic."""

    policy: PreTrainedModel
    critic: AnyCritic | None
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer | None

    @classmethod
    def create(
        cls,
        policy: Masters,
        critic: AnyCritic | None,
        config: PPOConfig,
    ) -> Learner:
        """Build both models' optimizers, the policy's over its masters; the critic's is AdamW.

        Epsilon is 1e-5, as PPO's implementations have it: the LM head's rows of tokens that are
        never sampled get gradients of 1e-7, which a smaller one would blow up to full steps.
        """
        betas, decay, eps = config.adam_betas, config.weight_decay, 1e-5
        optimizer = Optimizer(policy, config.optimizer, config.policy_lr, betas, decay, eps)
        model: Any = policy.model
        if critic is None:
            return cls(model, None, optimizer, None)
        lr = config.critic_lr
        return cls(
            model, critic, optimizer, Optimizer(Masters(critic), "adamw", lr, betas, decay, eps)
        )


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """What a recipe changes of PPO's policy loss."""

    clipped: bool = True  # False: the plain policy gradient, ratio x advantage
    mean: Literal["token", "sequence"] = "token"  # what weighs the same: `ppo.loss_mean`
    # "sequence": every token has the geometric mean of its program's ratios (GSPO).
    ratio: Literal["token", "sequence"] = "token"
    has_kl: bool = False  # the KL to the reference (k3) is a term of the loss, not of the reward


CLIPPED = PolicyLoss()


def weighted(batch: Batch, config: PPOConfig, loss: PolicyLoss) -> Batch:
    """Scale the advantages so that each program weighs the same, where that is asked for.

    The policy loss is a mean over tokens; a program of n trained tokens gets the weight mean n / n.
    """
    if (loss.mean if config.loss_mean == "recipe" else config.loss_mean) == "token":
        return batch
    assert batch.advantages is not None
    trained = batch.sum_by_row(batch.executed_mask.float())  # (B,)
    weights = batch.broadcast_rows(trained.mean() / trained.clamp(min=1))
    return replace(batch, advantages=batch.advantages * weights)


def update(
    learner: Learner,
    batch: Batch,
    config: PPOConfig,
    temperature: float,
    generator: torch.Generator,
    loss: PolicyLoss = CLIPPED,
    train_policy: bool = True,
    normalize_by_response: bool = False,
) -> dict[str, float]:
    """Clipped PPO on the executed tokens, the critic's own loss on the response tokens.

    Args:
        learner: the models and their optimizers, changed in place.
        batch: scored, with advantages. If not by the policy, which takes that there is one step:
            the log-probabilities that it is trained from are the old ones.
        config: PPO's numbers.
        temperature: of sampling; the policy is trained as the sampler it is.
        generator: draws the minibatches.
        loss: the recipe's changes of the policy loss.
        train_policy: False while only the critic warms up.
        normalize_by_response: divide the policy loss by response tokens instead of trained ones.

    Returns:
        Means over the update: policy_loss, value_loss, clip_fraction, approx_kl, policy_grad_norm,
        critic_grad_norm, and the extremes ratio_min and ratio_max; `policy_figures` of a batch that
        the policy had not scored.
    """
    one = torch.ones((), dtype=torch.float64, device=batch.device)
    # Sums stay on the device: to read one is to wait until it has done all that it was given.
    sums = defaultdict(lambda: one.new_zeros(()), {name: one.new_zeros(()) for name in SUMMED})
    ratio_min = ratio_max = one
    steps = tokens = 0
    for _ in range(config.epochs):
        for minibatch in minibatches(batch, config.minibatches, generator):
            trained = len(minibatch.executed_positions) if train_policy else 0
            responses = len(minibatch.response_positions)
            normalizer = float(responses if normalize_by_response else trained)
            for _, piece, counts in shared_microbatches(minibatch, config.tokens_per_microbatch):
                # Several processes go through the policy together, or not at all.
                trains = trained > 0 and (ranks.count() > 1 or len(piece.executed_positions) > 0)
                states = None
                if trains or isinstance(learner.critic, ValueHead):
                    with torch.set_grad_enabled(trains):
                        states = hidden_states(learner.policy, piece)
                if trains and states is not None:
                    head = lm_head(learner.policy)
                    unscored = piece.old_logprobs is None
                    piece = with_own_pass(piece, states, learner.policy, config, temperature, loss)
                    if unscored:
                        for name, mean in policy_figures(piece).items():
                            sums[name] += counts * mean * len(piece.response_positions)
                        sums["scored"] += counts * len(piece.response_positions)
                    value, statistics = policy_loss(
                        states, head, piece, config, temperature, normalizer, loss
                    )
                    (value * counts).backward()
                    sums["policy_loss"] += counts * value.detach()
                    sums["clip_fraction"] += counts * statistics.clipped
                    sums["approx_kl"] += counts * statistics.approx_kl
                    ratio_min = ratio_min.minimum(statistics.ratio_min)
                    ratio_max = ratio_max.maximum(statistics.ratio_max)
                if learner.critic is not None:
                    value = learner.critic.loss(piece, states, minibatch, config.value_clip)
                    (value * counts).backward()
                    sums["value_loss"] += counts * value.detach()
            tokens, steps = tokens + trained, steps + 1
            if trained:
                norm = learner.policy_optimizer.step(config.max_grad_norm, config.policy_lr)
                sums["policy_grad_norm"] += norm * ranks.is_first()
            if learner.critic_optimizer is not None:
                norm = learner.critic_optimizer.step(config.max_grad_norm, config.critic_lr)
                sums["critic_grad_norm"] += norm * ranks.is_first()
    ranks.summed(totals := torch.stack(list(sums.values())))
    ranks.lowest(extremes := torch.stack([ratio_min, -ratio_max]))
    *found, low, high = torch.cat([totals, extremes]).tolist()
    means = dict(zip(sums, found, strict=True))
    scored = means.pop("scored", 0.0)
    per = dict.fromkeys(SUMMED, steps) | dict.fromkeys(PER_TOKEN, tokens)
    means = {name: total / max(per.get(name, scored), 1) for name, total in means.items()}
    return {**means, "ratio_min": low, "ratio_max": -high}


def with_own_pass(
    piece: Batch,
    states: Tensor,
    policy: PreTrainedModel,
    config: PPOConfig,
    temperature: float,
    loss: PolicyLoss,
) -> Batch:
    """Fill in what is computed from the present policy: unknown old figures, a program's ratio."""
    if piece.old_logprobs is not None and loss.ratio == "token":
        return piece
    with torch.no_grad():
        found = response_logprobs(policy, piece, temperature, states)
    own, entropy = map(piece.scatter_responses, found)
    if piece.old_logprobs is None:
        piece = with_policy(piece, own, entropy, config)
    return with_sequence_ratio(piece, own) if loss.ratio == "sequence" else piece


def with_sequence_ratio(piece: Batch, logprobs: Tensor) -> Batch:
    """Give every trained token the ratio of its program: GSPO (arXiv 2507.18071, eq. 7 and 10).

    That is s = exp(mean over the program's trained tokens of log pi - log pi_old). `logprobs` (T,)
    are the present ones; with old ones of log pi - log s instead, each token's ratio is s, and its
    gradient s times that of its log-probability, which is GSPO's.
    """
    assert piece.old_logprobs is not None
    log_ratio = torch.where(piece.executed_mask, logprobs - piece.old_logprobs, 0.0)
    trained = piece.sum_by_row(piece.executed_mask.float()).clamp(min=1)
    log_s = piece.broadcast_rows(piece.sum_by_row(log_ratio) / trained)
    return replace(piece, old_logprobs=logprobs - log_s)


def policy_loss(
    states: Tensor,
    head: Head,
    piece: Batch,
    config: PPOConfig,
    temperature: float,
    normalizer: float,
    kind: PolicyLoss,
) -> tuple[Tensor, HeadStatistics]:
    """Policy loss of a microbatch's executed tokens, over those of its minibatch (`normalizer`).

    `states` (T, H) are the policy's, `head` is its LM head.
    """
    assert piece.old_logprobs is not None
    assert piece.advantages is not None
    assert piece.importance is not None
    ref_logprobs = piece.ref_logprobs if kind.has_kl and config.kl_beta else None
    positions = piece.executed_positions
    clip = ClipRange(config.clip, config.clip_high or config.clip, config.dual_clip or math.inf)
    loss, statistics, _ = ppo_head(
        states[piece.predictor_index[positions]],
        head.weight,
        piece.tokens[positions],
        piece.old_logprobs[positions],
        piece.advantages[positions],
        piece.importance[positions],
        normalizer,
        clip if kind.clipped else UNCLIPPED,
        config.entropy_bonus,
        *head.at(temperature),
        ref_logprobs=None if ref_logprobs is None else ref_logprobs[positions],
        kl_beta=config.kl_beta if kind.has_kl else 0.0,
        kl_estimator=config.kl_estimator,
    )
    return loss, statistics


@dataclass
class RunningDeviation:
    """Standard deviation of all task rewards so far, by which `ppo.scale_rewards` divides them.

    StepCoder's authors do so in their public PPO code; the paper does not say it.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    def observe(self, rewards: Tensor) -> None:
        """Take in (B,) rewards (Chan's parallel update of mean and variance)."""
        count, mean = len(rewards), rewards.mean().item()
        squares = (rewards - mean).square().sum().item()
        total, delta = self.count + count, mean - self.mean
        self.squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def scaled(self, rewards: Sequence[Reward]) -> list[Reward]:
        """Take in a step's task rewards, and return them divided by the deviation so far."""
        self.observe(torch.tensor([r.reward for r in rewards]))
        deviation = self.value
        return [replace(r, reward=r.reward / deviation) for r in rewards]

    @property
    def value(self) -> float:
        """Deviation so far; 1 until rewards have differed at all."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-4 else 1.0
