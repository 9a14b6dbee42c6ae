"""Interprets seccomp filters without a kernel: the part of classic BPF that they use."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

ALLOW = 0x7FFF_0000
TRAP = 0x0003_0000
ERRNO = 0x0005_0000

_LOAD_WORD = 0x20
_AND = 0x54
_RETURN = 0x06
_JUMP = 0x05
_TESTS = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: a & k != 0,
}


def run(program: Sequence[Instruction], number: int, arch: int, arguments: Sequence[int]) -> int:
    """Return the action for a system call. Raises ValueError for what a kernel would refuse."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number & 0xFFFF_FFFF, arch, 0, *padded)
    accumulator = 0
    position = 0
    while position < len(program):
        code, if_true, if_false, k = program[position]
        position += 1
        if code == _LOAD_WORD:
            if k % 4 or k + 4 > len(data):
                raise ValueError(f"load at {k}")
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == _AND:
            accumulator &= k
        elif code == _RETURN:
            return k
        elif code == _JUMP:
            position += k
        elif code in _TESTS:
            position += if_true if _TESTS[code](accumulator, k) else if_false
        else:
            raise ValueError(f"instruction {code:#x}")
    raise ValueError("the program runs off its end")
