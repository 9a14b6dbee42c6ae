"""What a real run tells those who follow it: what is slow, what never passes, single rollouts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.begun_run import begun
from helpers.small_runs import constant_problems, run

from stepcoder.config import Config
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import encode_prompt, token_spans
from stepcoder.report.chosen import sample_of
from stepcoder.report.page import write_report
from stepcoder.report.run_dir import read_records, read_rollout_samples, sample_files
from stepcoder.report.samples import FailedTest, Piece, Token
from stepcoder.rollout.engine import Completion
from stepcoder.rollout.rollout import Rollout, Task
from stepcoder.sandbox import CallTests, Status, StdinTests, TestVerdict, Verdict

STEPS = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights on two problems, each of which it tries at every step."""
    folder = tmp_path_factory.mktemp("followed")
    given = f"data.path={constant_problems(folder / 'two.jsonl', (3, 4))}"
    options = ["sft.steps=0", "sft.share=1.0", f"steps={STEPS}", "eval.every=2"]
    assert run(folder / "run", given, *options, "rollout.tasks_per_step=2", "dtype=float32") == 0
    return folder / "run"


def test_a_run_names_what_took_longest_and_what_never_passes(trained: Path) -> None:
    *_, third, last = read_records(trained)
    names = ["constant/0", "constant/1"]
    for task_id, tokens, end in last["slowest"]["generate"]:
        assert task_id in names
        assert (tokens, end) == (24, "cut off") or (tokens <= 24 and end == "ended")
    (_, seconds, status), *_ = last["slowest"]["judge"]
    assert seconds == round(last["slowest_judge_s"], 3)
    assert status in last["verdicts"]
    assert third["never_passed"] == {"problems": 2, "most_tried": [[name, 3] for name in names]}
    assert last["never_passed"]["most_tried"] == [[name, 4] for name in names]
    page = write_report(trained).read_text(encoding="utf-8")
    assert "2 problems, in 3 attempts or more" in page
    assert "<tr><th>constant/0</th><td>4 attempts</td></tr>" in page


def test_the_samples_of_a_run_hold_what_the_model_read_and_how_each_token_was_trained(
    trained: Path,
) -> None:
    assert [f.stem for f in sample_files(trained)] == ["step-000001", "step-000002", "step-000004"]
    (samples,) = read_rollout_samples(sample_files(trained)[-1:])
    for sample in samples:
        prompt = "".join(text for text, _ in sample.prompt)
        assert "Give a number." in prompt
        assert prompt.endswith(sample.given)
        assert 0 < len(sample.tokens) <= 24
        assert [token.end for token in sample.tokens] == sorted(t.end for t in sample.tokens)
        assert sample.tokens[-1].end == len(sample.completion)
        assert all(token.advantage is not None for token in sample.tokens)
    text = write_report(trained).read_text(encoding="utf-8")
    assert re.search(r'<u class="[pn][1-4]" title="[+-]', text)


def rollout_of(tests: CallTests | StdinTests, verdicts: tuple[TestVerdict, ...]) -> Rollout:
    """A rollout of three tokens after a prompt of an opening token and text."""
    tokenizer = train_tokenizer(["x = 1\n", "Say it."], 300)
    prompt = (tokenizer.eos_token_id, *encode_prompt(tokenizer, "Say it."))
    ids = (*encode_prompt(tokenizer, "x"), *encode_prompt(tokenizer, "1"), tokenizer.eos_token_id)
    text, spans = token_spans(tokenizer, prompt, ids)
    problem = Problem("p", "Say it.", "", "", tests, "f")
    done = Completion(0, ids, (0.0,) * len(ids), stopped=True)
    verdict = Verdict(verdicts[-1].status, verdicts, executed_lines=frozenset({1}))
    return Rollout(Task(problem, 0, "", "Say it.", 0), prompt, done, text, spans, text, verdict)


WRONG = TestVerdict(Status.WRONG_ANSWER, "expected 3, got 2", got="2")


def test_a_sample_takes_masks_and_advantages_from_its_row_of_the_batch() -> None:
    tokenizer = train_tokenizer(["x = 1\n", "Say it."], 300)
    rollout = rollout_of(CallTests(([1, "a"], [9]), (1, 3)), (TestVerdict(Status.ACCEPTED), WRONG))
    prompt, ids = rollout.prompt_ids, rollout.completion.token_ids
    assert len(ids) == 3
    rows = [
        Row(prompt[1:], ids, (0.0,) * 3, (True,) * 3, 1.0),  # the same response, another prompt
        Row(prompt, ids[:2], (0.0,) * 2, (True,) * 2, 1.0),
        Row(prompt, ids, (0.0,) * 3, (True, False, True), 1.0),
    ]
    batch = pack(rows)
    advantages = torch.zeros(len(batch.tokens))
    advantages[-3:] = torch.tensor([0.12345, -2.0, 0.5])
    sample = sample_of(rollout, 1, tokenizer, replace(batch, advantages=advantages))
    assert sample.tokens == (
        Token(1, True, 0.123),
        Token(2, False, -2.0),
        Token(2, True, 0.5, tokenizer.eos_token),
    )
    assert sample.masked_share == pytest.approx(1 / 3)
    assert sample.prompt == (Piece(tokenizer.eos_token, True), Piece("Say it.", False))
    assert sample.prompt_tokens == len(prompt)
    assert sample.failed == FailedTest(2, "f(9)", "3")
    unknown = sample_of(rollout, 1, tokenizer, pack(rows[:2]))
    assert [(t.trained, t.advantage) for t in unknown.tokens] == [(True, None)] * 3


def test_a_sample_tells_what_the_first_failing_test_asked() -> None:
    tokenizer = train_tokenizer(["x = 1\n", "Say it."], 300)

    def failed(tests: CallTests | StdinTests, *verdicts: TestVerdict) -> FailedTest | None:
        rollout = rollout_of(tests, verdicts)
        row = Row(rollout.prompt_ids, rollout.completion.token_ids, (0.0,) * 3, (True,) * 3, 1.0)
        return sample_of(rollout, 1, tokenizer, pack([row])).failed

    passed = TestVerdict(Status.ACCEPTED)
    stdin = StdinTests(("1\n2\n", "5" * 999), ("3\n", "4"))
    assert failed(stdin, WRONG, passed) == FailedTest(1, "1\n2\n", "3\n")
    assert failed(stdin, passed, WRONG) == FailedTest(2, f"{'5' * 300}...", "4")
    long = CallTests(([10**9999, "b"],), ([],))
    assert failed(long, WRONG) == FailedTest(1, "f(<an int of about 10000 digits>, 'b')", "[]")
    assert failed(stdin, passed, passed) is None


@contextmanager
def watching(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that watches a run folder; it is gone when the `with` block ends, or hangs."""
    command = [sys.executable, "-m", "stepcoder.report", str(folder), "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it
    watcher = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    signal.signal(signal.SIGINT, before)
    hangs = threading.Timer(600, watcher.kill)
    hangs.start()
    try:
        yield watcher
    finally:
        hangs.cancel()
        watcher.kill()
        watcher.communicate()


def line_with(watcher: subprocess.Popen[str], text: str) -> str:
    """Wait for a line that says so."""
    assert watcher.stdout is not None
    return next(line for line in watcher.stdout if text in line)


RELOADS = "location.reload()"


def test_a_run_is_followed_from_before_it_begins_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with watching(folder) as watcher:
        assert line_with(watcher, "waiting") == f"{folder} holds no run yet; waiting for it\n"
        assert not folder.exists()
        with begun(Config(run_dir=str(folder), steps=2)) as open_run:
            line_with(watcher, "no step yet")
            open_run.log(1, {"reward_mean": -0.25, "pass_rate": 0.125})
            line = line_with(watcher, "RL step 1")
            assert "RL step 1 of 2  reward -0.25  pass 12.5%  " in line
            assert line.endswith(f"  {folder / 'live.html'}\n")
            assert RELOADS in (folder / "live.html").read_text()
            open_run.log(2, {"reward_mean": 0.5, "eval": {"pass@1": 0.5}, "test": {"pass@1": 0.5}})
            assert "reward +0.50  held-out 50.0% (at step 2)" in line_with(
                watcher, "RL step 2 of 2"
            )
        assert line_with(watcher, "no process") == f"no process trains in {folder}\n"
        assert watcher.communicate() == ("", "")
        assert watcher.returncode == 0
    assert "RL step 2 of 2" in (folder / "live.html").read_text()
    assert RELOADS not in (folder / "live.html").read_text()
    assert not (folder / "report.html").exists()


def test_the_end_of_a_run_that_is_killed_is_told_with_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = f"""
        import signal
        from stepcoder.config import Config
        from stepcoder.report.run_dir import RunDir
        with RunDir.open(Config(run_dir={str(folder)!r})) as run:
            run.begin()
            run.log(1, {{"phase": "sft", "loss": 2.5}})
            signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        with watching(folder) as watcher:
            assert "supervised step 1 of " in line_with(watcher, "loss 2.500")
            run.send_signal(signal.SIGKILL)
            told = line_with(watcher, "no process")
            assert told.endswith(f"; to go on: python -m stepcoder.train --resume {folder}\n")
            assert watcher.wait() == 0
    finally:
        run.kill()
        run.wait()
    assert RELOADS not in (folder / "live.html").read_text()


def test_ctrl_c_ends_the_watching_alone_and_leaves_a_page_that_stands_still(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with watching(folder) as watcher:
        line_with(watcher, "waiting")
        watcher.send_signal(signal.SIGINT)
        assert watcher.communicate() == ("", "")
        assert watcher.returncode == 130
    with begun(Config(run_dir=str(folder))) as open_run, watching(folder) as watcher:
        line_with(watcher, "no step yet")
        watcher.send_signal(signal.SIGINT)
        assert watcher.communicate() == ("", "")
        assert watcher.returncode == 130
        assert RELOADS not in (folder / "live.html").read_text()
        open_run.log(1, {"kl": 0.5})
    assert json.loads((folder / "metrics.jsonl").read_text())["kl"] == 0.5


def test_what_a_watcher_cannot_read_is_one_line(tmp_path: Path) -> None:
    with begun(Config(run_dir=str(tmp_path / "run"))) as open_run:
        (open_run.path / "metrics.jsonl").write_text("broken\n")
        with watching(open_run.path) as watcher:
            told = watcher.communicate()[1]
            assert watcher.returncode == 2
    assert told.startswith("stepcoder.report: ")
    assert told.endswith("metrics.jsonl line 1 is no record of a step; delete it\n")
    assert told.count("\n") == 1
