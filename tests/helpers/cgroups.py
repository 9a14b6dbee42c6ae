"""The cgroups of judges: which there are, and what their files say."""

from __future__ import annotations

import os
from pathlib import Path

from stepcoder.sandbox import _launcher


def parent() -> _launcher.CgroupParent:
    """Return where judges of this process make their groups."""
    proc = Path("/proc/self")
    return _launcher.find_cgroup_parent(
        (proc / "cgroup").read_text(), (proc / "mountinfo").read_text()
    )


def of_judge(pid: int | None = None) -> list[Path]:
    """Return the folders of the groups that a process's judges made, in every hierarchy."""
    where = parent()
    folders = {Path(folder) for folder in (where.memory, where.pids) if folder}
    pattern = f"stepcoder-{os.getpid() if pid is None else pid}-*"
    return sorted(path for folder in folders for path in folder.glob(pattern))


def limit_file(group: Path) -> Path:
    """Return the file with the memory limit of a group."""
    return group / ("memory.max" if parent().version == 2 else "memory.limit_in_bytes")


def used_bytes(group: Path) -> int:
    """Return the memory that a group uses."""
    name = "memory.current" if parent().version == 2 else "memory.usage_in_bytes"
    return int((group / name).read_text())


def processes(group: Path) -> list[int]:
    """Return the processes of a group."""
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
