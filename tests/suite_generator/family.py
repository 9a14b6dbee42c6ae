"""A family of problems: templates in English and in code with slots, and how they are filled.

A family with one phrase chosen for each slot is an instance. Instances are drawn with
`Random.random`, the one method whose values Python promises to keep, and are the same problem if
their solutions differ in names only.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from suite_generator.phrases import Bank

Sampler = Callable[[random.Random], Any]

VALIDATION_PERCENT = 15  # on which settings may be chosen
TEST_PERCENT = 15  # looked at before and after RL only
MOST_WORDS = 48
MOST_CHARACTERS = 350


@dataclass(frozen=True)
class Family:
    """A function of this name to write, in many variants, one for each filling of the slots.

    `args` makes random values of each argument; `words` and `code` are the templates of the
    description and of the function's body; `slots` are the phrases that fit each $slot of both.
    """

    name: str
    topic: str
    args: Mapping[str, Sampler]
    words: str
    code: str
    slots: Mapping[str, Bank]

    @property
    def starter(self) -> str:
        """The `def` line with its newline."""
        return f"def {self.name}({', '.join(self.args)}):\n"


@dataclass(frozen=True)
class Instance:
    """One problem without its tests.

    `phrases` are the indexes of the phrases in the family's banks, in the order of its slots;
    `key` is a digest of the solution with its names normalized.
    """

    family: Family
    phrases: tuple[int, ...]
    description: str
    solution: str
    key: str

    @property
    def task_id(self) -> str:
        """A name that stays the same as long as the solution does."""
        return f"suite/{self.family.name}/{self.key}"

    @property
    def split(self) -> str:
        """Its part of the split; equal solutions have equal keys, so they are all in one part."""
        place = int(self.key, 16) % 100
        if place < VALIDATION_PERCENT:
            return "validation"
        return "eval" if place < VALIDATION_PERCENT + TEST_PERCENT else "train"


def fill(template: str, choice: Mapping[str, str]) -> str:
    """Return the template with its slots filled.

    A slot alone on its line takes a block, which gets that line's indentation, or drops the line
    if it is empty.
    """
    lines = []
    for line in textwrap.dedent(template).strip("\n").split("\n"):
        filled = Template(Template(line.strip()).substitute(choice)).substitute(choice)
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + part for part in filled.split("\n") if part.strip()]
    return "\n".join(lines)


def normalized(solution: str) -> str:
    """Return the solution's syntax tree as text, its own names replaced by v0, v1, ... in order.

    Every Python version gives the same text: task ids and the split are made of its hash.
    """
    tree = ast.parse(solution)
    names: dict[str, str] = {}
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {
        "abs", "dict", "enumerate", "int", "len", "max", "min", "range", "str", "sum", "ValueError"
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.name = "f"
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"v{len(names)}")
        elif isinstance(node, ast.Name) and node.id in own:
            node.id = names.setdefault(node.id, f"v{len(names)}")
    # The shipped ids are hashes of what Python 3.11 writes; 3.12 added a field, and 3.13 leaves
    # empty lists out.
    shown = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **shown).replace(", type_params=[]", "")


def conditionals(solution: str) -> int:
    """Return the number of statements that CCCS counts: if (and elif), for, while, try, match."""
    kinds = (ast.If, ast.For, ast.While, ast.Try, ast.Match)
    return sum(isinstance(node, kinds) for node in ast.walk(ast.parse(solution)))


def instance(family: Family, phrases: Sequence[int]) -> Instance:
    """Return the family's problem with these phrases, one index a slot."""
    pairs = zip(family.slots.items(), phrases, strict=True)
    chosen = {name: bank[index] for (name, bank), index in pairs}
    words = fill(family.words.strip(), {name: phrase.words for name, phrase in chosen.items()})
    code = fill(family.code, {name: phrase.code for name, phrase in chosen.items()})
    solution = family.starter + textwrap.indent(code, "    ") + "\n"
    key = hashlib.sha256(normalized(solution).encode()).hexdigest()[:10]
    return Instance(family, tuple(phrases), " ".join(words.split()), solution, key)


def draw(family: Family, count: int) -> Iterator[Instance]:
    """Yield `count` random instances that are short enough, always the same ones."""
    rng = random.Random(family.name)
    for _ in range(count):
        drawn = instance(family, [int(rng.random() * len(b)) for b in family.slots.values()])
        short = len(drawn.description.split()) <= MOST_WORDS
        if short and len(drawn.solution) <= MOST_CHARACTERS:
            yield drawn
