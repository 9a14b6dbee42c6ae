"""muFiX (arXiv 2309.16120): understand the tests, write the program; fix what was understood.

Thought-eliciting: an analysis of the visible tests, checked by deriving their outputs again.
Feedback-based: the policy explains the tests by its program alone; from what differs it corrects
the analysis, and writes the program anew. One repair of each (N = M = 1), as the authors run it;
the temperature is theirs by default (0.7). Prompts are ours, in the authors' order; what they send
as a conversation is one question here. A problem without visible tests is answered zero-shot.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from stepcoder.refine.steps import Answer, Case, Steps, TooLongError, fenced
from stepcoder.sandbox import Status, Verdict

EXPECTED = re.compile(r"expected output is:?\s*(.+)", re.IGNORECASE)

ANALYSE = """\
{task}

Analyse these test cases of the task:
{tests}

For each test case write the input, the output, an analysis of how the one leads to the other, and \
end with the line "Therefore, the expected output is ..."."""
DERIVE = """\
{task}

Complete this analysis: derive each output that is missing. Repeat for each test case the line \
"Therefore, the expected output is ..." with its value.
{analysis}"""
CORRECT = """\
{task}

{analysis}

By this analysis these outputs were derived wrongly:
{wrong}

Correct the analysis of these test cases."""
WRITE = """\
{task}

{analysis}"""
EXPLAIN = """\
{program}

Explain by this program alone what it gives for each of these inputs, step by step:
{inputs}"""
COMPARE = """\
{task}

The first analysis of its test cases is correct:
{analysis}

This program was written after it:
{program}

{results}

So the program is wrong, and so is how it was understood:
{understanding}

Write a better analysis of the test cases, which leads to a correct program."""
REWRITE = """\
{task}

This program is wrong:
{program}

{results}

{analysis}

Write the program anew."""


def mufix(case: Case) -> Steps:
    """Understand, write, test; then correct the understanding once and write again."""
    if case.visible is None:
        yield Answer((yield from case.program(case.statement)))
        return
    task, shown = case.visible.without, case.visible.shown
    try:
        analysis = yield from understanding_of(case)
    except TooLongError:
        analysis = ""
    program = yield from case.program(WRITE.format(task=case.statement, analysis=analysis))
    yield Answer(program)
    verdict = yield from case.verdict(program)
    if verdict.passed:
        return
    if verdict.status in (Status.CPU_TIME_LIMIT, Status.WALL_TIME_LIMIT):
        yield Answer((yield from case.program(case.statement)))
        return
    inputs = "\n".join(asked for asked, _ in shown)
    implicit = yield from case.words(EXPLAIN.format(program=fenced(program), inputs=inputs))
    facts = {"task": task, "program": fenced(program), "results": results(verdict)}
    question = COMPARE.format(**facts, analysis=analysis, understanding=implicit)
    better = yield from case.words(question)
    facts["task"] = case.statement
    program = yield from case.program(REWRITE.format(**facts, analysis=better))
    yield Answer(program)


def understanding_of(case: Case) -> Steps:
    """Return an analysis of the visible tests, corrected once where it misleads the policy."""
    assert case.visible is not None
    task, shown = case.visible.without, case.visible.shown
    tests = "\n".join(f"{asked} gives {value}" for asked, value in shown)
    analysis = yield from case.words(ANALYSE.format(task=task, tests=tests))
    blanked = EXPECTED.sub("expected output is ...", analysis)
    derived = yield from case.words(DERIVE.format(task=task, analysis=blanked))
    found = [match.strip(" .`") for match in EXPECTED.findall(derived)]
    wrong = [
        f"{asked}: derived {got}, expected {value}"
        for (asked, value), got in zip_longest(shown, found[: len(shown)])
        if got != value
    ]
    if wrong:
        question = CORRECT.format(task=task, analysis=analysis, wrong="\n".join(wrong))
        analysis = yield from case.words(question)
    return analysis


def results(verdict: Verdict) -> str:
    """Return which tests passed, in the authors' words."""
    ended = ("passed" if t.status is Status.ACCEPTED else "failed" for t in verdict.tests)
    return "\n".join(f"Test case ({i}) {how}" for i, how in enumerate(ended, 1))
