"""deploy/: each file by the tool for its kind, our own commands in it by our own parsers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from stepcoder.config import CommandLine, parse_args, to_yaml
from stepcoder.judge import command as judge_command
from stepcoder.judge import serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
# A path of the crds/ray.io_rayjobs.yaml in KubeRay's helm chart.
RAYJOB = os.environ.get("STEPCODER_RAYJOB_CRD", "")


def tool(name: str) -> str:
    """Where a command is: beside this Python, or on the PATH."""
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed (the extra `dev` has it)")
    return found


def says(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    return done.stdout + done.stderr


# Dockerfile


def test_hadolint_has_nothing_against_the_dockerfile(tmp_path: Path) -> None:
    assert says(tool("hadolint"), DEPLOY / "Dockerfile") == ""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("--no-cache-dir ", ""))
    assert "DL3042" in says(tool("hadolint"), tmp_path / "Dockerfile")


def test_what_the_dockerfile_copies_and_installs_is_there() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert "stepcoder" in names
    assert all((ROOT / name).exists() for name in names)
    kept = re.findall(r"^!(\S+)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(kept) == names
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.findall(r'"\.\[(.*?)\]"', DOCKERFILE)
    assert len(installed) == 2  # cpu, cuda
    for line in installed:
        assert set(line.split(",")) <= extras["optional-dependencies"].keys()


# Compose


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_keeps_to_the_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="the extra `dev` is not installed")
    options = compose_spec.PyOptions()
    options.apply_merge = True
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(options.from_yaml(text).service_names()) == {"judge", "train", "prometheus"}
    with pytest.raises(ValueError, match="extension key `comand`"):
        options.from_yaml(text.replace("command: [judge", "comand: [judge"))


def test_its_commands_are_ours() -> None:
    services = compose()["services"]
    name, how, *options = services["judge"]["command"]
    assert (name, how) == ("judge", "serve")
    assert serve._arguments(options).host == "0.0.0.0"
    name, *options = services["train"]["command"]
    assert name == "train"
    assert parse_args(options).config.sinks == ("prometheus",)


# Slurm


def test_shellcheck_has_nothing_against_the_slurm_script(tmp_path: Path) -> None:
    shellcheck = tool("shellcheck")
    assert says(shellcheck, DEPLOY / "slurm.sh") == ""
    (tmp_path / "slurm.sh").write_text("#!/bin/bash\nsrun $1\n")
    assert "SC2086" in says(shellcheck, tmp_path / "slurm.sh")


def started(tmp_path: Path, run: Path) -> tuple[Any, CommandLine]:
    """What torchrun and the trainer read of a job; stand-ins for Slurm's commands show it."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir(exist_ok=True)
    (stand_ins / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (stand_ins / "srun").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    for path in stand_ins.iterdir():
        path.chmod(0o755)
    job = {"SLURM_JOB_ID": "31", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    job |= {"SLURM_GPUS_ON_NODE": "8", "PATH": f"{stand_ins}:{os.environ['PATH']}"}
    command = [str(DEPLOY / "slurm.sh"), str(run), "steps=7", "device=cpu"]
    done = subprocess.run(command, env={**os.environ, **job}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    slurm, *words = done.stdout.splitlines()
    assert slurm == "--kill-on-bad-exit=1"
    assert words[:3] == ["python", "-m", "torch.distributed.run"]
    torchrun = get_args_parser().parse_args(words[3:])
    return torchrun, parse_args(torchrun.training_script_args)


def test_a_job_is_one_training_and_goes_on_when_it_is_requeued(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    torchrun, command = started(tmp_path, run)
    assert (torchrun.module, torchrun.training_script) == (True, "stepcoder.train")
    assert (torchrun.nnodes, torchrun.nproc_per_node) == ("2", "8")
    assert (torchrun.rdzv_endpoint, torchrun.rdzv_id) == ("node7:29500", "31")
    assert (command.config.run_dir, command.config.steps) == (str(run), 7)
    assert command.resume is None
    (run / "checkpoints" / "rl-000003").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(command.config))
    _, command = started(tmp_path, run)
    assert command.resume == run


# KubeRay


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses fields which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.skipif(not RAYJOB, reason="needs KubeRay's definition (STEPCODER_RAYJOB_CRD)")
def test_the_manifest_keeps_to_kuberays_definition() -> None:
    """`metadata` of a pod's template and the like are not spelled out there, and so not checked."""
    jsonschema = pytest.importorskip("jsonschema", reason="the extra `dev` is not installed")
    (version,) = (
        version
        for version in yaml.safe_load(Path(RAYJOB).read_text())["spec"]["versions"]
        if version["name"] == "v1"
    )
    schema = strict(version["schema"]["openAPIV3Schema"])
    manifest = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    found = jsonschema.Draft202012Validator(schema)
    assert list(found.iter_errors(manifest)) == []
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    group["replica"] = group.pop("replicas")
    assert "'replica' was unexpected" in next(found.iter_errors(manifest)).message


def test_its_command_is_ours() -> None:
    name, how, *options = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"][
        "entrypoint"
    ].split()
    assert (name, how) == ("stepcoder", "judge")
    assert judge_command._arguments(options).ray == "auto"
