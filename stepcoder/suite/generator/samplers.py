"""Random argument values for choosing tests: each sampler turns a Random into one value."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stepcoder.suite.generator.family import Sampler


def integer(low: int, high: int) -> Sampler:
    """Return a sampler of integers from low to high, both included."""
    return lambda rng: rng.randint(low, high)


def integers(low: int = -6, high: int = 12, most: int = 7) -> Sampler:
    """Return a sampler of lists of up to `most` integers."""
    return lambda rng: [rng.randint(low, high) for _ in range(rng.randint(0, most))]


def text(alphabet: str, most: int = 9) -> Sampler:
    """Return a sampler of strings of up to `most` characters of the alphabet."""
    return lambda rng: "".join(rng.choice(alphabet) for _ in range(rng.randint(0, most)))


def sentence(words: Sequence[str], most: int = 6) -> Sampler:
    """Return a sampler of strings of up to `most` of the words, with a space between them."""
    return lambda rng: " ".join(rng.choice(words) for _ in range(rng.randint(0, most)))


def table() -> Sampler:
    """Return a sampler of lists of rows of equal length with integers in them."""
    return lambda rng: _rows(rng, rng.randint(1, 4), rng.randint(0, 4))


def square() -> Sampler:
    """Return a sampler of square tables of integers."""
    return lambda rng: _rows(rng, size := rng.randint(0, 5), size)


def _rows(rng: random.Random, columns: int, rows: int) -> list[list[int]]:
    return [[rng.randint(-4, 9) for _ in range(columns)] for _ in range(rows)]
