"""Plain resampling: new programs until one passes the visible tests. What all methods must beat."""

from __future__ import annotations

from itertools import count

from stepcoder.refine.steps import Answer, Ask, Case, Steps


def resample(case: Case) -> Steps:
    """Answer with the first program of those that pass most visible tests.

    It ends with one that passes them all; after `rounds` programs, or with a budget before the
    program that would go beyond it.
    """
    best, most, spent = "", -1.0, 0
    for number in count():
        if case.budget is None and number == case.options.rounds:
            return
        (reply,) = yield [Ask(case.statement)]
        spent += reply.tokens
        if case.budget is not None and spent > case.budget and number:
            return
        verdict = yield from case.verdict(reply.program)
        if verdict.pass_fraction > most:
            best, most = reply.program, verdict.pass_fraction
        yield Answer(best)
        if verdict.passed:
            return
