"""The whole loop with real parts: it learns, it resumes bit for bit, it refuses what it must."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.finished_runs import states_equal, untimed
from helpers.small_runs import SMALL, constant_problems, run

from stepcoder.report.run_dir import read_records
from stepcoder.run.run import Run
from stepcoder.train import main


def test_rl_finds_the_answer_that_passes_most_often(tmp_path):
    """Supervised on all answers, the policy spreads its guesses; RL gathers them on the best."""
    problems = constant_problems(tmp_path / "constants.jsonl")
    code = run(
        tmp_path / "run",
        f"data.path={problems}",
        "sft.steps=80",
        "sft.share=1.0",
        "steps=30",
        "rollout.tasks_per_step=8",
        "rollout.samples_per_task=8",
        "ppo.policy_lr=1e-3",
        "eval.every=30",
    )
    assert code == 0
    records = [r for r in read_records(tmp_path / "run") if r["phase"] == "rl"]
    early = sum(r["pass_rate"] for r in records[1:4]) / 3  # before and at the first update
    late = sum(r["pass_rate"] for r in records[-5:]) / 5
    assert early < 0.4
    assert late > early + 0.08
    assert records[-1]["entropy"] < records[1]["entropy"]
    first = records[1]
    assert first["ratio_max"] >= 1 >= first["ratio_min"]
    assert abs(first["kl"]) < 1e-4  # the reference is the start
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<figure>") >= 10
    assert len(page) < 400_000


def test_the_moments_of_the_supervised_phase_are_freed_before_rl(tmp_path, monkeypatch):
    moments = []

    def no_steps(_run=None):
        gc.collect()
        optimizers = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]
        moments.append(sum(len(o.state) for o in optimizers))
        return iter(())

    no_steps()
    monkeypatch.setattr(Run, "steps_left", no_steps)
    assert run(tmp_path / "run", *STEPS) == 0
    assert moments[1] == moments[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(folder, *STEPS) == 0
    return folder


STEPS = ["sft.steps=4", "steps=4", "checkpoint.every=2", "eval.every=2", "data.limit=12"]


@pytest.mark.parametrize(("phase", "step"), [("sft", 3), ("rl", 0), ("rl", 3)])
def test_kill_9_and_resume_equals_the_uninterrupted_run_bit_for_bit(
    tmp_path, uninterrupted, phase, step
):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "stepcoder.train", *SMALL, *STEPS, f"run_dir={folder}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while True:
        done = [(r["phase"], r["step"]) for r in read_records(folder)] if folder.exists() else []
        if (phase, step) in done:
            break
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()

    assert run(folder, command=("--resume", str(folder))) == 0
    assert states_equal(folder, uninterrupted) == []
    assert untimed(folder) == untimed(uninterrupted)


def test_overlapped_generation_resumes_bit_for_bit_too(tmp_path):
    """With rollout.ahead the checkpoint holds the batch that was already generated."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, *STEPS, "rollout.ahead=1") == 0
    assert run(cut, *STEPS, "rollout.ahead=1", "steps=3", "eval.every=10") == 0
    shutil.rmtree(cut / "checkpoints" / "rl-000003")
    assert run(cut, "steps=4", "eval.every=2", command=("--resume", str(cut))) == 0
    assert states_equal(cut, whole) == []
    assert untimed(cut)[-2:] == untimed(whole)[-2:]


def test_a_dumped_run_is_replayed_without_an_engine_to_the_same_weights(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(first, *STEPS, "rollout.dump=true") == 0
    assert run(again, *STEPS, f"rollout.replay={first}") == 0
    assert states_equal(first, again) == ["/best"]  # a replay evaluates nothing


def test_a_replay_of_another_run_is_refused(tmp_path, capfd):
    first = tmp_path / "first"
    assert run(first, *STEPS, "rollout.dump=true", "steps=1") == 0
    assert run(tmp_path / "b", *STEPS, f"rollout.replay={first}", "seed=1") == 2
    assert "rollout.replay" in capfd.readouterr().err
    assert run(tmp_path / "c", *STEPS, f"rollout.replay={tmp_path}") == 2
    assert "rollout.dump=true" in capfd.readouterr().err


def test_a_resume_with_other_data_is_refused(tmp_path, capfd):
    problems = constant_problems(tmp_path / "constants.jsonl")
    folder = tmp_path / "run"
    quick = ["sft.steps=1", "steps=1", f"data.path={problems}"]
    assert run(folder, *quick) == 0
    constant_problems(problems, (1, 2, 3))
    assert run(folder, command=("--resume", str(folder))) == 2
    message = capfd.readouterr().err
    assert "constants.jsonl" in message
    assert "fingerprint" in message
    constant_problems(problems)
    assert run(folder, "steps=2", command=("--resume", str(folder))) == 0
    assert read_records(folder)[-1]["step"] == 2


def test_bad_input_is_one_line_that_names_the_fix(tmp_path, capfd):
    for override, expected in [
        ("data.path=nowhere.jsonl", 'data.path: "nowhere.jsonl"'),
        ("data.validation_path=nowhere.jsonl", 'data.validation_path: "nowhere.jsonl"'),
        ("device=cuda", "device=cpu"),
        (f"model.path={tmp_path / 'nothing'}", "model.path"),
    ]:
        if override == "device=cuda" and torch.cuda.is_available():
            continue
        assert run(tmp_path / override[:6], override) == 2
        error = capfd.readouterr().err
        assert expected in error
        assert "Traceback" not in error


def test_dry_run_prints_a_configuration_that_reads_back(tmp_path, capsys):
    assert main(["--dry-run", "steps=7", "ppo.clip=0.3"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(text)
    assert main(["--dry-run", "--config", str(tmp_path / "config.yaml")]) == 0
    assert capsys.readouterr().out == text
    assert "clip: 0.3" in text
