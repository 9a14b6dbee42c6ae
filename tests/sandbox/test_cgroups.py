"""Workers' cgroups: they limit what rlimits do not, give verdicts and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import cgroups

from stepcoder.sandbox import CallTests, Judge, Limits, Program, Status, _launcher

ROOT = Path(__file__).parents[2]
LIMITS = Limits(cpu_s=5.0, wall_s=30.0, memory_bytes=256 << 20)
HONEST = Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,))
ONE = CallTests(([1],), (0,))

needs_groups = pytest.mark.skipif(
    cgroups.parent().version == 0, reason=f"no cgroups here: {cgroups.parent().missing}"
)


@pytest.fixture
def others() -> set[Path]:
    """The groups of other tests' judges, in the same process."""
    return set(cgroups.of_judge())


@pytest.fixture
def judge(others: set[Path]) -> Iterator[Judge]:
    with Judge(1, LIMITS) as judge:
        assert judge.run(*HONEST).passed
        assert cgroups.parent().version == 0 or set(cgroups.of_judge()) - others
        yield judge


@pytest.fixture
def group(judge: Judge, others: set[Path]) -> Path:
    """The memory group of the judge's one worker."""
    assert judge.workers == 1
    (path,) = (path for path in set(cgroups.of_judge()) - others if list(path.glob("memory.*")))
    return path


def lower_limit(group: Path, room: int) -> None:
    cgroups.limit_file(group).write_text(str(cgroups.used_bytes(group) + room))


@needs_groups
def test_a_worker_and_its_run_are_in_a_group_of_their_own(judge: Judge, group: Path) -> None:
    future = judge.submit(Program("import time\ndef f(x): time.sleep(1)", "f"), ONE)
    seen: set[int] = set()
    while not future.done():
        seen |= set(cgroups.processes(group))
        time.sleep(0.02)
    assert len(seen) == 3  # the worker, the run and the child that waits for the next
    assert os.getpid() not in seen


@needs_groups
def test_the_limit_follows_the_runs_and_is_written_only_where_it_differs(
    judge: Judge, group: Path
) -> None:
    limit = cgroups.limit_file(group)
    first = int(limit.read_text())
    assert first > LIMITS.memory_bytes
    bigger = Limits(memory_bytes=LIMITS.memory_bytes + (64 << 20))
    assert judge.run(*HONEST, bigger).passed
    assert int(limit.read_text()) == first + (64 << 20)
    limit.write_text(str(1 << 30))
    assert judge.run(*HONEST, bigger).passed
    assert int(limit.read_text()) == 1 << 30
    assert judge.run(*HONEST).passed
    assert int(limit.read_text()) == first


@needs_groups
def test_a_run_that_the_kernel_ends_for_memory_is_a_memory_limit(judge: Judge, group: Path) -> None:
    worker = min(cgroups.processes(group))  # its children came later
    lower_limit(group, 24 << 20)
    for _ in range(2):
        verdict = judge.run(Program("def f(x): return len(b'x' * (100 << 20))", "f"), ONE)
        assert verdict.status is Status.MEMORY_LIMIT
        assert verdict.message == "memory limit exceeded"
    assert min(cgroups.processes(group)) == worker
    assert judge.run(*HONEST).passed


@needs_groups
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the kernel choose the worker")
def test_a_worker_that_the_kernel_ends_for_memory_is_the_programs_memory_limit(
    judge: Judge, group: Path, others: set[Path]
) -> None:
    worker = min(cgroups.processes(group))
    lower_limit(group, 24 << 20)
    source = "import time\ndef f(x):\n    time.sleep(0.5)\n    return len(b'x' * (100 << 20))"
    future = judge.submit(Program(source, "f"), ONE)
    time.sleep(0.2)
    Path(f"/proc/{worker}/oom_score_adj").write_text("1000")
    assert future.result().status is Status.MEMORY_LIMIT
    assert not Path(f"/proc/{worker}").exists()
    assert judge.run(*HONEST).passed
    assert not group.exists()
    assert set(cgroups.of_judge()) - others


@needs_groups
def test_a_worker_killed_otherwise_is_replaced_and_its_run_repeated(
    judge: Judge, group: Path
) -> None:
    worker = min(cgroups.processes(group))
    future = judge.submit(Program("import time\ndef f(x): time.sleep(0.5); return x", "f"), ONE)
    time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    assert future.result().status is Status.WRONG_ANSWER


@needs_groups
def test_closing_removes_the_groups(others: set[Path]) -> None:
    with Judge(2, LIMITS) as judge:
        spin = Program("def f(x):\n    while True: pass", "f")
        futures = [judge.submit(spin, ONE) for _ in range(2)]
        while len(set(cgroups.of_judge()) - others) < 2:
            time.sleep(0.01)
    assert all(future.result().status is Status.INFRASTRUCTURE_ERROR for future in futures)
    assert set(cgroups.of_judge()) == others


@needs_groups
def test_the_next_judge_removes_the_groups_of_one_that_was_killed() -> None:
    source = (
        "from stepcoder.sandbox import *\nwith Judge(1) as judge:\n"
        "    judge.run(Program('def f(): return 1', 'f'), CallTests(([],), (1,)))\n"
        "    print('ready', flush=True)\n"
        "    judge.run(Program('def f():\\n  while True: pass', 'f'), CallTests(([],), (1,)))\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE)
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"ready\n"
    left = cgroups.of_judge(killed.pid)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert left
    # Its processes end by themselves, and only then can their groups be removed.
    until = time.monotonic() + 10
    while any(path.exists() and cgroups.processes(path) for path in left):
        assert time.monotonic() < until
        time.sleep(0.02)
    with Judge(1, LIMITS) as mine:
        assert mine.run(*HONEST).passed
        before = cgroups.of_judge()
        with Judge(1, LIMITS):  # a second judge takes nothing from one that lives
            assert before
            assert cgroups.of_judge() == before
        assert mine.run(*HONEST).passed
    assert not cgroups.of_judge(killed.pid)


# The tests below run on plain folders. They show which files are read and written, not what a
# kernel does with them.

V2_MOUNT = "41 31 0:38 / {root} rw,relatime - cgroup2 cgroup2 rw\n"


def unified(root: Path, own: str, given: str = "cpu memory pids\n") -> _launcher.CgroupParent:
    """Return the parent found by a process in the group `own` on a machine with version 2."""
    for folder in (root, *(root / own).relative_to(root).parents, root / own):
        path = root / folder
        path.mkdir(parents=True, exist_ok=True)
        if not (path / "cgroup.subtree_control").exists():
            (path / "cgroup.subtree_control").write_text(given if path != root / own else "")
    return _launcher.find_cgroup_parent(f"0::/{own}\n", V2_MOUNT.format(root=root))


def refuse_controllers(folder: Path) -> None:
    """Let nothing be written, as the kernel does for a group that has processes."""
    control = folder / "cgroup.subtree_control"
    control.unlink(missing_ok=True)
    control.mkdir()


def test_in_version_2_groups_lie_beside_the_callers_own(tmp_path: Path) -> None:
    (tmp_path / "a.slice/mine.scope").mkdir(parents=True)
    refuse_controllers(tmp_path / "a.slice/mine.scope")
    found = unified(tmp_path, "a.slice/mine.scope")
    assert (found.version, found.memory) == (2, str(tmp_path / "a.slice")), found.missing
    assert found.pids == found.memory


@pytest.mark.parametrize(
    ("file", "text"), [("memory.max", "1073741824\n"), ("cpu.max", "5 9\n"), ("cpuset.cpus", "0\n")]
)
def test_in_version_2_no_limit_of_the_callers_own_group_is_left(
    tmp_path: Path, file: str, text: str
) -> None:
    own = tmp_path / "a.slice/mine.scope"
    own.mkdir(parents=True)
    refuse_controllers(own)
    (own / file).write_text(text)
    found = unified(tmp_path, "a.slice/mine.scope")
    assert found.version == 0
    assert "has limits" in found.missing


def test_in_version_2_without_controllers_there_is_no_group(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    refuse_controllers(own)
    found = unified(tmp_path, "mine", given="cpu\n")
    assert found.version == 0
    assert "memory and pids controllers" in found.missing


def test_in_version_2_the_root_gives_its_controllers_to_groups_below(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("")
    found = _launcher.find_cgroup_parent("0::/\n", V2_MOUNT.format(root=tmp_path))
    assert (found.version, found.memory) == (2, str(tmp_path))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_the_files_of_version_2(tmp_path: Path) -> None:
    found = _launcher.find_cgroup_parent("0::/\n", V2_MOUNT.format(root=tmp_path))
    assert found.version == 0  # no such file: nothing to write to
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    found = _launcher.find_cgroup_parent("0::/\n", V2_MOUNT.format(root=tmp_path))
    group = _launcher.Cgroup(found)
    folder = Path(group.folder)
    assert folder.parent == tmp_path
    files = ("cgroup.procs", "memory.max", "memory.swap.max", "pids.max")
    for name in files:
        (folder / name).write_text("")
    (folder / "memory.current").write_text("1000\n")
    (folder / "memory.events").write_text("low 0\nmax 7\noom 3\noom_kill 0\n")
    assert group.add(4321)
    assert not group.ran_out_of_memory()
    group.allow_memory(5000)
    assert [(folder / name).read_text() for name in files] == ["4321", "7000", "0", "256"]
    (folder / "memory.max").write_text("untouched")
    group.allow_memory(5000)
    assert (folder / "memory.max").read_text() == "untouched"
    (folder / "memory.events").write_text("oom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.ran_out_of_memory()
    assert not group.ran_out_of_memory()


def test_a_group_that_takes_nobody_in_is_no_group(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    found = _launcher.find_cgroup_parent("0::/\n", V2_MOUNT.format(root=tmp_path))
    group = _launcher.Cgroup(found)
    assert not group.add(1)  # no cgroup.procs in a plain folder
    assert group.folder == ""
    assert not list(tmp_path.glob("stepcoder-*"))


def test_version_1_is_found_where_a_container_mounts_its_own_part(tmp_path: Path) -> None:
    groups = "9:pids:/docker/ab\n4:cpu,memory:/docker/ab/c\n0::/\n"
    mounts = (
        f"35 31 0:32 /docker/ab {tmp_path}/memory rw - cgroup cgroup rw,cpu,memory\n"
        f"39 31 0:36 / {tmp_path}/pids rw - cgroup cgroup rw,pids\n"
    )
    for folder in ("memory/c", "pids/docker/ab"):
        (tmp_path / folder).mkdir(parents=True)
    found = _launcher.find_cgroup_parent(groups, mounts)
    assert found.version == 1
    assert (found.memory, found.pids) == (
        f"{tmp_path}/memory/c",
        f"{tmp_path}/pids/docker/ab",
    )
    elsewhere = _launcher.find_cgroup_parent(groups.replace("/docker", "/other"), mounts)
    assert elsewhere.version == 0


def test_leftovers_are_known_by_process_and_start(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    found = _launcher.find_cgroup_parent("0::/\n", V2_MOUNT.format(root=tmp_path))
    group = _launcher.Cgroup(found)
    alive = Path(group.folder)
    reused = alive.with_name(f"stepcoder-{os.getpid()}-12-0")  # an earlier process of this number
    for path in (reused, tmp_path / "stepcoder-4194999-12-3", tmp_path / "other-1-2-3"):
        path.mkdir()
    assert _launcher.remove_leftover_cgroups(found) >= 2
    assert sorted(p.name for p in tmp_path.glob("*-*")) == ["other-1-2-3", alive.name]
