"""Families about the characters and the words of a string."""

from __future__ import annotations

from suite_generator.family import Family
from suite_generator.phrases import (
    CHARACTER_VALUES,
    CHARACTERS,
    WORD_VALUES,
    WORDS,
    Phrase,
    exits,
    finishes,
    numbers,
    steps,
)
from suite_generator.samplers import sentence, text

ENGLISH = ("a", "an", "the", "tea", "bee", "boat", "one", "ten", "apple", "table", "nine", "to")
MIXED = text("aabbeeorAB12  ")

FAMILIES = (
    Family(
        name="rewrite",
        topic="strings",
        args={"s": MIXED},
        words="""For each character c of s, put in a string $value if $test, else $value2 if
        $test2, else c. $exit Return the string.""",
        code="""
        out = ""
        for c in s:
            $exit
            if $test:
                out += $value
            elif $test2:
                out += $value2
            else:
                out += c
        return out
        """,
        slots={
            "exit": exits(CHARACTERS, "c", '""'),
            "test": CHARACTERS,
            "value": CHARACTER_VALUES,
            "test2": CHARACTERS,
            "value2": CHARACTER_VALUES,
        },
    ),
    Family(
        name="points",
        topic="strings",
        args={"s": MIXED},
        words="""Start a total at 0. For each character c of s, $step if $test, else $step2 if
        $test2, else $step3. $exit $finish Return the total.""",
        code="""
        total = 0
        for c in s:
            $exit
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
            "exit": exits(CHARACTERS, "c"),
            "test": CHARACTERS,
            "step": steps(),
            "test2": CHARACTERS,
            "step2": steps(),
            "step3": steps(),
            "finish": finishes(),
        },
    ),
    Family(
        name="pack",
        topic="strings",
        args={"s": text("aabbee1 ", 10)},
        words="""Replace each run of k equal characters c in s by $packed if k is greater than
        $long, else by $plain. $skip Return the string.""",
        code="""
        out = ""
        i = 0
        while i < len(s):
            c = s[i]
            k = 0
            while i < len(s) and s[i] == c:
                k += 1
                i += 1
            $skip
            if k > $long:
                out += $packed
            else:
                out += $plain
        return out
        """,
        slots={
            "skip": (
                Phrase("", ""),
                *(
                    Phrase(f"Drop the run if {t.words}.", f"if {t.code}:\n    continue")
                    for t in CHARACTERS
                ),
            ),
            "long": numbers(1, 2, 3),
            "packed": (
                Phrase("c and then k", "c + str(k)"),
                Phrase("k and then c", "str(k) + c"),
                Phrase("c", "c"),
                Phrase("a star", '"*"'),
            ),
            "plain": (
                Phrase("c k times", "c * k"),
                Phrase("c in upper case", "c.upper()"),
                Phrase("a dash", '"-"'),
                Phrase("c twice", "c * 2"),
            ),
        },
    ),
    Family(
        name="words",
        topic="strings",
        args={"s": sentence(ENGLISH)},
        words="""For each word w of s, put in a list $value if $test, else $value2 if $test2. $exit
        Return the list joined with $glue.""",
        code="""
        out = []
        for w in s.split():
            $exit
            if $test:
                out.append($value)
            elif $test2:
                out.append($value2)
        return $glue.join(out)
        """,
        slots={
            "exit": exits(WORDS, "w", '""'),
            "test": WORDS,
            "value": WORD_VALUES,
            "test2": WORDS,
            "value2": WORD_VALUES,
            "glue": (Phrase("spaces", '" "'), Phrase("dashes", '"-"'), Phrase("commas", '","')),
        },
    ),
)
