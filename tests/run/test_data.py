"""What a run trains on, what it holds out, and what it never looks at while it trains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers.tokenizers_built import single_bytes

from stepcoder.config import Config, CurriculumConfig, DataConfig, PromptConfig, SFTConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import Curriculum
from stepcoder.problems.problem import Problem
from stepcoder.problems.template import TEMPLATE
from stepcoder.run.data import TrainingData, fitting, load_data
from stepcoder.sandbox.program import AssertTests


def test_no_problem_is_in_two_parts_and_none_is_lost():
    data = load_data(DataConfig(), supervised_share=0.7)
    parts = [data.supervised, data.train, data.validation, data.test]
    names = [{p.task_id for p in part} for part in parts]
    assert all(len(part) > 150 for part in parts)
    whole = load_data(DataConfig(), supervised_share=1.0)
    everything = {p.task_id for p in (*whole.train, *whole.validation, *whole.test)}
    assert sum(map(len, names)) == len(set.union(*names)) == len(everything)


def test_with_a_share_of_one_supervision_and_rl_have_the_same_problems():
    data = load_data(DataConfig(), supervised_share=1.0)
    assert data.supervised == data.train


def test_a_split_by_hash_holds_out_the_share_asked_for_and_leaves_the_test_problems():
    data = load_data(DataConfig(split="hash", validation_share=0.3), supervised_share=1.0)
    total = len(data.train) + len(data.validation)
    assert data.test == load_data(DataConfig(), supervised_share=1.0).test
    assert 0.25 < len(data.validation) / total < 0.35


def test_a_share_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(RunError, match=r"data\.split"):
        load_data(DataConfig(split="hash", validation_share=1.0), 1.0)


def config(most: int, **curriculum: bool) -> Config:
    prompt = PromptConfig(TEMPLATE, max_prompt_tokens=most)
    return Config(prompt=prompt, sft=SFTConfig(1), curriculum=CurriculumConfig(**curriculum))


def test_problems_whose_prompts_do_not_fit_are_left_out_counted_and_named():
    body = "    if x:\n        return 1\n    if not x:\n        return 2\n    while x: x = 0\n"
    short, long, staged = (
        Problem(name, prompt, "def f(x):\n", f"def f(x):\n{rest}", AssertTests(("pass",)))
        for name, prompt, rest in (
            ("short", "Do.", "    pass\n"),
            ("long", "Do. " * 20, "    pass\n"),
            ("staged", "Do.", body),
        )
    )
    data = TrainingData((short, staged), (short, long, staged), (long, short), (staged,), "abc")
    tokenizer = single_bytes([])  # a token a byte
    found, line = fitting(data, tokenizer, config(45))
    assert found == TrainingData((short, staged), (short,), (short,), (staged,), "abc")
    assert line == "2 problems left out, prompts above prompt.max_prompt_tokens=45: long, staged"
    assert fitting(data, tokenizer, config(45, cccs=False))[0].train == (short, staged)
    assert fitting(data, tokenizer, config(1000)) == (data, "")
    with pytest.raises(RunError, match="no problem is left to train on: 3 problems left out"):
        fitting(data, tokenizer, config(10))


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def echo(name: str, prompt: str | None = None, answer: str = "1\n", **more: Any) -> dict[str, Any]:
    return {
        "task_id": name,
        "prompt": prompt or f"Echo {name}.",
        "canonical_solution": "print(input())\n",
        "tests": {"kind": "stdin", "inputs": ["1\n"], "outputs": [answer]},
        **more,
    }


def names(problems: Iterable[Problem]) -> list[str]:
    return [p.task_id for p in problems]


def load(path: str, folder: Path | None = None, share: float = 1.0, **more: Any) -> TrainingData:
    return load_data(DataConfig(path=path, **more), share, folder)


def test_a_problem_of_the_test_or_validation_part_never_trains(tmp_path: Path) -> None:
    parts = ("train", "dev", "test", "few", "train")
    path = write(tmp_path / "a.jsonl", *(echo(f"{i}", split=p) for i, p in enumerate(parts)))
    other = write(tmp_path / "b.jsonl", echo("x"), echo("y", split="validation"))
    data = load(path)
    assert [names(p) for p in (data.train, data.validation, data.test)] == [
        ["0", "4"], ["1"], ["2"]
    ]  # fmt: skip
    assert data.notes == (f"{path}: 1 problems are not used (few 1)",)
    data = load(path, validation_path=other)
    assert [names(p) for p in (data.train, data.validation, data.test)] == [
        ["0", "4"], ["y"], ["2"]
    ]  # fmt: skip
    assert data.notes == (f"{path}: 2 problems are not used (few 1, validation 1)",)
    data = load(path, split="hash", validation_share=0.0)
    assert [names(p) for p in (data.train, data.validation, data.test)] == [
        ["0", "4", "1"], [], ["2"]
    ]  # fmt: skip


def test_mbpp_keeps_its_500_test_problems_out_also_with_a_file_of_held_out_problems(
    data: Path,
) -> None:
    found = load(str(data / "mbpp.jsonl"), validation_path=str(data / "quixbugs.jsonl"))
    assert {p.split for p in found.train} == {"train"}
    assert (len(found.train), len(found.validation), len(found.test)) == (371, 28, 500)
    assert "MBPP/602, MBPP/704, MBPP/872" in found.notes[-1]


def test_a_set_that_is_held_out_as_a_whole_does_not_train(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", echo("a", split="test"), echo("b", split="test"))
    with pytest.raises(RunError, match=r'holds them out \(eval 2\).*"split": "train"'):
        load(path)


def test_where_a_file_holds_nothing_out_a_hash_does_and_a_line_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(echo(f"task/{i}") for i in range(40)))
    data = load(path)
    assert names(data.validation) == [f"task/{i}" for i in (12, 17, 18, 36, 39)]
    assert len(data.train) == 35
    assert data.notes == ("5 of 40 problems held out by hash (data.validation_share=0.1)",)
    (line,) = load(path, validation_share=0.0).notes
    assert line.startswith("no problem is held out")
    alone = load(write(tmp_path / "b.jsonl", echo("task/12")))
    assert (names(alone.train), names(alone.validation)) == (["task/12"], [])


def test_what_is_held_out_under_another_name_or_in_other_words_does_not_train(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "a.jsonl",
        echo("MBPP/602"),
        echo("b", "Print  the line\nAGAIN."),
        echo("c", "Do it.", answer="2\n"),
        echo("d", "Do it.", answer="1\n"),
        echo("e"),
    )
    held = [echo("MbppPlus/602", "x"), echo("v", "print the line again."), echo("w", "Do it.")]
    data = load(path, validation_path=write(tmp_path / "b.jsonl", *held))
    assert names(data.train) == ["c", "e"]  # c wants another answer: it is another problem
    line = "3 training problems left out, held out as well: MBPP/602, b, d"
    assert data.notes == (line,)
    with pytest.raises(RunError, match="5 training problems left out, held out as well"):
        load(path, validation_path=path)


def test_problems_without_a_solution_train_and_only_the_supervised_phase_lacks_them(
    tmp_path: Path,
) -> None:
    rows = [echo("a"), echo("b", canonical_solution=""), echo("c", canonical_solution=None)]
    data = load(write(tmp_path / "a.jsonl", *rows), validation_share=0.0)
    assert names(data.train) == ["a", "b", "c"]
    assert names(data.supervised) == ["a"]
    assert data.notes[1].startswith("2 of 3 training problems have no solution")
    curriculum = Curriculum(data.train, single_bytes([]), seed=0)
    assert curriculum.stage_histogram() == {0: 3}
    data = load(write(tmp_path / "a.jsonl", *rows), share=0.5, validation_share=0.0)
    assert {"b", "c"} <= set(names(data.train))


def test_several_files_are_drawn_by_their_weights(tmp_path: Path) -> None:
    twice = write(tmp_path / "a.jsonl", echo("a"), echo("same"))
    half = write(tmp_path / "b.jsonl", echo("b"), echo("same"), echo("a", "Another."))
    config = {"validation_share": 0.0}
    data = load(f"{twice}:2,{half}:0.5", **config)
    assert dict(data.weights) == {"a": 2.0, "same": 2.0, "b": 0.5, "b.jsonl/a": 0.5}
    assert data.notes[0] == "1 problems are in several files: the first is kept"
    curriculum = Curriculum(data.train, single_bytes([]), seed=0, weights=data.weights)
    drawn = Counter(task.problem.task_id for task in curriculum.sample(1000))
    assert drawn["a"] == pytest.approx(400, rel=0.02)
    assert drawn["b"] == pytest.approx(100, rel=0.2)
    assert load(f"{twice}:2,{half}:0.5", **config).fingerprint == data.fingerprint
    assert load(f"{twice},{half}", **config).fingerprint != data.fingerprint
    with pytest.raises(RunError, match="PATH:WEIGHT"):
        load(f"{twice}:0,{half}")


def test_a_file_of_which_most_is_skipped_stops_the_run_and_all_of_it_is_listed(
    tmp_path: Path,
) -> None:
    broken = [echo(f"{i}") | {"prompt": 7} for i in range(3)] + [{"x": 1}, echo("a", split="train")]
    path = write(tmp_path / "a.jsonl", echo("a"), *broken)
    with pytest.raises(RunError, match=r"5 of 6 records skipped.*\(3: .*go on with data\.max_s"):
        load(path, tmp_path)
    listed = (tmp_path / "skipped.txt").read_text().splitlines()
    assert listed[:2] == [f"{path}: 5 records skipped", '       3 field "prompt" has another type']
    assert [line for line in listed if line.startswith(f"{path} line 6: task_id 'a' was used")]
    assert load(path, tmp_path, max_skipped=0.9).notes[0].startswith(f"{path}: 5 of 6 records")
    with pytest.raises(RunError, match='line 2: field "prompt" is 7'):
        load(path, tmp_path, strict=True)
