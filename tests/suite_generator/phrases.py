"""The vocabulary of the suite: each phrase is some English and the one code fragment it stands for.

A bank is a tuple of phrases that can fill the same slot of a family. The same English always maps
to the same code, so that a small model can learn the parts and be asked for new combinations.
"""

from __future__ import annotations

from typing import NamedTuple


class Phrase(NamedTuple):
    """Some English and its code; either may hold further slots written as $name."""

    words: str
    code: str


Bank = tuple[Phrase, ...]

NOTHING = Phrase("", "")


def numbers(*values: int) -> Bank:
    """Return the constants themselves, the same in words and in code."""
    return tuple(Phrase(str(value), str(value)) for value in values)


def negatable(*values: int) -> Bank:
    """Return constants together with -1, the usual answer for "there is none"."""
    return (*numbers(*values), Phrase("-1", "-1"))


def predicates(v: str, signed: bool = True) -> Bank:
    """Return tests of the integer variable v; signed adds the tests of the sign."""
    parity = (Phrase(f"{v} is even", f"{v} % 2 == 0"), Phrase(f"{v} is odd", f"{v} % 2 == 1"))
    sign = (Phrase(f"{v} is negative", f"{v} < 0"), Phrase(f"{v} is positive", f"{v} > 0"))
    above = tuple(Phrase(f"{v} is greater than {k}", f"{v} > {k}") for k in range(2, 8))
    below = tuple(Phrase(f"{v} is less than {k}", f"{v} < {k}") for k in range(2, 8))
    multiple = tuple(Phrase(f"{v} is divisible by {k}", f"{v} % {k} == 0") for k in range(3, 6))
    # Repeated entries are drawn more often: parity and sign are few but should be common.
    return 2 * parity + (sign if signed else ()) + above + below + multiple


def values(v: str) -> Bank:
    """Return expressions of the integer variable v."""
    plain = 2 * (Phrase(v, v),) + 2 * (Phrase(f"{v} squared", f"{v} * {v}"),)
    times = tuple(Phrase(f"{v} times {k}", f"{v} * {k}") for k in range(2, 6))
    plus = tuple(Phrase(f"{v} plus {k}", f"{v} + {k}") for k in range(1, 6))
    minus = tuple(Phrase(f"{v} minus {k}", f"{v} - {k}") for k in range(1, 6))
    return plain + times + plus + minus


def steps(v: str = "") -> Bank:
    """Return changes of the running total, by a constant or by the variable v."""
    add = tuple(Phrase(f"add {k}", f"total += {k}") for k in range(1, 6))
    take = tuple(Phrase(f"take away {k}", f"total -= {k}") for k in range(1, 6))
    whole = (Phrase("double the total", "total *= 2"), Phrase("set the total to 0", "total = 0"))
    if not v:
        return add + take + whole
    by_v = (Phrase(f"add {v}", f"total += {v}"), Phrase(f"take away {v}", f"total -= {v}"))
    return add + take + whole + 3 * by_v


def marks(v: str) -> Bank:
    """Return tests of a positive integer variable that single out some values here and there."""
    equal = tuple(Phrase(f"{v} equals {k}", f"{v} == {k}") for k in range(2, 10))
    return equal + tuple(Phrase(f"{v} is divisible by {k}", f"{v} % {k} == 0") for k in range(3, 8))


def relations(x: str, y: str) -> Bank:
    """Return tests of two integer variables."""
    gaps = tuple(
        Phrase(f"{x} minus {y} is greater than {k}", f"{x} - {y} > {k}") for k in (2, 3, 4)
    )
    sums = tuple(Phrase(f"{x} plus {y} is less than {k}", f"{x} + {y} < {k}") for k in (4, 6, 8))
    exact = tuple(Phrase(f"{x} plus {y} equals {k}", f"{x} + {y} == {k}") for k in (5, 7, 9))
    plain = (
        Phrase(f"{x} equals {y}", f"{x} == {y}"),
        Phrase(f"{x} is greater than {y}", f"{x} > {y}"),
        Phrase(f"{x} is less than {y}", f"{x} < {y}"),
        Phrase(f"{x} plus {y} is even", f"({x} + {y}) % 2 == 0"),
    )
    return 2 * plain + gaps + sums + exact


def exits(tests: Bank, v: str, result: str = "-1", skips: bool = True) -> Bank:
    """Return rules at the top of a loop over v: none, stop, return at once, or skip."""
    empty = {"[]": "an empty list", '""': "an empty string"}.get(result, result)
    stop = tuple(Phrase(f"Stop as soon as {t.words}.", f"if {t.code}:\n    break") for t in tests)
    skip = tuple(Phrase(f"Skip {v} if {t.words}.", f"if {t.code}:\n    continue") for t in tests)
    leave = tuple(
        Phrase(f"As soon as {t.words}, return {empty}.", f"if {t.code}:\n    return {result}")
        for t in tests
    )
    return (NOTHING,) * len(tests) + stop + leave + (skip if skips else ())


def list_guards(v: str, result: str = "-1") -> Bank:
    """Return checks of the list v before the work starts."""
    empty = {"[]": "an empty list"}.get(result, result)
    bounds = (("fewer", "<", 2), ("fewer", "<", 3), ("more", ">", 4), ("more", ">", 5))
    return (NOTHING,) * 4 + tuple(
        Phrase(
            f"If {v} has {more} than {k} items, return {empty}.",
            f"if len({v}) {sign} {k}:\n    return {result}",
        )
        for more, sign, k in bounds
    )


def finishes(v: str = "total") -> Bank:
    """Return last corrections of the integer result v before it is returned."""
    the = "the total" if v == "total" else v
    cap = tuple(
        Phrase(f"If {the} is greater than {k}, return {k}.", f"if {v} > {k}:\n    return {k}")
        for k in (9, 15, 20)
    )
    floor = (Phrase(f"If {the} is negative, return 0.", f"if {v} < 0:\n    return 0"),)
    parity = (
        Phrase(f"If {the} is odd, add 1 to it.", f"if {v} % 2 == 1:\n    {v} += 1"),
        Phrase(f"If {the} is even, return 0.", f"if {v} % 2 == 0:\n    return 0"),
    )
    return (NOTHING,) * 4 + cap + 2 * floor + parity


CHARACTERS: Bank = (
    Phrase("c is a vowel", 'c in "aeiou"'),
    Phrase("c is a digit", "c.isdigit()"),
    Phrase("c is a capital letter", "c.isupper()"),
    Phrase("c is a space", 'c == " "'),
    *(Phrase(f'c is "{c}"', f'c == "{c}"') for c in "abe"),
)

CHARACTER_VALUES: Bank = (
    Phrase("c in upper case", "c.upper()"),
    Phrase("c in lower case", "c.lower()"),
    Phrase("c twice", "c * 2"),
    Phrase("c three times", "c * 3"),
    Phrase("a star", '"*"'),
    Phrase("a dash", '"-"'),
)

WORDS: Bank = (
    *(Phrase(f"w has more than {k} letters", f"len(w) > {k}") for k in (2, 3, 4)),
    *(Phrase(f"w has fewer than {k} letters", f"len(w) < {k}") for k in (3, 4)),
    *(Phrase(f'w starts with "{c}"', f'w[0] == "{c}"') for c in "abt"),
    *(Phrase(f'w ends with "{c}"', f'w[-1] == "{c}"') for c in "ent"),
    *(Phrase(f'w contains "{c}"', f'"{c}" in w') for c in "aeo"),
)

WORD_VALUES: Bank = (
    Phrase("w", "w"),
    Phrase("w in upper case", "w.upper()"),
    Phrase("w reversed", "w[::-1]"),
    Phrase("w twice", "w * 2"),
    Phrase("the first letter of w", "w[0]"),
    Phrase("the last letter of w", "w[-1]"),
    Phrase("w without its first letter", "w[1:]"),
)
