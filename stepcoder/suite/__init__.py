"""The embedded problem suite: small programming problems that ship with StepCoder.

`problems()` gives them; `python -m stepcoder.suite --out FILE` writes them in our JSONL form.
"""

from stepcoder.suite.generator.build import problems

__all__ = ["problems"]
