"""Families that play something step by step: a robot, an account, a tank, a stack machine."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    NOTHING,
    Phrase,
    exits,
    finishes,
    numbers,
    predicates,
    steps,
    values,
)
from suite_generator.samplers import integers, sentence, text

FAMILIES = (
    Family(
        name="robot",
        topic="simulation",
        args={"s": text("LRLRUDx", 8)},
        words="""A robot starts at x = y = 0. In s, R adds $a to x, L takes $b from x, U adds $c
        to y. $other As soon as $stop, stop. Return $result.""",
        code="""
        x = 0
        y = 0
        for c in s:
            if c == "R":
                x += $a
            elif c == "L":
                x -= $b
            elif c == "U":
                y += $c
            $other
            if $stop:
                break
        return $result
        """,
        slots={
            "a": numbers(1, 2, 3, 4, 5),
            "b": numbers(1, 2, 3, 4, 5),
            "c": numbers(1, 2, 3, 4, 5),
            "other": (
                NOTHING,
                Phrase("Any other c stops it.", "else:\n    break"),
                Phrase("Any other c takes 1 from y.", "else:\n    y -= 1"),
                Phrase("Any other c sends it to x = 0.", "else:\n    x = 0"),
            ),
            "stop": (
                *predicates("x")[4:6],
                *(p for k in "xy" for p in predicates(k)[6:12]),
                Phrase("x equals y", "x == y"),
            ),
            "result": (
                Phrase("x plus y", "x + y"),
                Phrase("x minus y", "x - y"),
                Phrase("the list of x and y", "[x, y]"),
            ),
        },
    ),
    Family(
        name="account",
        topic="simulation",
        args={"xs": integers(-9, 9, 8)},
        words="""An account holds a total of $start. Each x in xs is paid in if positive, else taken
        out. $exit If the total would be below $low, $refuse. $finish Return the total.""",
        code="""
        total = $start
        for x in xs:
            $exit
            if total + x < $low:
                $refuse
            total += x
        $finish
        return total
        """,
        slots={
            "start": numbers(0, 1, 2, 3, 4, 5),
            "exit": exits(predicates("x"), "x", "-9"),
            "low": (Phrase("0", "0"), *numbers(1, 2), Phrase("-3", "-3"), Phrase("-5", "-5")),
            "refuse": (
                Phrase("skip x", "continue"),
                Phrase("stop", "break"),
                Phrase("return -1", "return -1"),
                Phrase("take away 1 and skip x", "total -= 1\ncontinue"),
                Phrase("take away 2 and skip x", "total -= 2\ncontinue"),
            ),
            "finish": finishes(),
        },
    ),
    Family(
        name="tank",
        topic="simulation",
        args={"xs": integers(-6, 9, 8)},
        words="""A tank holds 0 to $size liters and starts with $start. Each x in xs adds $value if
        $test, else x. What does not fit is lost, and it cannot go below 0. Return the $result.""",
        code="""
        total = $start
        lost = 0
        for x in xs:
            if $test:
                x = $value
            total += x
            if total > $size:
                lost += total - $size
                total = $size
            elif total < 0:
                total = 0
        return $result
        """,
        slots={
            "size": numbers(6, 7, 8, 9, 10, 12),
            "start": numbers(0, 1, 2, 3, 4, 5),
            "test": predicates("x"),
            "value": values("x")[2:],
            "result": (
                Phrase("total", "total"),
                Phrase("liters lost", "lost"),
                Phrase("total minus the liters lost", "total - lost"),
            ),
        },
    ),
    Family(
        name="stack",
        topic="simulation",
        args={"s": sentence(("1", "2", "3", "5", "7", "10", "add", "sub", "dup", "pop", "x"), 8)},
        words="""Read the words of s with a stack. A number is pushed. $word takes two numbers b,
        then a, and pushes $value; with fewer than two, $few. $word2 $rule Any other word is
        skipped. Return the stack.""",
        code="""
        out = []
        for w in s.split():
            if w.isdigit():
                out.append(int(w))
            elif w == $word:
                if len(out) < 2:
                    $few
                b = out.pop()
                a = out.pop()
                out.append($value)
            elif w == $word2:
                $rule
        return out
        """,
        slots={
            "word": tuple(Phrase(f'"{w}"', f'"{w}"') for w in ("add", "sub")),
            "few": (
                Phrase("skip it", "continue"),
                Phrase("stop", "break"),
                Phrase("return an empty list", "return []"),
            ),
            "value": (
                Phrase("a plus b", "a + b"),
                Phrase("a minus b", "a - b"),
                Phrase("b minus a", "b - a"),
                Phrase("a times b", "a * b"),
                Phrase("the larger", "max(a, b)"),
                Phrase("the smaller", "min(a, b)"),
            ),
            "word2": tuple(Phrase(f'"{w}"', f'"{w}"') for w in ("dup", "pop", "x")),
            "rule": (
                Phrase("clears the stack.", "out = []"),
                Phrase("ends.", "break"),
                Phrase("reverses the stack.", "out = out[::-1]"),
                *(Phrase(f"pushes {k}.", f"out.append({k})") for k in (0, 4, 6, 8)),
            ),
        },
    ),
    Family(
        name="switch",
        topic="simulation",
        args={"xs": integers(-2, 12, 8)},
        words="""A heater is off. For each x in xs it goes on if $test, else off if $test2; then
        $step if on, else $step2. $finish Return the total, at first $start.""",
        code="""
        total = $start
        on = False
        for x in xs:
            if $test:
                on = True
            elif $test2:
                on = False
            if on:
                $step
            else:
                $step2
        $finish
        return total
        """,
        slots={
            "start": numbers(0, 1, 2, 3, 4, 5),
            "test": predicates("x"),
            "test2": predicates("x"),
            "step": steps("x"),
            "step2": steps("x"),
            "finish": finishes(),
        },
    ),
)
