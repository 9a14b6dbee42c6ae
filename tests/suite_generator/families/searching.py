"""Families that look for something in a list of integers or group its numbers."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    Phrase,
    exits,
    list_guards,
    negatable,
    numbers,
    predicates,
    relations,
    values,
)
from suite_generator.samplers import integers

XS = {"xs": integers()}

PLACES = (
    Phrase("", ""),
    *(Phrase(f"Look from index {k} on.", f"if i < {k}:\n    continue") for k in (1, 2, 3)),
    *(Phrase(f"Look up to index {k}.", f"if i > {k}:\n    break") for k in (2, 3, 4)),
    Phrase("Look at even indexes only.", "if i % 2 == 1:\n    continue"),
    Phrase("Look at odd indexes only.", "if i % 2 == 0:\n    continue"),
)

FAMILIES = (
    Family(
        name="first_index",
        topic="searching",
        args=XS,
        words="""Find the first index i where x = xs[i] and $test. $place $exit Return $result, or
        $none if there is none.""",
        code="""
        for i in range(len(xs)):
            $place
            x = xs[i]
            $exit
            if $test:
                return $result
        return $none
        """,
        slots={
            "place": PLACES,
            "exit": exits(predicates("x"), "x", "-2"),
            "test": predicates("x"),
            "result": (Phrase("i", "i"), Phrase("i plus 1", "i + 1"), Phrase("i plus x", "i + x")),
            "none": negatable(0, 5, 9),
        },
    ),
    Family(
        name="best_where",
        topic="searching",
        args=XS,
        words="""Find the $kind x in xs where $test. $exit Return $value, or $none if there is
        none.""",
        code="""
        best = None
        for x in xs:
            $exit
            if $test:
                if best is None or $kind:
                    best = x
        if best is None:
            return $none
        x = best
        return $value
        """,
        slots={
            "kind": (Phrase("largest", "x > best"), Phrase("smallest", "x < best")),
            "exit": exits(predicates("x"), "x", "-2"),
            "test": predicates("x"),
            "value": values("x"),
            "none": negatable(0, 5, 9),
        },
    ),
    Family(
        name="count_pairs",
        topic="searching",
        args=XS,
        words="""Count the pairs of a number x in xs and a number y after it where $test. $exit
        $limit Return the total.""",
        code="""
        total = 0
        for i in range(len(xs)):
            x = xs[i]
            $exit
            for y in xs[i + 1:]:
                if $test:
                    total += 1
            $limit
        return total
        """,
        slots={
            "exit": exits(predicates("x"), "x"),
            "test": relations("x", "y"),
            "limit": (
                Phrase("", ""),
                *(
                    Phrase(
                        f"As soon as the total is greater than {k} after some x, return {k}.",
                        f"if total > {k}:\n    return {k}",
                    )
                    for k in range(2, 6)
                ),
            ),
        },
    ),
    Family(
        name="frequent",
        topic="searching",
        args={"xs": integers(-2, 7, 9)},
        words="""Count how often each x is in xs where $test. $exit Return the list of those x
        found $times, in the order of first sight.""",
        code="""
        counts = {}
        for x in xs:
            $exit
            if $test:
                counts[x] = counts.get(x, 0) + 1
        out = []
        for x in counts:
            if counts[x] $times:
                out.append(x)
        return out
        """,
        slots={
            "exit": exits(predicates("x"), "x", "[]"),
            "test": predicates("x"),
            "times": (
                Phrase("once", "== 1"),
                Phrase("twice", "== 2"),
                Phrase("more than once", "> 1"),
                Phrase("more than twice", "> 2"),
            ),
        },
    ),
    Family(
        name="unique",
        topic="searching",
        args={"xs": integers(-2, 7, 8)},
        words="""$guard Make a list of the numbers x in xs, each only once, where $test. $exit
        Once the list has $size numbers, stop. Return the list.""",
        code="""
        $guard
        out = []
        for x in xs:
            $exit
            if x in out:
                continue
            if $test:
                out.append(x)
            if len(out) == $size:
                break
        return out
        """,
        slots={
            "guard": list_guards("xs", "[]"),
            "exit": exits(predicates("x"), "x", "[]"),
            "test": predicates("x"),
            "size": numbers(2, 3, 4),
        },
    ),
)
