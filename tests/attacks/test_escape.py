"""Programs that try to reach anything outside: the network, files, processes, the kernel."""

import ctypes
import os
import platform
import time
from dataclasses import replace

import pytest

from stepcoder.sandbox import CallTests, Judge, Limits, Program, Status, StdinTests

LIMITS = Limits(cpu_s=1.0, wall_s=3.0)


def outcome(judge: Judge, body: str) -> str:
    """Run `body` in a function; "refused" if it raised OSError, else the repr of its result."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    refused = "    except (OSError, ImportError):\n        return 'refused'\n"
    source = f"def f():\n    try:\n{lines}{refused}"
    verdict = judge.run(Program(source, "f"), CallTests(([],), ("refused",)), LIMITS)
    if verdict.status is Status.SECURITY_VIOLATION:
        return "violation"
    return "refused" if verdict.passed else verdict.message


@pytest.mark.parametrize("family", [1, 2, 10, 16, 17, 38, 40])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_there_is_no_network_in_any_family(judge: Judge, family: int, kind: int) -> None:
    body = f"import _socket\n_socket.socket({family}, {kind}, 0)\nreturn 'a socket'"
    assert outcome(judge, body) in ("refused", "violation")


def test_an_abstract_unix_name_cannot_be_reached_through_a_pair(judge: Judge) -> None:
    body = (
        "import _socket\na, b = _socket.socketpair(1, 2)\na.sendto(b'x', '\\0name')\nreturn 'sent'"
    )
    assert outcome(judge, body) == "refused"


def landlock_version() -> int:
    """Return the version of this kernel's Landlock, below 1 if it has none."""
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1))  # the same number on every machine


@pytest.mark.skipif(landlock_version() < 2, reason="no Landlock that lets files be moved")
def test_landlock_stands_behind_the_file_system_of_its_own(judge: Judge) -> None:
    assert outcome(judge, "import os\nreturn os.listdir('/')") == "refused"
    body = (
        "import os\nopen('a', 'w').close()\nos.mkdir('d')\nos.rename('a', 'd/b')\n"
        "os.truncate('d/b', 9)\nreturn os.stat('d/b').st_size, os.listdir('d')"
    )
    assert "(9, ['b'])" in outcome(judge, body)


OUTSIDE = (
    "import os\nos.fork()\nreturn 'forked'",
    "import os\nos.posix_spawn('/bin/true', ['true'], {})\nreturn 'spawned'",
    "import subprocess\nsubprocess.run(['true'])\nreturn 'ran'",
    "import os\nif os.system('true'): raise OSError\nreturn 'ran'",
    "import os\nos.memfd_create('x')\nreturn 'made'",
    "import os\nos.setsid()\nreturn 'session'",
    "import os\nos.nice(-5)\nreturn 'nicer'",
    "import os\nos.sched_setaffinity(0, {0})\nreturn 'pinned'",
    "import os\nos.symlink('/etc/passwd', 'x')\nopen('x').read()\nreturn 'read'",
    "import os\nos.link('/usr/lib/os-release', 'x')\nreturn 'linked'",
    "import os\nos.mkfifo('x')\nreturn 'made'",
    "open('/etc/passwd').read()\nreturn 'read'",
    "open('/proc/self/environ').read()\nreturn 'read'",
    "open('/proc/1/mem', 'rb+')\nreturn 'opened'",
    "open('/sys/kernel/mm/transparent_hugepage/enabled', 'w')\nreturn 'opened'",
    "open('/dev/kmsg', 'w')\nreturn 'opened'",
    "open('/dev/shm/x', 'w')\nreturn 'opened'",
    "open('/x', 'w')\nreturn 'opened'",
    "import os\nopen(os.__file__, 'a')\nreturn 'opened'",
    "import os\nos.chmod(os.__file__, 0o777)\nreturn 'changed'",
    "import os\nopen(os.path.dirname(os.__file__) + '/evil.py', 'w')\nreturn 'opened'",
    "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nreturn 'typed'",
    "import mmap\nmmap.mmap(-1, 4096, prot=7)\nreturn 'executable memory'",
    "import mmap\nf = open('code', 'wb+')\nf.truncate(4096)\n"
    "mmap.mmap(f.fileno(), 4096, prot=5)\nreturn 'executable scratch'",
    "import ctypes\nreturn 'ctypes'",
    "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
    "except ValueError: raise OSError\nreturn 'raised'",
    "import signal\nsignal.signal(signal.SIGSYS, signal.SIG_IGN)\nreturn 'deaf'",
)


@pytest.mark.parametrize("body", OUTSIDE)
def test_what_lies_outside_is_refused(judge: Judge, body: str) -> None:
    assert outcome(judge, body) in ("refused", "violation")


CALLS = {
    "execve": "os.execv('/bin/true', ['x'])",
    "chroot": "os.chroot('.')",
    "setuid": "os.setuid(0)",
    "setgroups": "os.setgroups([0])",
    "pidfd_open": "os.pidfd_open(1)",
    "mknod": "os.mknod('x')",
}


@pytest.mark.parametrize("name", CALLS)
def test_escape_calls_end_the_run_and_are_named(judge: Judge, name: str) -> None:
    source = (
        f"import os\ndef f():\n    try: {CALLS[name]}\n"
        "    except BaseException: pass\n    return 1\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([],), (1,)), LIMITS)
    assert verdict.status is Status.SECURITY_VIOLATION
    assert name in verdict.message


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (101, "ptrace"),
        (310, "process_vm_readv"),
        (438, "pidfd_getfd"),
        (425, "io_uring_setup"),
        (272, "unshare"),
        (308, "setns"),
        (165, "mount"),
        (155, "pivot_root"),
        (250, "keyctl"),
        (321, "bpf"),
        (298, "perf_event_open"),
        (323, "userfaultfd"),
        (304, "open_by_handle_at"),
        (322, "execveat"),
        (175, "init_module"),
        (317, "seccomp"),
        (0x40000000 + 39, ""),
    ],
)
def test_the_filter_stops_calls_that_python_has_no_name_for(number: int, name: str) -> None:
    # ctypes is unavailable inside, so the filter is tried in a process of its own.
    from stepcoder.sandbox import _launcher

    violation = _launcher.try_filter(number)
    assert violation == number
    assert name in _launcher.syscall_name(number)


def test_programs_cannot_signal_anyone_else(judge: Judge) -> None:
    source = (
        "import os, signal\ndef f():\n    n = 0\n    for pid in (-1, 0, 2, os.getppid() or 9):\n"
        "        try: os.kill(pid, 9 if pid not in (0, -1) else 15)\n"
        "        except OSError: n += 1\n    return 'alive'\n"
    )
    for _ in range(3):
        verdict = judge.run(Program(source, "f"), CallTests(([],), ("alive",)), LIMITS)
        assert verdict.status in (Status.ACCEPTED, Status.RUNTIME_ERROR, Status.MEMORY_LIMIT)
        healthy = judge.run(Program("def f(): return 1", "f"), CallTests(([],), (1,)))
        assert healthy.passed


def test_a_program_sees_no_other_process_and_no_environment(judge: Judge) -> None:
    source = "import os\nprint(os.getppid(), dict(os.environ), os.path.exists('/proc/self'))"
    verdict = judge.run(Program(source), StdinTests(("",), ("0 {} False",)))
    assert verdict.passed, verdict.message


def test_nothing_runs_on_after_a_run(judge: Judge) -> None:
    marker = f"stepcoder-left-behind-{os.getpid()}"
    source = (
        "import threading, time\n"
        f"def stay(): {marker.replace('-', '_')} = [time.sleep(1) for _ in range(99)]\n"
        "threading.Thread(target=stay, daemon=False).start()\ndef f(): return 1\n"
    )
    assert judge.run(Program(source, "f"), CallTests(([],), (1,)), LIMITS).passed
    assert not runs_of_this_process()


def test_a_run_is_seen_while_it_runs(judge: Judge) -> None:
    source = "import time\ndef f(): time.sleep(99)\n"
    future = judge.submit(Program(source, "f"), CallTests(([],), (1,)), replace(LIMITS, wall_s=1.0))
    seen: set[int] = set()
    while not future.done():
        seen |= runs_of_this_process()
        time.sleep(0.01)
    assert seen
    assert not runs_of_this_process()


def runs_of_this_process() -> set[int]:
    """Return the processes below this one's workers, which are its children.

    Each worker has one more, which has not seen any program and waits for the next.
    """
    parents: dict[int, int] = {}
    waiting: set[int] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                # The name in parentheses may hold anything.
                name, _, rest = stat.read().rpartition(")")
                parents[int(pid)] = int(rest.split()[1])
                if name.partition("(")[2] == "sc-ready":
                    waiting.add(int(pid))
        except OSError:
            continue
    workers = {pid for pid, parent in parents.items() if parent == os.getpid()}
    for worker in workers:
        assert len([pid for pid in waiting if parents[pid] == worker]) <= 1
    runs: set[int] = set()
    below = workers
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        runs |= below
    return runs - waiting
