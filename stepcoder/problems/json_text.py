"""JSON text as files and requests have it: integers of any length, perhaps a byte-order mark."""

from __future__ import annotations

import json
from typing import Any

_MOST_DIGITS = 1_000_000
_AT_ONCE = 4_000  # Python refuses more than 4,300: its own conversion takes quadratic time


def loads(text: str | bytes) -> Any:
    """Return the data of JSON text. Raises ValueError, also for text that is nested too deeply."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        text = text.removeprefix("\ufeff")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # more digits than Python takes; slower, hence not for all
            return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int:
    if len(digits) <= _AT_ONCE:
        return int(digits)
    if digits[0] == "-":
        return -_integer(digits[1:])
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits; at most {_MOST_DIGITS:,}")
    half = len(digits) // 2
    power: int = 10**half
    return _integer(digits[:-half]) * power + _integer(digits[-half:])
