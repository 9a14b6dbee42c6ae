"""Tests in the layouts of other sets, and sets with forms of their own, become what they mean."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepcoder.problems import load_problems
from stepcoder.problems.layouts import read_layout
from stepcoder.problems.problem import Problem, known_as, program_of, with_tolerance
from stepcoder.problems.schema import BrokenRecordError, read_tests
from stepcoder.problems.tolerance import stated_tolerance
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Custom,
    Judge,
    Program,
    StdinTests,
    Tolerance,
)

STDIN = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def packed(data: Any) -> str:
    """Return data as LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(data)))).decode()


def load_one(folder: Path, record: dict[str, Any]) -> Problem:
    path = folder / "one.jsonl"
    path.write_text(json.dumps(record) + "\n")
    [problem] = load_problems(path, strict=True).problems
    return problem


@pytest.mark.parametrize(
    "text",
    [json.dumps(STDIN), repr(STDIN), packed(STDIN), json.dumps(json.dumps(STDIN))],
    ids=["JSON", "Python literal", "packed", "JSON twice"],
)
def test_the_same_tests_are_read_from_every_text(text: str) -> None:
    expected = {"kind": "stdin", "inputs": ["1\n"], "outputs": ["2\n"]}
    assert read_layout(text).tests == expected


class _Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    "value", [_Calls(), ["text"], 1, {"a": "b"}], ids=lambda value: type(value).__name__
)
def test_a_pickle_of_more_than_a_text_is_refused_and_calls_nothing(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
    with pytest.raises(BrokenRecordError, match="no JSON"):
        read_layout(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"inputs": ["1"], "outputs": []}, "1 inputs, 0 outputs"),
        ({"inputs": "1", "outputs": ["2"]}, "field \"inputs\" is '1'"),
        ({"inputs": ["[1"], "outputs": ["2"], "fn_name": "f"}, "an input of a call test is '\\[1'"),
        ({"inputs": ["1"], "outputs": [2], "fn_name": "f"}, "an output of a call test is 2"),
        ({"inputs": [[1]], "outputs": [2], "fn_name": 3}, 'field "fn_name" is 3'),
        ([{"input": "1"}], 'test 1 has no "input" or no "output"'),
        ([{"input": "1", "output": "", "fn_name": "f"}, *STDIN], "call different things"),
        ([], "no known layout"),
        ([1], "no known layout"),
        ({"input": 1}, "no known layout"),
        ("[{[1]: 2}, {[3]}]", "no JSON"),
        (None, "no known layout"),
        ({"public_test_cases": "[]", "private_test_cases": ""}, "private_test_cases"),
    ],
)
def test_a_layout_that_breaks_off_is_told_where(data: Any, words: str) -> None:
    with pytest.raises(BrokenRecordError, match=words):
        read_layout(data)


def test_int_keys_that_json_made_texts_are_ints_again() -> None:
    found = read_layout({"inputs": [[{"1": 2}]], "outputs": [[{"3": 4}]], "fn_name": "f"})
    assert found.tests["inputs"] == [[{1: 2}]]
    assert found.tests["outputs"] == [{3: 4}]


LIVECODEBENCH = {
    "question_title": "t",
    "question_content": "Add one.",
    "question_id": "x1_a",
    "starter_code": "class Solution:\n    def add(self, a: List[int], k: int) -> int:\n        ",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "[1]\n2", "output": "3", "testtype": "functional"}]),
    "private_test_cases": packed([{"input": "[]\n0", "output": "0", "testtype": "functional"}]),
    "metadata": '{"func_name": "add"}',
}


def test_livecodebench_has_private_tests_too_and_no_solution(tmp_path: Path) -> None:
    problem = load_one(tmp_path, LIVECODEBENCH)
    assert (problem.task_id, problem.entry_point) == ("x1_a", "Solution().add")
    assert problem.canonical_solution == ""
    assert problem.tests == CallTests(([[1], 2], [[], 0]), (3, 0))
    stdin = LIVECODEBENCH | {
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": json.dumps([{**STDIN[0], "input": "4\n"}]),
        "metadata": "{}",
        "starter_code": "",
    }
    assert load_one(tmp_path, stdin).tests == StdinTests(("1\n", "4\n"), ("2\n", "2\n"))


def test_rows_of_verl_are_named_by_index_or_prompt(tmp_path: Path) -> None:
    row = {
        "data_source": "taco",
        "prompt": [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Add."}],
        "reward_model": {
            "style": "rule",
            "ground_truth": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]}),
        },
        "extra_info": {},
    }
    problem = load_one(tmp_path, row)
    assert (problem.prompt, problem.tests) == ("Add.", StdinTests(("1\n",), ("2\n",)))
    assert problem.task_id == load_one(tmp_path, row | {"data_source": "taco"}).task_id
    indexed = load_one(tmp_path, row | {"extra_info": {"index": 3, "split": "test"}})
    assert (indexed.task_id, indexed.split) == ("taco/test/3", "eval")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "Add."}, "prompt"),
        ({"prompt": [1]}, ""),
        ({"reward_model": []}, "reward_model"),
        ({"reward_model": {}}, "no known layout"),
        ({"extra_info": [1]}, "extra_info"),
        ({"extra_info": {"starter_code": 1, "entry_point": [2]}}, "entry_point"),
    ],
)
def test_a_broken_row_of_verl_is_one_line(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    row = {"prompt": [], "reward_model": {"ground_truth": '{"inputs": [""], "outputs": [""]}'}}
    (tmp_path / "one.jsonl").write_text(json.dumps(row | change))
    report = load_problems(tmp_path / "one.jsonl")
    assert len(report.problems) + len(report.skipped) == 1
    assert not words or words in report.skipped[0]


def test_arguments_of_apps_may_be_lines_of_json(tmp_path: Path) -> None:
    record = {
        "problem_id": 1,
        "question": "Add.",
        "solutions": json.dumps(
            ["class Solution:\n    def add(self, a, b):\n        return a + b\n"]
        ),
        "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
        "input_output": json.dumps({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]}),
    }
    assert load_one(tmp_path, record).tests == CallTests(([1, 2],), (3,))


CODEFORCES = {
    "id": "1/A",
    "description": "Print any number above n.",
    "input_format": "n",
    "official_tests": [{"input": "3\n", "output": "4\n"}],
    "input_mode": "file",
    "generated_checker": "import sys\nn, _, got = (int(open(p).read()) for p in sys.argv[1:])\n"
    "print(int(got > n))\n",
    "interaction_format": None,
}


def test_codeforces_rows_bring_their_checker_and_their_files(tmp_path: Path) -> None:
    problem = load_one(tmp_path, CODEFORCES)
    assert problem.task_id == "codeforces/1/A"
    assert isinstance(problem.tests, StdinTests)
    assert isinstance(problem.tests.checker, Custom)
    with Judge(workers=1) as judge:
        source = "n = int(open('input.txt').read())\nprint(n {} 2, file=open('output.txt', 'w'))"
        right, wrong = (program_of(problem, source.format(sign)) for sign in "+-")
        assert judge.run(right, problem.tests).passed
        assert str(judge.run(wrong, problem.tests).status) == "wrong answer"
    interactive = CODEFORCES | {"interaction_format": "Ask."}
    (tmp_path / "one.jsonl").write_text(json.dumps(interactive))
    [line] = load_problems(tmp_path / "one.jsonl").skipped
    assert "interactive" in line


EVALPLUS = {
    "task_id": "HumanEval/900",
    "prompt": 'def add_one(n):\n    """Add one."""\n',
    "entry_point": "add_one",
    "canonical_solution": "    return n + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    "contract": "",
    "base_input": [[1]],
    "plus_input": [[5], [-3]],
    "atol": 0,
}


@pytest.fixture(scope="module")
def judge() -> Any:
    with Judge(workers=1) as judge:
        yield judge


def passes(judge: Judge, problem: Problem, source: str) -> list[bool]:
    return [
        t.status == "accepted" for t in judge.run(program_of(problem, source), problem.tests).tests
    ]


def test_rows_of_evalplus_are_scored_on_their_plus_inputs(tmp_path: Path, judge: Judge) -> None:
    problem = load_one(tmp_path, EVALPLUS)
    assert isinstance(problem.tests, AssertTests)
    assert passes(judge, problem, problem.canonical_solution) == [True, True]
    assert passes(judge, problem, "def add_one(n):\n    return 2\n") == [True, False]
    many = load_one(tmp_path, EVALPLUS | {"plus_input": [[i] for i in range(120)]})
    assert passes(judge, many, "def add_one(n):\n    return n + (n < 110)\n") == [True] * 3 + [
        False
    ]


def mbpp(number: int, name: str, solution: str, inputs: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": '"""\nDo it.\n"""\n',
        "entry_point": name,
        "canonical_solution": solution,
        "base_input": inputs,
        "plus_input": {},
        "atol": 0,
        **more,
    }


@pytest.mark.parametrize(
    ("record", "right", "wrong"),
    [
        # Lists that were tuples, by the number of the problem.
        (mbpp(470, "f", "def f(t): return t + (1,)\n", [[[1, 2]]]), "t + (1,)", "[*t, 1]"),
        (mbpp(63, "f", "def f(t): return t[0] + ()\n", [[[[1, 2]]]]), "t[0]", "list(t[0])"),
        (mbpp(580, "f", "def f(t): return t\n", [[[1, [2]]]]), "(1, (2,))", "(1, [2])"),
        (mbpp(115, "f", "def f(t): return t[0] | {0}\n", [[[[1], []]]]), "{0, 1}", "{1}"),
        (mbpp(252, "f", "def f(t): return t * 2\n", [["(1+2j)"]]), "2 + 4j", "2 + 5j"),
        (mbpp(722, "f", "def f(t): return t\n", [[{"a": [1]}]]), "{'a': (1,)}", "{'a': [1]}"),
        # What EvalPlus compares in its own way.
        (mbpp(2, "similar_elements", "def similar_elements(t): return (1, 2)\n", [[[1]]]),
         "(2, 1, 1)", "(2,)"),
        (mbpp(9, "text_match_three", "def text_match_three(t): return t\n", [[1]]), "2", "None"),
        (mbpp(9, "f", "def f(t): return [0.1, 0.2]\n", [[1]]), "[0.1 + 1e-8, 0.2]", "[0.1, 0.21]"),
        (mbpp(9, "f", "def f(t): return [0.1]\n", [[1]]), "[0.1]", "(0.1000000001,)"),
        (mbpp(9, "f", "def f(t): return [[1, 2.0]]\n", [[1]], atol=0.1), "[[1, 2.05]]", "[[1, 3]]"),
        (mbpp(9, "f", "def f(t): return t\n", [[float("inf")]]), "float('inf')", "0"),
        (mbpp(9, "sum_div", "def sum_div(t): return 5\n", [[1]]), "0", "4"),
        (
            EVALPLUS | {"task_id": "HumanEval/32", "entry_point": "find_zero", "atol": 0.001,
                        "prompt": "def find_zero(t):\n", "canonical_solution": "    return 1\n",
                        "base_input": [[[-4, 0, 1]]], "plus_input": []},
            "-2.0001", "2.1",
        ),
    ],
)  # fmt: skip
def test_evalplus_values_are_compared_as_it_compares_them(
    record: dict[str, Any], right: str, wrong: str, tmp_path: Path, judge: Judge
) -> None:
    problem = load_one(tmp_path, record)
    name = problem.entry_point
    assert passes(judge, problem, f"def {name}(t): return {right}\n") == [True]
    assert passes(judge, problem, f"def {name}(t): return {wrong}\n") == [False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plus_input": None}, "plus_input"),
        ({"base_input": [1]}, "base_input"),
        ({"plus_input": {"a": 1}}, "plus_input"),
        ({"entry_point": 1}, "entry_point"),
        ({"task_id": "x"}, "task_id"),
        ({"atol": "0"}, "atol"),
        ({"task_id": "Mbpp/722", "base_input": [[]]}, "base_input"),
        ({"task_id": "Mbpp/252", "base_input": [["x"]]}, "base_input"),
    ],
)
def test_a_broken_row_of_evalplus_is_not_taken_for_another_form(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps(EVALPLUS | change))
    report = load_problems(tmp_path / "one.jsonl")
    assert report.problems == ()
    assert words in report.skipped[0]


@pytest.mark.parametrize(
    ("task_id", "known", "found"),
    [
        (602, ["MBPP/602"], ["MBPP/602"]),
        ("602", ["Mbpp/602"], ["Mbpp/602"]),
        ("Mbpp/602", ["MBPPPlus/602"], ["MBPPPlus/602"]),
        ("MBPPPlus/602", ["Mbpp/602"], ["Mbpp/602"]),
        ("HumanEval/3", ["HumanEvalPlus/3"], ["HumanEvalPlus/3"]),
        ("HumanEvalPlus/3", ["HumanEval/3"], ["HumanEval/3"]),
        ("HumanEval/3", ["HumanEval/3", "HumanEvalPlus/3"], ["HumanEval/3"]),
        (602, ["MBPP/602", "MBPPPlus/602"], ["MBPP/602", "MBPPPlus/602"]),
        ("HumanEval/602", ["MBPP/602"], []),
        ("3", ["HumanEval/3"], []),
        ("x/3", ["HumanEval/3"], []),
    ],
)
def test_a_problem_is_known_by_the_names_of_its_set_and_no_other(
    task_id: Any, known: list[str], found: list[str]
) -> None:
    problem = Problem("", "", "", "", StdinTests(("",), ("",)))
    assert known_as(task_id, dict.fromkeys(known, problem)) == found


@pytest.mark.parametrize(
    ("prompt", "tolerance"),
    [
        ("Print it with an absolute error of at most 1e-4.", 1e-4),
        ("Your answer is correct if its relative error does not exceed $10^{-9}$.", 1e-9),
        ("Answers within 10<sup>-5</sup> of the actual value will be accepted.", 1e-5),
        ("The absolute or relative error should not exceed 10^-6.", 1e-6),
        ("with absolute or relative error 10 - 6.", 1e-6),
        ("An absolute error is no sin.", 1e-6),
        ("The sum does not exceed 10^9 and the error is small.", None),
        ("Print the answer modulo 10^9 + 7.", None),
        ("n will not exceed 10-100.", None),
    ],
)
def test_a_statement_says_how_close(prompt: str, tolerance: float | None) -> None:
    assert stated_tolerance(prompt) == tolerance


def test_real_numbers_on_stdout_have_a_tolerance_where_the_set_compares_so() -> None:
    real = read_layout({"inputs": ["1"], "outputs": ["0.5 x\n"]}).tests
    assert real["checker"] == {
        "kind": "tolerance",
        "float_tolerance": 1e-6,
        "absolute_tolerance": 1e-6,
    }
    told = read_layout({"inputs": ["1"], "outputs": ["1\n"]}, "with an error of at most 1e-3")
    assert told.tests["checker"]["absolute_tolerance"] == 1e-3
    assert "checker" not in read_layout({"inputs": ["1"], "outputs": ["1\n"]}).tests
    call = {"inputs": [[1]], "outputs": [0.5], "fn_name": "f"}
    assert read_layout(call, "Answers within 10^-5 are accepted.").tests["float_tolerance"] == 1e-5
    assert "float_tolerance" not in read_layout(call).tests


def test_a_tolerance_by_option_leaves_checkers_alone() -> None:
    plain = Problem("a", "", "", "", StdinTests(("",), ("0.5",)))
    assert with_tolerance(plain, 0.1).tests == StdinTests(
        ("",), ("0.5",), checker=Tolerance(0.1, 0.1)
    )
    chosen = Problem("a", "", "", "", StdinTests(("",), ("0.5",), checker=Custom("x")))
    assert with_tolerance(chosen, 0.1) == chosen
    with Judge(workers=1) as judge:
        assert judge.run(Program("print(0.55)"), with_tolerance(plain, 0.1).tests).passed


def test_options_compare_stdout_within_a_tolerance(tmp_path: Path) -> None:
    from stepcoder.judge.command import main

    problem = {
        "task_id": "a/1",
        "prompt": "A third.",
        "canonical_solution": "print(1 / 3)\n",
        "tests": {"kind": "stdin", "inputs": [""], "outputs": ["0.33333\n"]},
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    sample = {"task_id": "a/1", "solution": "print(1 / 3)"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample))

    def passed(*more: str) -> bool:
        verdicts = tmp_path / f"{len(more)}.jsonl"
        names = [str(tmp_path / name) for name in ("samples.jsonl", "problems.jsonl")]
        options = ["--problems", names[1], "-o", str(verdicts), "--workers", "1", *more]
        assert main([names[0], *options]) == 0
        found: bool = json.loads(verdicts.read_text().splitlines()[1])["passed"]
        return found

    assert not passed()
    assert passed("--float-tolerance", "1e-4")


KEYS = "kind inputs outputs fn_name input output type testtype metadata func_name test_cases "
KEYS += "assert_case public_test_cases private_test_cases"
TEXTS = ["", "1", "[1", "f", "stdin", "functional", "{}", "assert f(1)"]
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(plain)
@example({"inputs": [{"a": 1}], "outputs": [[]], "fn_name": "f"})
@example([{"input": 1, "output": 1, "metadata": 3, "testtype": "functional"}])
@example([{"input": 1, "output": 1, "fn_name": [1]}])
@example({"assert_case": 1})
@example({"public_test_cases": 5, "private_test_cases": 5})
@example({"private_test_cases": "5"})
def test_whatever_stands_in_a_layout_is_read_or_told(data: Any) -> None:
    for given_data in (data, json.dumps(data)):
        with contextlib.suppress(BrokenRecordError):
            read_tests(read_layout(given_data).tests)


def test_data_nested_without_end_is_told() -> None:
    lists: Any = 1
    objects: Any = 1
    for _ in range(3000):
        lists, objects = [lists], {"test_cases": objects}
    for deep in (lists, objects):
        with pytest.raises(BrokenRecordError, match="no known layout"):
            read_layout(deep)
