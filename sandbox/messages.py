"""How values, output and errors are shown in verdicts: short, valid UTF-8, errors on one line."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

SHOWN = 300  # characters of a value or an output
_MOST_BITS = 1 << 12  # of an int whose digits are shown; Python itself refuses 4,300 digits


def shown(text: str) -> str:
    """Return a text, cut to what a verdict shows."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def shown_value(value: Any) -> str:
    """Return the repr of a value, cut to what a verdict shows; no more than that is made."""
    return shown(repr(_head(value, [SHOWN])))


def whole_value(value: Any) -> str:
    """Return the repr of a trusted value; its head, if it has more digits than Python shows."""
    try:
        return repr(value)
    except ValueError:
        return shown_value(value)


class _Words(str):
    """A text whose repr is itself."""

    __slots__ = ()
    __repr__ = str.__str__


def _head(value: Any, room: list[int]) -> Any:
    """Return a value with no more of its parts than can be shown; `room[0]` says how many."""
    room[0] -= 1
    if isinstance(value, (str, bytes)):
        return value[: SHOWN + 1]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return _Words(f"<an int of about {int(value.bit_length() * math.log10(2)) + 1} digits>")
    if type(value) in (list, tuple, set, frozenset) and value:
        return type(value)(_head(item, room) for item in takewhile(lambda _: room[0] > 0, value))
    if isinstance(value, dict):
        items = takewhile(lambda _: room[0] > 0, value.items())
        return {_head(key, room): _head(item, room) for key, item in items}
    return value


def decoded(data: bytes) -> str:
    """Return output as text."""
    return data.decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """Return a text on one line, cut to what a verdict shows."""
    return shown(" ".join(without_surrogates(text).split()))
