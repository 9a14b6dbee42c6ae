"""New stdin texts like the ones that a problem has: the same lines, with other numbers and words.

Takes texts, gives others with as many lines, and as many tokens in each line, as one of them. A
number that counts something (the tokens of a line, the lines that follow, the letters of a word)
stays as it is, words keep their lengths, and numbers their range.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from stepcoder.clean.inputs import LONGEST, TRIES, Domain, changed_value

Line = list[int | str]
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_PARTS = re.compile(r"(\s+)")
Role = tuple[int, int]  # tokens of the line, place in it; of the first line: -1, place


def new_stdins(known: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Return up to `count` texts that are not known yet."""
    texts = [text for text in known if text.strip() and len(text) <= LONGEST]
    if not texts:
        return []
    inputs = {text: parsed(text) for text in texts}
    domains: dict[Role, Domain] = {}
    for lines in inputs.values():
        for i, line in enumerate(lines):
            for j, token in enumerate(line):
                domains.setdefault(role(i, j, line), Domain()).add(token)
    bounds = frozenset.intersection(*(_bounds(lines) for lines in inputs.values()))
    orders = _orders(inputs.values())
    seen = set(known)
    found: list[str] = []
    for _ in range(count * TRIES):
        if len(found) == count:
            break
        text = rng.choice(texts)
        lines = _changed(inputs[text], domains, rng)
        made = _written(text, lines)
        if made not in seen and bounds <= _bounds(lines) and _keeps(orders, lines):
            seen.add(made)
            found.append(made)
    return found


def parsed(text: str) -> list[Line]:
    """Return the tokens of each line, integers as such."""
    return [
        [int(token) if _INTEGER.fullmatch(token) else token for token in line.split()]
        for line in text.split("\n")
    ]


def role(i: int, j: int, line: Line) -> Role:
    """Return what tokens one is like: those at its place of the first line, or of lines as long.

    In a long line all places are alike.
    """
    if i == 0:
        return -1, j if len(line) <= 4 else 0
    return len(line) if len(line) <= 4 else 5, j if len(line) <= 4 else 0


def _bounds(lines: list[Line]) -> frozenset[tuple[int, str]]:
    """Return which numbers of the first line no later number exceeds, or reaches."""
    later = [token for line in lines[1:] for token in line if isinstance(token, int)]
    highest = max(later, default=0)
    found = set()
    for j, token in enumerate(lines[0]):
        if isinstance(token, int) and later:
            if highest <= token:
                found.add((j, "at most"))
            if highest < token:
                found.add((j, "below"))
    return frozenset(found)


def _orders(inputs: Iterable[list[Line]]) -> dict[Role, set[Role]]:
    """Return, for lines of two to four numbers, which places hold rising numbers in all of them."""
    found: dict[Role, set[Role]] = {}
    for lines in inputs:
        for i, line in enumerate(lines):
            if 2 <= len(line) <= 4 and all(isinstance(token, int) for token in line):
                rising = _rising(line)
                found[role(i, 0, line)] = found.get(role(i, 0, line), rising) & rising
    return found


def _rising(line: Line) -> set[Role]:
    return {(j, k) for j, k in permutations(range(len(line)), 2) if _key(line[j]) < _key(line[k])}


def _keeps(orders: Mapping[Role, set[Role]], lines: list[Line]) -> bool:
    return all(
        orders.get(role(i, 0, line), set()) <= _rising(line)
        for i, line in enumerate(lines)
        if 2 <= len(line) <= 4
    )


def counts(lines: list[Line]) -> set[tuple[int, int]]:
    """Return the places of the numbers that count something that stands after them."""
    found = set()
    filled = [i for i, line in enumerate(lines) if line]
    for i, line in enumerate(lines):
        after = sum(1 for k in filled if k > i)
        for j, token in enumerate(line):
            if not isinstance(token, int):
                continue
            sizes = {len(line) - j - 1, after, after - 1, after // 2}
            for later in lines[i + 1 : i + 4] if i else lines[i + 1 :]:
                sizes |= {len(later), *(len(word) for word in later if isinstance(word, str))}
                if len(later) == 1:
                    sizes.add(len(str(later[0])))
            if token in sizes - {0}:
                found.add((i, j))
    return found


def _changed(lines: list[Line], domains: dict[Role, Domain], rng: random.Random) -> list[Line]:
    made = [list(line) for line in lines]
    fixed = counts(lines)
    free = [(i, j) for i, line in enumerate(lines) for j in range(len(line)) if (i, j) not in fixed]
    if not free:
        return made
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = rng.choice(free)
        line = made[i]
        places = [k for k in range(len(line)) if (i, k) not in fixed]
        alike = [k for k in places if type(line[k]) is type(line[j])]
        if len(line) > 2 and rng.random() < 0.4:
            k = rng.choice(alike)
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
    """Sort a line that was sorted; put back one that lost being distinct."""
    old = [before[k] for k in places]
    if len(old) < 2 or not all(isinstance(token, int) for token in old):
        return
    new = [line[k] for k in places]
    if len(set(old)) == len(old) and len(set(new)) < len(new):
        new = old
    elif sorted(old, key=_key) == old:
        new = sorted(new, key=_key)
    elif sorted(old, key=_key, reverse=True) == old:
        new = sorted(new, key=_key, reverse=True)
    for k, token in zip(places, new, strict=True):
        line[k] = token


def _key(token: int | str) -> int:
    return token if isinstance(token, int) else 0


def _written(text: str, lines: list[Line]) -> str:
    """Return the text with its tokens exchanged; the space between them stays."""
    written = []
    for old, line in zip(text.split("\n"), lines, strict=True):
        parts = _PARTS.split(old)
        tokens = iter(line)
        written.append("".join(p if not p or p.isspace() else str(next(tokens)) for p in parts))
    return "\n".join(written)
