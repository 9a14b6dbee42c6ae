"""Families of small dynamic programs: ways, costs, recurrences, best sums."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    Phrase,
    exits,
    finishes,
    marks,
    numbers,
    predicates,
    values,
)
from suite_generator.samplers import integer, integers

FAMILIES = (
    Family(
        name="climb",
        topic="dynamic programming",
        args={"n": integer(0, 14)},
        words="""Count the ways to climb n stairs with steps of 1 or $step. $never $finish Return
        the total.""",
        code="""
        ways = [1]
        for i in range(1, n + 1):
            total = ways[i - 1]
            if i >= $step:
                total += ways[i - $step]
            $never
            ways.append(total)
        total = ways[n]
        $finish
        return total
        """,
        slots={
            "step": numbers(2, 3, 4, 5),
            "never": (
                *(
                    Phrase(f"Never step on stair i if {t.words}.", f"if {t.code}:\n    total = 0")
                    for t in marks("i")
                ),
                *(
                    Phrase(
                        f"On stair i count one more way if {t.words}.",
                        f"if {t.code}:\n    total += 1",
                    )
                    for t in predicates("i", signed=False)
                ),
            ),
            "finish": finishes(),
        },
    ),
    Family(
        name="sequence",
        topic="dynamic programming",
        args={"n": integer(0, 10)},
        words="""Start with a = $start, b = $start2. For i from 2 to n, let c be a plus b if $test,
        else $value if $test2, else $value2; then set a to b, b to c. Return b.""",
        code="""
        a = $start
        b = $start2
        for i in range(2, n + 1):
            if $test:
                c = a + b
            elif $test2:
                c = $value
            else:
                c = $value2
            a = b
            b = c
        return b
        """,
        slots={
            "start": numbers(0, 1, 2, 3),
            "start2": numbers(1, 2, 3, 4),
            "test": predicates("i", signed=False),
            "value": values("a"),
            "test2": (*predicates("a"), *predicates("b")),
            "value2": values("b"),
        },
    ),
    Family(
        name="best_sum",
        topic="dynamic programming",
        args={"xs": integers(-8, 9, 8)},
        words="""Find the greatest total of neighbors in xs, where each x counts as $value if $test.
        The total of no numbers is 0. $exit Return the greatest total.""",
        code="""
        best = 0
        total = 0
        for x in xs:
            $exit
            if $test:
                x = $value
            total += x
            if total < 0:
                total = 0
            if total > best:
                best = total
        return best
        """,
        slots={
            "exit": exits(predicates("x"), "x", skips=False),
            "test": predicates("x"),
            "value": values("x")[2:],
        },
    ),
    Family(
        name="no_neighbors",
        topic="dynamic programming",
        args={"xs": integers(-4, 9, 7)},
        words="""Choose numbers x from xs, no two of them neighbors, with the greatest total.
        Each x counts as $value if $test. $finish Return the total.""",
        code="""
        total = 0
        last = 0
        for x in xs:
            if $test:
                x = $value
            if last + x > total:
                last, total = total, last + x
            else:
                last = total
        $finish
        return total
        """,
        slots={
            "test": predicates("x"),
            "value": values("x")[2:],
            "finish": finishes(),
        },
    ),
    Family(
        name="coins",
        topic="dynamic programming",
        args={"n": integer(0, 20)},
        words="""Find the smallest number of coins of $a, $b and $c that make n. Never make an
        amount i if $test. Return the number, or $none if there is no way.""",
        code="""
        best = [0]
        for i in range(1, n + 1):
            total = 99
            for c in [$a, $b, $c]:
                if i >= c and best[i - c] + 1 < total:
                    total = best[i - c] + 1
            if $test:
                total = 99
            best.append(total)
        if best[n] >= 99:
            return $none
        return best[n]
        """,
        slots={
            "a": numbers(1, 2),
            "b": numbers(3, 4, 5),
            "c": numbers(6, 7, 8, 9),
            "test": marks("i"),
            "none": (Phrase("-1", "-1"), *numbers(0, 9)),
        },
    ),
)
