"""Families about one integer: its digits, its divisors, the numbers up to it, ways to shrink it."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    Phrase,
    exits,
    finishes,
    negatable,
    numbers,
    predicates,
    steps,
    values,
)
from suite_generator.samplers import integer

GUARDS = (
    Phrase("", ""),
    *(
        Phrase(f"If n is less than {k}, return {r}.", f"if n < {k}:\n    return {r}")
        for k in (2, 3, 4, 5)
        for r in ("n", "-1")
    ),
)

SMALLER = (
    *(Phrase(f"divide n by {k} (rounded down)", f"n //= {k}") for k in (2, 3, 4)),
    *(Phrase(f"take {k} from n", f"n -= {k}") for k in range(1, 6)),
)

FAMILIES = (
    Family(
        name="digits",
        topic="numbers",
        args={"n": integer(0, 9999)},
        words="""Go through the digits d of n from the last to the first and add up $value where
        $test. $exit $finish Return the total.""",
        code="""
        total = 0
        while n > 0:
            d = n % 10
            n //= 10
            $exit
            if $test:
                total += $value
        $finish
        return total
        """,
        slots={
            "exit": exits(predicates("d", signed=False), "d"),
            "test": predicates("d", signed=False),
            "value": values("d"),
            "finish": finishes(),
        },
    ),
    Family(
        name="count_up",
        topic="numbers",
        args={"n": integer(0, 20)},
        words="""$guard Add up $value for each i from 1 to n where $test. $exit $finish Return the
        total.""",
        code="""
        $guard
        total = 0
        for i in range(1, n + 1):
            $exit
            if $test:
                total += $value
        $finish
        return total
        """,
        slots={
            "guard": GUARDS,
            "exit": exits(predicates("i", signed=False), "i"),
            "test": predicates("i", signed=False),
            "value": values("i"),
            "finish": finishes(),
        },
    ),
    Family(
        name="shrink",
        topic="numbers",
        args={"n": integer(0, 40)},
        words="""Start a total at 0. While n is greater than $low, $small if $test, else $small2 if
        $test2, else $small3, and $step. Return the total.""",
        code="""
        total = 0
        while n > $low:
            if $test:
                $small
            elif $test2:
                $small2
            else:
                $small3
            $step
        return total
        """,
        slots={
            "low": numbers(1, 2, 3, 4, 5),
            "test": predicates("n", signed=False),
            "small": SMALLER,
            "test2": predicates("n", signed=False),
            "small2": SMALLER,
            "small3": SMALLER,
            "step": (Phrase("add 1", "total += 1"), Phrase("add n", "total += n")),
        },
    ),
    Family(
        name="divisors",
        topic="numbers",
        args={"n": integer(0, 60)},
        words="""Start a total at 0. For each divisor d of n from 1 to n, $step if $test, else
        $step2. $exit $finish Return the total.""",
        code="""
        total = 0
        for d in range(1, n + 1):
            if n % d != 0:
                continue
            $exit
            if $test:
                $step
            else:
                $step2
        $finish
        return total
        """,
        slots={
            "exit": exits(predicates("d", signed=False), "d"),
            "test": predicates("d", signed=False),
            "step": steps("d"),
            "step2": steps("d"),
            "finish": finishes(),
        },
    ),
    Family(
        name="primes",
        topic="numbers",
        args={"n": integer(0, 30)},
        words="""$guard Add up $value for each prime i from 2 to n where $test. $exit Return the
        total.""",
        code="""
        $guard
        total = 0
        for i in range(2, n + 1):
            $exit
            for d in range(2, i):
                if i % d == 0:
                    break
            else:
                if $test:
                    total += $value
        return total
        """,
        slots={
            "guard": GUARDS,
            "exit": exits(predicates("i", signed=False), "i"),
            "test": predicates("i", signed=False),
            "value": values("i"),
        },
    ),
    Family(
        name="subtract",
        topic="numbers",
        args={"a": integer(0, 15), "b": integer(0, 15)},
        words="""Start a total at 0. While a and b are both positive: if $test, take $down from a
        and $step, else take $down2 from b and $step2. As soon as $stop, return $none. Return the
        total.""",
        code="""
        total = 0
        while a > 0 and b > 0:
            if $test:
                a -= $down
                $step
            else:
                b -= $down2
                $step2
            if $stop:
                return $none
        return total
        """,
        slots={
            "test": (
                Phrase("a is greater than b", "a > b"),
                Phrase("a is less than b", "a < b"),
                Phrase("a is even", "a % 2 == 0"),
                Phrase("b is odd", "b % 2 == 1"),
            ),
            "down": numbers(1, 2, 3, 4, 5),
            "step": steps("a"),
            "down2": numbers(1, 2, 3, 4, 5),
            "step2": steps("b"),
            "stop": (
                Phrase("a equals b", "a == b"),
                Phrase("a is negative", "a < 0"),
                Phrase("b is negative", "b < 0"),
                *predicates("total")[4:],
            ),
            "none": negatable(0, 5, 9),
        },
    ),
)
