"""New stdin texts like the ones that a problem has: the same lines, with other numbers and words.

Takes texts, gives others with as many lines, and as many tokens in each line, as one of them. A
number that counts something (the tokens of a line, the lines that follow, the letters of a word)
stays as it is, words keep their lengths, and numbers their range.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, permutations

from stepcoder.clean.inputs import LONGEST, TRIES, Domain, changed_value

Line = list[int | str]
Place = tuple[int, int]
SHORT = 4  # tokens of a line whose places differ in what they mean
FIRST_LINE = -1
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")


def new_stdins(known: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Return up to `count` texts that are not known yet."""
    inputs = {text: parsed(text) for text in known if text.strip() and len(text) <= LONGEST}
    if not inputs:
        return []
    texts = [text for text in known if text in inputs]
    domains: dict[Place, Domain] = {}
    for lines in inputs.values():
        for i, line in enumerate(lines):
            for j, token in enumerate(line):
                domains.setdefault(role(i, j, line), Domain()).add(token)
    bounds = frozenset.intersection(*map(_bounds, inputs.values()))
    orders = _orders(list(inputs.values()))
    seen = set(known)

    def found() -> Iterator[str]:
        for _ in range(count * TRIES):
            text = rng.choice(texts)
            lines = _changed(inputs[text], domains, rng)
            made = _written(text, lines)
            if made not in seen and bounds <= _bounds(lines) and _keeps(orders, lines):
                seen.add(made)
                yield made

    return list(islice(found(), count))


def parsed(text: str) -> list[Line]:
    """Return the tokens of each line, integers as such."""
    return [
        [int(token) if _INTEGER.fullmatch(token) else token for token in line.split()]
        for line in text.split("\n")
    ]


def role(i: int, j: int, line: Line) -> Place:
    """Return what token j of line i is like: those at its place of lines as long, or of first ones.

    In a long line all places are alike.
    """
    length = FIRST_LINE if i == 0 else min(len(line), SHORT + 1)
    return length, j if len(line) <= SHORT else 0


def _bounds(lines: list[Line]) -> frozenset[tuple[int, str]]:
    """Return which numbers of the first line no later number exceeds, or reaches."""
    later = [token for line in lines[1:] for token in line if isinstance(token, int)]
    if not later:
        return frozenset()
    numbers = [(j, token) for j, token in enumerate(lines[0]) if isinstance(token, int)]
    at_most = {(j, "at most") for j, number in numbers if max(later) <= number}
    return frozenset(at_most | {(j, "below") for j, number in numbers if max(later) < number})


def _orders(inputs: Sequence[list[Line]]) -> dict[Place, set[Place]]:
    """Return, for lines of two to four numbers, which places hold rising numbers in all of them."""
    found: dict[Place, set[Place]] = {}
    for lines in inputs:
        for i, line in enumerate(lines):
            if 2 <= len(line) <= SHORT and all(isinstance(token, int) for token in line):
                key = role(i, 0, line)
                found[key] = found.get(key, _rising(line)) & _rising(line)
    return found


def _rising(line: Line) -> set[Place]:
    """Return the pairs of places whose numbers rise; a word counts as 0."""
    numbers = [token if isinstance(token, int) else 0 for token in line]
    return {(j, k) for j, k in permutations(range(len(line)), 2) if numbers[j] < numbers[k]}


def _keeps(orders: Mapping[Place, set[Place]], lines: list[Line]) -> bool:
    return all(
        orders.get(role(i, 0, line), set()) <= _rising(line)
        for i, line in enumerate(lines)
        if 2 <= len(line) <= SHORT
    )


def counts(lines: list[Line]) -> set[Place]:
    """Return the places of the numbers that count something that stands after them."""
    found = set()
    for i, line in enumerate(lines):
        after = sum(map(bool, lines[i + 1 :]))  # lines that are not empty
        near = lines[i + 1 : i + 4] if i else lines[1:]
        lengths = {len(later) for later in near}
        lengths |= {len(word) for later in near for word in later if isinstance(word, str)}
        lengths |= {len(str(later[0])) for later in near if len(later) == 1}
        for j, token in enumerate(line):
            if token in (lengths | {len(line) - j - 1, after, after - 1, after // 2}) - {0}:
                found.add((i, j))
    return found


def _changed(lines: list[Line], domains: dict[Place, Domain], rng: random.Random) -> list[Line]:
    made = [list(line) for line in lines]
    fixed = counts(lines)
    free = [(i, j) for i, line in enumerate(lines) for j in range(len(line)) if (i, j) not in fixed]
    if not free:
        return made
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = rng.choice(free)
        line = made[i]
        places = [k for k in range(len(line)) if (i, k) not in fixed]
        if len(line) > 2 and rng.random() < 0.4:
            k = rng.choice([k for k in places if type(line[k]) is type(line[j])])
            line[j], line[k] = line[k], line[j]
        else:
            line[j] = _other(line[j], domains[role(i, j, line)], rng)
        _keep_order(lines[i], line, places)
    return made


def _other(token: int | str, domain: Domain, rng: random.Random) -> int | str:
    """Return another token: a number within the range, a word of the same length."""
    if isinstance(token, int):
        changed = changed_value(token, Domain(domain.numbers, values=[token]), rng)
        return changed if isinstance(changed, int) and domain.admits(changed) else token
    if not token.isalnum() and not set(token) <= domain.letters:
        return token
    letters = list(token)
    i, j = rng.randrange(len(letters)), rng.randrange(len(letters))
    if rng.random() < 0.5:
        letters[i], letters[j] = letters[j], letters[i]
    else:
        alike = sorted(c for c in domain.letters if _kind(c) == _kind(letters[i]))
        letters[i] = rng.choice(alike or [letters[i]])  # a word may have come from another place
    made = "".join(letters)
    return token if _INTEGER.fullmatch(made) else made


def _kind(letter: str) -> tuple[bool, bool, bool]:
    return letter.isdigit(), letter.isupper(), letter.isalpha()


def _keep_order(before: Line, line: Line, places: list[int]) -> None:
    """Sort the numbers of a line that was sorted; put back one that lost being distinct."""
    old = [token for k in places if isinstance(token := before[k], int)]
    new = [token for k in places if isinstance(token := line[k], int)]
    if len(old) < max(2, len(places)):
        return
    if len(set(old)) == len(old) and len(set(new)) < len(new):
        new = old
    elif sorted(old) == old:
        new.sort()
    elif sorted(old, reverse=True) == old:
        new.sort(reverse=True)
    for k, number in zip(places, new, strict=True):
        line[k] = number


def _written(text: str, lines: list[Line]) -> str:
    """Return the text with its tokens exchanged; the space between them stays."""
    tokens = (str(token) for line in lines for token in line)
    return re.sub(r"\S+", lambda _: next(tokens), text)
