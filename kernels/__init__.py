"""The trainer's operations on tensors: Triton kernels on CUDA, elsewhere PyTorch (docs/kernels.md).

from stepcoder.kernels import gae, logprob_entropy, ppo_head, ppo_loss
"""

from stepcoder.kernels.logprob import logprob_entropy
from stepcoder.kernels.packed_gae import gae, gae_with_statistics
from stepcoder.kernels.policy_head import ppo_head
from stepcoder.kernels.reference import (
    AdvantageStatistics,
    ClipRange,
    HeadStatistics,
    HeadTokens,
)
from stepcoder.kernels.token_loss import ppo_loss, ppo_policy_loss, value_loss

__all__ = [
    "AdvantageStatistics",
    "ClipRange",
    "HeadStatistics",
    "HeadTokens",
    "gae",
    "gae_with_statistics",
    "logprob_entropy",
    "ppo_head",
    "ppo_loss",
    "ppo_policy_loss",
    "value_loss",
]
