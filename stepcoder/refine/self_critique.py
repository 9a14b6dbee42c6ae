"""Self-critique with the bug taxonomy (arXiv 2407.06153): what is wrong, then correct it.

The policy reads the task, its own program, the classes of bugs and what the judge said of the
visible tests; it names the bug and writes the program anew. The paper's prompt is not published:
this one is ours. It reports two rounds.
"""

from __future__ import annotations

from stepcoder import taxonomy
from stepcoder.judge.record import failing_test
from stepcoder.problems.answers import program_of_answer
from stepcoder.refine.steps import Answer, Case, Steps, fenced
from stepcoder.sandbox import Verdict

PROMPT = """\
{statement}

This program was written for the task:
{program}

It was tested:
{feedback}

Kinds of bugs:
{kinds}

Say in one sentence which kind of bug the program has and where. Then write the whole corrected \
program in one Python code block."""


def self_critique(case: Case) -> Steps:
    """Correct the program until it passes the visible tests, at most `rounds` times."""
    program = yield from case.program(case.statement)
    for _ in range(case.options.rounds):
        yield Answer(program)
        verdict = yield from case.verdict(program)
        if verdict.passed:
            return
        question = PROMPT.format(
            statement=case.asked,
            program=fenced(program),
            feedback=feedback(case, verdict),
            kinds="\n".join(f"- {name}: {what}" for name, what in taxonomy.KINDS.items()),
        )
        program = program_of_answer((yield from case.words(question)), case.problem)
    yield Answer(program)


def feedback(case: Case, verdict: Verdict) -> str:
    """Return what the judge says of a program that fails visible tests."""
    assert case.visible is not None
    failing = failing_test(case.visible.tests, verdict) or {}
    said = verdict.message + (f" (line {verdict.error_line})" if verdict.error_line else "")
    facts = {"result": f"{verdict.status}: {said}" if said else verdict.status, **failing}
    names = ("result", "test", "input", "expected", "got")
    return "\n".join(f"{name}: {facts[name]}" for name in names if facts.get(name))
