"""W&B, MLflow and trackio themselves, offline: what reaches them, resumes, failures; a scrape."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers.processes import children_of
from helpers.small_runs import constant_problems, run

from stepcoder.config import load_config
from stepcoder.errors import RunError
from stepcoder.report.run_dir import read_records
from stepcoder.run.run import Run
from stepcoder.run.sinks import IDS, Sinks

NAMES = ("wandb", "mlflow", "trackio")
ABSENT = [name for name in NAMES if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} not installed (pip install .[sinks])"),
    pytest.mark.filterwarnings("ignore"),  # what these libraries use of others is not ours
]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Everything that they keep is in the test's folder."""
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": tmp_path / "wandb",
        "WANDB_CONFIG_DIR": tmp_path / "wandb-config",
        "WANDB_CACHE_DIR": tmp_path / "wandb-cache",
        "WANDB_DATA_DIR": tmp_path / "wandb-data",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": tmp_path / "trackio",
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, str(value))


def wandb_history(folder: Path) -> list[dict[str, float]]:
    """The rows of the offline files of a run, in the order of its starts.

    A file is a header of 7 bytes and LevelDB's log: blocks of 32 KiB with pieces of records, each
    behind its checksum (4 bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, place, begun = file.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:  # no room for a piece
                place += 32768 - place % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, place + 4)
            begun += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                items, begun = Record.FromString(begun).history.item, b""
                rows.append({"/".join(i.nested_key) or i.key: i.value_json for i in items})
    return [{key: float(value) for key, value in row.items()} for row in rows]


def test_all_three_have_the_figures_of_every_step_and_a_resume_continues_them(tmp_path, capsys):
    from mlflow import MlflowClient
    from trackio.sqlite_storage import SQLiteStorage

    folder, problems = tmp_path / "run", constant_problems(tmp_path / "constants.jsonl")
    given = [f"data.path={problems}", "sinks=[wandb,mlflow,trackio]", "sft.steps=2"]
    assert run(folder, *given, "steps=1", "checkpoint.every=1") == 0
    ids = json.loads((folder / IDS).read_text())
    assert list(ids) == list(NAMES)
    assert run(folder, "steps=2", command=("--resume", str(folder))) == 0
    assert json.loads((folder / IDS).read_text()) == ids
    said = capsys.readouterr().out
    assert f"sinks: mlflow run {ids['mlflow']}" in said
    assert "failed" not in said

    steps = [r for r in read_records(folder) if r["phase"] == "rl"]
    assert [r["step"] for r in steps] == [0, 1, 2]
    rewards = [(r["step"], r["reward_mean"]) for r in steps[1:]]
    losses = [r["loss"] for r in read_records(folder) if r["phase"] == "sft"]

    history = wandb_history(folder)
    assert [r["sft/loss"] for r in history if "sft/loss" in r] == pytest.approx(losses)
    found = [(r["rl/step"], r["rl/reward_mean"]) for r in history if "rl/reward_mean" in r]
    assert found == rewards
    assert all(ids["wandb"] in str(file) for file in folder.glob("wandb/offline-run-*"))

    client = MlflowClient()
    history = client.get_metric_history(ids["mlflow"], "rl/reward_mean")
    assert [(m.step, m.value) for m in history] == rewards
    assert client.get_metric_history(ids["mlflow"], "rl/time/judge")
    assert client.get_run(ids["mlflow"]).info.status == "FINISHED"
    assert client.get_run(ids["mlflow"]).data.params["ppo.clip"] == "0.2"

    rows = SQLiteStorage.get_logs("stepcoder", ids["trackio"])
    assert [(r["rl/step"], r["rl/reward_mean"]) for r in rows if "rl/reward_mean" in r] == rewards


@pytest.fixture
def metrics(monkeypatch):
    pytest.importorskip("prometheus_client", reason="the extra `sinks` is not installed")
    monkeypatch.setenv("STEPCODER_METRICS", "127.0.0.1:0")


def address_of(sinks: Sinks) -> str:
    return sinks._open["prometheus"].sink.run_id


def scrape(sinks: Sinks) -> dict[str, float]:
    """What Prometheus reads, by its own parser, of the run that is named."""
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(address_of(sinks)) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert {family.type for family in families} <= {"gauge"}
    assert all(sample.labels == {"run": "a run"} for sample in samples)
    return {sample.name: sample.value for sample in samples}


@pytest.mark.usefixtures("metrics")
def test_prometheus_reads_the_newest_figures(tmp_path):
    config = load_config(None, ["sinks=[prometheus]"])
    folder = tmp_path / "a run"
    folder.mkdir()
    with Sinks(config, folder, print) as sinks:
        assert scrape(sinks) == {}
        sinks.log(1, 1, {"phase": "sft", "loss": 2.0})
        sinks.log(2, 1, {"phase": "rl", "verdicts": {"wrong answer": 3}, "pass@1": 0.5, "kl": None})
        sinks.log(3, 2, {"phase": "rl", "verdicts": {"wrong answer": 1}, "reward_mean": -0.25})
        address = address_of(sinks)
        while "stepcoder_rl_reward_mean" not in scrape(sinks):
            pass  # figures leave on a thread
        assert scrape(sinks) == {
            "stepcoder_sft_loss": 2.0,
            "stepcoder_sft_step": 1.0,
            "stepcoder_rl_verdicts_wrong_answer": 1.0,
            "stepcoder_rl_pass_at_1": 0.5,
            "stepcoder_rl_reward_mean": -0.25,
            "stepcoder_rl_step": 2.0,
        }
    with pytest.raises(OSError, match="refused"):
        urlopen(address)


@pytest.mark.usefixtures("metrics")
def test_prometheus_is_served_while_a_run_trains(tmp_path, capsys, monkeypatch):
    problems = constant_problems(tmp_path / "constants.jsonl")
    found = []
    finish_step = Run.finish_step

    def finish_and_scrape(run: Run, step: int, *others: object) -> None:
        finish_step(run, step, *others)
        while (read := scrape(run.sinks)).get("stepcoder_rl_step") != step:
            pass
        found.append(read)

    monkeypatch.setattr(Run, "finish_step", finish_and_scrape)
    given = [f"data.path={problems}", "sinks=[prometheus]", "sft.steps=1", "steps=2"]
    assert run(tmp_path / "a run", *given) == 0
    assert "sinks: prometheus run http://127.0.0.1:" in capsys.readouterr().out
    steps = [r for r in read_records(tmp_path / "a run") if r["phase"] == "rl" and r["step"]]
    assert [r["stepcoder_rl_reward_mean"] for r in found] == [r["reward_mean"] for r in steps]
    assert all(r["stepcoder_rl_time_judge"] > 0 for r in found)


@pytest.mark.usefixtures("metrics")
def test_a_port_that_is_taken_is_one_line(tmp_path, monkeypatch):
    config = load_config(None, ["sinks=[prometheus]"])
    said = r"^sinks: prometheus does not start \(\[Errno 98\] Address already in use\); set it up"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("STEPCODER_METRICS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RunError, match=said):
            Sinks(config, tmp_path, print)


def test_a_sink_that_fails_is_one_line_and_gets_nothing_more(tmp_path):
    notes: list[str] = []
    config = load_config(None, ["sinks=[wandb,mlflow]"])
    with Sinks(config, tmp_path, notes.append) as sinks:
        assert [note.split(" run ")[0] for note in notes] == ["sinks: wandb", "sinks: mlflow"]
        sinks.log(1, 1, {"phase": "rl", "loss": 2.0, "verdicts": {"accepted": 1}, "kl": None})
        shutil.rmtree(tmp_path / "mlruns")
        commands = {p: Path(f"/proc/{p}/comm").read_text() for p in children_of(os.getpid())}
        (service,) = (pid for pid, command in commands.items() if "wandb" in command)
        os.kill(service, signal.SIGKILL)
        for step in range(2, 40):
            sinks.log(step, step, {"phase": "rl", "loss": 2.0})
    failed = sorted(note.partition(",")[0] for note in notes[2:])
    assert failed == ["sinks: mlflow failed", "sinks: wandb failed"]
    assert all("\n" not in note for note in notes)


def test_what_cannot_be_used_is_one_line_before_the_run(tmp_path, capsys, monkeypatch):
    problems = constant_problems(tmp_path / "constants.jsonl")
    given = [f"data.path={problems}", "steps=1", "sft.steps=0"]
    assert run(tmp_path / "run", *given, "sinks=[tensorboard]") == 2
    assert "sinks: tensorboard is unknown; give some of wandb" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://there")
    assert run(tmp_path / "run", *given, "sinks=[mlflow]") == 2
    error = capsys.readouterr().err
    assert "sinks: mlflow does not start (" in error
    assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(tmp_path / "run", *given, "sinks=[wandb]") == 2
    assert "sinks: wandb is not installed; run pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
