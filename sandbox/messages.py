"""How values, output and errors are shown in verdicts: short, valid UTF-8, errors on one line."""

from __future__ import annotations

from typing import Any

SHOWN = 300  # characters of a value or an output


def shown(text: str) -> str:
    """Return a text, cut to what a verdict shows."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def shown_value(value: Any) -> str:
    """Return the repr of a value, cut to what a verdict shows."""
    try:
        return shown(repr(value))
    except (ValueError, RecursionError):  # an int of more digits than Python prints
        return f"<{type(value).__name__}>"


def decoded(data: bytes) -> str:
    """Return output as text."""
    return data.decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """Return a text on one line, cut to what a verdict shows."""
    return shown(" ".join(without_surrogates(text).split()))
