"""Log-probability and entropy of an LM head's rows."""

from stepcoder.kernels.reference import logprob_entropy

__all__ = ["logprob_entropy"]
