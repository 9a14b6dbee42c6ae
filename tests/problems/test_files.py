"""Files, folders and tables of problems: the same rows in order, with the parts that names give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepcoder.problems.files import part_named, rows_of
from stepcoder.problems.formats import form_of
from stepcoder.problems.problem import ProblemError, load_problems, problems_of
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.sources import Source, columns_of, sources_of


def problem(name: str, **more: Any) -> dict[str, Any]:
    return {
        "task_id": name,
        "prompt": f"Echo {name}.",
        "canonical_solution": "print(input())\n",
        "tests": {"kind": "stdin", "inputs": ["1\n"], "outputs": ["1\n"]},
        **more,
    }


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def loaded(path: Path) -> list[tuple[str, str]]:
    return [(p.task_id, p.split) for p in load_problems(path, strict=True).problems]


def test_the_files_of_a_folder_are_read_in_order_and_name_their_parts(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", problem("c"))
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", problem("b"), problem("v", split="x"))
    write(tmp_path / "test" / "part.jsonl", problem("d"))
    write(tmp_path / "Validation.jsonl", problem("a"))
    write(tmp_path / "dataset_infos.json", {"x": 1})
    write(tmp_path / ".cache" / "test.jsonl", problem("hidden"))
    (tmp_path / "README.md").write_text("# Data\n")
    expected = [("a", "validation"), ("b", "train"), ("v", "x"), ("c", "train"), ("d", "eval")]
    assert loaded(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-00003.parquet", "train"),
        ("mbpp_test.jsonl", "eval"),
        ("test2.jsonl", "eval"),
        ("DEV.json", "validation"),
        ("contest.jsonl", ""),
        ("latest.jsonl", ""),
        ("trainer.jsonl", ""),
    ],
)
def test_a_name_gives_a_part_only_as_a_word(name: str, part: str) -> None:
    assert part_named(name) == part


def test_what_a_set_says_about_its_split_comes_before_the_name_of_a_file(tmp_path: Path) -> None:
    humaneval = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
        "test": "def check(c):\n    assert c() == 1\n",
    }
    write(tmp_path / "train.jsonl", humaneval)
    assert loaded(tmp_path) == [("HumanEval/0", "eval")]
    write(tmp_path / "train.jsonl", humaneval | {"split": "train"})
    assert loaded(tmp_path) == [("HumanEval/0", "train")]


def test_numbers_of_two_parts_are_two_problems(tmp_path: Path) -> None:
    row = {"problem_id": 1, "question": "Add.", "input_output": {"inputs": ["1"], "outputs": ["2"]}}
    write(tmp_path / "train.jsonl", row)
    write(tmp_path / "test.jsonl", row | {"question": "Subtract."})
    assert loaded(tmp_path) == [("APPS/eval/1", "eval"), ("APPS/train/1", "train")]


def rows() -> list[dict[str, Any]]:
    return [problem("a", split=None), problem("b", split="eval")]


def parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), path)


def arrow_file(path: Path) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(rows())
    with pyarrow.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def arrow_stream(path: Path) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(rows())
    with pyarrow.ipc.new_stream(path, table.schema) as file:
        file.write_table(table)


def pretty_json(path: Path) -> None:
    path.write_text(json.dumps(rows(), indent=2))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("p.parquet", parquet),
        ("p.arrow", arrow_file),
        ("p.arrow", arrow_stream),
        ("p.json", pretty_json),
    ],
    ids=["parquet", "Arrow file", "Arrow stream", "JSON"],
)
def test_tables_give_the_same_problems_as_lines(tmp_path: Path, name: str, make: Any) -> None:
    make(tmp_path / name)
    lines = load_problems(write(tmp_path / "lines.jsonl", *rows()))
    assert load_problems(tmp_path / name, strict=True) == lines


def test_one_object_on_several_lines_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(problem("a"), indent=2))
    assert loaded(tmp_path / "p.json") == [("a", "train")]


def test_what_datasets_saved_is_read_by_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([problem("a"), problem("b")])
    one.save_to_disk(tmp_path / "one")
    assert loaded(tmp_path / "one") == [("a", "train"), ("b", "train")]
    splits = {"train": one.select([0]), "test": one.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    assert loaded(tmp_path / "both") == [("b", "eval"), ("a", "train")]


def test_a_missing_library_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "p.parquet")

    def without(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ProblemError, match=r"p\.parquet cannot be read .*pip install pyarrow"):
        load_problems(tmp_path / "p.parquet")


def test_a_table_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1\x15\x04PAR1")
    with pytest.raises(ProblemError, match=r"p\.parquet cannot be read"):
        load_problems(tmp_path / "p.parquet")


def test_columns_get_our_names_and_tests_may_have_any_layout(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "question": "Add one.",
        "answer": ["def g(): pass\n", "class Solution:\n    def f(self, x): return x + 1\n"],
        "test_list": {"inputs": [[1]], "outputs": [[2]], "fn_name": "f"},
    }
    columns = columns_of("task_id:id, prompt:question,canonical_solution:answer,tests:test_list")
    path = write(tmp_path / "p.jsonl", row)
    (problem,) = load_problems(path, strict=True, columns=columns).problems
    assert (problem.task_id, problem.prompt) == ("7", "Add one.")
    assert problem.entry_point == "Solution().f"
    assert problem.canonical_solution == row["answer"][1]
    with pytest.raises(ProblemError, match='no record has the column "cases"'):
        load_problems(path, columns={"tests": "cases"})


@pytest.mark.parametrize("text", ["prompt", "prompt:", ":x", "a:b,", "a:b,a:c"])
def test_a_list_of_columns_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="prompt:question"):
        columns_of(text)


def test_several_sources_have_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources_of("a.jsonl,b:0.5, c.json:3") == [
        Source("a.jsonl"),
        Source("b", 0.5),
        Source("c.json", 3.0),
    ]
    Path("odd,name:2").touch()
    assert sources_of("odd,name:2") == [Source("odd,name:2")]
    for wrong in ("a:0", "a:-1", "a,,b", "a:nan", ""):
        with pytest.raises(ValueError, match="PATH:WEIGHT"):
            sources_of(wrong)


def test_a_record_with_the_columns_of_two_forms_is_refused_by_both_names() -> None:
    row = {"question": "Add.", "input_output": "{}", "test_list": ["assert f(1)"]}
    with pytest.raises(BrokenRecordError, match=r"APPS \(input_output\) and MBPP \(test_list\)"):
        form_of(row)
    assert form_of(row | {"test_list": None}) == "APPS"
    assert form_of(row | {"tests": {"kind": "stdin"}}) == "stepcoder"


def test_rows_from_anywhere_become_problems_and_count_what_is_wrong() -> None:
    broken = [{"prompt": 5, "tests": {"kind": "stdin"}}, {"x": 1}, 7]
    report = problems_of(rows_of([problem("a"), *broken, *broken]), "my.py:load")
    assert [p.task_id for p in report.problems] == ["a"]
    assert report.skipped[0].startswith('my.py:load row 2: field "')
    assert sorted(report.reasons.values()) == [2, 2, 2]


def test_a_record_without_a_name_is_named_by_its_statement(tmp_path: Path) -> None:
    one, other = problem("a"), problem("b")
    del one["task_id"], other["task_id"]
    before = loaded(write(tmp_path / "p.jsonl", one, other))
    assert len(before) == 2
    assert loaded(write(tmp_path / "p.jsonl", other, one)) == before[::-1]
