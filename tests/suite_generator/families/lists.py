"""Families that walk along a list of integers and build a total or another list."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    exits,
    finishes,
    list_guards,
    numbers,
    predicates,
    relations,
    steps,
    values,
)
from suite_generator.samplers import integers

XS = {"xs": integers()}

FAMILIES = (
    Family(
        name="total_where",
        topic="lists",
        args=XS,
        words="$guard Add up $value for each x in xs where $test. $exit $finish Return the total.",
        code="""
        $guard
        total = 0
        for x in xs:
            $exit
            if $test:
                total += $value
        $finish
        return total
        """,
        slots={
            "guard": list_guards("xs"),
            "exit": exits(predicates("x"), "x"),
            "test": predicates("x"),
            "value": values("x"),
            "finish": finishes(),
        },
    ),
    Family(
        name="score",
        topic="lists",
        args=XS,
        words="""Start a total at $start. For each x in xs, $step if $test, else $step2 if $test2,
        else $step3. $finish Return the total.""",
        code="""
        total = $start
        for x in xs:
            if $test:
                $step
            elif $test2:
                $step2
            else:
                $step3
        $finish
        return total
        """,
        slots={
            "start": numbers(0, 1, 2, 3, 4, 5),
            "test": predicates("x"),
            "step": steps("x"),
            "test2": predicates("x"),
            "step2": steps("x"),
            "step3": steps("x"),
            "finish": finishes(),
        },
    ),
    Family(
        name="select",
        topic="lists",
        args=XS,
        words="$guard Make a list of $value for each x in xs where $test. $exit Return the list.",
        code="""
        $guard
        out = []
        for x in xs:
            $exit
            if $test:
                out.append($value)
        return out
        """,
        slots={
            "guard": list_guards("xs", "[]"),
            "exit": exits(predicates("x"), "x", "[]"),
            "test": predicates("x"),
            "value": values("x"),
        },
    ),
    Family(
        name="replace",
        topic="lists",
        args=XS,
        words="""For each x in xs, put in a list $value if $test, else $value2 if $test2, else x.
        $exit Return the list.""",
        code="""
        out = []
        for x in xs:
            $exit
            if $test:
                out.append($value)
            elif $test2:
                out.append($value2)
            else:
                out.append(x)
        return out
        """,
        slots={
            "exit": exits(predicates("x"), "x", "[]"),
            "test": predicates("x"),
            "value": values("x")[2:],
            "test2": predicates("x"),
            "value2": values("x")[2:],
        },
    ),
    Family(
        name="neighbors",
        topic="lists",
        args=XS,
        words="""$guard Start a total at 0. For each x in xs and the number y before it, $step if
        $test, else $step2 if $test2. Return the total.""",
        code="""
        $guard
        total = 0
        for i in range(1, len(xs)):
            x = xs[i]
            y = xs[i - 1]
            if $test:
                $step
            elif $test2:
                $step2
        return total
        """,
        slots={
            "guard": list_guards("xs"),
            "test": relations("x", "y"),
            "step": steps("x"),
            "test2": relations("x", "y"),
            "step2": steps("y"),
        },
    ),
    Family(
        name="longest_run",
        topic="lists",
        args=XS,
        words="""Find the longest run of neighbors x in xs where $test. $exit Return its length.""",
        code="""
        best = 0
        total = 0
        for x in xs:
            $exit
            if $test:
                total += 1
                if total > best:
                    best = total
            else:
                total = 0
        return best
        """,
        slots={"exit": exits(predicates("x"), "x", skips=False), "test": predicates("x")},
    ),
    Family(
        name="running",
        topic="lists",
        args=XS,
        words="""Keep a total, at first $start. For each x in xs, add $value to it, then, if $test,
        $step. $exit Return the list of the totals.""",
        code="""
        total = $start
        out = []
        for x in xs:
            $exit
            total += $value
            if $test:
                $step
            out.append(total)
        return out
        """,
        slots={
            "start": numbers(0, 1, 2, 3, 4, 5),
            "exit": exits(predicates("x"), "x", "[]"),
            "value": values("x"),
            "test": predicates("total"),
            "step": steps(),
        },
    ),
)
