"""A reward of your own: the share of tests that a program passes, less a little for its length.

    python -m stepcoder.train reward.function=examples/own_reward.py:score

It gets the Problem, the program's text and the Verdict (a status for each test, executed lines). It
may import what lies beside it, and a mistake in it stops the run with one line.
"""

from stepcoder.problems import Problem
from stepcoder.sandbox import Verdict


def score(problem: Problem, program: str, verdict: Verdict) -> float:
    """Return +1 for all tests passed, down to -1 for none, less a little for the length."""
    written = len(program) - len(problem.starter_code)
    return 2 * verdict.pass_fraction - 1 - 0.0005 * written
