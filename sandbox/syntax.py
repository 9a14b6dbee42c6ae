"""ast.parse for use in several threads."""

from __future__ import annotations

import ast
import os
import threading
from contextlib import suppress

# CPython 3.11 counts the depth of a tree in one variable for all threads. If the garbage collector
# runs during a parse and lets another thread parse, the first parse fails with "SystemError: AST
# constructor recursion depth mismatch" (gh-106905). Threads of libraries know no lock of ours.
_ONE_AT_A_TIME = threading.RLock()
_TRIES = 3
os.register_at_fork(
    before=_ONE_AT_A_TIME.acquire,
    after_in_parent=_ONE_AT_A_TIME.release,
    after_in_child=_ONE_AT_A_TIME.release,
)


def parse(source: str) -> ast.Module:
    """Return ast.parse(source), without a byte-order mark; raise what it raises."""
    source = source.removeprefix("\ufeff")
    with _ONE_AT_A_TIME:
        for _ in range(_TRIES):
            with suppress(SystemError):
                return ast.parse(source)
        return ast.parse(source)
