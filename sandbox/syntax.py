"""ast.parse for threads."""

from __future__ import annotations

import ast
import os
import threading

# CPython 3.11 counts the depth of a tree in one variable for all threads. The collector may run
# in the middle of a parse, its callbacks may let another thread in, and if that one parses too,
# the first fails with "SystemError: AST constructor recursion depth mismatch" (gh-106905).
_ONE_AT_A_TIME = threading.RLock()
os.register_at_fork(
    before=_ONE_AT_A_TIME.acquire,
    after_in_parent=_ONE_AT_A_TIME.release,
    after_in_child=_ONE_AT_A_TIME.release,
)


def parse(source: str) -> ast.Module:
    """Return ast.parse(source); raise what it raises."""
    with _ONE_AT_A_TIME:
        return ast.parse(source)
