"""Every form of problem loads, and a broken record costs one line and nothing else."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.reference_runs import job_of_problem, run_jobs
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.problems.problem import (
    LoadReport,
    Problem,
    ProblemError,
    fingerprint,
    load_problems,
    program_of,
    split_of,
)
from stepcoder.sandbox.program import AssertTests, CallTests, StdinTests

CALL = {
    "task_id": "a/1",
    "prompt": "Double x.",
    "starter_code": "def double(x):\n",
    "entry_point": "double",
    "canonical_solution": "def double(x):\n    return 2 * x\n",
    "tests": {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 4]},
}
STDIN = {
    "task_id": "a/2",
    "prompt": "Echo.",
    "canonical_solution": "print(input())\n",
    "entry_point": "",
    "tests": {"kind": "stdin", "inputs": ["1\n"], "outputs": ["1\n"]},
    "split": "validation",
}
APPS_PLUS = {
    "prompt": '\ndef echo():\n    """Echo.\n    """\n',
    "canonical_solution": "import sys\ndef echo():\n    print(input())\n",
    "inputs": ["1\n"],
    "outputs": ["1\n"],
    "starter_code": "\ndef echo():\n",
    "scope": [],
    "difficulty": "interview",
}
APPS_PLUS_CALL = APPS_PLUS | {
    "canonical_solution": "class Solution:\n    def join(self, a, b):\n        return a + b\n",
    "starter_code": "\nclass Solution:\n    def join(self, a: str, b: str) -> str:\n",
    "inputs": [['"a"', '"b\\n"'], [["x"], ['"y"']]],
    "outputs": [['"ab\\n"'], [["x", "y"]]],
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def one():\n    """Return 1."""\n',
    "canonical_solution": "    return 1\n",
    "entry_point": "one",
    "test": "\n\ndef check(candidate):\n    assert candidate() == 1\n    assert candidate() < 2\n",
}
MBPP = {
    "task_id": 602,
    "text": "Write a function to double.",
    "code": "R = 2\r\ndef double(x):\r\n\treturn R * x",
    "test_setup_code": "import math",
    "test_list": ["assert double(1) == 2", "assert math.floor(double(2)) == 4"],
    "challenge_test_list": [],
}


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load_one(tmp_path: Path, record: Any) -> Problem:
    report = load_problems(write_lines(tmp_path / "one.jsonl", [record]), strict=True)
    assert len(report.problems) == 1
    return report.problems[0]


def load(tmp_path: Path, *records: Any) -> LoadReport:
    return load_problems(write_lines(tmp_path / "some.jsonl", list(records)))


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("apps5.jsonl", 5),
        ("apps_plus_form.json", 350),
        ("humaneval.jsonl", 164),
        ("humaneval_plus.jsonl.gz", 164),
        ("leetcode_train.jsonl.gz", 2162),
        ("mbpp.jsonl", 974),
        ("mbpp_plus.jsonl.gz", 378),
        ("quixbugs.jsonl", 28),
        ("thealgorithms.jsonl.gz", 958),
        ("upstream/HumanEval.jsonl.gz", 164),
        ("upstream/HumanEvalPlus-OriginFmt.jsonl.gz", 164),
        ("upstream/MbppPlus-OriginFmt.jsonl.gz", 378),
        ("upstream/mbpp.jsonl", 974),
    ],
)
def test_every_problem_of_a_known_set_loads(data: Path, name: str, count: int) -> None:
    report = load_problems(data / name, strict=True)
    assert len(report.problems) == count
    assert report.skipped == ()
    assert all(len(problem.tests) > 0 for problem in report.problems)


@pytest.mark.parametrize(
    ("ours", "upstream", "prefix"),
    [
        ("humaneval.jsonl", "upstream/HumanEval.jsonl.gz", "HumanEval"),
        ("mbpp.jsonl", "upstream/mbpp.jsonl", "MBPP"),
        ("mbpp_plus.jsonl.gz", "upstream/MbppPlus-OriginFmt.jsonl.gz", "MBPPPlus"),
    ],
)
def test_upstream_files_give_the_same_problems_as_ours(
    data: Path, ours: str, upstream: str, prefix: str
) -> None:
    expected = {p.task_id: p for p in load_problems(data / ours).problems}
    for problem in load_problems(data / upstream).problems:
        same = expected[problem.task_id]
        assert problem.task_id.startswith(prefix + "/")
        assert problem.split == same.split
        if problem.task_id != "MBPP/601":  # ours names a class that the arguments are made of
            assert problem.entry_point == same.entry_point
        assert problem.prompt == same.prompt
        assert len(problem.tests) == len(same.tests)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("upstream/HumanEval.jsonl.gz", 1),
        ("upstream/HumanEvalPlus-OriginFmt.jsonl.gz", 20),
        ("upstream/mbpp.jsonl", 6),
        ("apps5.jsonl", 1),
        ("apps_plus_form.json", 10),
        ("leetcode_train.jsonl.gz", 30),
    ],
)
def test_canonical_solutions_pass_their_tests_as_loaded(data: Path, name: str, stride: int) -> None:
    problems = load_problems(data / name).problems[::stride]
    runs = run_jobs(sys.executable, map(job_of_problem, problems))
    failing = [p.task_id for p in problems if runs[p.task_id].passed < len(p.tests)]
    assert failing == []


def test_our_own_schema_loads(tmp_path: Path) -> None:
    call, stdin = load(tmp_path, CALL, STDIN).problems
    assert call.tests == CallTests(([1], [2]), (2, 4))
    assert (call.entry_point, call.split, call.difficulty) == ("double", "train", "unknown")
    assert stdin.tests == StdinTests(("1\n",), ("1\n",))
    assert (stdin.entry_point, stdin.split, stdin.starter_code) == (None, "validation", "")


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.jsonl.gz", "p.txt"])
@pytest.mark.parametrize("records", [[CALL, STDIN], [json.dumps([CALL, STDIN])]])
def test_lists_and_lines_are_told_apart_by_content(
    tmp_path: Path, name: str, records: list[Any]
) -> None:
    assert len(load_problems(write_lines(tmp_path / name, records)).problems) == 2


def test_apps_plus_stdin_problems_call_a_function_without_arguments(tmp_path: Path) -> None:
    (tmp_path / "plus.json").write_text(json.dumps([APPS_PLUS]))
    problem = load_problems(tmp_path / "plus.json").problems[0]
    assert problem.task_id == "plus/0"
    assert problem.tests == StdinTests(("1\n",), ("1\n",))
    assert problem.entry_point == "echo"
    assert problem.difficulty == "interview"


def test_apps_plus_arguments_are_unquoted_and_results_unwrapped(tmp_path: Path) -> None:
    (tmp_path / "plus.json").write_text(json.dumps([APPS_PLUS_CALL]))
    problem = load_problems(tmp_path / "plus.json").problems[0]
    assert problem.entry_point == "Solution().join"
    assert problem.tests == CallTests((["a", "b\n"], [["x"], ["y"]]), ("ab\n", ["x", "y"]))


@pytest.mark.parametrize(
    ("solution", "starter", "missing"),
    [
        ("def other():\n    pass\n", "def echo():\n", '"echo"'),
        ("class Solution:\n    def other(self): pass\n", APPS_PLUS_CALL["starter_code"], "join"),
        ("def f(:\n", "def echo():\n", "does not parse"),
        ("def f(): pass\n", "echo\n", "defines no function"),
    ],
)
def test_a_solution_without_the_entry_point_is_reported_and_skipped(
    tmp_path: Path, solution: str, starter: str, missing: str
) -> None:
    broken = APPS_PLUS | {"canonical_solution": solution, "starter_code": starter}
    (tmp_path / "plus.json").write_text(json.dumps([broken, APPS_PLUS]))
    report = load_problems(tmp_path / "plus.json")
    assert [problem.task_id for problem in report.problems] == ["plus/1"]
    assert len(report.skipped) == 1
    assert "plus.json record 1: " in report.skipped[0]
    assert missing in report.skipped[0]


@pytest.mark.parametrize(
    "solution",
    [
        "echo = lambda: print(input())\n",
        "if True:\n    def echo(): pass\n",
        "from os import getcwd as echo\n",
        "a, echo = 1, print\n",
    ],
)
def test_an_entry_point_may_be_defined_in_any_way(tmp_path: Path, solution: str) -> None:
    problem = load_one(tmp_path, APPS_PLUS | {"task_id": "x", "canonical_solution": solution})
    assert problem.entry_point == "echo"


def test_inherited_methods_count_as_defined(tmp_path: Path) -> None:
    solution = "class A:\n    def f(self): pass\nclass Solution(A):\n    pass\n"
    record = CALL | {"canonical_solution": solution, "entry_point": "Solution().f"}
    assert load_one(tmp_path, record).entry_point == "Solution().f"


def test_humaneval_gives_a_program_and_single_asserts(tmp_path: Path) -> None:
    problem = load_one(tmp_path, HUMANEVAL)
    assert problem.canonical_solution == HUMANEVAL["prompt"] + "    return 1\n"
    assert problem.starter_code == HUMANEVAL["prompt"]
    assert problem.split == "eval"
    assert isinstance(problem.tests, AssertTests)
    assert [t.split("\n")[1].strip() for t in problem.tests.asserts] == [
        "assert candidate() == 1",
        "assert candidate() < 2",
    ]


def test_mbpp_finds_the_function_and_its_split(tmp_path: Path) -> None:
    problem = load_one(tmp_path, MBPP)
    assert (problem.task_id, problem.entry_point, problem.split) == ("MBPP/602", "double", "train")
    assert problem.starter_code == "def double(x):\n"
    assert problem.tests == AssertTests(
        ("assert double(1) == 2", "assert math.floor(double(2)) == 4"), setup="import math"
    )


def apps_folder(root: Path, name: str, files: dict[str, Any]) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file).write_text(text)
    return folder


APPS_CALL = {
    "question.txt": "Is n prime?",
    "solutions.json": ["print 'two'", "def is_odd(n):\n    return n % 2 == 1\n"],
    "input_output.json": {"fn_name": "is_odd", "inputs": [[1], [2]], "outputs": [[True], [False]]},
    "starter_code.py": "def is_odd(n):\n\t",
    "metadata.json": {"difficulty": "introductory", "url": "x"},
}
APPS_STDIN = {
    "question.txt": "Echo.",
    "solutions.json": ["print(input())\n"],
    "input_output.json": {"inputs": [["1", "2"], "3"], "outputs": ["1", ["3"]]},
}


def test_apps_folders_load_alone_and_in_a_folder(tmp_path: Path) -> None:
    alone = apps_folder(tmp_path / "train", "0001", APPS_CALL)
    apps_folder(tmp_path / "test", "0002", APPS_STDIN)
    report = load_problems(tmp_path, strict=True)
    by_id = {problem.task_id: problem for problem in report.problems}
    assert sorted(by_id) == ["apps/test/0002", "apps/train/0001"]
    call, stdin = by_id["apps/train/0001"], by_id["apps/test/0002"]
    assert call.canonical_solution.startswith("def is_odd")  # the first one that is Python 3
    assert call.tests == CallTests(([1], [2]), (True, False))
    assert (call.entry_point, call.difficulty, call.split) == ("is_odd", "introductory", "train")
    assert stdin.tests == StdinTests(("1\n2", "3"), ("1", "3"))
    assert (stdin.entry_point, stdin.split) == (None, "eval")
    assert load_problems(alone).problems == (call,)


def test_an_apps_folder_without_tests_is_skipped_and_one_without_solutions_is_not(
    tmp_path: Path,
) -> None:
    file = "input_output.json"
    apps_folder(tmp_path, "0001", without(APPS_CALL, file))
    apps_folder(tmp_path, "0002", APPS_STDIN)
    report = load_problems(tmp_path)
    assert len(report.problems) == 1
    apps_folder(tmp_path / "other", "0002", without(APPS_STDIN, "solutions.json"))
    assert [p.canonical_solution for p in load_problems(tmp_path / "other").problems] == [""]
    assert f'folder 0001: field "{file.split(".")[0]}" is missing' in report.skipped[0]


@pytest.mark.parametrize("name", ["prompt", "tests"])
def test_a_missing_field_is_named_with_file_and_line(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / "some.jsonl", [CALL, "", without(STDIN, name)])
    report = load_problems(path)
    assert [problem.task_id for problem in report.problems] == ["a/1"]
    line = report.skipped[0]
    assert line.startswith(f'{path} line 3: field "{name}" is missing (expected ')
    assert "\n" not in line
    with pytest.raises(ProblemError, match=f'line 3: field "{name}" is missing'):
        load_problems(path, strict=True)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("{not json", "not JSON"),
        ("[1]x", "not JSON"),
        ("7", "not a JSON object"),
        (CALL | {"prompt": 5}, 'field "prompt" is 5 (expected a text)'),
        (CALL | {"tests": {"kind": "magic"}}, "kind 'magic'"),
        (CALL | {"tests": {"kind": "call", "inputs": [], "outputs": []}}, "0 inputs, 0 outputs"),
        (CALL | {"tests": {"kind": "call", "inputs": [[1]], "outputs": []}}, "1 inputs, 0 outputs"),
        (CALL | {"tests": {"kind": "call", "inputs": [1], "outputs": [1]}}, "no list of arguments"),
        (STDIN | {"tests": {"kind": "stdin", "inputs": [1], "outputs": ["1"]}}, "no text"),
        (CALL | {"tests": {"kind": "assert", "code": "assert ("}}, "tests do not parse"),
        (CALL | {"canonical_solution": "def double(x:\n"}, "does not parse"),
        (CALL | {"entry_point": "triple"}, 'does not define "triple"'),
        (CALL, "was used before"),
        (without(HUMANEVAL, "entry_point"), 'field "entry_point" is missing'),
        (MBPP | {"test_list": ["assert f(1)"]}, "call nothing that the solution defines"),
        (MBPP | {"task_id": "x"}, 'field "task_id" is missing (expected a number)'),
        (APPS_PLUS_CALL | {"task_id": "x", "outputs": [1, 2]}, "one-element lists"),
    ],
)
def test_a_broken_record_is_skipped_with_its_reason(
    tmp_path: Path, record: Any, reason: str
) -> None:
    report = load(tmp_path, CALL, record, STDIN)
    assert [problem.task_id for problem in report.problems] == ["a/1", "a/2"]
    assert len(report.skipped) == 1
    assert "some.jsonl line 2: " in report.skipped[0]
    assert reason in report.skipped[0]


def test_a_record_of_no_known_form_is_told_the_forms(tmp_path: Path) -> None:
    assert "APPS+, HumanEval, MBPP" in load(tmp_path, {"x": 1}, CALL).skipped[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.json", b"[{"),
        ("broken.jsonl.gz", b"no gzip"),
        ("latin.jsonl", b'{"prompt": "\xe4"}'),
        ("empty.jsonl", b"\n"),
        ("empty.json", b"[]"),
    ],
)
def test_a_file_that_cannot_be_read_stops_with_its_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError, match=name):
        load_problems(tmp_path / name)


def test_a_missing_path_and_an_empty_folder_stop_with_their_name(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="nowhere"):
        load_problems(tmp_path / "nowhere.jsonl")
    with pytest.raises(ProblemError, match=r"question\.txt"):
        load_problems(tmp_path)


def test_a_program_takes_entry_point_and_preamble_of_its_problem(tmp_path: Path) -> None:
    problem = load_one(tmp_path, CALL | {"preamble": "import math\n"})
    program = program_of(problem, "def double(x): return x\n")
    assert (program.entry_point, program.preamble) == ("double", "import math\n")
    assert program.source == "def double(x): return x\n"


def test_the_split_is_stable_and_has_about_the_asked_share() -> None:
    splits = {f"task/{i}": split_of(f"task/{i}", 0.1) for i in range(5000)}
    assert 400 < list(splits.values()).count("validation") < 600
    assert [i for i in range(40) if splits[f"task/{i}"] == "validation"] == [12, 17, 18, 36, 39]


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_to_validation(task_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if split_of(task_id, small) == "validation":
        assert split_of(task_id, large) == "validation"
    assert split_of(task_id, 0.0) == "train"
    assert split_of(task_id, 1.0) == "validation"


def test_the_share_decides_only_where_the_file_names_no_split(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [CALL, STDIN | {"split": "train"}])
    assert [p.split for p in load_problems(path, validation_share=1.0).problems] == [
        "validation",
        "train",
    ]


def test_a_fingerprint_sees_every_field_and_no_order(tmp_path: Path) -> None:
    one, two = load(tmp_path, CALL, STDIN).problems
    assert fingerprint([one, two]) == fingerprint([two, one])
    assert fingerprint([one]) != fingerprint([one, one])
    changes: dict[str, Any] = {
        "task_id": "b",
        "prompt": "b",
        "starter_code": "b",
        "canonical_solution": "b",
        "tests": CallTests(([1], [2]), (2, 5)),
        "entry_point": None,
        "preamble": "b",
        "source": "b",
        "difficulty": "b",
        "split": "b",
    }
    seen = {fingerprint([replace(one, **{name: value})]) for name, value in changes.items()}
    assert len(seen | {fingerprint([one])}) == len(changes) + 1


def test_a_fingerprint_tells_types_apart_and_sets_by_content() -> None:
    def of(value: Any) -> str:
        return fingerprint([Problem("p", "", "", "", CallTests(([value],), (0,)))])

    values = [1, 1.0, True, "1", [1], (1,), {1}, {"1": 1}, None, b"1"]
    assert len({of(value) for value in values}) == len(values)
    assert of({"b", "a", "c"}) == of({"c", "b", "a"})


@pytest.mark.parametrize("name", ["problems.json", "problems.jsonl", "problems.jsonl.gz"])
def test_files_hold_integers_of_any_length_and_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    digits = "-" + "123456789" * 600
    text = json.dumps(CALL).replace('"outputs": [2, 4]', f'"outputs": [2, {digits}]')
    data = ("\ufeff" + (f"[{text}]" if name.endswith(".json") else text)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    report = load_problems(tmp_path / name)
    assert report.skipped == ()
    (problem,) = report.problems
    assert isinstance(problem.tests, CallTests)
    two, huge = problem.tests.outputs
    assert (two, huge % 10**9, huge // 10**5391, huge < 0) == (
        2,
        -123456789 % 10**9,
        -123456790,
        True,
    )
    assert fingerprint([problem]) == fingerprint(load_problems(tmp_path / name).problems)


def test_a_solution_that_is_declared_to_return_nothing_changes_its_argument(tmp_path: Path) -> None:
    tests = {"kind": "call", "inputs": [[2, [1, 2]]], "outputs": [[2, 1]]}
    header = "class Solution:\n    def turn(self, k: int, xs: list) -> None:\n"
    record = {**CALL, "starter_code": header, "entry_point": "Solution().turn", "tests": tests}
    record["canonical_solution"] = f"{header}        xs.reverse()\n"
    without = {**record, "task_id": "b", "tests": {**tests, "outputs": [None]}}
    silent = {
        **record,
        "task_id": "c",
        "starter_code": "",
        "canonical_solution": "class Solution:\n",
    }
    silent["canonical_solution"] += "    def turn(self, k, xs): xs.reverse()\n"
    named = {**silent, "task_id": "d", "tests": {**tests, "in_place": 1}}
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, [record, without, silent, named])))
    found = load_problems(path, strict=True).problems
    assert [p.tests.in_place for p in found] == [1, None, None, 1]  # type: ignore[union-attr]
