"""New inputs like the ones that a problem has: small changes that keep what all of them share.

Takes the argument lists of call tests, gives others of the same types, within the range of values
and lengths that was seen at each position, for which every fact of `facts` that holds for all known
inputs holds too (sorted, distinct, a number that is the length of a list, ...).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, permutations
from typing import Any

Fact = tuple[str | int, ...]  # a name, and the positions of the arguments that it is about
ENOUGH = 4  # inputs, for what half of all numbers and lists are to be more than chance
_CHANCE = frozenset({"even", "odd", "even length", "odd length"})
TRIES = 12  # changes that are tried for each input that is wanted
LONGEST = 2000  # characters of an input's repr
_SIZED = (str, list, tuple, set, frozenset, dict)


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
        if isinstance(value, bool):
            return
        if isinstance(value, (int, float)):
            if math.isfinite(value):
                self.numbers.add(value)
        elif isinstance(value, _SIZED):
            self.lengths.setdefault(depth, set()).add(len(value))
            if isinstance(value, str):
                self.letters.update(value)
            else:
                for item in _items(value):
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
        if not isinstance(value, _SIZED):
            return False
        seen = self.lengths.get(depth, {0})
        least = (min(seen) + 1) // 2 if len(seen) == 1 else min(seen)
        if not least <= len(value) <= max(seen):
            return False
        if isinstance(value, str):
            return self.letters.issuperset(value)
        return all(self.admits(item, depth + 1) for item in _items(value))

    def of_items(self) -> Domain:
        """Return the domain of the items of the lists and tuples of this one."""
        lists = [value for value in self.values if isinstance(value, (list, tuple))]
        items = [item for value in lists for item in value]
        return Domain(self.numbers, self.letters, self.lengths, items or [0])


def _items(value: Any) -> Iterable[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value


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


def _true(claims: Mapping[str, bool]) -> Iterator[str]:
    """Return the names of the claims that hold."""
    return (name for name, holds in claims.items() if holds)


def _facts_of(value: Any) -> Iterator[str]:
    if isinstance(value, (str, list, tuple)):
        yield from _sequence_facts(value)
        if not isinstance(value, str):
            yield from _facts_of_items(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield "odd" if value % 2 else "even"
        if value > 0 and value & (value - 1) == 0:
            yield "power of two"


def _sequence_facts(value: Sequence[Any]) -> Iterator[str]:
    items = list(value)
    yield "odd length" if len(items) % 2 else "even length"
    if items:
        yield "filled"
    try:
        ordered = sorted(items)
    except TypeError:
        return
    claims = {
        "ascending": items == ordered,
        "descending": items == ordered[::-1],
        "palindrome": items == items[::-1],
        "distinct": all(left != right for left, right in pairwise(ordered)),
        "varied": len(items) > 1 and ordered[0] != ordered[-1],
    }
    if isinstance(value, str):
        claims |= {
            "single spaces": value.strip() == value and "  " not in value,
            "balanced": _balanced(value),
            "digits": value.isdigit(),
            "lower case": value.islower(),
            "upper case": value.isupper(),
            "title case": value.istitle(),
        }
    elif all(isinstance(item, int) for item in items):
        claims |= {
            "permutation from 1": ordered == list(range(1, len(items) + 1)),
            "permutation from 0": ordered == list(range(len(items))),
        }
    yield from _true(claims)


def _facts_of_items(value: Sequence[Any]) -> Iterator[str]:
    """Yield what holds for every item of a list of lists or texts."""
    if value and all(isinstance(item, (str, list, tuple)) for item in value):
        lengths = {len(item) for item in value}
        yield from _true({"rectangular": len(lengths) == 1, "square": lengths == {len(value)}})
        shared = set.intersection(*(set(_sequence_facts(item)) for item in value))
        yield from (f"each {name}" for name in shared)


def _balanced(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _relations(left: Any, right: Any) -> Iterator[str]:
    """Yield what the value at one position says about that at another."""
    if isinstance(left, int) and isinstance(right, int):
        yield from _order("", left, right)
    elif isinstance(right, (str, list, tuple)):
        if isinstance(left, int):
            yield from _number_relations(left, right)
        elif isinstance(left, (str, list, tuple)):
            yield from _sequence_relations(left, right)


def _number_relations(number: int, items: Sequence[Any]) -> Iterator[str]:
    yield from _order("length ", number, len(items))
    yield "in" if number in list(items) else "not in"
    if not isinstance(items, str):
        numbers = list(_numbers(items))
        if all(other <= number for other in numbers):
            yield "at least all of"
        if all(other < number for other in numbers):
            yield "above all of"


def _sequence_relations(left: Sequence[Any], right: Sequence[Any]) -> Iterator[str]:
    texts = isinstance(left, str) + isinstance(right, str)
    numbers, others = list(_numbers(left)), list(_numbers(right))
    pairs = list(zip(numbers, others, strict=True)) if len(numbers) == len(others) else []
    claims = {
        "part of": texts == 2 and left in right,
        "in": texts < 2 and left in list(right),
        "same items": texts != 1 and sorted(map(repr, left)) == sorted(map(repr, right)),
        "each below": bool(pairs) and all(one < other for one, other in pairs),
        "each at most": bool(pairs) and all(one <= other for one, other in pairs),
        "indices of": bool(numbers) and all(0 <= number < len(right) for number in numbers),
    }
    yield from _order("length ", len(left), len(right))
    yield from _true(claims)


def _order(prefix: str, left: int, right: int) -> Iterator[str]:
    claims = {"equal": left == right, "at most": left <= right, "below": left < right}
    return (prefix + name for name in _true(claims))


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

    def found() -> Iterator[list[Any]]:
        for _ in range(count * TRIES):
            made = _changed(rng.choice(known), domains, shared, rng)
            text = repr(made)
            if text not in seen and len(text) <= LONGEST:
                seen.add(text)
                admitted = all(d.admits(v) for d, v in zip(domains, made, strict=True))
                if admitted and shared <= facts(made):
                    yield made

    return list(islice(found(), count))


def _changed(
    arguments: list[Any], domains: Sequence[Domain], shared: frozenset[Fact], rng: random.Random
) -> list[Any]:
    """Return an argument list with one to three values changed and, where that is easy, mended."""
    made = list(arguments)
    for _ in range(rng.choice((1, 1, 2, 3))):
        i = rng.randrange(len(made))
        made[i] = changed_value(made[i], domains[i], rng)
    for i, value in enumerate(made):
        if isinstance(value, list):
            if ("ascending", i) in shared:
                made[i] = _sorted(value)
            elif ("descending", i) in shared:
                made[i] = _sorted(value)[::-1]
            if ("each ascending", i) in shared:
                made[i] = [_sorted(item) if isinstance(item, list) else item for item in value]
    for number, sized in permutations(range(len(made)), 2):
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
    match value:
        case bool():
            return not value
        case int() if domain.numbers:
            low, high = domain.bounds()
            near = [value - 1, value + 1, low, high, low + (high - low) // 2]
            return rng.choice([*near, rng.randint(low, high), rng.randint(low, high)])
        case float() if domain.numbers:
            return float(rng.choice(sorted(domain.numbers)))
        case str():
            letters = sorted(domain.letters) or [""]
            return "".join(_changed_items(list(value), lambda _: rng.choice(letters), rng))
        case list():
            inner = domain.of_items()
            return _changed_items(list(value), lambda item: changed_value(item, inner, rng), rng)
        case tuple():
            return tuple(changed_value(list(value), domain, rng))
        case dict() if value:
            key = rng.choice(list(value))
            return {**value, key: changed_value(value[key], domain.of_items(), rng)}
    return value


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
