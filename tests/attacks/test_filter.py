"""The system call filter, instruction by instruction, for x86-64 and aarch64.

The filter of this machine comes from the extension. That of aarch64 is built with a cross compiler
and printed under an emulator. The emulator does not enforce filters, so both are interpreted here,
for every system call number, and compared with the table.
"""

from __future__ import annotations

import errno
import mmap
import platform
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import bpf

from stepcoder.sandbox import _launcher

ROOT = Path(__file__).parents[2]
CROSS = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
LIBRARIES = Path("/usr/aarch64-linux-gnu")
ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
FOREIGN = {
    "i386": 0x4000_0003,
    "arm": 0x4000_0028,
    "x86_64": 0xC000_003E,
    "aarch64": 0xC000_00B7,
    "big-endian aarch64": 0x8000_00B7,
    "none": 0,
}
X32_BIT = 0x4000_0000

# The order of enum Rule in csrc/worker/syscall_table.h.
RULES = (
    *("allow", "violation", "no such call", "threads only", "no exec memory", "file code only"),
    *("own signals", "no address", "unix pair", "plain ioctl", "plain fcntl", "plain prctl"),
    *("inside only", "no lock", "own limits", "by path only", "whole range"),
)


@dataclass(frozen=True)
class Filter:
    """The filter of one machine, with and without the two options, and its table."""

    machine: str
    rules: dict[int, tuple[str, str]]  # number: rule, name
    programs: dict[tuple[bool, bool], Sequence[bpf.Instruction]]

    @property
    def arch(self) -> int:
        return ARCHITECTURES[self.machine]

    def number(self, name: str) -> int:
        return next(number for number, (_, known) in self.rules.items() if known == name)


def native() -> Filter:
    options = [(own, read_only) for own in (False, True) for read_only in (False, True)]
    return Filter(
        platform.machine(),
        {number: (RULES[rule], name) for number, rule, name in _launcher.filter_rules()},
        {option: _launcher.filter_program(*option) for option in options},
    )


def emulated(folder: Path) -> Filter:
    for tool in (CROSS, EMULATOR):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    sources = [ROOT / f"csrc/worker/{name}.cpp" for name in ("seccomp", "syscall_table")]
    sources.append(ROOT / "tests/helpers/print_filter.cpp")
    program = folder / "print_filter"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{ROOT}/csrc"]
    subprocess.run([CROSS, *flags, *map(str, sources), "-o", str(program)], check=True)
    printed = subprocess.run(
        [EMULATOR, "-L", str(LIBRARIES), str(program)], capture_output=True, text=True, check=True
    ).stdout
    rules: dict[int, tuple[str, str]] = {}
    programs: dict[tuple[bool, bool], list[bpf.Instruction]] = {}
    for line in printed.splitlines():
        kind, *fields = line.split()
        if kind == "rule":
            rules[int(fields[0])] = RULES[int(fields[1])], fields[2]
        else:
            which = int(kind.removeprefix("filter"))
            code, if_true, if_false, k = map(int, fields)
            option = bool(which & 2), bool(which & 1)
            programs.setdefault(option, []).append((code, if_true, if_false, k))
    return Filter("aarch64", rules, dict(programs))


@pytest.fixture(scope="module", params=["native", "aarch64"])
def filter_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Filter:
    if request.param == "native":
        return native()
    return emulated(tmp_path_factory.mktemp("aarch64"))


def refuse(error: int) -> int:
    return bpf.ERRNO | error


def allowed_if(condition: object, error: int) -> int:
    return bpf.ALLOW if condition else refuse(error)


THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000  # VM FS FILES SIGHAND THREAD
NAMESPACES = 0x7E02_0000
NEW_PIDS = 0x2000_0000
READ_ONLY = {
    *("creat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink"),
    *("unlinkat", "symlink", "symlinkat", "link", "linkat", "truncate", "chmod"),
    *("fchmodat", "utimensat", "utimes"),
}
WRITING = 0o1 | 0o2 | 0o100 | 0o1000
OPEN_FLAGS = {"open": 1, "openat": 2}
PLAIN_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5451, 0x5450, 0x5413)
PLAIN_FCNTLS = (0, 1, 2, 3, 4, 5, 1030)
SET_LOCK, SET_LOCK_AND_WAIT = 6, 7
NO_EFFECT = bpf.ERRNO  # error 0: the call seems to succeed
NO_PATH = 0x1000
HUGE_TABLE, SHARED_MEMORY = 0x40000, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
OWN_SIGNALS = (signal.SIGSYS, signal.SIGXFSZ, signal.SIGABRT)
SET_DEATH_SIGNAL, SET_NAME, GET_NAME, NAME_MEMORY = 1, 15, 16, 0x53564D41
SET_SMALL_PAGES = 41


def clone(args: Sequence[int], own: bool) -> int:
    flags = args[0] & 0xFFFF_FFFF
    if own and flags == NEW_PIDS | signal.SIGCHLD:
        return bpf.ALLOW
    if flags & NAMESPACES:
        return bpf.TRAP
    return allowed_if(flags & THREAD == THREAD, errno.EPERM)


def file_code(args: Sequence[int], _own: bool) -> int:
    if args[3] & HUGE_TABLE or args[3] & SHARED_MEMORY == SHARED_MEMORY:
        return refuse(errno.ENOMEM)
    if not args[2] & mmap.PROT_EXEC:
        return bpf.ALLOW
    return allowed_if(
        not args[3] & mmap.MAP_ANONYMOUS and not args[2] & mmap.PROT_WRITE, errno.EPERM
    )


def prctl(args: Sequence[int], _own: bool) -> int:
    if args[0] == SET_DEATH_SIGNAL:
        return allowed_if(args[1] == signal.SIGKILL, errno.EPERM)
    if args[0] == SET_SMALL_PAGES:
        return allowed_if(args[1] == 1, errno.EPERM)
    return allowed_if(args[0] in (SET_NAME, GET_NAME, NAME_MEMORY), errno.EPERM)


def fcntl(args: Sequence[int], _own: bool) -> int:
    if args[1] in (SET_LOCK, SET_LOCK_AND_WAIT):
        return NO_EFFECT
    return allowed_if(args[1] in PLAIN_FCNTLS, errno.EPERM)


# The meaning of each rule, written again, independently of the filter's source.
MEANING: dict[str, Callable[[Sequence[int], bool], int]] = {
    "allow": lambda _args, _own: bpf.ALLOW,
    "violation": lambda _args, _own: bpf.TRAP,
    "no such call": lambda _args, _own: refuse(errno.ENOSYS),
    "threads only": clone,
    "no exec memory": lambda args, _own: allowed_if(not args[2] & mmap.PROT_EXEC, errno.EPERM),
    "file code only": file_code,
    "own signals": lambda args, _own: allowed_if(args[0] not in OWN_SIGNALS, errno.EINVAL),
    "no address": lambda args, _own: allowed_if(args[4] == 0, errno.EPERM),
    "unix pair": lambda args, _own: allowed_if(args[0] == 1, errno.EPERM),
    "plain ioctl": lambda args, _own: allowed_if(args[1] in PLAIN_IOCTLS, errno.ENOTTY),
    "plain fcntl": fcntl,
    "plain prctl": prctl,
    "inside only": lambda _args, own: allowed_if(own, errno.EPERM),
    "no lock": lambda _args, _own: NO_EFFECT,
    "own limits": lambda args, _own: allowed_if(args[0] == 0, errno.EPERM),
    "by path only": lambda args, _own: allowed_if(args[1] and not args[3] & NO_PATH, errno.EPERM),
    "whole range": lambda args, _own: allowed_if(args[1] == 0, errno.EOPNOTSUPP),
}


def expected(filter_: Filter, number: int, args: Sequence[int], own: bool, read_only: bool) -> int:
    if number not in filter_.rules:
        return refuse(errno.EPERM)
    rule, name = filter_.rules[number]
    if read_only and name in READ_ONLY:
        return refuse(errno.EACCES)
    if read_only and name in OPEN_FLAGS:
        return allowed_if(not args[OPEN_FLAGS[name]] & WRITING, errno.EACCES)
    return MEANING[rule](args, own)


def values(rng: random.Random) -> int:
    """Return an argument that some rule may care about; 32 bits, so that none is cut."""
    return rng.choice(
        (
            *(
                0,
                1,
                2,
                3,
                6,
                9,
                25,
                31,
                SET_SMALL_PAGES,
                1030,
                0x5413,
                0x5412,
                0x5401,
                NAME_MEMORY,
                0o102,
                0o1000,
            ),
            *(THREAD, THREAD | 0x3D0F00, THREAD & ~0x100, NEW_PIDS | 17, THREAD | 0x1000_0000, 17),
            *(
                0x20,
                0x21,
                0x22,
                0x23,
                0x10_0022,
                4,
                5,
                7,
                rng.getrandbits(32),
                1 << rng.randrange(32),
            ),
        )
    )


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_every_number_gets_the_action_of_the_table(
    filter_: Filter, own: bool, read_only: bool
) -> None:
    program = filter_.programs[own, read_only]
    rng = random.Random(7)
    for number in (*range(601), *(1 << bit for bit in range(10, 30)), 0xFFFF_FFFF >> 2):
        checked = filter_.rules.get(number, ("allow", ""))[0] not in ("allow", "violation")
        opens = filter_.rules.get(number, ("", ""))[1] in OPEN_FLAGS
        for _ in range(400 if checked or opens else 2):
            args = [values(rng) for _ in range(6)]
            found = bpf.run(program, number, filter_.arch, args)
            want = expected(filter_, number, args, own, read_only)
            assert found == want, (number, filter_.rules.get(number), [hex(a) for a in args])


def test_no_call_of_another_architecture_passes(filter_: Filter) -> None:
    for program in filter_.programs.values():
        for name, arch in FOREIGN.items():
            if name == filter_.machine:
                continue
            for number in range(601):
                assert bpf.run(program, number, arch, [0] * 6) == bpf.TRAP, (name, number)


def test_no_call_with_the_x32_bit_passes(filter_: Filter) -> None:
    for program in filter_.programs.values():
        for number in range(601):
            action = bpf.run(program, number | X32_BIT, filter_.arch, [0] * 6)
            # Other machines have no such calls: an unknown number.
            want = bpf.TRAP if filter_.machine == "x86_64" else refuse(errno.EPERM)
            assert action == want, number


def test_an_address_is_refused_in_either_half_of_its_pointer(filter_: Filter) -> None:
    number = filter_.number("sendto")
    for program in filter_.programs.values():
        for pointer in (1, 1 << 31, 1 << 32, 0x7FFF_0000_0000):
            action = bpf.run(program, number, filter_.arch, [3, 0, 0, 0, pointer, 0])
            assert action == refuse(errno.EPERM)


def test_a_path_may_lie_in_either_half_of_its_pointer(filter_: Filter) -> None:
    number = filter_.number("utimensat")
    for (_, read_only), program in filter_.programs.items():
        for pointer in (1, 1 << 31, 1 << 32, 0x7FFF_0000_0000):
            action = bpf.run(program, number, filter_.arch, [3, pointer, 0, 0, 0, 0])
            assert action == (refuse(errno.EACCES) if read_only else bpf.ALLOW)


def test_a_filter_is_one_that_the_kernel_takes(filter_: Filter) -> None:
    for program in filter_.programs.values():
        assert len(program) <= 4096
        for position, (code, if_true, if_false, k) in enumerate(program):
            jump = k if code == 0x05 else max(if_true, if_false) if code & 7 == 5 else 0
            assert position + 1 + jump < len(program) or code & 7 == 6


def test_the_table_names_each_call_once(filter_: Filter) -> None:
    names = [name for _, name in filter_.rules.values()]
    assert len(set(names)) == len(names)
    if filter_.machine == platform.machine():
        assert len(_launcher.filter_rules()) == len(filter_.rules)


# Programs on other machines use a newer call for what x86-64 programs may do by an old one.
NEWER = {
    **{"stat": "newfstatat", "lstat": "newfstatat", "access": "faccessat", "open": "openat"},
    **{"creat": "openat", "getdents": "getdents64", "rename": "renameat", "mkdir": "mkdirat"},
    **{"rmdir": "unlinkat", "unlink": "unlinkat", "symlink": "symlinkat", "link": "linkat"},
    **{"readlink": "readlinkat", "chmod": "fchmodat", "utimes": "utimensat", "dup2": "dup3"},
    **{"pipe": "pipe2", "poll": "ppoll", "select": "pselect6", "epoll_create": "epoll_create1"},
    **{"epoll_wait": "epoll_pwait", "getpgrp": "getpgid", "time": "gettimeofday"},
    **{"alarm": "setitimer", "pause": "ppoll", "mknod": "mknodat"},
}
# Calls that the interpreter, its C library and numpy themselves make on aarch64.
NEEDED = {
    *("newfstatat", "statx", "faccessat", "faccessat2", "openat", "getdents64", "readlinkat"),
    *("ppoll", "pselect6", "epoll_pwait", "epoll_pwait2", "dup3", "pipe2", "rt_sigreturn"),
    *("rt_sigprocmask", "sigaltstack", "getrandom", "membarrier", "rseq", "futex", "futex_waitv"),
    *("set_robust_list", "set_tid_address", "madvise", "mremap", "munmap", "brk"),
    *("clock_nanosleep", "sched_getaffinity", "sched_yield", "close_range", "exit_group", "getcpu"),
}


def test_every_machine_may_do_the_same(filter_: Filter) -> None:
    rule_of = {name: rule for rule, name in filter_.rules.values()}
    assert not {name for name in NEEDED if rule_of[name] != "allow"}
    rule_of_path = rule_of | {"utimensat": "allow"}  # utimes always takes a path
    for old, new in NEWER.items():
        assert old not in rule_of or rule_of[old] == rule_of_path[new], old
    if filter_.machine == "aarch64":
        assert not NEWER.keys() & rule_of.keys()
    else:
        # Calls of this machine alone are not needed elsewhere.
        only_here = {"arch_prctl", "iopl", "ioperm", "modify_ldt"}
        assert rule_of.keys() >= NEWER.keys() | only_here


def test_the_numbers_are_the_kernels_own(filter_: Filter) -> None:
    header = LIBRARIES / "include/asm-generic/unistd.h"
    if filter_.machine != "aarch64" or not header.exists():
        pytest.skip("for aarch64, with its headers")
    known = {
        name: int(number)
        for name, number in re.findall(
            r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE
        )
    }
    aliases = {"newfstatat": "fstatat"}
    wrong = {
        name: number
        for number, (_, name) in filter_.rules.items()
        if known.get(aliases.get(name, name), number) != number
    }
    assert not wrong
    unknown = {name for _, name in filter_.rules.values()} - known.keys() - aliases.keys()
    assert not unknown
