"""FGO: executed lines are completed as the program ran, and tokens follow their lines."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from helpers.crafted import CRAFTED
from helpers.random_programs import random_program
from helpers.reference_runs import Run, job_of_problem, job_of_program, other_python, run_jobs
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder.method.fgo import CompileErrorRule, executed_closure, executed_mask
from stepcoder.problems.problem import load_problems
from stepcoder.sandbox.verdict import Status, Verdict

RANDOM = {f"random {seed}": random_program(seed) for seed in range(250)}
PROGRAMS = CRAFTED | RANDOM
VERSIONS = ["3.11", "3.12", "3.13"]


def line_count(source: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", source + "\n"))


def ran(*lines: int) -> Verdict:
    return Verdict(Status.WRONG_ANSWER, executed_lines=frozenset(lines))


def characters(text: str) -> list[tuple[int, int]]:
    """The spans of a tokenizer with one token a character."""
    return [(i, i + 1) for i in range(len(text))]


def trained_text(
    program: str,
    given_length: int,
    verdict: Verdict,
    after: str = "",
    rule: CompileErrorRule = "all",
) -> str:
    """What of a response is trained, with a dot for each character that is not."""
    response = program[given_length:] + after
    mask = executed_mask(program, given_length, verdict, characters(response), rule)
    return "".join(
        c if trained or c == "\n" else "." for c, trained in zip(response, mask, strict=True)
    )


def disagreement(source: str, run: Run) -> set[int]:
    """Lines on which the closure and the probes differ, leaving out what probes cannot tell."""
    closure = executed_closure(source, run.seen)
    assert run.seen <= closure
    return set((closure ^ run.probed) - run.unclear)


def test_words_around_a_block_are_trained_or_masked() -> None:
    before, code, after = "So:\n```python\n", "def f(x):\n    return x\n    x = 0\n", "```\nDone."
    response = before + code + after
    tokens = [*characters(response), (len(response), len(response))]
    for outside in (True, False):
        mask = executed_mask(code, -len(before), ran(1, 2), tokens, outside=outside)
        shown = "".join(c if trained else "." for c, trained in zip(response, mask, strict=False))
        skipped = "." * len("    x = 0\n")
        trained = "def f(x):\n    return x\n"
        words = (before, after) if outside else ("." * len(before), "." * len(after))
        assert shown == words[0] + trained + skipped + words[1]
        assert mask[-1]  # the end of sequence
    # A token that is in the code too goes with the code, or with the words if those are trained.
    spans = [(len(before) - 2, len(before) + 3), (len(response) - 9, len(response) - 5)]
    assert executed_mask(code, -len(before), ran(1, 2), spans, outside=False) == [True, False]
    assert executed_mask(code, -len(before), ran(3), spans, outside=False)[0]
    assert executed_mask(code, -len(before), ran(1, 2), spans) == [True, True]


@pytest.fixture(scope="module", params=VERSIONS)
def runs(request: pytest.FixtureRequest) -> dict[str, Run]:
    """Every program run under one Python version."""
    version: str = request.param
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable if version == here else other_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    return run_jobs(python, [job_of_program(name, source) for name, source in PROGRAMS.items()])


def test_executed_lines_are_those_of_the_statements_that_started(runs: dict[str, Run]) -> None:
    differing = {
        name: lines for name, run in runs.items() if (lines := disagreement(PROGRAMS[name], run))
    }
    assert len(runs) == len(PROGRAMS)
    assert differing == {}


def test_the_programs_leave_lines_unexecuted_and_events_incomplete(runs: dict[str, Run]) -> None:
    closures = {name: executed_closure(PROGRAMS[name], run.seen) for name, run in runs.items()}
    partly = [n for n, lines in closures.items() if len(lines) < line_count(PROGRAMS[n])]
    completed = [n for n, lines in closures.items() if lines - runs[n].seen - runs[n].unclear]
    assert len(partly) > len(PROGRAMS) / 2
    assert len(completed) > len(PROGRAMS) / 2


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("humaneval.jsonl", 2),
        ("mbpp.jsonl", 8),
        ("thealgorithms.jsonl.gz", 12),
        ("leetcode_train.jsonl.gz", 30),
        ("quixbugs.jsonl", 1),
        ("apps5.jsonl", 1),
        ("apps_plus_form.json", 10),
    ],
)
def test_executed_lines_of_solutions_are_those_of_the_statements_that_started(
    data: Path, name: str, stride: int
) -> None:
    problems = {p.task_id: p for p in load_problems(data / name).problems[::stride]}
    runs = run_jobs(sys.executable, map(job_of_problem, problems.values()))
    assert len(runs) > 0.9 * len(problems)
    for task_id, run in runs.items():
        assert (task_id, disagreement(problems[task_id].canonical_solution, run)) == (
            task_id,
            set(),
        )


@settings(deadline=None)
@given(st.integers(0, 249), st.data())
def test_completing_lines_twice_adds_nothing_and_more_lines_never_give_fewer(
    seed: int, data: st.DataObject
) -> None:
    source = RANDOM[f"random {seed}"]
    lines = st.integers(1, line_count(source))
    seen = data.draw(st.frozensets(lines, max_size=8))
    more = seen | data.draw(st.frozensets(lines, max_size=3))
    closure = executed_closure(source, seen)
    assert executed_closure(source, closure) == closure
    assert closure <= executed_closure(source, more)


@pytest.mark.parametrize(
    ("source", "seen", "expected"),
    [
        ("x = 1\n\n# note\nif x:\n    y = 1\n", {1, 4}, {1, 2, 3, 4}),
        ("if x:\n    y = 1\n\n    # end\nz = 2\n", {1, 5}, {1, 3, 5}),
        ("if x:\n    # in\n    y = 1\nelse:\n    # out\n    y = 2\n", {1, 6}, {1, 4, 5, 6}),
        ("def f():\n    '''doc'''\n    global g\n    g = 1\n", {1}, {1}),
        ("def f():\n    '''doc'''\n    global g\n    g = 1\n", {1, 4}, {1, 2, 3, 4}),
        ("def f():\n    g = 1\n    x: int\n", {1, 2}, {1, 2, 3}),
        ("def f():\n    return\n    x: int\n", {1, 2}, {1, 2}),
        ("def f():\n    '''doc'''\n", {1}, {1, 2}),
        ("@a\n@b(\n  1)\ndef f(\n  x,\n):\n    return x\n", {1}, {1, 2, 3, 4, 5, 6}),
        ("try:\n    a()\nexcept E:\n    b()\nfinally:\n    c()\n", {2, 6}, {1, 2, 5, 6}),
        ("x = [\n  1,\n\n  # in\n]\n", {1}, {1, 2, 3, 4, 5}),
        ("x = f(\n  1,\n)\n", {2}, {1, 2, 3}),
        ("while a: b = (\n  1)\n", {1}, {1, 2}),
        ("# only a note\n", set(), set()),
        ("# top\nx = 1", {2}, {1, 2}),
        ("x = (\n", {1}, {1}),
    ],
)
def test_lines_without_events_follow_their_statement(
    source: str, seen: set[int], expected: set[int]
) -> None:
    assert executed_closure(source, seen) == expected


def test_tokens_on_lines_that_did_not_run_are_masked() -> None:
    program = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    assert trained_text(
        program, 10, ran(1, 2, 4)
    ) == "    if x:\n.................    return 2\n".replace("." * 17, "." * 16 + "\n")


def test_the_fence_and_what_follows_it_are_trained() -> None:
    text = trained_text("x = 1\nif 0:\n    y\n", 6, ran(1), after="```\nDone")
    assert text == ".....\n.....\n```\nDone"


def test_tokens_without_characters_are_trained() -> None:
    assert executed_mask("a\nb\n", 0, ran(1), [(0, 2), (2, 4), (4, 4)]) == [True, False, True]


def test_a_token_over_two_lines_is_trained_if_one_of_them_ran() -> None:
    source = "if 1:\n    a\nelse:\n    b\n"
    spans = [(0, 11), (11, 12), (12, 20), (20, 23)]
    assert executed_mask(source, 0, ran(1, 2), spans) == [True, True, False, False]
    assert executed_mask(source, 0, ran(1, 2), [(0, 12), (12, 25)]) == [True, True]


def test_a_token_that_ends_in_the_fence_is_trained() -> None:
    assert executed_mask("if 1:\n a\nelse:\n b\n", 0, ran(1, 2), [(15, 21)]) == [True]


def test_the_given_part_is_counted_in_lines_but_has_no_tokens() -> None:
    program = "if a:\r\n    b\r\nelse:\r\n    c\r\n"
    assert executed_mask(program, 14, ran(1, 4), [(0, 7), (7, 14)]) == [True, True]
    assert executed_mask(program, 14, ran(1, 2), [(0, 7), (7, 14)]) == [False, False]


def test_a_program_that_does_not_compile_trains_all_tokens() -> None:
    verdict = Verdict(Status.COMPILE_ERROR, error_line=3)
    assert trained_text("a = 1\nb = 2\nif\nc\n", 6, verdict) == "b = 2\nif\nc\n"


def test_a_compile_error_may_train_only_from_its_line_on() -> None:
    verdict = Verdict(Status.COMPILE_ERROR, error_line=3)
    text = trained_text("a = 1\nb = 2\nif\nc\n", 6, verdict, rule="from_error")
    assert text == ".....\nif\nc\n"


def test_a_compile_error_without_a_line_trains_all_tokens() -> None:
    verdict = Verdict(Status.COMPILE_ERROR)
    assert trained_text("a\nb\0\n", 0, verdict, rule="from_error") == "a\nb\0\n"


def test_a_program_killed_before_any_line_was_seen_trains_all_tokens() -> None:
    assert trained_text("a\nb\n", 0, Verdict(Status.MEMORY_LIMIT)) == "a\nb\n"


@pytest.mark.parametrize("status", [Status.RUNTIME_ERROR, Status.WALL_TIME_LIMIT])
def test_lines_that_ran_before_an_error_are_trained(status: Status) -> None:
    verdict = Verdict(status, error_line=2, executed_lines=frozenset({1, 2}))
    assert trained_text("a = 1\nb()\nc = 3", 0, verdict) == "a = 1\nb()\n....."


@pytest.mark.parametrize("status", [Status.INFRASTRUCTURE_ERROR, Status.NOT_RUN])
def test_there_is_no_mask_for_a_program_that_was_not_judged(status: Status) -> None:
    with pytest.raises(ValueError, match="not judged"):
        executed_mask("a\n", 0, Verdict(status), [(0, 2)])


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 249), st.data())
def test_a_token_is_trained_if_any_of_its_characters_lies_on_an_executed_line(
    seed: int, data: st.DataObject
) -> None:
    source = RANDOM[f"random {seed}"]
    response_length = data.draw(st.integers(0, len(source)))
    given_length = len(source) - response_length
    seen = data.draw(st.frozensets(st.integers(1, line_count(source)), min_size=1, max_size=9))
    cuts = sorted(data.draw(st.sets(st.integers(0, response_length), max_size=20)))
    spans = list(zip([0, *cuts], [*cuts, response_length], strict=True))

    line_of, line = [], 1  # the line of every character, one by one
    for i, character in enumerate(source):
        line_of.append(line)
        line += character == "\n" or (character == "\r" and source[i + 1 : i + 2] != "\n")
    executed = executed_closure(source, seen)
    expected = [
        a == b or any(line_of[given_length + i] in executed for i in range(a, b)) for a, b in spans
    ]
    assert executed_mask(source, given_length, ran(*seen), spans) == expected
