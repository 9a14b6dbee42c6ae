"""What is installed: one command for all tools, and a judge and rewards that need no torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from helpers.light_install import TESTS

import stepcoder
from stepcoder.__main__ import COMMANDS, TRAIN
from stepcoder.check import within
from stepcoder.sandbox import _launcher

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Runs a module as `python -m` does, where only some of the installed packages are there.
LIGHT = """
import json, runpy, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *rest)
absent = set(json.loads(sys.argv.pop(1)))
sys.meta_path[:] = map(Without, sys.meta_path)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def absent_modules() -> list[str]:
    """Return the modules of all packages here that `pip install stepcoder` does not bring."""
    there, todo = {"stepcoder"}, [re.split(r"[<>= ]", line)[0] for line in PROJECT["dependencies"]]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in there:
            there.add(name)
            lines = [r for r in metadata.requires(name) or () if "extra ==" not in r]
            todo += [re.match(r"[\w.-]+", line)[0] for line in lines]  # type: ignore[index]
    return [
        module
        for module, owners in metadata.packages_distributions().items()
        if not there.intersection(re.sub(r"[-_.]+", "-", owner).lower() for owner in owners)
    ]


def run(
    *arguments: str, absent: list[str] | None = None, path: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `python -m`, or the same without the modules in `absent`."""
    light = ["-c", LIGHT, json.dumps(absent)]
    command = [sys.executable, *(["-m"] if absent is None else light), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{path}:{ROOT}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def test_the_command_names_every_tool_without_importing_one() -> None:
    script = (
        "import sys\nfrom stepcoder.__main__ import main\nsys.argv[1:] = []\nmain()\n"
        "sys.exit(str([n for n in sys.modules if n.startswith('stepcoder.')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.stderr.strip() == "['stepcoder.__main__']"
    assert re.findall(r"^  (\w+) {2,}\w", done.stdout, re.M) == list(COMMANDS)
    folders = {path.parent.name for path in (ROOT / "stepcoder").glob("*/__main__.py")}
    assert folders | {"train", "check"} == set(COMMANDS)
    assert PROJECT["scripts"] == {"stepcoder": "stepcoder.__main__:main"}


def test_the_command_hands_arguments_and_exit_status_on() -> None:
    assert run("stepcoder", "--version").stdout == f"{stepcoder.__version__}\n"
    direct, short = run("stepcoder.judge", "--help"), run("stepcoder", "judge", "--help")
    assert short.stdout == direct.stdout
    assert "--explain" in short.stdout
    wrong = run("stepcoder", "judge", "no.jsonl", "--problems", "no.jsonl", "-o", "o")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("no.jsonl")
    unknown = run("stepcoder", "trian")
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1


def test_judging_cleaning_and_rewards_need_what_a_light_install_brings(tmp_path: Path) -> None:
    absent = absent_modules()
    assert TRAIN & set(metadata.packages_distributions()) <= set(absent)
    helper = ROOT / "tests" / "helpers" / "light_install.py"
    (tmp_path / "reward.py").write_text(helper.read_text())
    done = run("reward", absent=absent, path=tmp_path)
    assert done.returncode == 0, done.stderr

    problems, samples = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    solution = "def add(a, b):\n    return a + b\n"
    problem = {"task_id": "a", "prompt": "Add a and b.", "entry_point": "add", "tests": TESTS}
    problems.write_text(json.dumps(problem | {"canonical_solution": solution}) + "\n")
    samples.write_text(json.dumps({"task_id": "a", "solution": solution}) + "\n")
    given = ["--problems", str(problems), "-o", str(tmp_path / "verdicts.jsonl")]
    done = run("stepcoder", "judge", str(samples), *given, absent=absent)
    assert done.stdout == "1 of 1 samples passed\n", done.stderr
    folder = str(tmp_path / "cleaned")
    done = run("stepcoder", "clean", str(problems), "-o", folder, "--tests", "0", absent=absent)
    assert done.stdout.startswith("1 of 1 kept"), done.stderr
    done = run("stepcoder", "train", absent=absent)
    assert done.returncode == 2
    assert re.fullmatch(r"stepcoder train: .*pip install 'stepcoder\[train\]'\n", done.stderr)


def test_check_says_what_is_missing_and_how_to_get_it() -> None:
    done = run("stepcoder.check", "--json", absent=sorted(TRAIN))
    lines = json.loads(done.stdout)
    assert done.returncode == 1
    assert all(line["fix"] for line in lines if line["status"] != "ok")
    found = {line["name"]: line for line in lines}
    assert found["trainer"]["status"] == "missing"
    assert "stepcoder[train]" in found["trainer"]["fix"]
    seccomp = lines[-1]
    assert "seccomp" in seccomp["name"]
    assert seccomp["status"] == "ok"
    assert seccomp["found"].startswith("accepted")
    assert {"python", "processor", "memory", "disk", "sandbox: cgroups", "compiler: cpp"} <= set(
        found
    )
    text = run("stepcoder.check", absent=sorted(TRAIN))
    assert text.returncode == 1
    assert re.search(r"^missing   trainer: .*\n {10}-> ", text.stdout, re.M)
    assert text.stdout.splitlines()[-1].startswith("missing: ")


@pytest.mark.parametrize(
    ("version", "bounds", "is_within"),
    [
        ("2.13.0+cpu", ">=2.11", True),
        ("2.9.1", ">=2.11", False),
        ("5.20.0", "<5.20,>=5.16.1", False),
        ("5.19.0", "<5.20,>=5.16.1", True),
        ("0.32.0", "==0.32.0", True),
        ("0.33.0", "==0.32.0", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, is_within: bool) -> None:
    assert within(version, bounds) is is_within


def test_a_source_distribution_holds_files_and_no_links(tmp_path: Path) -> None:
    """The folders of the top level, which are links within the package, become real ones."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("stepcoder", "kernels", "sandbox", "csrc"):
        shutil.copytree(
            ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, timeout=100)
    with tarfile.open(tmp_path / f"stepcoder-{stepcoder.__version__}.tar.gz") as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(copy)) for path in copy.glob("csrc/**/*.*")}
    for name in ("stepcoder", "kernels", "sandbox"):
        for path in (copy / name).rglob("*.*"):
            if path.suffix not in (".so", ".pyc"):
                inner = path.relative_to(copy)
                wanted.add(str(inner if name == "stepcoder" else Path("stepcoder") / inner))
    assert wanted - held == set()
    assert not [name for name in held if name.endswith(".so")]


@pytest.mark.skipif("STEPCODER_DEBUG" in os.environ, reason="the extension may keep its symbols")
def test_the_extension_has_no_debug_information() -> None:
    assert b".debug_info\0" not in Path(_launcher.__file__).read_bytes()
