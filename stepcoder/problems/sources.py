"""Which files a run's problems come from: one path, or several with weights.

Takes the text of `data.path`, gives paths. Nothing slow is imported: --help waits for it.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Source(NamedTuple):
    """A file or folder, and how often an epoch draws each of its problems."""

    path: str
    weight: float = 1.0


def sources_of(text: str) -> list[Source]:
    """Return the sources of "a.jsonl,b.parquet:0.5"; a path that exists is one as it stands.

    Raises ValueError for a weight that is not above 0, and for an empty path.
    """
    return [_source(text)] if os.path.exists(text) else [_source(p) for p in text.split(",")]


def _source(text: str) -> Source:
    path, colon, number = text.strip().rpartition(":")
    try:
        weight = float(number) if colon and not os.path.exists(text.strip()) else None
    except ValueError:
        weight = None
    source = Source(text.strip()) if weight is None else Source(path, weight)
    if not source.path or not 0 < source.weight < 1000:
        raise ValueError(f'"{text}" is no PATH or PATH:WEIGHT with a weight above 0')
    return source


def written(sources: list[Source]) -> str:
    """Return the text of sources."""
    return ",".join(s.path if s.weight == 1 else f"{s.path}:{s.weight:g}" for s in sources)


def columns_of(text: str | None) -> dict[str, str]:
    """Return the names that columns have in a file by those that we read.

    `text` is "prompt:question,tests:cases". Raises ValueError for anything else.
    """
    pairs = [part.strip().partition(":") for part in text.split(",")] if text else []
    columns = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if not all(columns) or not all(columns.values()) or len(columns) < len(pairs):
        raise ValueError(f'"{text}" is no list of OURS:THEIRS, such as prompt:question')
    return columns
