"""Describes an exception as plain data: its type, its message and the line of the program."""

from __future__ import annotations

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
