"""`--hosts` and `--ray`: several judges as one; a server, a node of a Ray cluster killed amid."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `server` is not installed")

from helpers.finished_runs import states_equal, untimed
from helpers.small_runs import constant_problems, run

from stepcoder.errors import InputError, RunError
from stepcoder.judge import pool
from stepcoder.judge.command import main
from stepcoder.judge.over_http import HttpHost
from stepcoder.judge.pool import JudgePool
from stepcoder.judge.record import verdict_record
from stepcoder.judge.stage import JudgeStage
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Program,
    StdinTests,
    Submission,
    UnittestTests,
)
from stepcoder.sandbox.checkers import Custom, Exact, Regex, Tolerance, Unordered
from stepcoder.sandbox.points import Subtask

RIGHT, SLOW = "def f(x): return x + 1\n", "import time\ntime.sleep(0.2)\n"
COUNT = 40


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A problem, and samples for it: right and wrong ones, all of which take their time."""
    problem = {"task_id": "t/0", "prompt": "Add one.", "entry_point": "f"}
    problem |= {"tests": {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 3]}}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    samples = [
        {"task_id": "t/0", "solution": f"{SLOW}def f(x): return x + {1 + n % 3}  # {n}"}
        for n in range(COUNT)
    ]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    return tmp_path


def command(files: Path, *where: str) -> list[str]:
    names = str(files / "samples.jsonl"), "--problems", str(files / "problems.jsonl")
    return [*names, "-o", str(files / "verdicts.jsonl"), *where]


def check_verdicts(files: Path) -> None:
    """Each sample has one verdict, in order, and the right one."""
    found = [json.loads(x) for x in (files / "verdicts.jsonl").read_text().splitlines()[1:]]
    assert [v["line"] for v in found] == list(range(1, COUNT + 1))
    assert [v["passed"] for v in found] == [n % 3 == 0 for n in range(COUNT)]


# Over HTTP


def serving(port: int = 0) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stepcoder.judge", "serve", "--port", str(port), "--workers", "1"],
        env={**os.environ, "STEPCODER_JUDGE_KEY": "secret"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"running on (http://\S+)", line):
            return process, found[1]
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    found = {url: process for process, url in (serving(), serving())}
    yield found
    for process in found.values():
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPCODER_JUDGE_KEY", "secret")


def test_a_server_judges_every_kind_of_tests_as_we_do(
    servers: dict[str, subprocess.Popen[str]],
) -> None:
    lists, unittest = (
        "def f(x): return [2, x, 1]\n",
        "import unittest\nclass T(unittest.TestCase):\n",
    )
    unittest += (
        "    def test_a(self): self.assertEqual(f(1), 2)\n    def test_b(self): self.fail()\n"
    )
    submissions = [
        Submission(Program(RIGHT, "f"), CallTests(([1], [2]), (2, 4))),
        Submission(Program(lists, "f"), CallTests(([3],), ([1, 2, 3],), checker=Unordered())),
        Submission(Program(RIGHT, "f"), CallTests(([1.5],), (2.6,), checker=Tolerance(0.5, 0.1))),
        Submission(Program(RIGHT, "f"), CallTests(([1.5],), (2.6,), checker=Exact())),
        Submission(
            Program(RIGHT, "f"),
            CallTests(([1], [2]), (2, 0), subtasks=(Subtask(30, (0,)), Subtask(70, (1,)))),
        ),
        Submission(
            Program("def f(x): x.sort()", "f"), CallTests(([[2, 1]],), ([1, 2],), in_place=0)
        ),
        Submission(Program("print(input() * 2)"), StdinTests(("ab", "c"), ("abab", "d"))),
        Submission(Program("print('a1')"), StdinTests(("",), (r"a\d",), checker=Regex())),
        Submission(
            Program("print(7)"),
            StdinTests(("",), ("",), checker=Custom("def check(i, e, g): return int(g) == 7")),
        ),
        Submission(
            Program(RIGHT), AssertTests(("assert f(1) == two", "assert not f(1)"), "two = 2")
        ),
        Submission(Program(RIGHT), UnittestTests(unittest)),
        Submission(Program(f"{SLOW * 9}{RIGHT}", "f"), CallTests(([1],), (2,)), Limits(wall_s=0.5)),
        Submission(Program("def f(x) return", "f"), CallTests(([1],), (2,))),
        Submission(Program("\nraise KeyError", "f"), CallTests(([1], [2]), (2, 3)), None, True),
    ]
    timed = {"cpu_s", "wall_s", "peak_memory_bytes"}

    def told(judge: Judge) -> list[dict[str, Any]]:
        found = dict(judge.map(submissions))
        records = [verdict_record(found[place]) for place in range(len(submissions))]
        return [{k: v for k, v in r.items() if k not in timed} for r in records]

    hosts = [HttpHost(url) for url in servers]
    with Judge(1) as here, JudgePool(hosts, here.limits, print) as there:
        assert told(there) == told(here)
        tuples = Submission(Program(RIGHT, "f"), CallTests(([(1, 2)],), (2,)))
        with pytest.raises(RunError, match="tests hold a tuple, a set or the like"):
            there.submit_all(tuples).result()


def test_a_wrong_key_and_no_server_are_a_line(
    files: Path,
    servers: dict[str, subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEPCODER_JUDGE_KEY", "other")
    assert main(command(files, "--hosts", ",".join(servers))) == 2
    assert 'refuses programs: {"error":"header Authorization: no or a wrong API key' in (
        error := capsys.readouterr().err
    )
    assert len(error.splitlines()) == 1
    assert main(command(files, "--hosts", "http://127.0.0.1:1")) == 2
    assert capsys.readouterr().err == "no judge answers: http://127.0.0.1:1\n"


def test_a_run_that_servers_judge_is_the_run_that_we_judge(
    tmp_path: Path, servers: dict[str, subprocess.Popen[str]]
) -> None:
    problems = constant_problems(tmp_path / "constants.jsonl")
    given = [f"data.path={problems}", "sft.steps=1", "steps=2", "eval.every=2"]
    assert run(tmp_path / "here", *given) == 0
    assert run(tmp_path / "there", *given, f"sandbox.hosts=[{','.join(servers)}]") == 0
    assert untimed(tmp_path / "there") == untimed(tmp_path / "here")
    assert states_equal(tmp_path / "there", tmp_path / "here") == []


def test_a_killed_server_costs_no_verdict(
    files: Path,
    servers: dict[str, subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies once it has programs, is started again, and then the other one dies."""
    first, second = servers
    judge, begun = HttpHost.judge, []

    def judge_and_strike(host: HttpHost, batch: Any) -> Any:
        begun.append(host.name)
        if begun.count(first) == 4 and host.name == first:
            servers[first].kill()
            servers[first].communicate()
            servers[first], _ = serving(int(first.rpartition(":")[2]))
        if begun.count(second) == 9 and host.name == second:
            servers[second].kill()
        return judge(host, batch)

    monkeypatch.setattr(HttpHost, "judge", judge_and_strike)
    assert main(command(files, "--hosts", f"{first},{second}")) == 0
    check_verdicts(files)
    said = capsys.readouterr().err
    assert f"judge {first} is lost (" in said
    assert f"judge {first} is there" in said
    assert f"judge {second} is lost (" in said

    servers[first].kill()
    monkeypatch.setattr(pool, "PATIENCE_S", 0.0)
    (files / "verdicts.jsonl").unlink()
    assert main(command(files, "--hosts", f"{first},{second}")) == 2
    assert "no judge answers" in capsys.readouterr().err


def test_where_all_servers_end_so_does_the_command(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, url = serving()
    judge, begun = HttpHost.judge, []

    def judge_and_strike(host: HttpHost, batch: Any) -> Any:
        begun.append(batch)
        if len(begun) == 9:
            process.kill()
            process.communicate()
        return judge(host, batch)

    monkeypatch.setattr(HttpHost, "judge", judge_and_strike)
    monkeypatch.setattr(pool, "PATIENCE_S", 0.0)
    assert main(command(files, "--hosts", url)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"no judge has answered for 0 s; start one of {url}, then go on"
    assert 1 <= (files / "verdicts.jsonl").read_text().count("\n") < COUNT
    assert main(command(files, "--workers", "2")) == 0  # what is left
    check_verdicts(files)


# Over Ray


def test_a_stage_adds_verdicts_to_a_batch(files: Path) -> None:
    stage = JudgeStage(files / "problems.jsonl", workers=1)
    batch = {"task_id": ["t/0", "t/0"], "solution": [RIGHT, "def f(x): return 0"], "n": [1, 2]}
    judged = stage(batch)
    assert judged["n"] == [1, 2]
    assert judged["status"] == ["accepted", "wrong answer"]
    assert judged["passed"] == [True, False]
    with pytest.raises(InputError, match=r"^row 0 of a batch: .* no problem 't/9'"):
        stage({"task_id": ["t/9"], "solution": [RIGHT]})


def test_a_cluster_of_ray() -> None:
    """In a process of its own, since Ray leaves threads behind."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    done = subprocess.run(
        [*command, str(here / "cluster_of_ray.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
