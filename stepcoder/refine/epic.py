"""EPiC (arXiv 2408.11198): prompts evolve, judged by how many tests of the policy's own pass.

Numbers are those of the paper and its code. The prompts are ours. A generation ends early at a
program that passes all tests of the policy's own; there is no crossover. To "meet" the other
problems is the paper's stop: a generation that newly solves at most 1.5% of them is the last one.
"""

from __future__ import annotations

import re
from contextlib import suppress

from stepcoder.problems.source import parse
from stepcoder.refine.steps import Answer, Ask, Case, Meet, Run, Steps
from stepcoder.refine.words import similar_words
from stepcoder.sandbox import AssertTests

TESTS, POPULATION, GENERATIONS = 10, 5, 4
GOOD_AT_ONCE, GOOD = 0.8, 0.6
FEW_NEWLY_SOLVED = 0.015
LONGEST = 600  # words of a prompt
REWRITE, MUTATE = 0.9, 0.8  # temperatures

ASK_TESTS = """\
{statement}

Write {count} different tests of this function, each on a line of its own as an assert that \
compares a call with its result, in one Python code block. Do not write the function."""
ASK_REWRITE = """\
Rewrite this description of a programming task so that it is easier to solve: add the types of \
input and output, elaborate, keep its examples and add three edge cases. At most {longest} words.

{statement}"""
ASK_CLEARER = """\
Make this description of a programming task clearer. Use at most {longest} words, and answer with \
the new description alone.

{statement}"""


def epic(case: Case) -> Steps:
    """Evolve the prompt until a program passes the tests of the policy's own."""
    original = yield from case.program(case.statement, temperature=0, top_p=1)
    yield Answer(original)
    question = ASK_TESTS.format(statement=case.asked, count=TESTS)
    tests = asserts_in((yield from case.words(question, temperature=0)))
    if (yield from fitness(original, tests)) >= GOOD_AT_ONCE:
        return
    population = [case.statement, *(yield from rewrites(case))]
    for generation in range(1, GENERATIONS + 1):
        fits, programs = [], []
        for text in population:
            programs.append((yield from case.program(text, temperature=0, top_p=1)))
            fits.append((yield from fitness(programs[-1], tests)) * is_usable(text, case))
            if fits[-1] == 1:
                break
        best = max(fits)
        solved = best == 1 or best >= GOOD
        if solved:
            yield Answer(programs[fits.index(best)])
        newly_solved = yield Meet(solved)
        if solved or (generation >= 2 and newly_solved <= FEW_NEWLY_SOLVED):
            return
        draw = case.random(generation)
        weights = fits if any(fits) else None
        survivor, *parents = draw.choices(population, weights, k=POPULATION)
        if case.options.mutator == "words":
            mutants = [similar_words(parent, draw) for parent in parents]
        else:
            asks = [ASK_CLEARER.format(longest=LONGEST, statement=parent) for parent in parents]
            replies = yield [Ask(ask, in_words=True, temperature=MUTATE) for ask in asks]
            mutants = [reply.text.strip() for reply in replies]
        population = [survivor, *mutants]


def rewrites(case: Case) -> Steps:
    """Return the first population, without the original."""
    question = ASK_REWRITE.format(longest=LONGEST, statement=case.statement)
    replies = yield [Ask(question, in_words=True, temperature=REWRITE)] * POPULATION
    return [reply.text.strip() for reply in replies]


def fitness(program: str, tests: AssertTests | None) -> Steps:
    """Return the share of tests that a program passes; 1 without any."""
    if tests is None:
        return 1.0
    (verdict,) = yield [Run(program, tests)]
    return verdict.pass_fraction


def is_usable(text: str, case: Case) -> bool:
    """Return whether a prompt is short enough, and has kept the function's head if it had one."""
    return len(text.split()) < LONGEST and ("def " in text or "def " not in case.statement)


def asserts_in(answer: str) -> AssertTests | None:
    """Return the first asserts of an answer that parse and say something; None without one."""
    found = []
    for line in re.findall(r"^\s*(assert .+)$", answer, re.MULTILINE):
        with suppress(SyntaxError):
            parse(line)
            if not re.match(r"assert (True|False)\b", line):
                found.append(line)
    return AssertTests(tuple(found[:TESTS])) if found else None
