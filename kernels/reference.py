"""Every operation of the trainer's arithmetic in plain PyTorch: the definition that kernels match.

All tensors are packed: T tokens of B rows lie end to end in 1-D tensors, `cu_seqlens` (B+1,) marks
the rows. A per-token quantity sits at the position of the token that it speaks of: `logprobs[t]` is
the log-probability of token t given the tokens before it, `values[t]` the critic's estimate before
token t was chosen. N is the number of rows of hidden states handed to the head (only tokens that
are trained or scored), H the hidden width, V the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HeadStatistics(NamedTuple):
    """What a PPO head says besides its loss: sums over the N trained tokens, float32 scalars."""

    clipped: Tensor  # number of tokens whose ratio left [1-clip, 1+clip] on the side that clips
    approx_kl: Tensor  # sum of (ratio - 1) - log ratio, old policy against new (k3)
    entropy: Tensor  # sum of entropies
    ratio_min: Tensor  # smallest ratio (1 if N is 0)
    ratio_max: Tensor  # largest ratio (1 if N is 0)


def logprob_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each row under softmax(hidden W^T / temperature).

    Args:
        hidden: (N, H) final hidden states, row i being the state that predicts `targets[i]`.
        weight: (V, H) LM head.
        targets: (N,) int64 token ids.
        temperature: the sampling temperature, so that these are the sampler's own probabilities.

    Returns:
        logprobs (N,) and entropy (N,), in float32 (float64 for float64 inputs).
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden @ weight.T).to(accumulate) / temperature  # (N, V)
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
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over packed rows (Schulman et al. 2016, eq. 16).

    Only tokens of `response_mask` are transitions; the others are stepped over and get zeros. The
    value after a row's last transition is 0: an episode ends with its row.

    Args:
        rewards: (T,) reward received on choosing token t.
        values: (T,) value before token t.
        cu_seqlens: (B+1,) int32 row bounds.
        response_mask: (T,) bool.
        gamma: discount.
        lam: GAE's lambda.

    Returns:
        advantages (T,) and returns (T,) = advantages + values, zero outside the mask.
    """
    lengths = cu_seqlens.diff().tolist()
    pad = torch.nn.utils.rnn.pad_sequence
    rewards_BL = pad(rewards.split(lengths), batch_first=True)
    values_BL = pad(values.split(lengths), batch_first=True)
    mask_BL = pad(response_mask.split(lengths), batch_first=True)
    advantages_BL = torch.zeros_like(rewards_BL)
    next_value = next_advantage = rewards_BL.new_zeros(len(lengths))  # (B,)
    for t in reversed(range(rewards_BL.shape[1])):
        delta = rewards_BL[:, t] + gamma * next_value - values_BL[:, t]
        advantage = delta + gamma * lam * next_advantage
        keep = mask_BL[:, t]
        advantages_BL[:, t] = torch.where(keep, advantage, 0.0)
        next_advantage = torch.where(keep, advantage, next_advantage)
        next_value = torch.where(keep, values_BL[:, t], next_value)
    advantages = torch.cat([row[:n] for row, n in zip(advantages_BL, lengths, strict=True)])
    return advantages, torch.where(response_mask, advantages + values, 0.0)


def ppo_policy_loss(
    logprobs: Tensor,
    entropy: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float,
    clip: float,
    entropy_bonus: float = 0.0,
) -> tuple[Tensor, HeadStatistics]:
    """Clipped PPO policy loss over N trained tokens (Schulman et al. 2017, eq. 7; StepCoder eq. 4).

    loss = sum_i importance_i * max(-r_i A_i, -clip(r_i, 1-clip, 1+clip) A_i) / normalizer
           - entropy_bonus * sum_i entropy_i / normalizer,   r_i = exp(logprobs_i - old_logprobs_i)

    Args:
        logprobs: (N,) under the policy being trained; carries the gradient.
        entropy: (N,) of the same rows.
        old_logprobs: (N,) under the policy that the advantages were computed for.
        advantages: (N,).
        importance: (N,) truncated importance weight of the engine mismatch, 1 where there is none.
        normalizer: the number of trained tokens of the whole minibatch (not of this microbatch).
        clip: epsilon.
        entropy_bonus: coefficient of the entropy term.

    Returns:
        The scalar loss and detached statistics.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = (importance * torch.maximum(unclipped, clipped)).sum() / normalizer
    if entropy_bonus:
        loss = loss - entropy_bonus * entropy.sum() / normalizer
    with torch.no_grad():
        log_ratio = logprobs - old_logprobs
        one = torch.ones((), dtype=ratio.dtype, device=ratio.device)
        statistics = HeadStatistics(
            clipped=(clipped > unclipped).sum(),
            approx_kl=(ratio - 1 - log_ratio).sum(),
            entropy=entropy.sum(),
            ratio_min=torch.cat([ratio, one[None]]).amin() if not len(ratio) else ratio.amin(),
            ratio_max=torch.cat([ratio, one[None]]).amax() if not len(ratio) else ratio.amax(),
        )
    return loss, statistics


def ppo_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float,
    clip: float,
    entropy_bonus: float = 0.0,
    temperature: float = 1.0,
) -> tuple[Tensor, HeadStatistics]:
    """LM head and PPO policy loss in one: `logprob_entropy`, then `ppo_policy_loss`.

    Takes hidden (N, H) of the trained tokens only: FGO's masked rows are dropped before the head.
    """
    logprobs, entropy = logprob_entropy(hidden, weight, targets, temperature)
    return ppo_policy_loss(
        logprobs, entropy, old_logprobs, advantages, importance, normalizer, clip, entropy_bonus
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, normalizer: float, clip: float
) -> Tensor:
    """Clipped value loss: sum_i max((v_i-R_i)^2, (clip(v_i, old_i +- clip)-R_i)^2) / 2 / normalizer.

    Args:
        values: (N,) of the critic being trained, on response tokens.
        old_values: (N,) that the advantages were computed with.
        returns: (N,) targets.
        normalizer: the number of response tokens of the whole minibatch.
        clip: largest change of a value that still earns a gradient.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    squared = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * squared.sum() / normalizer
