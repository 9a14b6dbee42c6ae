"""LM head and PPO policy loss in one."""

from stepcoder.kernels.reference import ppo_head

__all__ = ["ppo_head"]
