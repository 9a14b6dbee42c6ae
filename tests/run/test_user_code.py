"""What users bring in files of their own: reward, recipe, template, loader, and their mistakes."""

from __future__ import annotations

import json

import pytest
from helpers.small_runs import constant_problems, run

from stepcoder.clean.__main__ import main as clean
from stepcoder.config import ConfigError, load_config
from stepcoder.evaluate.__main__ import main as evaluate
from stepcoder.judge.command import main as judge
from stepcoder.problems import load_problems
from stepcoder.report.run_dir import read_records

REWARD = """
from helper_beside import BONUS

def score(problem, program, verdict):
    assert problem.task_id
    return verdict.pass_fraction + BONUS * program.count("return")

def broken(problem, program, verdict):
    raise KeyError("no such field")

def endless(problem, program, verdict):
    return float("inf")

number = 3
"""
QUICK = ["sft.steps=0", "steps=1", "eval.every=1", "checkpoint.every=1"]


@pytest.fixture
def own(tmp_path):
    (tmp_path / "helper_beside.py").write_text("BONUS = 2\n")
    (tmp_path / "my.py").write_text(REWARD)
    (tmp_path / "torn.py").write_text("x = 1\ny = undefined\n")
    return tmp_path


def test_a_reward_of_ones_own_is_what_the_policy_is_trained_on(own, monkeypatch):
    monkeypatch.chdir(own)
    problems = constant_problems(own / "constants.jsonl")
    given = [f"data.path={problems}", "reward.function=my.py:score", "rollout.dump=true"]
    given += ["ppo.scale_rewards=false", "recipe=grpo"]
    assert run(own / "run", *given, *QUICK) == 0
    (record,) = [r for r in read_records(own / "run") if r["step"]]
    assert record["rollouts"] > 0
    saved = load_config(own / "run" / "config.yaml")
    assert saved.reward.function == f"{own / 'my.py'}:score"  # found from any folder on a resume


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("reward.function=gone.py:score", "reward.function: gone.py:score names no Python file"),
        ("reward.function=my.py:scores", "my.py has no scores; give a name that it has"),
        ("reward.function=torn.py:x", "torn.py cannot be imported (line 2, NameError: name 'unde"),
        ("reward.function=my.py:broken", "broken raised KeyError: 'no such field' for "),
        ("reward.function=my.py:endless", "endless returned inf for "),
        ("reward.function=my.py:number", "number raised TypeError: 'int' object is not callable"),
        ("recipe=my.py:number", "my.py:number is no Recipe"),
    ],
)
def test_a_mistake_in_it_is_one_line(option, message, own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    problems = constant_problems(own / "constants.jsonl")
    assert run(own / "run", f"data.path={problems}", option, *QUICK) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_names_that_are_neither_ours_nor_a_file_are_refused():
    with pytest.raises(
        ConfigError, match=r'"recipe" is "grop"; give "stepcoder" or .*FILE.py:NAME'
    ):
        load_config(None, ["recipe=grop"])
    with pytest.raises(ConfigError, match=r'"reward.function" is "score"; give FILE.py:NAME'):
        load_config(None, ["reward.function=score"])


def test_a_template_is_read_from_a_file(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Task: {description}\nCode:\n{given}\n")
    config = load_config(None, [f"prompt.template=@{file}"])
    assert config.prompt.template == "Task: {description}\nCode:\n{given}"
    with pytest.raises(ConfigError, match=r'"prompt.template": no text in .*gone'):
        load_config(None, ["prompt.template=@gone.txt"])
    file.write_text("{given}")
    with pytest.raises(ConfigError, match=r"must contain \{description\} exactly once"):
        load_config(None, [f"prompt.template=@{file}"])


LOADER = """
import json
from pathlib import Path
from stepcoder.problems import Problem
from stepcoder.sandbox import CallTests

def rows():  # in a form that we read, and as Problems
    for line in Path(FILE).read_text().splitlines():
        yield json.loads(line)
    solution = "def f(x):\\n    return 7\\n"
    yield Problem("own/7", "Give 7.", "def f(x):\\n", solution, CallTests(([0],), (7,)), "f")

def held_out():
    for line in Path(FILE).read_text().splitlines():
        row = json.loads(line)
        yield row | {"task_id": "held/" + row["task_id"], "prompt": "Another number, please."}

def partly():
    yield {"task_id": "own/1", "prompt": "No tests."}
    yield 3
    yield Problem("own/2", "Give 7.", "", "x = 1\\n", {"kind": "call"})
    yield from rows()

def failing():
    yield from rows()
    raise KeyError("no such split")

def nothing():
    return None
"""


@pytest.fixture
def loader(tmp_path, monkeypatch):
    problems = constant_problems(tmp_path / "constants.jsonl")
    (tmp_path / "own.py").write_text(LOADER.replace("FILE", repr(str(problems))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_loader_of_ones_own_gives_the_problems_of_a_run_and_its_resume(loader, monkeypatch):
    given = ["data.path=own.py:rows", "data.validation_path=own.py:held_out", "eval.limit=20"]
    assert run(loader / "run", *given, "sft.steps=1", "steps=0", "checkpoint.every=1") == 0
    assert read_records(loader / "run")[-1]["eval"]["problems"] == 8
    monkeypatch.chdir("/")
    assert run(loader, "steps=1", command=("--resume", str(loader / "run"))) == 0
    (loader / "own.py").write_text(LOADER.replace("Path(FILE).read_text().splitlines()", "[]"))
    assert run(loader, "steps=2", command=("--resume", str(loader / "run"))) == 2


@pytest.mark.usefixtures("loader")
def test_rows_that_cannot_be_used_are_skipped_or_named():
    report = load_problems("own.py:partly")
    assert [problem.task_id for problem in report.problems][-1] == "own/7"
    first, second, third = report.skipped
    assert first.startswith("own.py:partly row 1: no field of a known form")
    assert "own.py:partly row 2: int is no dict and no Problem" in second
    assert "own.py:partly row 3: Problem.tests are none of stepcoder.sandbox" in third


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "own.py:failing raised KeyError: 'no such split' (after 9 rows)"),
        ("nothing", "own.py:nothing raised TypeError: 'NoneType' object is not iterable (after 0"),
        ("gone", "own.py has no gone; give a name that it has"),
    ],
)
def test_a_loader_that_fails_is_one_line_in_every_command(loader, name, message, capsys):
    path = f"own.py:{name}"
    assert run(loader / "run", f"data.path={path}") == 2
    assert evaluate([path, "--canonical", "-o", "evaluated"]) == 2
    assert clean([path, "-o", "cleaned"]) == 2
    assert judge(["samples.jsonl", "--problems", path, "-o", "judged.jsonl"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [message in line for line in lines] == [True] * 4


def test_evaluation_cleaning_and_the_judge_read_the_same_rows(loader, capsys):
    path = "own.py:rows"
    assert evaluate([path, "--canonical", "-n", "1", "-o", "evaluated", "--workers", "1"]) == 0
    assert "9" in (loader / "evaluated" / "results.md").read_text()
    assert clean([path, "-o", "cleaned", "--tests", "0", "--runs", "1", "--workers", "1"]) == 0
    lines = (loader / "cleaned/decisions.jsonl").read_text().splitlines()
    decisions = [json.loads(line) for line in lines]
    assert (decisions[0]["task_id"], decisions[0]["decision"]) == ("constant/0", "kept")
    assert "row 9: cleaning takes rows (dicts)" in decisions[-1]["detail"]
    solution = {"task_id": "own/7", "solution": "def f(x): return 7"}
    (loader / "samples.jsonl").write_text(json.dumps(solution) + "\n")
    assert judge(["samples.jsonl", "--problems", path, "-o", "judged.jsonl"]) == 0
    assert "1 of 1 samples passed" in capsys.readouterr().out
