"""Families about tables of integers, given as lists of rows."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    NOTHING,
    Phrase,
    exits,
    finishes,
    predicates,
    steps,
    values,
)
from suite_generator.samplers import square, table

ROW_EXITS = (
    *(
        Phrase(f"Leave a row as soon as {t.words}.", f"if {t.code}:\n    break")
        for t in predicates("x")
    ),
    *exits(predicates("x"), "x")[2 * len(predicates("x")) :],
)

FAMILIES = (
    Family(
        name="table_total",
        topic="matrices",
        args={"rows": table()},
        words="""Add up $value for each x in each row of a table where $test. $exit $finish Return
        the total.""",
        code="""
        total = 0
        for row in rows:
            for x in row:
                $exit
                if $test:
                    total += $value
        $finish
        return total
        """,
        slots={
            "exit": ROW_EXITS,
            "test": predicates("x"),
            "value": values("x"),
            "finish": finishes(),
        },
    ),
    Family(
        name="row_totals",
        topic="matrices",
        args={"rows": table()},
        words="""For each row of a table, add up $value for each x where $test. $exit Put the total
        of the row in a list $keep Return the list.""",
        code="""
        out = []
        for row in rows:
            total = 0
            for x in row:
                $exit
                if $test:
                    total += $value
            $keep
        return out
        """,
        slots={
            "exit": (NOTHING, *exits(predicates("x"), "x", "[]")[2 * len(predicates("x")) :]),
            "test": predicates("x"),
            "value": values("x"),
            "keep": tuple(
                Phrase(f"if the {t.words}.", f"if {t.code}:\n    out.append(total)")
                for t in predicates("total")
            ),
        },
    ),
    Family(
        name="diagonal",
        topic="matrices",
        args={"rows": square()},
        words="""Start a total at 0. For each x $place in a square table, $step if $test, else
        $step2. $finish Return the total.""",
        code="""
        total = 0
        for i in range(len(rows)):
            for j in range(len(rows)):
                x = rows[i][j]
                if $place:
                    if $test:
                        $step
                    else:
                        $step2
        $finish
        return total
        """,
        slots={
            "place": (
                Phrase("on the diagonal", "i == j"),
                Phrase("above the diagonal", "i < j"),
                Phrase("below the diagonal", "i > j"),
                Phrase("in row 0", "i == 0"),
                Phrase("in column 0", "j == 0"),
            ),
            "test": predicates("x"),
            "step": steps("x"),
            "step2": steps("x"),
            "finish": finishes(),
        },
    ),
)
