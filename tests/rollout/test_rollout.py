"""Tasks end where a token ends, and programs, spans and masks are put together again."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from helpers.random_programs import random_program
from helpers.tokenizers_built import TOKENIZERS
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder import suite
from stepcoder.config import FGOConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import given_parts
from stepcoder.method.fgo import executed_mask, executed_masks
from stepcoder.method.rewards import Reward
from stepcoder.method.rows import rows_of
from stepcoder.models.batch import pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.problems.answers import extract_completion
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import (
    encode_prompt,
    encode_target,
    prompt_text,
    starter_part,
    target_text,
)
from stepcoder.problems.template import TEMPLATE
from stepcoder.recipes.rlcf import last_token_of_line
from stepcoder.report.chosen import sample_of
from stepcoder.report.samples import lines_of
from stepcoder.rollout.engine import Completion, Sampling
from stepcoder.rollout.rollout import (
    collect,
    requests_of,
    response_text,
    sampling_of,
    submit,
    target_ids,
    task_of,
)
from stepcoder.sandbox import Judge
from stepcoder.sandbox.program import AssertTests
from stepcoder.sandbox.verdict import Status, Verdict

SOLUTION = "def f(x):\n    if x:\n        return 1\n    return 0\n"
NEWLINE_AND_INDENTATION = "byte-level BPE"


@cache
def tokenizer(name: str) -> Any:
    return TOKENIZERS[name]([SOLUTION, TEMPLATE, *(random_program(seed) for seed in range(20))])


def problem(solution: str) -> Problem:
    return Problem("p", "Say it.", "", solution, AssertTests(("pass",)))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_every_stage_of_a_program_is_put_together_again(name: str, seed: int) -> None:
    backend, solution = tokenizer(name), random_program(seed)
    for stage, part in enumerate(given_parts(problem(solution))):
        task = task_of(problem(solution), stage, part, TEMPLATE, backend, seed)
        assert part.startswith(task.given)
        assert task.prompt_text + task.before_code == TEMPLATE.format(
            description="Say it.", given=task.given
        )
        (request,) = requests_of([task], backend, 1)
        ids = encode_target(backend, task.prompt_text, task.target)
        text, spans = response_text(task, backend, request.prompt_ids, ids)
        program = task.given + extract_completion(text)
        assert program.rstrip("\n") == solution.rstrip("\n")
        ran = Verdict(Status.ACCEPTED, executed_lines=frozenset({1 + seed % program.count("\n")}))
        begin, whole = len(task.given), len(program)
        of_characters = executed_mask(program, 0, ran, [(i, i + 1) for i in range(whole)])
        expected = [
            a == b or begin + b > whole or any(of_characters[begin + a : begin + b])
            for a, b in spans
        ]
        assert executed_mask(program, begin, ran, spans) == expected


def test_the_newline_of_the_opening_fence_is_not_part_of_the_program() -> None:
    backend = tokenizer(NEWLINE_AND_INDENTATION)
    task = task_of(problem(SOLUTION), 0, "", TEMPLATE, backend, 0)
    assert (task.prompt_text, task.given, task.before_code) == ("Say it.\n```python", "", "\n")
    prompt_ids = encode_prompt(backend, task.prompt_text)
    for written, text in (("\nx = 1\n", "x = 1\n"), ("\n\nx", "\nx"), ("3\nx", "3\nx")):
        ids = encode_target(backend, task.prompt_text, written)
        found, spans = response_text(task, backend, prompt_ids, ids)
        assert found == text
        assert [*dict.fromkeys(spans)][-1][1] == len(text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_program_of_an_answer_in_words_is_its_block(name: str) -> None:
    backend = tokenizer(name)
    task = task_of(problem(SOLUTION), 0, "", "{description} Think.\n{answer}", backend, 0)
    assert (task.prompt_text, task.given) == ("Say it. Think.\n", "")
    assert task.target == f"```python\n{SOLUTION}```"
    words = f"if x:\n```python\n{SOLUTION}```\nreturn"
    (request,) = requests_of([task], backend, 1)
    ids = tuple(encode_target(backend, task.prompt_text, words))
    done = Completion(0, ids, (0.0,) * len(ids), stopped=True)
    with Judge(workers=1) as judge:
        (rollout,) = collect(submit([done], [task], [request], backend, judge))
    assert rollout.program == SOLUTION
    assert rollout.verdict.passed
    assert rollout.text[-rollout.offset :].startswith(SOLUTION)
    end = words.index("```\nreturn")
    last_code = [i for i, (a, b) in enumerate(rollout.spans) if a < min(b, end)][-1]
    assert last_token_of_line(rollout, 4) == last_code
    masks = executed_masks([rollout], FGOConfig())
    sample = sample_of(rollout, 1, backend, pack(rows_of([rollout], [Reward(1.0)], masks)))
    assert len(sample.tokens) == len(ids)
    assert "".join(p.text for p in sample.prompt if not p.special) == task.prompt_text
    ran = [line.text for line in lines_of(sample) if line.ran]
    assert set(ran) <= set(SOLUTION.splitlines())
    assert ran[0] == "def f(x):"
    parts = [line.part for line in lines_of(sample)]
    assert parts == [*["outside"] * 2, *["written"] * 4, *["outside"] * 2]


def test_only_the_end_of_sequence_ends_an_answer_in_words() -> None:
    assert sampling_of(TEMPLATE, 0.5, 9) == Sampling(0.5, 9)
    assert sampling_of("{description}{answer}", 0.5, 9) == Sampling(0.5, 9, stop=())


def test_a_target_in_words_teaches_to_end() -> None:
    embedded = train_tokenizer([SOLUTION, TEMPLATE], 300)
    words, code = (
        task_of(problem(SOLUTION), 0, "", template, embedded, 0)
        for template in ("{description}\n{answer}", TEMPLATE)
    )
    ids = target_ids(words, embedded, 999)
    assert (ids[-1], embedded.decode(ids[:-1])) == (embedded.eos_token_id, words.target)
    assert len(target_ids(words, embedded, 3)) == 3
    assert embedded.eos_token_id not in target_ids(code, embedded, 999)  # a fence ends it


def test_a_solution_with_the_name_of_a_special_token_is_one_line() -> None:
    embedded = train_tokenizer([SOLUTION, TEMPLATE], 300)
    solution = f"x = '{embedded.eos_token}'\n"
    task = task_of(problem(solution), 0, "", TEMPLATE, embedded, 0)
    with pytest.raises(RunError, match=r"the solution of p: .*; leave the problem out"):
        target_ids(task, embedded, 999)


def test_the_embedded_tokenizer_holds_nothing_back() -> None:
    problems = suite.problems()[::20]
    texts = [prompt_text(p, starter_part(p)) + p.canonical_solution for p in problems]
    embedded = train_tokenizer(texts, 1024)
    for p in problems:
        for part in given_parts(p):
            text = prompt_text(p, part)
            assert task_of(p, 0, part, TEMPLATE, embedded, 0).prompt_text == text
            alone = embedded.backend_tokenizer.encode(target_text(p, part)).ids
            assert encode_target(embedded, text, target_text(p, part)) == alone


def test_what_is_held_back_of_the_given_part_belongs_to_the_completion() -> None:
    backend = tokenizer(NEWLINE_AND_INDENTATION)
    task = task_of(problem(SOLUTION), 1, "def f(x):\n", TEMPLATE, backend, 0)
    assert (task.given, task.before_code) == ("def f(x):", "")
    assert task.target == SOLUTION[len("def f(x):") :] + "```"
