"""The trainer's operations in plain PyTorch: the definitions that the Triton kernels must match.

Tensors are packed: the T tokens of B rows lie end to end in 1-D tensors, and `cu_seqlens` (B+1,)
holds the rows' bounds. A per-token quantity is stored at the position of its token: `logprobs[t]`
is the log-probability of token t given the tokens before it, `values[t]` the critic's estimate
before token t was chosen. N is the number of hidden states given to the LM head (those of tokens
that are trained or scored), H the hidden width, V the size of the vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


IGNORED = -100  # as a target: its row is masked, as in PyTorch's cross_entropy


class ClipRange(NamedTuple):
    """Where the ratio of new to old probability stops to be trained; a bare epsilon is both."""

    low: float  # below 1 - low, where the advantage is negative
    high: float  # above 1 + high, where it is positive ("clip-higher": arXiv 2503.14476, eq. 10)
    dual: float = math.inf  # above this, where it is negative (arXiv 1912.09729, eq. 5)


def clip_range(clip: float | ClipRange) -> ClipRange:
    """Return the range that a number or a range means."""
    return clip if isinstance(clip, ClipRange) else ClipRange(clip, clip)


class HeadStatistics(NamedTuple):
    """Diagnostics of a policy loss over the N trained tokens, float32 scalars."""

    clipped: Tensor  # number of tokens whose policy gradient the clip sets to zero
    approx_kl: Tensor  # sum of (ratio - 1) - log ratio: k3 estimates of KL(old policy || policy)
    entropy: Tensor  # sum of entropies, in nats
    ratio_min: Tensor  # smallest ratio (1 if N is 0)
    ratio_max: Tensor  # largest ratio (1 if N is 0)
    reference_kl: Tensor  # sum of the KL estimates against the reference policy, 0 without one


class HeadTokens(NamedTuple):
    """What a policy loss was computed from; float32, detached, 0 where the target is IGNORED."""

    logprobs: Tensor  # of the targets, in the targets' shape
    entropy: Tensor  # in nats, in the same shape


class AdvantageStatistics(NamedTuple):
    """Statistics of the advantages of all transitions, for whitening them; float32 scalars."""

    transitions: Tensor  # their number
    mean: Tensor  # 0 if there are none
    variance: Tensor  # mean squared distance from the mean, 0 if there are none


def logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each row under softmax(logits / temperature).

    Args:
        hidden: (N, H) final hidden states; row i is the state that predicts `targets[i]`.
        weight: (V, H) LM head.
        targets: (N,) int64 token ids.
        temperature: the sampling temperature: the results are the sampler's own probabilities.
        softcap: c > 0 replaces each logit z of hidden W^T by c tanh(z / c); 0 means no cap.

    Returns:
        logprobs (N,) and entropy (N,) in nats, float32 (float64 for float64 inputs).
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden @ weight.T).to(accumulate)  # (N, V)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits / temperature
    log_normalizer = torch.logsumexp(logits, dim=-1)  # (N,)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - log_normalizer
    entropy = log_normalizer - (torch.softmax(logits, dim=-1) * logits).sum(-1)
    return logprobs, entropy


def gae(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    gamma: float,
    lam: float,
    bootstraps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over packed rows (arXiv 1506.02438, eq. 16).

    Only tokens of `response_mask` are transitions; others are skipped, and their outputs are zero.

    Args:
        rewards: (T,) reward received on choosing token t.
        values: (T,) value before token t.
        cu_seqlens: (B+1,) int32 row bounds.
        response_mask: (T,) bool.
        gamma: discount.
        lam: GAE's lambda.
        bootstraps: (B,) value after each row's last transition, for rows that were cut off; None
            means 0: every episode ends with its row.

    Returns:
        advantages (T,) and returns (T,) = advantages + values, zero outside the mask.
    """
    lengths = cu_seqlens.diff().tolist()
    if not lengths:
        return torch.zeros_like(rewards), torch.zeros_like(rewards)

    def padded(tokens: Tensor) -> Tensor:  # (T,) -> (B, L)
        rows = list(torch.split(tokens, lengths))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    rewards_BL, values_BL, mask_BL = padded(rewards), padded(values), padded(response_mask)
    advantages_BL = torch.zeros_like(rewards_BL)
    next_advantage = rewards_BL.new_zeros(len(lengths))  # (B,)
    next_value = next_advantage if bootstraps is None else bootstraps.to(rewards.dtype)  # (B,)
    for t in reversed(range(rewards_BL.shape[1])):
        delta = rewards_BL[:, t] + gamma * next_value - values_BL[:, t]
        advantage = delta + gamma * lam * next_advantage
        keep = mask_BL[:, t]
        advantages_BL[:, t] = torch.where(keep, advantage, 0.0)
        next_advantage = torch.where(keep, advantage, next_advantage)
        next_value = torch.where(keep, values_BL[:, t], next_value)
    advantages = torch.cat([row[:n] for row, n in zip(advantages_BL, lengths, strict=True)])
    return advantages, torch.where(response_mask, advantages + values, 0.0)


def gae_with_statistics(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    gamma: float,
    lam: float,
    bootstraps: Tensor | None = None,
) -> tuple[Tensor, Tensor, AdvantageStatistics]:
    """`gae`, with the count, mean and variance of its advantages, for whitening them."""
    advantages, returns = gae(rewards, values, cu_seqlens, response_mask, gamma, lam, bootstraps)
    chosen = advantages[response_mask]
    count = torch.tensor(len(chosen), dtype=chosen.dtype, device=chosen.device)
    mean = chosen.sum() / count.clamp(min=1)
    variance = (chosen - mean).square().sum() / count.clamp(min=1)
    return advantages, returns, AdvantageStatistics(count, mean, variance)


def ppo_policy_loss(
    logprobs: Tensor,
    entropy: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float | Tensor,
    clip: float | ClipRange,
    entropy_bonus: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, HeadStatistics]:
    """Clipped PPO policy loss over N trained tokens.

    Schulman et al., arXiv 1707.06347, eq. 7; StepCoder, arXiv 2402.01391, eq. 4:

    loss = sum_i importance_i * max(-r_i A_i, -clip(r_i, 1-low, 1+high) A_i) / normalizer
           - entropy_bonus * sum_i entropy_i / normalizer
           + kl_beta * sum_i kl_i / normalizer,          r_i = exp(logprobs_i - old_logprobs_i)

    where a token with A_i < 0 counts no more than at r_i = dual, and
    with d = ref_logprobs - logprobs and kl_i one of k1: -d, k2: d^2 / 2, k3: exp(d) - 1 - d
    (Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html).

    Args:
        logprobs: (N,) under the policy being trained; carries the gradient.
        entropy: (N,) of the same rows.
        old_logprobs: (N,) under the policy that the advantages were computed for.
        advantages: (N,).
        importance: (N,) truncated importance weights that correct for the mismatch between
            inference engine and trainer, 1 for none.
        normalizer: the number of trained tokens of the whole minibatch (not of this microbatch),
            also as a () float32 tensor.
        clip: PPO's epsilon, which is low and high, or a range with each.
        entropy_bonus: coefficient of the entropy term.
        ref_logprobs: (N,) under the reference policy; None means no KL term.
        kl_beta: coefficient of the KL term.
        kl_estimator: the estimate of the KL divergence.

    Returns:
        The scalar loss and detached statistics.

    Raises:
        ValueError: an unknown estimator.
    """
    if kl_estimator not in get_args(KLEstimator):
        raise ValueError(f"kl_estimator is {kl_estimator!r}; it takes k1, k2 or k3")
    log_ratio = logprobs - old_logprobs
    ratio = torch.exp(log_ratio)
    low, high, dual = clip_range(clip)
    unclipped = -ratio * advantages
    surrogate = torch.maximum(unclipped, -ratio.clamp(1 - low, 1 + high) * advantages)
    surrogate = torch.where(advantages < 0, surrogate.minimum(-dual * advantages), surrogate)
    loss = (importance * surrogate).sum() / normalizer
    if entropy_bonus:
        loss = loss - entropy_bonus * entropy.sum() / normalizer
    reference_kl = logprobs.new_zeros(())
    if ref_logprobs is not None:
        d = ref_logprobs - logprobs
        estimates = {"k1": -d, "k2": d.square() / 2, "k3": torch.expm1(d) - d}
        reference_kl = estimates[kl_estimator].sum()
        loss = loss + kl_beta * reference_kl / normalizer
    with torch.no_grad():
        extremes = ratio if len(ratio) else ratio.new_ones(1)
        statistics = HeadStatistics(
            clipped=(surrogate != unclipped).sum().to(ratio.dtype),
            approx_kl=(ratio - 1 - log_ratio).sum(),
            entropy=entropy.detach().sum(),
            ratio_min=extremes.amin(),
            ratio_max=extremes.amax(),
            reference_kl=reference_kl.detach(),
        )
    return loss, statistics


def ppo_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float | Tensor,
    clip: float | ClipRange,
    entropy_bonus: float = 0.0,
    temperature: float = 1.0,
    softcap: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, HeadStatistics, HeadTokens]:
    """PPO policy loss from hidden states: `logprob_entropy`, then `ppo_policy_loss`.

    `hidden` (N, H) holds the trained tokens only: FGO (fine-grained optimization, arXiv 2402.01391)
    masks tokens by dropping their rows before the head.
    """
    logprobs, entropy = logprob_entropy(hidden, weight, targets, temperature, softcap)
    loss, statistics = ppo_policy_loss(
        *(logprobs, entropy, old_logprobs, advantages, importance),
        *(normalizer, clip, entropy_bonus),
        *(ref_logprobs, kl_beta, kl_estimator),
    )
    return loss, statistics, HeadTokens(logprobs.detach(), entropy.detach())


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, normalizer: float | Tensor, clip: float
) -> Tensor:
    """Clipped value loss: sum_i max((v_i-R_i)^2, (clip(v_i, old_i+-clip)-R_i)^2) / 2 / normalizer.

    Args:
        values: (N,) of the critic being trained, at response tokens.
        old_values: (N,) that the advantages were computed with.
        returns: (N,) regression targets.
        normalizer: the number of response tokens of the whole minibatch.
        clip: by how much a value may differ from the old one before its gradient is cut off.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    squared = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * squared.sum() / normalizer


def ppo_loss(
    logprobs: Tensor,
    entropy: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    executed_mask: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    policy_normalizer: float | Tensor,
    value_normalizer: float | Tensor,
    clip: float | ClipRange,
    value_clip: float,
    entropy_bonus: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, Tensor, HeadStatistics]:
    """Both losses over all T packed tokens, each under its own mask: arXiv 2402.01391, eq. 4 and 5.

    `ppo_policy_loss` of the tokens of `executed_mask` and `value_loss` of those of `response_mask`,
    both (T,) bool. The other tensors are (T,) too; their values outside the masks are ignored.

    Returns:
        Policy loss and value loss, scalars, and the policy loss's statistics.
    """
    policy, statistics = ppo_policy_loss(
        *(logprobs[executed_mask], entropy[executed_mask], old_logprobs[executed_mask]),
        *(advantages[executed_mask], importance[executed_mask]),
        policy_normalizer,
        clip,
        entropy_bonus,
        None if ref_logprobs is None else ref_logprobs[executed_mask],
        *(kl_beta, kl_estimator),
    )
    value = value_loss(
        *(values[response_mask], old_values[response_mask], returns[response_mask]),
        *(value_normalizer, value_clip),
    )
    return policy, value, statistics
