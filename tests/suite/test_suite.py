"""The embedded suite: its size, its problems' shape, and that its tests catch wrong programs."""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from suite_generator.build import CHOSEN, build
from suite_generator.choose import bounded, choose_family, executed_lines, pool
from suite_generator.families import FAMILIES
from suite_generator.family import Family, conditionals, fill, normalized

from stepcoder.clean.mutants import mutants
from stepcoder.problems.problem import Problem
from stepcoder.sandbox import CallTests, Judge, Program
from stepcoder.suite import FILE, problems

FAMILY = {family.name: family for family in FAMILIES}
SAMPLE = problems()[::25]
# The environment of a process in which strings have other hashes than in this one.
OTHER_HASHES = {
    **os.environ,
    "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
    "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[n]) for n in (2, 1)),
}


def calls(problem: Problem) -> CallTests:
    assert isinstance(problem.tests, CallTests)
    return problem.tests


def fails(source: str, problem: Problem) -> bool:
    outcome = bounded(source)
    tests = calls(problem)
    return any(
        outcome(args) != value for args, value in zip(tests.inputs, tests.outputs, strict=True)
    )


def test_there_are_enough_problems_families_and_topics() -> None:
    families = Counter(problem.entry_point for problem in problems())
    topics = Counter(problem.source for problem in problems())
    assert len(problems()) >= 1200
    assert len(families) >= 30
    assert min(families.values()) >= 20
    assert len(topics) >= 7
    assert min(topics.values()) >= 75


def test_the_exported_file_is_the_suite_also_in_a_process_with_other_hashes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "suite.jsonl"
    command = [sys.executable, "-m", "stepcoder.suite", "--out", str(path)]
    said = subprocess.run(command, env=OTHER_HASHES, check=True, capture_output=True, text=True)
    assert f"{sum(p.split == 'train' for p in problems())} train" in said.stdout
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["task_id"] for record in records] == [p.task_id for p in problems()]
    for record, problem in zip(records, problems(), strict=True):
        assert record["tests"]["kind"] == "call"
        assert record["tests"]["inputs"] == [*calls(problem).inputs]
        assert record["tests"]["outputs"] == [*calls(problem).outputs]
        assert record["prompt"] == problem.prompt
        assert record["canonical_solution"] == problem.canonical_solution
        assert record["split"] == problem.split


def test_task_ids_are_unique() -> None:
    assert len({problem.task_id for problem in problems()}) == len(problems())


def test_solutions_pass_their_tests_after_a_round_trip_through_json() -> None:
    for problem in problems():
        tests = calls(problem)
        inputs, outputs = json.loads(json.dumps([tests.inputs, tests.outputs]))
        namespace: dict[str, object] = {}
        exec(problem.canonical_solution, namespace)
        solve = namespace[str(problem.entry_point)]
        assert callable(solve)
        assert [solve(*args) for args in inputs] == outputs, problem.task_id
        assert [*tests.inputs] == inputs, f"{problem.task_id} changes its arguments"


def test_the_judge_accepts_solutions_and_sees_all_their_lines_run() -> None:
    with Judge(workers=1) as judge:
        for problem in SAMPLE:
            verdict = judge.run(
                Program(problem.canonical_solution, problem.entry_point), problem.tests
            )
            assert verdict.passed, f"{problem.task_id}: {verdict.message}"
            last = problem.canonical_solution.count("\n")
            assert {2, last} <= verdict.executed_lines


def test_the_tests_of_a_problem_execute_every_line_of_its_solution() -> None:
    for problem in problems():
        ran: set[int] = set()
        possible: set[int] = set()
        for args in calls(problem).inputs:
            lines, possible = executed_lines(
                problem.canonical_solution, str(problem.entry_point), args
            )
            ran |= lines
        assert possible <= ran, f"{problem.task_id}: lines {possible - ran} never run"


def test_most_single_tests_leave_a_line_unexecuted() -> None:
    partial = Counter[bool]()
    for problem in SAMPLE:
        for args in calls(problem).inputs:
            ran, possible = executed_lines(
                problem.canonical_solution, str(problem.entry_point), args
            )
            partial[possible > ran] += 1
    assert partial[True] > partial[False]


def test_every_mutant_fails_or_is_equivalent_on_a_large_pool_of_fresh_inputs() -> None:
    failed = survived = 0
    missed = []
    for problem in SAMPLE:
        solution = bounded(problem.canonical_solution)
        fresh = pool(FAMILY[str(problem.entry_point)], 2000, seed="another pool")
        for kind, source in mutants(problem.canonical_solution):
            if fails(source, problem):
                failed += 1
                continue
            survived += 1
            mutant = bounded(source)
            if any(solution(args) != mutant(args) for args in fresh):
                missed.append(f"{problem.task_id}: {kind}\n{source}")
    assert failed > 1500
    assert survived < 0.06 * failed
    assert len(missed) <= 0.002 * failed, "\n".join(missed)


def test_the_solutions_of_other_problems_of_a_family_fail() -> None:
    by_family: dict[str, list[Problem]] = {}
    for problem in problems():
        by_family.setdefault(str(problem.entry_point), []).append(problem)
    pairs = passed = 0
    for group in by_family.values():
        for problem in group[:2]:
            for other in group:
                if other is not problem:
                    pairs += 1
                    passed += not fails(other.canonical_solution, problem)
    assert pairs > 1000
    assert passed <= 0.005 * pairs


@pytest.mark.parametrize("name", ["select", "climb", "rewrite"])
def test_the_shipped_file_is_what_the_generator_chooses(name: str) -> None:
    records = map(json.loads, CHOSEN.read_text(encoding="utf-8").splitlines())
    shipped = [r for r in records if r["task_id"].split("/")[1] == name][:2]
    chosen = choose_family(FAMILY[name], 2)
    assert [instance.task_id for instance, _ in chosen] == [r["task_id"] for r in shipped]
    assert [list(choice.inputs) for _, choice in chosen] == [r["inputs"] for r in shipped]


def test_the_generator_builds_the_shipped_file_also_in_a_process_with_other_hashes() -> None:
    shipped = gzip.decompress(FILE.read_bytes()).decode()
    assert build() == shipped
    code = "from suite_generator.build import build; print(build(), end='')"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=OTHER_HASHES, check=True, capture_output=True, text=True)
    assert said.stdout == shipped


def test_the_identity_of_a_solution_is_the_same_text_in_every_python() -> None:
    assert normalized("def f(xs):\n    return xs or None\n") == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='v0')], "
        "kwonlyargs=[], kw_defaults=[], defaults=[]), body=[Return(value=BoolOp(op=Or(), values=["
        "Name(id='v0', ctx=Load()), Constant(value=None)]))], decorator_list=[])], type_ignores=[])"
    )


def test_no_held_out_solution_is_a_train_solution_under_other_names() -> None:
    shapes: dict[str, set[str]] = {"train": set(), "validation": set(), "eval": set()}
    for problem in problems():
        shapes[problem.split].add(normalized(problem.canonical_solution))
    for one, two in itertools.combinations(shapes.values(), 2):
        assert not one & two
    for part in ("validation", "eval"):
        assert 0.10 < len(shapes[part]) / len(problems()) < 0.20
        assert {p.entry_point for p in problems() if p.split == part} == {*FAMILY}


def test_names_do_not_tell_solutions_apart() -> None:
    one = "def f(xs):\n    total = len(xs)\n    return total\n"
    assert normalized(one) == normalized(one.replace("total", "n").replace("xs", "s"))
    assert normalized(one) != normalized(one.replace("len", "sum"))


def test_descriptions_and_solutions_are_short() -> None:
    for problem in problems():
        solution = problem.canonical_solution
        assert 15 <= len(problem.prompt.split()) <= 48, problem.prompt
        assert "$" not in problem.prompt + solution
        assert len(solution) <= 350
        assert 6 <= solution.count("\n") <= 17
        assert solution.startswith(problem.starter_code)
        assert problem.starter_code.endswith(":\n")
        assert max(map(len, solution.splitlines())) <= 70
        assert 5 <= len(problem.tests) <= 8
        assert max(len(repr(value)) for value in calls(problem).outputs) <= 60


def test_solutions_have_enough_conditional_statements_for_a_curriculum() -> None:
    counts = Counter(conditionals(problem.canonical_solution) for problem in problems())
    assert min(counts) >= 2
    assert max(counts) <= 7
    assert counts[2] < 0.05 * len(problems())


def test_conditional_statements_are_counted_with_elif_and_try() -> None:
    source = """
for x in xs:
    try:
        a = [y for y in x if y]
    except ValueError:
        pass
    if x: pass
    elif y: pass
    else: pass
while x: pass
"""
    assert conditionals(source) == 5


def test_some_solutions_handle_errors_and_many_leave_early() -> None:
    nodes = Counter[type[ast.AST]]()
    for problem in problems():
        nodes.update({type(node) for node in ast.walk(ast.parse(problem.canonical_solution))})
    assert nodes[ast.Try] >= 50
    assert nodes[ast.Break] >= 150
    assert nodes[ast.Continue] >= 150
    assert nodes[ast.While] >= 75


def test_the_same_english_means_the_same_code_in_all_families() -> None:
    meaning: dict[str, str] = {}
    for family in FAMILIES:
        for bank in family.slots.values():
            for phrase in bank:
                if phrase.words:
                    assert meaning.setdefault(phrase.words, phrase.code) == phrase.code


def test_difficulty_grows_with_the_number_of_conditional_statements() -> None:
    counts: dict[str, set[int]] = {}
    for problem in problems():
        counts.setdefault(problem.difficulty, set()).add(conditionals(problem.canonical_solution))
    assert max(counts["easy"]) < min(counts["medium"]) <= max(counts["medium"])
    assert max(counts["medium"]) < min(counts["hard"])


def test_a_block_takes_the_indentation_of_its_slot_and_an_empty_one_its_line() -> None:
    template = """
    for x in xs:
        $exit
        $none
        total += $value
    """
    choice = {"exit": "if $test:\n    break", "none": "", "value": "x * 2", "test": "x < 0"}
    assert fill(template, choice) == (
        "for x in xs:\n    if x < 0:\n        break\n    total += x * 2"
    )


def test_a_changed_family_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = FAMILIES[0]
    code = first.code.replace("total += ", "total -= ")
    changed = Family(first.name, first.topic, first.args, first.words, code, first.slots)
    monkeypatch.setattr("suite_generator.build.FAMILIES", (changed, *FAMILIES[1:]))
    with pytest.raises(LookupError, match=r"suite_generator\.choose"):
        build()
