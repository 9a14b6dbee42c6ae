"""New inputs like the ones that a problem has: small changes that keep what all of them share.

Takes the argument lists of call tests, gives others of the same types, within the range of values
and lengths that was seen at each position, for which every fact of `facts` that holds for all known
inputs holds too (sorted, distinct, a number that is the length of a list, ...).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, permutations
from typing import Any

Fact = tuple[str | int, ...]
ENOUGH = 4  # inputs, for what half of all numbers and lists are to be more than chance
_CHANCE = frozenset({"even", "odd", "even length", "odd length"})
TRIES = 12  # changes that are tried for each input that is wanted
LONGEST = 2000  # characters of an input's repr


@dataclass(slots=True)
class Domain:
    """What was seen at one position: its numbers, characters and lengths at every depth."""

    numbers: set[float] = field(default_factory=set)
    letters: set[str] = field(default_factory=set)
    lengths: dict[int, set[int]] = field(default_factory=dict)  # by depth
    values: list[Any] = field(default_factory=list)

    def add(self, value: Any, depth: int = 0) -> None:
        """Take a value and all that it holds into account."""
        if depth == 0:
            self.values.append(value)
        if isinstance(value, bool) or value is None:
            return
        if isinstance(value, (int, float)):
            if math.isfinite(value):
                self.numbers.add(value)
        elif isinstance(value, (str, list, tuple, set, frozenset, dict)):
            self.lengths.setdefault(depth, set()).add(len(value))
            if isinstance(value, str):
                self.letters.update(value)
            else:
                items = [*value, *value.values()] if isinstance(value, dict) else value
                for item in items:
                    self.add(item, depth + 1)

    def bounds(self) -> tuple[int, int]:
        """Return the least and greatest number; where only one was seen, from half of it on."""
        low, high = int(min(self.numbers)), int(max(self.numbers))
        return ((low + 1) // 2 if 0 < low == high else low), high

    def admits(self, value: Any, depth: int = 0) -> bool:
        """Return whether a value and all that it holds lies within what was seen."""
        if isinstance(value, bool) or value is None:
            return True
        if isinstance(value, (int, float)):
            return bool(self.numbers) and self.bounds()[0] <= value <= self.bounds()[1]
        if isinstance(value, (str, list, tuple, set, frozenset, dict)):
            seen = self.lengths.get(depth, {0})
            least = (min(seen) + 1) // 2 if len(seen) == 1 else min(seen)
            if not least <= len(value) <= max(seen):
                return False
            if isinstance(value, str):
                return self.letters.issuperset(value)
            items = [*value, *value.values()] if isinstance(value, dict) else value
            return all(self.admits(item, depth + 1) for item in items)
        return False


def facts(arguments: Sequence[Any]) -> frozenset[Fact]:
    """Return what holds for an argument list, by the positions that it is about.

    A fact that says nothing of a short list (one item is sorted) holds.
    """
    found: list[Fact] = []
    for i, value in enumerate(arguments):
        found += [(name, i) for name in _facts_of(value)]
    for i, j in permutations(range(len(arguments)), 2):
        found += [(name, i, j) for name in _relations(arguments[i], arguments[j])]
    return frozenset(found)


def _facts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _shape_facts(list(value), value)
        yield from (f"{test.__name__}" for test in _TEXT_TESTS if test(value))
    elif isinstance(value, (list, tuple)):
        yield from _shape_facts(list(value), value)
        if value and all(isinstance(item, (list, tuple, str)) for item in value):
            lengths = {len(item) for item in value}
            if len(lengths) == 1:
                yield "rectangular"
            if lengths == {len(value)}:
                yield "square"
            inner = [set(_shape_facts(list(item), item)) for item in value]
            yield from (f"each {name}" for name in set.intersection(*inner))
            for test in _TEXT_TESTS:
                if all(isinstance(item, str) and test(item) for item in value):
                    yield f"each {test.__name__}"
    elif isinstance(value, int) and not isinstance(value, bool):
        if value % 2 == 0:
            yield "even"
        else:
            yield "odd"
        if value & (value - 1) == 0 and value > 0:
            yield "power of two"


_TEXT_TESTS: tuple[Callable[[str], bool], ...] = (
    str.isdigit,
    str.islower,
    str.isupper,
    str.istitle,
)


def _shape_facts(items: list[Any], value: Any) -> Iterator[str]:
    if items:
        yield "filled"
    if len(items) % 2 == 0:
        yield "even length"
    else:
        yield "odd length"
    try:
        ordered = sorted(items)
    except TypeError:
        return
    if items == ordered:
        yield "ascending"
    if items == ordered[::-1]:
        yield "descending"
    if items == items[::-1]:
        yield "palindrome"
    if not isinstance(value, str) and all(isinstance(item, int) for item in items):
        if ordered == list(range(1, len(items) + 1)):
            yield "permutation from 1"
        if ordered == list(range(len(items))):
            yield "permutation from 0"
    if all(left != right for left, right in pairwise(ordered)):
        yield "distinct"
    if len(items) > 1 and ordered[0] != ordered[-1]:
        yield "varied"
    if isinstance(value, str) and value.strip() == value and "  " not in value:
        yield "single spaces"
    if isinstance(value, str) and _balanced(value):
        yield "balanced"


def _balanced(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _relations(left: Any, right: Any) -> Iterator[str]:
    """Yield what the value at one position says about that at another."""
    sized = isinstance(right, (str, list, tuple))
    if isinstance(left, int):
        if isinstance(right, int):
            yield from _order("", left, right)
        elif sized:
            yield from _order("length ", left, len(right))
            if not isinstance(right, str):
                numbers = list(_numbers(right))
                if all(number <= left for number in numbers):
                    yield "at least all of"
                if all(number < left for number in numbers):
                    yield "above all of"
            if left in list(right):
                yield "in"
            else:
                yield "not in"
    elif isinstance(left, (str, list, tuple)) and sized:
        yield from _order("length ", len(left), len(right))
        if isinstance(left, str) == isinstance(right, str):
            if isinstance(left, str) and isinstance(right, str) and left in right:
                yield "part of"
            if sorted(map(repr, left)) == sorted(map(repr, right)):
                yield "same items"
        if not isinstance(left, str) and left in list(right):
            yield "in"
        if isinstance(left, str) and not isinstance(right, str) and left in right:
            yield "in"
        numbers = [] if isinstance(left, str) else list(_numbers(left))
        others = [] if isinstance(right, str) else list(_numbers(right))
        if len(numbers) == len(others) > 0:
            if all(one < other for one, other in zip(numbers, others, strict=True)):
                yield "each below"
            if all(one <= other for one, other in zip(numbers, others, strict=True)):
                yield "each at most"
        if numbers and all(0 <= number < len(right) for number in numbers):
            yield "indices of"


def _order(prefix: str, left: int, right: int) -> Iterator[str]:
    if left == right:
        yield f"{prefix}equal"
    if left <= right:
        yield f"{prefix}at most"
    if left < right:
        yield f"{prefix}below"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def new_inputs(known: Sequence[list[Any]], count: int, rng: random.Random) -> list[list[Any]]:
    """Return up to `count` argument lists that are not known yet."""
    if not known or len({len(arguments) for arguments in known}) != 1 or not known[0]:
        return []
    domains = [Domain() for _ in known[0]]
    for arguments in known:
        for domain, value in zip(domains, arguments, strict=True):
            domain.add(value)
    shared = frozenset.intersection(*map(facts, known))
    if len(known) < ENOUGH:
        shared = frozenset(fact for fact in shared if fact[0] not in _CHANCE)
    seen = {repr(arguments) for arguments in known}
    found: list[list[Any]] = []
    for _ in range(count * TRIES):
        if len(found) == count:
            break
        made = _changed(rng.choice(known), domains, shared, rng)
        text = repr(made)
        if text in seen or len(text) > LONGEST:
            continue
        seen.add(text)
        if not all(d.admits(v) for d, v in zip(domains, made, strict=True)):
            continue
        if shared <= facts(made):
            found.append(made)
    return found


def _changed(
    arguments: list[Any], domains: Sequence[Domain], shared: frozenset[Fact], rng: random.Random
) -> list[Any]:
    """Return an argument list with one to three values changed and, where that is easy, mended."""
    made = list(arguments)
    for _ in range(rng.choice((1, 1, 2, 3))):
        i = rng.randrange(len(made))
        made[i] = changed_value(made[i], domains[i], rng)
    for i, value in enumerate(made):
        if isinstance(value, list) and ("ascending", i) in shared:
            made[i] = _sorted(value)
        elif isinstance(value, list) and ("descending", i) in shared:
            made[i] = _sorted(value)[::-1]
        if isinstance(value, list) and ("each ascending", i) in shared:
            made[i] = [_sorted(item) if isinstance(item, list) else item for item in value]
    for i, j in combinations(range(len(made)), 2):
        for number, sized in ((i, j), (j, i)):
            if ("length equal", number, sized) in shared and isinstance(made[number], int):
                made[number] = len(made[sized])
    return made


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return items


def changed_value(value: Any, domain: Domain, rng: random.Random) -> Any:
    """Return another value of the same type, never the same object as the old one's parts."""
    if rng.random() < 0.15:
        alike = [other for other in domain.values if type(other) is type(value)]
        return rng.choice(alike or [value])
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) and not domain.numbers:
        return value
    if isinstance(value, int):
        low, high = domain.bounds()
        near = [value - 1, value + 1, low, high, low + (high - low) // 2]
        return rng.choice([*near, rng.randint(low, high), rng.randint(low, high)])
    if isinstance(value, float):
        return float(rng.choice(sorted(domain.numbers)))
    if isinstance(value, str):
        letters = sorted(domain.letters) or [""]
        return "".join(_changed_items(list(value), lambda _: rng.choice(letters), rng))
    if isinstance(value, list):
        return _changed_items(
            list(value), lambda item: changed_value(item, domain_in(domain), rng), rng
        )
    if isinstance(value, tuple):
        return tuple(changed_value(list(value), domain, rng))
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: changed_value(value[key], domain_in(domain), rng)}
    return value


def domain_in(domain: Domain) -> Domain:
    """Return the domain of the items of the values of a domain."""
    items = [item for value in domain.values if isinstance(value, (list, tuple)) for item in value]
    return Domain(domain.numbers, domain.letters, domain.lengths, items or [0])


def _changed_items(items: list[Any], other: Callable[[Any], Any], rng: random.Random) -> list[Any]:
    """Return items with one taken out, put in, exchanged or replaced, or all in another order."""
    if not items:
        return items
    i, j = rng.randrange(len(items)), rng.randrange(len(items))
    match rng.randrange(7):
        case 0:
            del items[i]
        case 1:
            items.insert(i, items[j])
        case 2:
            items.insert(i, other(items[i]))
        case 3:
            items[i], items[j] = items[j], items[i]
        case 4:
            rng.shuffle(items)
        case _:
            items[i] = other(items[i])
    return items
