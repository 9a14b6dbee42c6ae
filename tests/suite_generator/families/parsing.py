"""Families that read a small language: numbers among words, key=value, commands, brackets."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    NOTHING,
    Phrase,
    exits,
    finishes,
    negatable,
    numbers,
    predicates,
    steps,
    values,
)
from suite_generator.samplers import sentence, text

NUMERALS = tuple(str(k) for k in range(-4, 11))
KEYS = tuple(f"{key}={k}" for key in "abc" for k in range(-3, 10, 2))
COMMANDS = ("up", "down", "twice", "clear", "wait", "end")

BAD = (
    Phrase("skip it", "continue"),
    Phrase("stop", "break"),
    Phrase("return -1", "return -1"),
    Phrase("add 1 and go on", "total += 1\ncontinue"),
    Phrase("take away 2 and go on", "total -= 2\ncontinue"),
)

FAMILIES = (
    Family(
        name="read_numbers",
        topic="parsing",
        args={"s": sentence((*NUMERALS, "x", "one", "-"), 6)},
        words="""Add up $value for each number x among the words of s where $test. If a word is not
        a number, $bad. $exit $finish Return the total.""",
        code="""
        total = 0
        for w in s.split():
            try:
                x = int(w)
            except ValueError:
                $bad
            $exit
            if $test:
                total += $value
        $finish
        return total
        """,
        slots={
            "bad": BAD,
            "exit": exits(predicates("x"), "x", "-2"),
            "test": predicates("x"),
            "value": values("x"),
            "finish": finishes(),
        },
    ),
    Family(
        name="read_keys",
        topic="parsing",
        args={"s": sentence((*KEYS, "a", "b=x", "c="), 6)},
        words="""Start a total at 0. For each word key=x of s, $step if key is $key, else $step2 if
        $test. If a word is not of this form, $bad. Return the total.""",
        code="""
        total = 0
        for w in s.split():
            try:
                key, x = w.split("=")
                x = int(x)
            except ValueError:
                $bad
            if key == $key:
                $step
            elif $test:
                $step2
        return total
        """,
        slots={
            "bad": BAD,
            "key": tuple(Phrase(f'"{c}"', f'"{c}"') for c in "abc"),
            "step": steps("x"),
            "test": predicates("x"),
            "step2": steps("x"),
        },
    ),
    Family(
        name="commands",
        topic="parsing",
        args={"s": sentence(COMMANDS, 8)},
        words="""Start a total at $start. For each word of s, $step if it is $word, else $step2 if
        it is $word2, else $bad. As soon as $stop, return $none. Return the total.""",
        code="""
        total = $start
        for w in s.split():
            if w == $word:
                $step
            elif w == $word2:
                $step2
            else:
                $bad
            if $stop:
                return $none
        return total
        """,
        slots={
            "start": numbers(0, 1, 2, 3, 4, 5),
            "word": tuple(Phrase(f'"{w}"', f'"{w}"') for w in COMMANDS),
            "step": steps(),
            "word2": tuple(Phrase(f'"{w}"', f'"{w}"') for w in COMMANDS),
            "step2": steps(),
            "bad": (BAD[1], *steps()),
            "stop": predicates("total"),
            "none": negatable(0, 9),
        },
    ),
    Family(
        name="depth",
        topic="parsing",
        args={"s": text("(()))ab ", 9)},
        words="""Start a total at 0 and read the characters c of s. At ( $step, at ) $step2. $other
        As soon as $test, return $none. Return $result.""",
        code="""
        best = 0
        total = 0
        for c in s:
            if c == "(":
                $step
            elif c == ")":
                $step2
            $other
            if $test:
                return $none
            if total > best:
                best = total
        return $result
        """,
        slots={
            "step": steps()[:5],
            "step2": steps()[5:],
            "other": (
                NOTHING,
                Phrase("At any other c, stop.", "else:\n    break"),
                Phrase("At any other c, add 1.", "else:\n    total += 1"),
                Phrase("At any other c, take away 1.", "else:\n    total -= 1"),
            ),
            "test": predicates("total")[4:],
            "none": negatable(0, 9),
            "result": (
                Phrase("the greatest total", "best"),
                Phrase("the greatest total minus the total", "best - total"),
            ),
        },
    ),
)
