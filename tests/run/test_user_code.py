"""What users bring in files of their own: a reward, a recipe, a template, and their mistakes."""

from __future__ import annotations

import pytest
from helpers.small_runs import constant_problems, run

from stepcoder.config import ConfigError, load_config
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
