"""StepCoder: reinforcement learning of code models from unit-test results (arXiv 2402.01391)."""

__version__ = "0.1.0"
