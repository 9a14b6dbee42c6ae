"""CCCS: where conditional statements start, which stage gives what, and when stages move."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.crafted import CRAFTED
from helpers.random_programs import random_program
from helpers.tokenizers_built import single_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder.errors import RunError
from stepcoder.method.curriculum import (
    Curriculum,
    Scopes,
    given_parts,
    stage_count,
    start_index,
    start_points,
)
from stepcoder.problems.problem import Problem, load_problems
from stepcoder.problems.prompts import starter_part
from stepcoder.sandbox.program import AssertTests

BOTH_SCOPES = pytest.mark.parametrize("scopes", ["branches", "all"])


def problem(task_id: str, conditionals: int = 4, starter: str = "def f(x):\n") -> Problem:
    body = "".join(f"    if x == {i}:\n        x += 1\n" for i in range(conditionals))
    return Problem(
        task_id, f"Do {task_id}.", starter, f"def f(x):\n{body}    return x\n", AssertTests(("0",))
    )


def curriculum_of(problems: list[Problem], **settings: Any) -> Curriculum:
    """A curriculum whose prompts end where the given part does: no token spans that place."""
    return Curriculum(problems, single_bytes([]), **settings)  # type: ignore[arg-type]


def plain(conditionals: int) -> Curriculum:
    return curriculum_of([problem("p", conditionals)], seed=0)


def cut_lines(source: str, scopes: Scopes = "branches") -> list[str]:
    """The first line of what follows each cut."""
    return [re.split(r"\r\n|\r|\n", source[cut:])[0] for cut in start_points(source, scopes)]


def check_cuts(source: str, scopes: Scopes) -> None:
    lines = [0, *(m.end() for m in re.finditer(r"\r\n|\r|\n", source))]
    cuts = start_points(source, scopes)
    assert cuts == sorted(set(cuts))
    assert set(cuts) <= set(lines)
    tree = ast.parse(source)
    branches = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)
    wanted = {n.lineno for n in ast.walk(tree) if isinstance(n, branches)}
    starts = {lines[n - 1] for n in wanted}
    assert starts == set(cuts) if scopes == "branches" else starts <= set(cuts)
    for cut in cuts:
        assert ast.dump(ast.parse(source[:cut] + source[cut:])) == ast.dump(tree)


@pytest.mark.parametrize(
    ("conditionals", "expected"),
    [
        (0, [0]),
        (1, [0]),
        (2, [1, 0]),
        (3, [2, 0]),
        (4, [2, 0]),
        (5, [4, 2, 0]),
        (6, [4, 2, 0]),
        (7, [6, 3, 0]),
        (8, [6, 3, 0]),
        (9, [6, 3, 0]),
        (10, [9, 6, 3, 0]),
        (11, [9, 6, 3, 0]),
        (12, [9, 6, 3, 0]),
    ],
)
def test_stages_start_at_the_conditionals_of_the_papers_formula(
    conditionals: int, expected: list[int]
) -> None:
    stages = reversed(range(stage_count(conditionals)))
    assert [start_index(conditionals, stage) for stage in stages] == expected


@given(st.integers(1, 10_000))
def test_every_stage_starts_at_an_existing_conditional(conditionals: int) -> None:
    last = stage_count(conditionals) - 1
    assert 0 <= start_index(conditionals, last) <= conditionals
    assert start_index(conditionals, 0) == 0


@pytest.mark.parametrize("stage", [-1, 3])
def test_a_stage_that_does_not_exist_is_refused(stage: int) -> None:
    with pytest.raises(ValueError, match="of 3"):
        start_index(9, stage)


def test_conditionals_are_found_in_order_with_their_indentation_after_the_cut() -> None:
    assert cut_lines(CRAFTED["branches"]) == [
        "    if score > 90:",
        "    elif score > 50:",
        '    elif score > 10: return "C"',
        "    for value in values:",
        "        if value < 0:",
        "        while value > 10:",
    ]


def test_lines_of_a_text_that_look_like_conditionals_are_none() -> None:
    source = 'x = """\nif a:\n    for b in c:\n"""\nif x: pass\n'
    assert cut_lines(source) == ["if x: pass"]


def test_every_kind_of_branch_is_found() -> None:
    assert cut_lines(CRAFTED["async"])[:2] == [
        "        if not self.left:",
        "    async for line in Lines():",
    ]
    assert cut_lines(CRAFTED["matches"]) == ["    match thing:", "match (case):"]
    assert cut_lines("try: x = 1\nexcept* ValueError: pass\n") == ["try: x = 1"]
    assert cut_lines(CRAFTED["tabs"]) == ["\tif x:", "\tfor i in (1, 2):"]


def test_offsets_count_characters_where_columns_count_bytes() -> None:
    source = CRAFTED["non-ASCII"]
    assert cut_lines(source)[0] == 'if größe == "äää" and π:'


def test_all_scopes_add_functions_classes_and_comprehensions_at_their_statement() -> None:
    source = "@deco\ndef f():\n    x = 1\n    y = [\n        a\n        for a in b\n    ]\n"
    assert cut_lines(source, "all") == ["def f():", "    y = ["]
    assert cut_lines('"""\n"""; z = [a for a in b]\n', "all") == ['"""']


@BOTH_SCOPES
@pytest.mark.parametrize("name", CRAFTED)
def test_cuts_of_untidy_programs_lie_on_line_starts(name: str, scopes: Scopes) -> None:
    check_cuts(CRAFTED[name], scopes)


@BOTH_SCOPES
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cuts_of_random_programs_lie_on_line_starts(scopes: Scopes, seed: int) -> None:
    check_cuts(random_program(seed), scopes)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "apps_plus_form.json",
        "apps5.jsonl",
        "humaneval_plus.jsonl.gz",
        "humaneval.jsonl",
        "leetcode_train.jsonl.gz",
        "mbpp.jsonl",
        "mbpp_plus.jsonl.gz",
        "quixbugs.jsonl",
        "thealgorithms.jsonl.gz",
    ],
)
def test_every_stage_of_every_solution_gives_a_beginning_of_it(data: Path, name: str) -> None:
    problems = load_problems(data / name).problems
    for p in problems[:: 1 + len(problems) // 400]:
        check_cuts(p.canonical_solution, "branches")
        parts = given_parts(p)
        assert parts[0] == starter_part(p)
        for less, more in pairwise(parts):
            assert more.startswith(less)
            assert p.canonical_solution.startswith(more)
            assert more.endswith(("\n", "\r"))


def test_a_source_that_does_not_parse_has_no_conditionals() -> None:
    assert start_points("if x:\nelse") == []
    assert start_points("if x:\n  pass\n\0") == []


def test_conditionals_of_the_starter_do_not_count() -> None:
    header = "if True:\n    import os\ndef f(x):\n"
    p = Problem("p", "", header, f"{header}    if x:\n        pass\n", AssertTests(("0",)))
    assert given_parts(p) == [header]


def test_a_problem_starts_at_its_last_stage_and_gives_the_solution_up_to_there() -> None:
    task = plain(9).sample(1)[0]
    assert task.stage == 2
    assert task.problem.canonical_solution.startswith(task.given)
    assert task.problem.canonical_solution[len(task.given) :].startswith("    if x == 5:")
    assert task.prompt_text.endswith(task.given)


def test_without_cccs_every_problem_stays_at_stage_0() -> None:
    curriculum = curriculum_of([problem("p", 9)], seed=0, cccs=False)
    task = curriculum.sample(1)[0]
    assert (task.stage, task.given) == (0, "def f(x):\n")
    curriculum.observe(task, [1, 1])
    assert curriculum.stage_histogram() == {0: 1}


def test_a_stage_moves_back_when_most_rollouts_pass() -> None:
    curriculum = plain(9)
    curriculum.observe(curriculum.sample(1)[0], [1, 1, 1, 1])
    assert curriculum.progress("p").stage == 2  # rho is 0.5: not above the threshold yet
    curriculum.observe(curriculum.sample(1)[0], [1, 0, 1, 1])
    assert curriculum.progress("p").stage == 1
    assert curriculum.progress("p").rho == 0
    assert curriculum.moves == 1


def test_rho_averages_the_mean_pass_rate_of_each_visit() -> None:
    curriculum = plain(9)
    for passes, rho in [([1, 0], 0.25), ([0, 0], 0.125), ([1, 1], 0.5625)]:
        if rho > 0.5:
            break
        curriculum.observe(curriculum.sample(1)[0], passes)
        assert curriculum.progress("p").rho == rho


def test_a_stage_stays_while_rollouts_fail() -> None:
    curriculum = plain(9)
    for _ in range(20):
        curriculum.observe(curriculum.sample(1)[0], [0, 1])
    assert curriculum.progress("p").stage == 2


def test_alpha_and_threshold_decide_how_soon_a_stage_moves() -> None:
    curriculum = curriculum_of([problem("p", 9)], seed=0, alpha=1.0, threshold=0.2)
    curriculum.observe(curriculum.sample(1)[0], [1, 0, 0, 0])
    assert curriculum.progress("p").stage == 1


def test_stage_0_is_the_last() -> None:
    curriculum = plain(2)
    for _ in range(8):
        curriculum.observe(curriculum.sample(1)[0], [1])
    assert curriculum.progress("p").stage == 0
    assert curriculum.moves == 1


@given(st.lists(st.lists(st.sampled_from([0, 1]), max_size=4), max_size=30))
def test_stages_only_move_back_and_by_one(visits: list[list[int]]) -> None:
    curriculum = plain(12)
    stages = [curriculum.progress("p").stage]
    for passes in visits:
        curriculum.observe(curriculum.sample(1)[0], passes)
        stages.append(curriculum.progress("p").stage)
    assert all(before - after in (0, 1) for before, after in pairwise(stages))
    assert curriculum.moves == stages[0] - stages[-1]
    assert 0 <= curriculum.progress("p").rho <= 0.5


def test_a_visit_at_a_stage_that_was_left_changes_nothing() -> None:
    curriculum = plain(9)
    old = curriculum.sample(1)[0]
    for _ in range(2):
        curriculum.observe(curriculum.sample(1)[0], [1])
    before = curriculum.progress("p")
    curriculum.observe(old, [1])
    assert curriculum.progress("p") == before


def test_a_problem_never_passed_until_one_rollout_does_whatever_its_stage() -> None:
    curriculum = curriculum_of([problem("easy"), problem("hard", 0), problem("new", 0)], seed=0)
    tasks = {task.problem.task_id: task for task in curriculum.sample(3)}
    for _ in range(3):
        curriculum.observe(tasks["easy"], [0, 0])
        curriculum.observe(tasks["hard"], [0, 0])
    curriculum.observe(tasks["easy"], [0])
    curriculum.observe(tasks["new"], [])
    assert curriculum.never_passed(3) == {"easy": 4, "hard": 3}
    assert curriculum.never_passed(4) == {"easy": 4}
    curriculum.observe(replace(tasks["easy"], stage=99), [0, 1])
    curriculum.observe(tasks["easy"], [0])
    assert curriculum.never_passed(1) == {"hard": 3}


def test_a_checkpoint_from_before_attempts_were_counted_loads() -> None:
    curriculum = curriculum_of([problem("p")], seed=0)
    state = curriculum.state_dict()
    del state["tries"]
    curriculum.load_state_dict(state)
    curriculum.observe(curriculum.sample(1)[0], [0])
    assert curriculum.never_passed(1) == {"p": 1}


def test_full_prompts_give_the_starter_alone_and_move_no_stage() -> None:
    curriculum = curriculum_of([problem("p", 9)], seed=0, full_prompt_share=1.0)
    task = curriculum.sample(1)[0]
    assert (task.stage, task.given) == (0, "def f(x):\n")
    curriculum.observe(task, [1])
    assert curriculum.progress("p").rho == 0


def test_about_the_asked_share_of_prompts_is_full() -> None:
    curriculum = curriculum_of([problem("p", 9)], seed=0, full_prompt_share=0.3)
    stages = [task.stage for task in curriculum.sample(1000)]
    assert 250 < stages.count(0) < 350


def test_an_epoch_visits_every_problem_once_in_another_order() -> None:
    curriculum = curriculum_of([problem(f"p{i}") for i in range(10)], seed=0)
    epochs = [[task.problem.task_id for task in curriculum.sample(10)] for _ in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert curriculum.epoch == 2


def test_a_sample_may_run_over_the_end_of_an_epoch() -> None:
    curriculum = curriculum_of([problem(f"p{i}") for i in range(3)], seed=0)
    tasks = curriculum.sample(7)
    assert sorted(task.problem.task_id for task in tasks[3:6]) == ["p0", "p1", "p2"]
    assert len({task.seed for task in tasks}) == 7


def test_the_seed_decides_order_and_task_seeds() -> None:
    problems = [problem(f"p{i}") for i in range(10)]
    first, same, other = (curriculum_of(problems, seed=seed).sample(10) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert curriculum_of(problems[::-1], seed=1).sample(10) == first


@given(st.integers(0, 25), st.integers(1, 7))
def test_a_resumed_curriculum_goes_on_as_if_never_stopped(steps: int, count: int) -> None:
    problems = [problem(f"p{i}", i) for i in range(6)]

    def step(curriculum: Curriculum) -> None:
        for task in curriculum.sample(count):
            curriculum.observe(task, [task.seed % 2, 1])

    whole, resumed = (curriculum_of(problems, seed=3, full_prompt_share=0.2) for _ in range(2))
    for _ in range(steps):
        step(whole)
    resumed.load_state_dict(whole.state_dict())
    for curriculum in (whole, resumed):
        step(curriculum)
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.sample(count) == whole.sample(count)


def test_the_state_of_other_problems_is_refused() -> None:
    with pytest.raises(RunError, match="other problems"):
        curriculum_of([problem("q")], seed=0).load_state_dict(plain(2).state_dict())


def test_repeated_or_missing_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="'p'"):
        curriculum_of([problem("p"), problem("p")], seed=0)
    with pytest.raises(ValueError, match="at least one"):
        curriculum_of([], seed=0)
