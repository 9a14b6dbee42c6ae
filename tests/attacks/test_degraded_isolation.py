"""Machines that refuse layers of the sandbox: the warning, the refusals, and the remaining layers.

Each machine is constructed around a judge in a process of its own (helpers/degraded_judge.py). A
machine that cannot be constructed here is skipped, with the reason.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from attacks.test_escape import CALLS, OUTSIDE
from attacks.test_exhaustion import ATTACKS

from stepcoder.sandbox import CallTests, Judge, Program

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"

USER, FILES, NETWORK, PIDS, UID, LANDLOCK = (
    "a user namespace",
    "a file system of its own",
    "a network namespace",
    "a pid namespace",
    "a user id of its own",
    "Landlock",
)

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
# The capabilities that container runtimes leave to root.
CONTAINER = (
    "setpriv",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,"
    "+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap",
)
NO_USER_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    *('echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"),
)


@dataclass(frozen=True)
class Machine:
    """A prefix of the judge's command, the calls that are refused, the layers that are missing."""

    prefix: tuple[str, ...] = ()
    refuses: str = ""
    missing: frozenset[str] = frozenset()
    # Whether the judge makes cgroups for its workers; None if that depends on the machine.
    cgroups: bool | None = None


NAMESPACES = frozenset({USER, FILES, NETWORK, PIDS})
MACHINES = {
    "an ordinary user": Machine(NOBODY, cgroups=False),
    "an ordinary user where namespaces are refused": Machine(
        NOBODY, "namespaces", NAMESPACES, cgroups=False
    ),
    "an ordinary user where mounts are refused": Machine(
        NOBODY, "mounts", frozenset({FILES}), cgroups=False
    ),
    "an ordinary user of an old kernel where namespaces are refused": Machine(
        NOBODY, "namespaces,landlock", NAMESPACES | {LANDLOCK}, cgroups=False
    ),
    "root who may not mount": Machine(("setpriv", "--bounding-set=-sys_admin")),
    "root where mounts are refused": Machine((), "mounts", frozenset({FILES})),
    "root of a container": Machine(CONTAINER, "namespaces", NAMESPACES),
    "root of a container who can become nobody else": Machine(
        ("setpriv", "--bounding-set=-all,+chown,+dac_override,+kill"),
        "namespaces",
        NAMESPACES | {UID},
    ),
    "root without capabilities": Machine(
        ("setpriv", "--bounding-set=-all"), "namespaces", NAMESPACES | {UID}
    ),
    "root of a user namespace in which there can be no other": Machine(
        NO_USER_NAMESPACES, "", frozenset({USER, UID})
    ),
    "the same without capabilities": Machine(
        (*NO_USER_NAMESPACES, "setpriv", "--bounding-set=-all"), "", NAMESPACES | {UID}
    ),
}


@functools.cache
def python_of_everyone() -> str | None:
    """Return an interpreter that can load the extension and that every user can run."""
    same = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, same):
        # Through a shell, since setpriv itself still has capabilities when it executes a command.
        script = f"cd {ROOT} && exec {candidate} -c 'import stepcoder.sandbox'"
        done = subprocess.run([*NOBODY, "sh", "-c", script], capture_output=True)
        if done.returncode == 0:
            return candidate
    return None


@functools.cache
def missing_anyway() -> str:
    """Return the layers that this machine refuses without any construction."""
    with Judge(1) as judge:
        judge.run(Program("def f(): return 0", "f"), CallTests(([],), (0,)))
        return judge._service.missing_layers()


def command(name: str, *arguments: str) -> list[str]:
    """Return a command that runs Python on a machine; skips where there is no such machine."""
    machine = MACHINES[name]
    if os.geteuid() != 0:
        pytest.skip("only root can construct it")
    if machine.prefix and not shutil.which(machine.prefix[0]):
        pytest.skip(f"{machine.prefix[0]} is not installed")
    python = python_of_everyone()
    if python is None:
        pytest.skip("no interpreter that an ordinary user can run loads the extension")
    refusing = (
        [python, str(HELPERS / "deny_syscalls.py"), machine.refuses] if machine.refuses else []
    )
    prefix = [*machine.prefix, *refusing]
    possible = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if possible.returncode != 0:
        pytest.skip(f"it cannot be constructed: {possible.stderr.strip()}")
    return [*prefix, python, *arguments]


@functools.cache
def judged(name: str, programs: str = "{}", isolation: str = "warn") -> dict[str, Any]:
    """Return what a judge on that machine says about programs."""
    done = subprocess.run(
        command(name, str(HELPERS / "degraded_judge.py")),
        input=f'{{"isolation": "{isolation}", "programs": {programs}}}',
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_missing_is_said_in_one_line(name: str) -> None:
    found = judged(name)
    assert found["first"] == ["accepted", ""]
    expected = MACHINES[name].missing
    assert all(layer in found["missing"] for layer in expected)
    if not missing_anyway():
        present = {USER, FILES, NETWORK, PIDS, UID, LANDLOCK} - expected
        assert not [layer for layer in present if layer in found["missing"]]
    warnings = [line for level, line in found["log"] if level == "WARNING"]
    assert len(warnings) == bool(found["missing"])
    assert all(layer in line for line in warnings for layer in expected)


@pytest.mark.parametrize("name", MACHINES)
def test_cgroups_are_no_layer_that_can_be_missing(name: str) -> None:
    found = judged(name)
    said = [line for level, line in found["log"] if "cgroups" in line]
    assert len(said) == (found["cgroups"] == 0)
    assert "cgroup" not in found["missing"]
    if (expected := MACHINES[name].cgroups) is not None:
        assert bool(found["cgroups"]) == expected


@pytest.mark.parametrize("name", MACHINES)
def test_full_isolation_is_refused_exactly_where_a_layer_is_missing(name: str) -> None:
    missing = judged(name)["missing"]
    refused = judged(name, isolation="full").get("refused")
    assert bool(refused) == bool(missing)
    assert not missing or missing in refused


@pytest.mark.parametrize("name", MACHINES)
def test_a_run_has_no_capability_and_is_not_root(name: str) -> None:
    run = judged(name)["run"]
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(run[kind], 16) == 0
    assert run["NoNewPrivs"] == "1"
    users = set(run["Uid"].split())
    assert len(users) == 1
    assert UID in MACHINES[name].missing or "0" not in users


def test_the_command_refuses_with_its_own_exit_status(tmp_path: Path) -> None:
    problem = {
        "task_id": "t/0",
        "prompt": "Add one.",
        "starter_code": "def f(x):\n",
        "canonical_solution": "def f(x):\n    return x + 1\n",
        "entry_point": "f",
        "tests": {"kind": "call", "inputs": [[1]], "outputs": [2]},
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    sample = {"task_id": "t/0", "solution": "def f(x): return x + 1"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample))
    prefix = command("root without capabilities")[:-1]
    judge = [sys.executable, "-m", "stepcoder.judge", "samples.jsonl", "-o", "verdicts.jsonl"]
    options = ["--problems", "problems.jsonl", "--isolation"]
    statuses = {}
    for isolation in ("full", "warn"):
        done = subprocess.run(
            [*prefix, *judge, *options, isolation],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        statuses[isolation] = done.returncode
        assert "a file system of its own" in done.stderr
    assert statuses == {"full": 3, "warn": 0}


def refused(body: str) -> tuple[str, str]:
    """Return a program that gives "refused" where `body` fails as it must, and that value."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    refused = "    except (OSError, ImportError):\n        return 'refused'\n"
    return f"def f():\n    try:\n{lines}{refused}", "refused"


LOADED = """
import importlib.machinery as m, importlib.util as u
loader = m.ExtensionFileLoader(NAME, PATH)
module = u.module_from_spec(u.spec_from_file_location(NAME, PATH, loader=loader))
loader.exec_module(module)
return "loaded"
"""
# The copies of every interpreter that the judge's machine has in its system's folders.
FOREIGN = sorted(map(str, Path("/usr/lib").glob("python3*/lib-dynload/_ctypes.*.so")))

ESCAPES = {
    **{path: refused(f"NAME, PATH = '_ctypes', {path!r}{LOADED}") for path in FOREIGN},
    **{body: refused(body) for body in OUTSIDE},
    **{call: refused(f"import os\n{call}\nreturn 'done'") for call in CALLS.values()},
    "network": refused("import _socket\n_socket.socket(2, 1)\nreturn 'a socket'"),
    "capabilities": refused("import os\nos.chown('/tmp', 1, 1)\nreturn 'changed'"),
    "numpy, if it is here": (
        "try: import numpy\nexcept ImportError: numpy = None\n"
        "def f(): return numpy.arange(3).tolist() if numpy else [0, 1, 2]",
        [0, 1, 2],
    ),
    "kill the worker": refused("import os\nos.kill(os.getppid() or 999999, 9)\nreturn 'killed'"),
    "files of the judge's user": refused(
        f"open({str(HELPERS / 'bulk.py')!r}).read()\nreturn 'read'"
    ),
    "write beside the tests": refused(f"open({str(HELPERS / 'x')!r}, 'w')\nreturn 'opened'"),
}
# Without Landlock and a file system of its own, programs can read what this user can, and ctypes.
READS = {name for name in ESCAPES if "read()" in name or "ctypes" in name}
READS.add("files of the judge's user")


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_outside_can_be_reached(name: str) -> None:
    found = judged(name, json.dumps(ESCAPES))
    unsafe = READS if LANDLOCK in MACHINES[name].missing else set()
    reached = {
        what: verdict
        for what, verdict in found["statuses"].items()
        if verdict[0] not in ("accepted", "security violation") and what not in unsafe
    }
    assert not reached
    assert not found["harmed"]


EXHAUSTION = (
    *("fork bomb", "many small threads", "thread stacks", "scratch files and memory"),
    *("pipes and memory", "memory by mmap", "stubborn output", "blocks signals", "abort"),
)


@pytest.mark.parametrize("name", MACHINES)
def test_attacks_on_the_machine_end_with_their_verdicts(name: str) -> None:
    programs = {attack: (ATTACKS[attack][0], None) for attack in EXHAUSTION}
    found = judged(name, json.dumps(programs))
    wrong = {
        attack: verdict
        for attack, verdict in found["statuses"].items()
        if verdict[0] not in [str(status) for status in ATTACKS[attack][1]]
    }
    assert not wrong
    assert not found["harmed"]
