"""`python -m stepcoder.refine` and the kinds of bugs: visible tests, resampling, resume, rules."""

import json
from pathlib import Path

import pytest

from stepcoder.config import ModelConfig
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.problems.problem import Problem
from stepcoder.refine.__main__ import main
from stepcoder.refine.epic import asserts_in
from stepcoder.refine.visible import shown_too, visible_of
from stepcoder.sandbox import CallTests, Judge, Program
from stepcoder.taxonomy import bug_of

RIGHT = "def f(x):\n    return x + 1\n"
STATEMENT = "Add one.\n>>> f(1)\n2\n"
TESTS = CallTests(([1], [5]), (2, 6))


def problem(prompt: str) -> Problem:
    return Problem("t", prompt, "def f(x):\n", RIGHT, TESTS, "f")


@pytest.mark.parametrize("prompt", [STATEMENT, "Add one.\nassert f(1) == 2", "As in f(1) -> 2."])
def test_only_what_the_statement_shows_is_visible(prompt):
    visible = visible_of(problem(prompt))
    assert visible is not None
    assert visible.shown == (("f(1)", "2"),)
    assert "f(1)" not in visible.without


def test_a_statement_without_a_test_shows_none_until_it_is_asked_to():
    assert visible_of(problem("Add one.")) is None
    seen, visible = shown_too(problem("Add one."), 1)
    assert visible is not None
    assert visible.shown == (("f(1)", "2"),)
    assert "f(1) == 2" in seen.prompt
    assert "6" not in seen.prompt


def test_epic_keeps_asserts_that_parse_and_say_something():
    tests = asserts_in("assert f(1) == 2\nassert True\nassert f(2 ==\n")
    assert tests is not None
    assert tests.asserts == ("assert f(1) == 2",)


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("def f(x)\n    return 1", "A.1"),
        ("def f(x):\nreturn 1", "A.2"),
        ("def f(x):\n    return math.floor(x)", "A.3"),
        ("def f(x):\n    return x.add(1)", "B.1"),
        ("def f(x):\n    return y", "B.2"),
        ("def f(x):\n    return [2][x]", "B.3"),
        ("def f(x, y):\n    return x", "B.4"),
        ("def f(x):\n    raise ValueError", "B.5"),
        ("def f(x):\n    return x * 100", "C.1"),
        ("def f(x):\n    return 100", "C.2"),
        ("def f(x):\n    return str(x + 1)", "C.3"),
        ("def f(x):\n    return x", "C.4"),
        ("def f(x):\n    return 2 * x", "und"),
    ],
)
def test_rules_tell_kinds_of_bugs(program, kind):
    with Judge(1) as judge:
        verdict = judge.run(Program(program, "f"), TESTS)
    assert str(bug_of(verdict, program, "f"))[:3] == kind


@pytest.mark.parametrize("method", ["resample", "self-critique", "mufix", "epic"])
def test_a_method_and_resampling_answer_and_go_on(method, tmp_path):
    policy, file, out = tmp_path / "policy", tmp_path / "problems.jsonl", tmp_path / "out"
    tokenizer = train_tokenizer([RIGHT + "```"], 300)
    shape = ModelConfig(layers=1, width=32, heads=2, kv_heads=1)
    small_decoder(shape, tokenizer, 0).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    tests = {"kind": "call", "inputs": [[1], [5]], "outputs": [2, 6]}
    record = {"prompt": STATEMENT, "starter_code": "def f(x):\n", "canonical_solution": RIGHT}
    record |= {"entry_point": "f", "tests": tests}
    lines = [json.dumps({"task_id": f"t/{i}", **record}) for i in range(2)]
    file.write_text("\n".join(lines) + "\n")
    given = [str(file), "--policy", str(policy), "--method", method, "-o", str(out)]
    given += ["--max-new-tokens", "8", "--max-prompt-tokens", "1800", "--workers", "1"]
    assert main(given) == 0
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    spent = {name: {} for name in (method, "resample")}
    for one in rounds:
        spent[one["method"]][one["task_id"]] = one["tokens"]
    for task_id, tokens in spent["resample"].items():
        assert tokens <= spent[method][task_id]
    assert len((out / "samples.jsonl").read_text().splitlines()) == 2
    assert "At equal tokens" in (out / "report.html").read_text()
    # A killed command: what is stored is not asked again, and the rest comes out the same.
    calls: Path = out / "calls.jsonl"
    before = calls.read_text()
    calls.write_text(before[: len(before) // 2])
    assert main(given) == 0
    assert sorted(calls.read_text().splitlines()) == sorted(before.splitlines())
    again = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert again == rounds
