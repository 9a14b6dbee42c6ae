"""PPO's policy and value losses from log-probabilities and values."""

from stepcoder.kernels.reference import ppo_policy_loss, value_loss

__all__ = ["ppo_policy_loss", "value_loss"]
