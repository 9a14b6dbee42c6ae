"""Rows as public sets publish them load, and the judge tells right programs from wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepcoder.problems import load_problems
from stepcoder.problems.files import rows_of
from stepcoder.problems.formats import form_of
from stepcoder.problems.problem import Problem, problems_of, program_of
from stepcoder.sandbox import Judge

ADD_ONE = "n = int(input())\nprint(n + 1)\n"
CASES = {"inputs": ["1\n", "5\n"], "outputs": ["2\n", "6\n"]}
LISTED = [{"input": "1\n", "output": "2\n", "type": "stdin_stdout"}]
CALLED = [{"input": "1\n2", "output": "3", "testtype": "functional"}]
METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
LEETCODE = {
    "task_id": "add",
    "prompt": "from typing import *\nclass Node:\n    def __init__(self, x): self.x = x\n",
    "completion": METHOD,
    "entry_point": "Solution().add",
    "test": "def check(candidate):\n    assert candidate(a = 1, b = 2) == 3\n"
    "    assert candidate(a = Node(4).x, b = 2) == 6\n",
    "input_output": [{"input": "a = 1, b = 2", "output": "3"}],
    "query": "Add a and b.\n\nclass Solution: ...",
    "response": "```python\n...\n```",
}
BIGCODE = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": 'import math\ndef task_func(x):\n    """Round up."""\n',
    "instruct_prompt": "Write task_func.",
    "code_prompt": "import math\ndef task_func(x):\n",
    "canonical_solution": "    return math.ceil(x)\n",
    "entry_point": "task_func",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n"
    "    def test_up(self):\n        self.assertEqual(task_func(1.5), 2)\n",
    "libs": "['math']",
}
KODCODE_TESTS = """\
import pytest
from solution import halve as h

LIMIT = 2

def test_half():
    assert h(5) == pytest.approx(2.5)
    assert h(LIMIT) == 1

def test_text():
    with pytest.raises(TypeError, match="unsupported"):
        h("a")

if __name__ == "__main__":
    pytest.main()
"""
KODCODE = {
    "style": "instruct",
    "question_id": "Prefill_1_I",
    "question": "Halve a number.",
    "solution": "def halve(x):\n    return x / 2\n",
    "test": KODCODE_TESTS,
    "test_info": [{"function_name": "halve", "function_declaration": "def halve(x):"}],
    "gpt_difficulty": "easy",
}
CODE_CONTESTS = {
    "name": "1_A. Add",
    "description": "Add one.",
    "public_tests": {"input": ["1\n"], "output": ["2\n"]},
    "private_tests": [{"input": "5\n", "output": "6\n"}],
    "generated_tests": {"input": [], "output": []},
    "solutions": {"language": [2, 1, 3], "solution": ["int main;", "print 1", ADD_ONE]},
    "incorrect_solutions": {"language": [], "solution": []},
    "input_file": "",
    "cf_rating": 800,
}

FORMS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # form: the name of a problem, its row, a right program, a wrong one
    "APPS": (
        "4000",
        {"problem_id": 4000, "question": "Add.", "solutions": [ADD_ONE], "input_output": CASES},
        ADD_ONE,
        "print(2)",
    ),
    "AceCode": (
        "a1",
        {"id": "a1", "question": "Add.", "test_cases": ["assert f(1) == 2", "assert f(2) == 3"]},
        "def f(x):\n    return x + 1\n",
        "def f(x):\n    return 2\n",
    ),
    "BigCodeBench": (
        "BigCodeBench/0",
        BIGCODE,
        "import math\ndef task_func(x):\n    return math.ceil(x)\n",
        "def task_func(x):\n    return int(x)\n",
    ),
    "LeetCodeDataset": ("leetcode/add", LEETCODE, METHOD, METHOD.replace("+", "-")),
    "KodCode": (
        "Prefill_1_I",
        KODCODE,
        "def halve(x):\n    return x / 2\n",
        "def halve(x):\n    return x // 2\n",
    ),
    "CodeContests": ("1_A. Add", CODE_CONTESTS, ADD_ONE, "print(2)"),
    "CodeContests+": (
        "Codeforces/1_A",
        {"source": "Codeforces", "id": "1_A", "description": "Add.", "test_cases": LISTED,
         "checker": "", "correct_submissions": [{"language": "py3", "code": ADD_ONE}]},
        ADD_ONE,
        "print(input())",
    ),
    "PrimeIntellect": (
        "vcp_1",
        {"problem_id": "vcp_1", "prompt": "Add.", "task_type": "verifiable_code",
         "gold_standard_solution": f"Here:\n```python\n{ADD_ONE}```\n",
         "verification_info": repr({"language": "python", "test_cases": LISTED})},
        ADD_ONE,
        "print(input())",
    ),
    "DeepCoder": (
        "DeepCoder/",
        {"problem": "Add.", "tests": json.dumps(CALLED), "metadata": {"func_name": "add"},
         "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n"},
        METHOD,
        METHOD.replace("+", "-"),
    ),
    "verl": (
        "codeforces/train/3",
        {"data_source": "codeforces", "prompt": [{"role": "user", "content": "Add."}],
         "reward_model": {"style": "rule", "ground_truth": json.dumps(CASES)},
         "extra_info": {"index": 3, "split": "train"}},
        ADD_ONE,
        "print(2)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=1) as judge:
        yield judge


def load(folder: Path, *rows: dict[str, Any]) -> list[Problem]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(load_problems(path, strict=True).problems)


@pytest.mark.parametrize("form", FORMS)
def test_a_published_row_is_recognised_and_judged(form: str, tmp_path: Path, judge: Judge) -> None:
    name, row, right, wrong = FORMS[form]
    assert form_of(row) == form
    (problem,) = load(tmp_path, row)
    assert problem.task_id.startswith(name)
    for program, passes in ((right, True), (wrong, False), (problem.canonical_solution, True)):
        if program:
            verdict = judge.run(program_of(problem, program), problem.tests)
            assert verdict.passed is passes, (verdict.status, verdict.message)


def skipped(folder: Path, row: dict[str, Any]) -> str:
    (folder / "one.jsonl").write_text(json.dumps(row))
    (line,) = load_problems(folder / "one.jsonl").skipped
    return line


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        ("APPS", {"input_output": "{"}, 'field "input_output" is not JSON'),
        ("APPS", {"solutions": "7"}, 'field "solutions" is 7 (expected a list)'),
        ("KodCode", {"test": "def test_a(x):\n    pass\n"}, "needs pytest (parameters"),
        ("KodCode", {"test": "import pytest\npytest.mark.x\n"}, "the tests use pytest.mark"),
        ("KodCode", {"test": "def test_a():\n    pass\n"}, "no functions that import"),
        ("KodCode", {"test": "def test_a(:\n"}, "do not parse"),
        ("CodeContests", {"public_tests": {"input": ["1"]}}, 'field "output" is missing'),
        ("CodeContests", {"public_tests": {"input": ["1"], "output": []}}, "different lengths"),
        ("CodeContests", {"public_tests": [1]}, 'field "public_tests" is no list of objects'),
        ("CodeContests", {"public_tests": None, "private_tests": []}, "are empty"),
        ("CodeContests+", {"checker": '#include "testlib.h"'}, "lay that file beside the data"),
        ("CodeContests+", {"test_cases": None}, 'field "test_cases" is missing'),
        ("PrimeIntellect", {"verification_info": {"language": "rust"}}, "a problem in rust"),
        ("PrimeIntellect", {"verification_info": {}}, 'field "tests" is missing'),
        ("DeepCoder", {"problem": None}, 'field "prompt" is missing'),
        ("DeepCoder", {"tests": "x"}, "tests are no JSON"),
        ("verl", {"reward_model": {"ground_truth": "42"}}, "tests of no known layout"),
        ("LeetCodeDataset", {"entry_point": None}, 'field "entry_point" is missing'),
    ],
)
def test_a_broken_row_is_one_line_that_says_what_is_wrong(
    form: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in skipped(tmp_path, FORMS[form][1] | change)


@pytest.mark.parametrize("form", FORMS)
def test_a_field_that_holds_anything_else_costs_no_more_than_its_record(form: str) -> None:
    row = FORMS[form][1] | {"split": None}
    odd: list[Any] = [None, 5, True, "x", "", [], {}, [1], {"a": 1}, [[]], [{}], "(", 1e999]
    rows = [row | {name: value} for name in row for value in odd]
    report = problems_of(rows_of(json.loads(json.dumps(rows))), form)
    assert len(report.problems) + len(report.skipped) == len(rows)
    assert all("\n" not in line for line in report.skipped)


def test_a_checker_of_codecontests_plus_is_given_the_testlib_beside_the_data(
    tmp_path: Path,
) -> None:
    row = FORMS["CodeContests+"][1] | {"checker": '#include "testlib.h"\nint main() {}\n'}
    (tmp_path / "testlib.h").write_text("// testlib\n")
    (problem,) = load(tmp_path, row)
    assert problem.tests.checker.headers == (("testlib.h", "// testlib\n"),)  # type: ignore[union-attr]


def test_rows_of_taco_have_no_ids_and_perhaps_no_solution(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Add {n}.",
            "solutions": "[]",
            "input_output": json.dumps(CASES),
            "source": "x",
        }
        for n in range(3)
    ]
    problems = load(tmp_path, *rows)
    assert len({p.task_id for p in problems}) == 3
    assert all(p.task_id.startswith("TACO/") for p in problems)
    assert {p.canonical_solution for p in problems} == {""}


def test_the_solution_says_whether_a_function_is_a_method(tmp_path: Path, judge: Judge) -> None:
    tests = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}
    row = {"question": "Add.", "solutions": ["print 1", METHOD], "input_output": tests}
    (problem,) = load(tmp_path, row)
    assert problem.entry_point == "Solution().add"
    (problem,) = load(tmp_path, row | {"solutions": []})
    for program in (METHOD, "def add(a, b):\n    return a + b\n"):  # then the program says it
        assert judge.run(program_of(problem, program), problem.tests).passed
