"""Files in place of stdin and stdout: problems whose programs read input.txt and write output.txt.

Takes a preamble, gives one that also lays the input out as a file before the program runs and hands
the output file in as stdout after it. It runs beside the program, which can change both: they are
its own answer. What the program prints goes to stderr where a file stands for stdout.
"""

from __future__ import annotations

import re

_PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)

# Files that the program left open are flushed first, as the end of a process does it. The harness
# runs the exit functions last in, first out, so those of the program come before.
_CODE = """
def _files(read, write):
    import atexit, gc, io, os, sys
    if read:
        with open(read, "wb") as file:
            file.write(sys.stdin.buffer.read())
    if not write:
        return
    stdout = os.dup(1)
    os.dup2(2, 1)

    def hand_in():
        opened = [o for o in gc.get_objects() if isinstance(o, io.IOBase)]
        opened.sort(key=lambda stream: not isinstance(stream, io.TextIOBase))
        for stream in (sys.stdout, sys.__stdout__, *opened):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        os.dup2(stdout, 1)
        try:
            with open(write, "rb") as file:
                left = memoryview(file.read())
        except FileNotFoundError:
            return
        while left:
            left = left[os.write(1, left):]

    atexit.register(hand_in)
"""


def with_files(preamble: str, read: str, write: str) -> str:
    """Return the preamble for a program that reads one file and writes another; "" for neither.

    Raises ValueError for a name that is more than one of a file.
    """
    for name in filter(None, (read, write)):
        if not _PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file; expected one like input.txt")
    return f"{preamble.rstrip()}\n{_CODE}\n_files({read!r}, {write!r})\ndel _files\n"
