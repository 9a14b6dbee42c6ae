"""Runs that are stopped, refused, started twice, out of space or left with damaged checkpoints."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.finished_runs import states_equal, untimed
from helpers.processes import children_of
from helpers.small_runs import SMALL, constant_problems, run

from stepcoder.config import Config
from stepcoder.report.run_dir import RunDir, read_records
from stepcoder.run.checkpoint import STATE, load_state, newest_checkpoint, newest_state
from stepcoder.sandbox import Judge, Verdict
from stepcoder.train import main

STEPS = ["sft.steps=4", "steps=4", "checkpoint.every=2", "eval.every=2", "data.limit=12"]
STEPS += ["ppo.critic_warmup_steps=0"]


@pytest.fixture(autouse=True)
def attentive() -> Iterator[None]:
    """SIGINT with its usual effect: whoever is started in a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped; checkpoints are of RL's steps 2 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder, *STEPS) == 0
    return folder


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """The same run, stopped after step 2: what is left of it is to be resumed."""
    folder = tmp_path / "half"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "rl-000004")
    return folder


def resume(folder: Path, *overrides: str) -> int | str | None:
    """The exit status; wrong command lines leave by SystemExit."""
    try:
        return main(["--resume", str(folder), *overrides])
    except SystemExit as left:
        return left.code


def files(folder: Path) -> dict[Path, bytes | None]:
    """All that a folder holds."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: one line."""
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


# Refused overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.path=elsewhere", "model.path"),
        ("model.width=64", "model.width"),
        ("model.lora_rank=2", "model.lora_rank"),
        ("recipe=ppo", "recipe"),
        ("dtype=bfloat16", "dtype"),
        ("seed=1", "seed"),
        ("ppo.optimizer=adamw", "ppo.optimizer"),
        ("sft.lr=1", "sft.lr"),
        ("data.limit=3", "data.limit"),
        ("run_dir=other", "run_dir"),
        ("rollout.samples_per_task=4", "rollout.samples_per_task"),
        ("ppo.minibatches=1000", "ppo.minibatches"),
        ("data.path=nowhere.jsonl", "data.path"),
        ("data.path={problems}", "fingerprints differ"),
        ("rollout.replay=nowhere", "rollout.replay"),
    ],
)
def test_a_refused_resume_is_one_line_and_changes_nothing(
    half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    problems = constant_problems(tmp_path / "constants.jsonl")
    before = files(half)
    assert resume(half, override.format(problems=problems), "steps=9") == 2
    assert expected in error_line(capfd)
    assert files(half) == before


# Accepted ones


@pytest.mark.parametrize("adapting", ["recipe=ppocoder", "ppo.kl_target=0.5"])
def test_a_new_weight_of_the_kl_is_where_adapting_begins_again(
    tmp_path: Path, adapting: str
) -> None:
    folder, problems = tmp_path / "run", constant_problems(tmp_path / "constants.jsonl")
    quick = [f"data.path={problems}", "sft.steps=0", "checkpoint.every=1", "ppo.kl_beta=0.5"]
    assert run(folder, adapting, *quick, "steps=1") == 0
    assert resume(folder, "steps=2") == 0
    assert resume(folder, "ppo.kl_beta=1", "steps=3") == 0
    first, second, third = [r["kl_beta"] for r in read_records(folder)[1:]]
    change = 0.2 * 8 / 10_000  # of a step of 8 programs whose KL is far below the target
    assert (first, third) == (pytest.approx(0.5 * (1 - change)), pytest.approx(1 - change))
    assert second == pytest.approx(0.5 * (1 - change) ** 2)
    if adapting == "ppo.kl_target=0.5":
        assert resume(folder, "ppo.kl_beta=2", "ppo.kl_target=null", "steps=4") == 0
        assert "kl_beta" not in read_records(folder)[-1]
        assert not load_state(newest_checkpoint(folder / "checkpoints"))["recipe_state"]


def test_new_rates_betas_and_decay_reach_the_restored_optimizers(half: Path) -> None:
    given = ["ppo.policy_lr=1e-9", "ppo.critic_lr=2e-9", "ppo.adam_betas=[0.5,0.6]"]
    before = load_state(newest_checkpoint(half / "checkpoints"))
    assert resume(half, *given, "ppo.weight_decay=0.25", "steps=3") == 0
    state = load_state(newest_checkpoint(half / "checkpoints"))
    for name, lr in (("policy_optimizer", 1e-9), ("critic_optimizer", 2e-9)):
        (group,) = state[name]["parts"][-1]["param_groups"]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (lr, (0.5, 0.6), 0.25)
        steps = [s[name]["parts"][-1]["state"][0]["step"] for s in (before, state)]
        assert steps[1] > steps[0] > 0  # the moments were restored
    moved = [(state["policy"][k] - v).abs().max() for k, v in before["policy"].items()]
    assert 0 < max(moved) < 1e-6


def test_relative_paths_resume_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    constant_problems(tmp_path / "here" / "constants.jsonl")
    monkeypatch.chdir(tmp_path / "here")
    quick = ["data.path=constants.jsonl", "sft.share=1.0", "sft.steps=1", "steps=1"]
    assert run(Path("run"), *quick) == 0
    again = [*quick, "model.path=run/start", "model.critic_path=./run/start", "sft.steps=0"]
    assert run(Path("again"), *again, "dtype=float32") == 0
    monkeypatch.chdir(tmp_path / "there")
    assert resume(Path("../here/run"), "steps=2") == 0
    assert resume(Path("../here/again"), "steps=2") == 0
    assert read_records(tmp_path / "here" / "again")[-1]["step"] == 2


# Damaged checkpoints


def test_a_state_that_is_cut_or_changed_anywhere_is_not_taken(half: Path) -> None:
    folder = half / "checkpoints"
    newest, older = folder / "rl-000004", folder / "rl-000002"
    shutil.copytree(older, newest)
    data = (older / STATE).read_bytes()
    expected = load_state(older)
    notes: list[str] = []
    places = [0, 1, 100, *range(0, len(data), len(data) // 20), len(data) - 1]
    for place in places:
        (newest / STATE).write_bytes(data[:place])
        state = newest_state(folder, notes.append)
        assert state is not None
        assert state["step"] == expected["step"]
    assert len(notes) == len(places)
    assert "rl-000004 damaged; going on from rl-000002" in notes[0]

    in_weights = data.index(expected["policy"]["model.norm.weight"].numpy().tobytes())
    changed = bytearray(data)
    changed[in_weights] ^= 1
    (newest / STATE).write_bytes(changed)
    assert newest_state(folder, notes.append) is not None
    assert len(notes) == len(places) + 1


@pytest.mark.parametrize("damage", ["cut", "no policy"])
def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = folder / "checkpoints" / "rl-000004"
    if damage == "cut":
        os.truncate(newest / STATE, (newest / STATE).stat().st_size - 1)
    else:
        shutil.rmtree(newest / "policy")
    capfd.readouterr()
    # The checkpoint that is saved next must not make room for the damaged one of a later step.
    assert resume(folder, "steps=3", "checkpoint.keep=1") == 0
    assert capfd.readouterr().out.count("rl-000004 damaged; going on from rl-000002") == 1
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["rl-000003"]
    assert resume(folder, "steps=4") == 0
    assert states_equal(folder, whole) == []


def test_where_no_checkpoint_is_whole_nothing_is_deleted(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for state in (folder / "checkpoints").glob(f"*/{STATE}"):
        os.truncate(state, 1000)
    before = files(folder)
    capfd.readouterr()
    assert resume(folder) == 2
    assert "rl-000004, rl-000002 damaged, and no other checkpoint is left" in error_line(capfd)
    assert files(folder) == before


# A full disk


@contextmanager
def tmpfs(folder: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs for the tests")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take all but `left` bytes of a disk."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(max(free - left, 0)))
    return filler


def test_a_full_disk_is_one_line_and_loses_nothing(
    whole: Path, half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seldom = ["steps=400", "checkpoint.every=400"]
    with tmpfs(tmp_path / "disk") as disk:
        folder = disk / "run"
        shutil.copytree(half, folder)
        size = sum(p.stat().st_size for p in (folder / "checkpoints" / "rl-000002").rglob("*"))
        for left, *overrides in [
            (0,),  # for the configuration
            (size // 2,),  # the state
            (size + 16384,),  # the policy
            (16384, *seldom),  # the report
            (16384, *seldom, "eval.every=400"),  # the metrics
            (16384, *seldom, "eval.every=400", "rollout.dump=true"),  # the rollouts
        ]:
            filler = fill(disk, left)
            capfd.readouterr()
            assert resume(folder, *overrides) == 2
            assert "No space left on device" in error_line(capfd)
            filler.unlink()
            assert newest_checkpoint(folder / "checkpoints") is not None
            assert not list(folder.rglob("*.partial"))
        assert resume(folder, *STEPS[1:4], "rollout.dump=false") == 0
        assert states_equal(folder, whole) == []
        assert untimed(folder) == untimed(whole)


def test_a_new_run_on_a_full_disk_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        filler = fill(disk, 4096)
        assert run(disk / "run", *STEPS) == 2
        assert "No space left on device; mend that, then start again" in error_line(capfd)
        assert list(disk.iterdir()) == [filler]


def test_a_limit_on_the_size_of_files_is_one_line(
    whole: Path, half: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        assert resume(half) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in error_line(capfd)
    assert resume(half) == 0
    assert states_equal(half, whole) == []


# Signals


@pytest.mark.parametrize(
    ("number", "phase", "step", "name"),
    [
        (signal.SIGTERM, "sft", 1, "supervised step 1"),
        (signal.SIGTERM, "rl", 0, "step 0"),
        (signal.SIGINT, "rl", 3, "step 3"),
    ],
)
def test_a_signal_saves_and_the_resumed_run_is_as_if_it_never_came(
    whole: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    phase: str,
    step: int,
    name: str,
) -> None:
    folder = tmp_path / "run"
    log = RunDir.log

    def log_and_signal(run_dir: RunDir, logged: int, metrics: dict[str, Any]) -> None:
        log(run_dir, logged, metrics)
        if (metrics["phase"], logged) == (phase, step):
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "log", log_and_signal)
        assert run(folder, *STEPS) == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert error_line(capfd) == f"stopped at {name}, saved; continue with --resume {folder}"
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest is not None
    assert newest.name == f"{phase}-{step:06d}"
    assert resume(folder) == 0
    assert states_equal(folder, whole) == []
    assert untimed(folder) == untimed(whole)


def test_a_signal_in_the_last_step_stops_nothing(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDir, "log_samples", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert resume(half, "steps=3") == 0
    assert read_records(half)[-1]["step"] == 3


def test_a_signal_before_the_first_step_of_a_resume_leaves_the_checkpoint(
    half: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold programs that were generated ahead, which are not begun again yet."""
    before = files(half / "checkpoints")
    capfd.readouterr()
    monkeypatch.setattr("stepcoder.train.supervise", lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert resume(half) == 130
    assert error_line(capfd) == f"stopped at step 2, saved; continue with --resume {half}"
    assert files(half / "checkpoints") == before


def output_of(folder: Path, signals: dict[str, signal.Signals], *overrides: str) -> tuple[int, str]:
    """Exit status and output of a run that is sent a signal once a line begins as given.

    It runs in a session of its own, whose processes all get it: what a terminal's Ctrl-C does.
    """
    command = [sys.executable, "-m", "stepcoder.train", *SMALL, *STEPS, f"run_dir={folder}"]
    process = subprocess.Popen(
        [*command, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    with process.stdout:
        for line in process.stdout:
            output += line
            for beginning, number in signals.items():
                if line.startswith(beginning):
                    os.killpg(process.pid, number)
    return process.wait(), output


def test_ctrl_c_lets_the_sandbox_finish_the_step(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, output = output_of(folder, {"rl 1/": signal.SIGINT}, "steps=1000")
    assert status == 130
    last = read_records(folder)[-1]
    assert output.endswith(
        f"stopped at step {last['step']}, saved; continue with --resume {folder}\n"
    )
    assert last["infrastructure_errors"] == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    signals = {"rl 0/": signal.SIGINT, "stopping when this step is done": signal.SIGTERM}
    long = ["rollout.max_new_tokens=1000", "rollout.tasks_per_step=32", "rollout.group_size=8"]
    status, output = output_of(folder, signals, *long)
    assert status == 143
    assert output.endswith(f"stopped, not saved; continue with --resume {folder}\n")
    assert "Traceback" not in output


def test_a_folder_that_two_signals_take_away_is_not_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_twice(_: object) -> None:
        for number in (signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("stepcoder.train.supervise", stop_twice)
    assert run(tmp_path / "run", *STEPS) == 130
    assert error_line(capfd) == "stopped, not saved"
    assert not (tmp_path / "run").exists()


# Judge workers


def test_killed_judge_workers_change_no_verdict(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed in each step while programs wait for it."""
    submit, killed = Judge.submit, list[int]()

    def submit_and_kill(judge: Judge, *given: Any) -> Future[Verdict]:
        verdict = submit(judge, *given)
        workers = [p for p in children_of(os.getpid()) if p not in killed and is_worker(p)]
        if workers and len(killed) < 4:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)
        return verdict

    def is_worker(pid: int) -> bool:
        return b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()

    monkeypatch.setattr(Judge, "submit", submit_and_kill)
    assert run(tmp_path / "run", *STEPS) == 0
    assert len(killed) == 4
    assert untimed(tmp_path / "run") == untimed(whole)


# One process to a folder


def test_a_folder_that_is_in_use_is_refused(
    half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files(half)
    capfd.readouterr()
    with RunDir.open(Config(run_dir=str(half)), resumes=True):
        assert resume(half) == 2
        assert f"another process trains in {half}" in error_line(capfd)
    with RunDir.open(Config(run_dir=str(tmp_path / "new"))):
        assert run(tmp_path / "new", *STEPS) == 2
        assert "another process trains in" in error_line(capfd)
    assert files(half) == before


# Broken records


def test_skipped_records_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = constant_problems(tmp_path / "constants.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["prompt"] = "half a pair: \ud800"
    records[2]["task_id"] = "\udfff"
    for record in records[3:]:
        del record["tests"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = [f"data.path={path}", "sft.steps=1", "sft.share=1.0", "steps=0"]
    assert run(tmp_path / "many", *options) == 2
    line = error_line(capfd)
    assert f"{len(records) - 1} of {len(records)} records skipped" in line
    assert "go on with data.max_skipped=1" in line
    options.append("data.max_skipped=1")
    assert run(tmp_path / "run", *options) == 0
    lines = capfd.readouterr().out.splitlines()
    listing = tmp_path / "run" / "skipped.txt"
    skipped = len(records) - 1
    assert lines[0] == f"{path}: {skipped} of {len(records)} records skipped; listed in {listing}"
    listed = listing.read_text().splitlines()
    assert len([line for line in listed if line.startswith(f"{path} line ")]) == skipped
    assert f'{skipped - 2:>8} field "tests" is missing' in listed
    assert lines[1].startswith(f"skipped: {path} line 2: field \"prompt\" holds '\\ud800'")
    assert lines[2].startswith(f"skipped: {path} line 3: field \"task_id\" holds '\\udfff'")
    assert sum(line.startswith("skipped: ") for line in lines) == 5
    assert run(tmp_path / "strict", *options, "data.strict=true") == 2
    assert "line 2: field" in error_line(capfd)


def test_the_first_skipped_record_says_why_there_is_nothing_to_train_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"task_id": "a"}\n')
    assert run(tmp_path / "run", f"data.path={path}") == 2
    line = error_line(capfd)
    assert "no problem to train on" in line
    assert f"{path} line 1: no field of a known form" in line
