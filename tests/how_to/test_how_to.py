"""The examples of docs/how-to.md: the page shows these files, and each of them runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.small_runs import constant_problems, run

from stepcoder.problems import formats, problem
from stepcoder.problems.problem import load_problems, program_of
from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import load_state, newest_checkpoint
from stepcoder.sandbox import CallTests, Custom, Judge, Program, Status

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "how-to.md").read_text()
EXAMPLES = ["baseline.py", "importance.py", "any_two_that_sum.py", "kata.py"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), HERE / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_shows_the_file(name):
    assert f"```python\n{(HERE / name).read_text()}```\n" in PAGE


def test_a_recipe_trains(tmp_path):
    problems = constant_problems(tmp_path / "constants.jsonl")
    options = [
        f"recipe={HERE / 'baseline.py'}:RECIPE",
        f"data.path={problems}",
        "sft.steps=60",
        "sft.share=1.0",
    ]
    assert run(tmp_path / "run", *options, "steps=2", "eval.every=2", "checkpoint.every=2") == 0
    steps = [record for record in read_records(tmp_path / "run") if record["phase"] == "rl"]
    assert [record["step"] for record in steps] == [0, 1, 2]
    state = load_state(newest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["critic"] is None
    assert any((state["reference"][name] != value).any() for name, value in state["policy"].items())


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_a_kernel_matches_its_definition():
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    environment.pop("STEPCODER_KERNELS", None)
    file = str(HERE / "numerics_importance.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env=environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "6 passed" in done.stdout


def test_without_triton_the_kernel_is_its_definition():
    torch = pytest.importorskip("torch")
    module = load("importance.py")
    old, engine = torch.tensor([0.0, 1.0, 5.0]), torch.zeros(3)
    weights = module.importance(old, engine, torch.tensor([True, True, False]), cap=2.0)
    assert weights.tolist() == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("[0, 3]", Status.ACCEPTED),
        ("[2, 1]", Status.ACCEPTED),
        ("(1, 2)", Status.ACCEPTED),
        ("[0, 1]", Status.WRONG_ANSWER),
        ("[0, -1]", Status.WRONG_ANSWER),
        ("None", Status.WRONG_ANSWER),
    ],
)
def test_a_checker_decides_in_the_judge(answer, status):
    checker = Custom((HERE / "any_two_that_sum.py").read_text())
    tests = CallTests(inputs=([[1, 2, 3, 4], 5],), outputs=([0, 3],), checker=checker)
    with Judge(workers=1) as judge:
        verdict = judge.run(Program(f"def f(numbers, target):\n    return {answer}\n", "f"), tests)
    assert verdict.status is status, verdict.message


def test_a_form_is_read_from_a_file(tmp_path, monkeypatch):
    original = formats.form_of

    def form_of(record):
        return "Kata" if "cases" in record else original(record)

    monkeypatch.setitem(formats._READERS, "Kata", load("kata.py").from_kata)
    monkeypatch.setattr(problem, "form_of", form_of)
    record = {
        "task_id": "kata/double",
        "instructions": "Double a number.",
        "function": "double",
        "stub": "def double(x):\n",
        "solution": "def double(x):\n    return 2 * x\n",
        "cases": [[[1], 2], [[-3], -6]],
    }
    broken = {"task_id": "kata/broken", "cases": []}
    file = tmp_path / "kata.jsonl"
    file.write_text(json.dumps(record) + "\n" + json.dumps(broken) + "\n")
    report = load_problems(file)
    assert [found.task_id for found in report.problems] == ["kata/double"]
    assert len(report.skipped) == 1
    assert 'line 2: field "function" is missing' in report.skipped[0]
    [found] = report.problems
    with Judge(workers=1) as judge:
        verdict = judge.run(program_of(found, found.canonical_solution), found.tests)
    assert verdict.status is Status.ACCEPTED
