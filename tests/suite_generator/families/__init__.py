"""The families of the suite, by topic."""

from __future__ import annotations

from suite_generator.families import (
    dynamic,
    lists,
    matrices,
    numbers,
    parsing,
    searching,
    simulation,
    strings,
)
from suite_generator.family import Family

FAMILIES: tuple[Family, ...] = (
    *lists.FAMILIES,
    *searching.FAMILIES,
    *numbers.FAMILIES,
    *strings.FAMILIES,
    *parsing.FAMILIES,
    *dynamic.FAMILIES,
    *simulation.FAMILIES,
    *matrices.FAMILIES,
)
