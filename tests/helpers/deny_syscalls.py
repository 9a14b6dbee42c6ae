"""Runs a command whose system calls are denied: python deny_syscalls.py WHAT[,WHAT...] COMMAND...

WHAT: "namespaces" (as container runtimes do), "mounts" (as AppArmor does, which lets the namespaces
be made), "landlock" (an older kernel).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# unshare, setns, clone; mount, umount2, pivot_root
_NUMBERS = {
    "x86_64": ((272, 308), 56, (165, 166, 155)),
    "aarch64": ((97, 268), 220, (40, 39, 41)),
}
_CLONE3 = 435
_LANDLOCK = (444, 445, 446)
_NAMESPACE_FLAGS = 0x7E02_0000

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF_0000, 0x0005_0000
_NUMBER, _FIRST_ARGUMENT = 0, 16

_Instruction = tuple[int, int, int, int]


def _refuse(numbers: tuple[int, ...], error: int) -> list[_Instruction]:
    code = []
    for number in numbers:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | error)]
    return code


def program(kinds: list[str]) -> list[_Instruction]:
    """Return the filter."""
    namespaces, clone, mounts = _NUMBERS[platform.machine()]
    code: list[_Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    if "namespaces" in kinds:
        code += _refuse((*namespaces, *mounts), errno.EPERM)
        code += _refuse((_CLONE3,), errno.ENOSYS)
        code += [
            (_EQUAL, 0, 3, clone),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS),
            (_RETURN, 0, 0, _ERROR | errno.EPERM),
            (_LOAD, 0, 0, _NUMBER),
        ]
    if "mounts" in kinds:
        code += _refuse(mounts, errno.EACCES)
    if "landlock" in kinds:
        code += _refuse(_LANDLOCK, errno.ENOSYS)
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def install(code: list[_Instruction]) -> None:
    """Put this process, and what it starts, behind the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in code))
    filter_ = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(code), ctypes.addressof(instructions))
    )
    set_no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        set_seccomp, filter_mode, filter_
    ):
        raise OSError(ctypes.get_errno(), "install a filter")


if __name__ == "__main__":
    install(program(sys.argv[1].split(",")))
    os.execvp(sys.argv[2], sys.argv[2:])
