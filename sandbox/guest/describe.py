"""Describes an exception: as plain data, or as the interpreter would on stderr."""

from __future__ import annotations

import sys

FILENAME = "<program>"


def describe(error: BaseException) -> tuple[str, str, int | None]:
    """Return an exception's type name, message and the line of the program that raised it."""
    line: int | None = None
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        line = error.lineno
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == FILENAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    try:
        message = str(error)[:500]
    except BaseException:
        message = "(its message cannot be read)"
    if not isinstance(line, int):
        line = None
    return (str(type(error).__name__)[:100], message, line)


def show(error: BaseException, source: str) -> None:
    """Write to stderr what the interpreter would: the traceback of the program's frames."""
    import linecache
    import traceback

    if isinstance(error, SystemExit):
        if not isinstance(error.code, int):
            sys.stderr.write(f"{error.code}\n")
        return
    linecache.cache[FILENAME] = (len(source), None, source.splitlines(keepends=True), FILENAME)
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != FILENAME:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)
