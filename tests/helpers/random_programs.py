"""Random programs of every statement kind and untidy layout, which all end and may raise.

Conditions come from `coin()`, a fixed sequence that runs out, so loops end; the preamble holds it.
"""

from __future__ import annotations

import random

PREAMBLE = """\
class Coin:
    state, left = 7, 300
    def __call__(self):
        Coin.state = (Coin.state * 1103515245 + 12345) % 2147483648
        Coin.left -= 1
        return Coin.left > 0 and Coin.state > 900000000
class Manager:
    def __init__(self, swallow): self.swallow = swallow
    def __enter__(self): return self
    def __exit__(self, *error): return self.swallow
coin = Coin()
"""


class _Writer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.unit = self.random.choice(["  ", "    ", "\t", " "])
        self.lines: list[str] = []
        self.functions: list[str] = []
        self.left = self.random.randint(5, 60)

    def write(self, depth: int, text: str) -> None:
        if self.random.random() < 0.08:
            self.lines.append(self.random.choice(["", "   ", "# note", self.unit * depth + "# é"]))
        self.lines.append(self.unit * depth + text)
        self.left -= 1

    def block(self, depth: int, inside: str) -> None:
        count = self.random.randint(1, 4)
        if "f" in inside and depth and self.random.random() < 0.3:
            self.write(depth, '"""text\n# of it\n"""')
        for _ in range(count):
            self.statement(depth, inside)
        if self.random.random() < 0.15:
            self.lines.append(self.unit * depth + "# end of block")

    def body(self, depth: int, header: str, inside: str) -> None:
        """Write a header with a block below it, or a simple statement beside it."""
        if self.random.random() < 0.2:
            self.write(depth, f"{header} {self.simple(inside)}")
        else:
            self.write(depth, header)
            self.block(depth + 1, inside)

    def simple(self, inside: str) -> str:
        choices = ["x = 1", "pass", "...", "x = 1; y = 2", "'text'", "raise KeyError(1)"]
        if "f" in inside:
            choices += ["return", "return x", "yield 1"]
        else:
            choices += ["x: int"]
        if "l" in inside:
            choices += ["break", "continue"]
        return self.random.choice([*choices, "coin()", "x = coin() or 2", "x += 1"])

    def statement(self, depth: int, inside: str) -> None:
        kind = self.random.random()
        if depth > 5 or self.left < 0 or kind < 0.35:
            self.write(depth, self.simple(inside))
        elif kind < 0.45:
            self.long(depth)
        elif kind < 0.6:
            self.branch(depth, inside)
        elif kind < 0.7:
            header = self.random.choice(["while coin():", "for i in range(3):", "for x in ():"])
            self.body(depth, header, inside + "l")
            if self.random.random() < 0.3:
                self.body(depth, "else:", inside)
        elif kind < 0.82:
            self.attempt(depth, inside)
        elif kind < 0.88:
            self.body(depth, f"with Manager({self.random.random() < 0.5}) as m:", inside)
        elif kind < 0.93:
            self.write(depth, f"match {self.random.choice(['1', '(1, 2)', '{}'])}:")
            for pattern in self.random.sample(["1", "2 | 3", "[a, b]", "{'k': v}", "int()"], 2):
                guard = self.random.choice(["", " if coin()"])
                self.body(depth + 1, f"case {pattern}{guard}:", inside)
            if self.random.random() < 0.5:
                self.body(depth + 1, "case _:", inside)
        else:
            self.definition(depth)

    def branch(self, depth: int, inside: str) -> None:
        self.body(
            depth, self.random.choice(["if coin():", "if 0:", "if (coin()\n  or 0):"]), inside
        )
        for _ in range(self.random.choice([0, 0, 1, 2])):
            self.body(depth, "elif coin():", inside)
        if self.random.random() < 0.4:
            self.body(depth, "else:", inside)

    def attempt(self, depth: int, inside: str) -> None:
        self.body(depth, "try:", inside)
        handlers = self.random.choice([0, 1, 2])
        for name in self.random.sample(
            ["KeyError", "(NameError,\n  OSError)", "IndexError"], handlers
        ):
            self.body(depth, f"except {name} as e:", inside)
        if handlers and self.random.random() < 0.4:
            self.body(depth, "else:", inside)
        if not handlers or self.random.random() < 0.4:
            # Straight-line code: Python 3.11 reports the last line of a `finally` block whenever an
            # exception passes through it, whether or not that line ran.
            self.write(depth, "finally:")
            for _ in range(self.random.randint(1, 3)):
                self.write(depth + 1, self.random.choice(["x = 1", "pass", "coin()", "x = [\n 1]"]))

    def long(self, depth: int) -> None:
        self.write(
            depth,
            self.random.choice(
                [
                    "x = [\n  1,\n\n  # in\n  2]",
                    "x = (coin()\n  or 3)",
                    "x = [n for n in\n  (1, 2)\n  if n]",
                    "x = '''a\n  b\n'''",
                    "x = 1 + \\\n  2",
                    "print(\n  coin(),\n  (lambda: (\n 1)),\n)",
                    "assert (\n  1 or\n  x\n)",
                    "x: int = (\n1)",
                ]
            ),
        )

    def definition(self, depth: int) -> None:
        name = f"f{len(self.functions)}"
        if self.random.random() < 0.3:
            self.write(depth, "@(lambda f:\n  f)")
        if self.random.random() < 0.2:
            self.body(depth, f"class {name}:", "")
            return
        self.write(depth, self.random.choice([f"def {name}():", f"def {name}(\n  a=1,\n):"]))
        if self.random.random() < 0.3:
            self.write(depth + 1, "global g")
        self.block(depth + 1, "f")
        if self.lines[-1].strip() == "'text'":  # alone it would leave no event at all
            self.write(depth + 1, "x = 3")
        self.functions.append(name)
        self.write(depth, "try:")
        self.write(depth + 1, f"list({name}() or ())")
        self.write(depth, "except (KeyError, TypeError): pass")


def random_program(seed: int) -> str:
    """Return a program that depends on the seed only."""
    writer = _Writer(seed)
    while writer.left > 0:
        writer.statement(0, "")
    newline = writer.random.choice(["\n", "\n", "\r\n", "\r"])
    end = writer.random.choice(["", "\n", "\n\n"])
    return "\n".join(writer.lines).replace("\n", newline) + end


class _GeneratorWriter(_Writer):
    """Writes generators, with yields in the middle of lines, that last beyond a call."""

    def simple(self, inside: str) -> str:
        if "f" not in inside or self.random.random() < 0.5:
            return super().simple(inside)
        return self.random.choice(
            [
                "yield 2",
                "x = (yield 3) or 4",
                "x = [(yield 1),\n  2]",
                "x = (1,\n  (yield 1))",
                "yield from (1, 2)",
                "yield from (n\n  for n in (1, 2)\n  if n and coin())",
                "for x in (yield) or (1, 2): yield x",
                "for x in (1, 2): yield x",
                "while (yield 5) or coin(): pass",
                "with Manager(True): yield 6",
                "with Manager(\n  (yield 7)): x = (yield)",
                "kept.append(n\n  for n in range(5)\n  if n and n - 1)",
                "kept.append(n for n in range(3) if n)",
            ]
        )


GENERATOR_CALLS = 8


def random_generators(seed: int) -> str:
    """Return a program whose `f(i)`, called with 0, 1, ..., goes on with what it began before."""
    writer = _GeneratorWriter(seed)
    writer.write(0, "kept = []")
    writer.write(0, "def generate():")
    writer.block(1, "f")
    writer.write(1, "yield 8")
    writer.lines += [
        "kept.append(generate())",
        "def f(i):",
        "    if i == 3: kept.append(generate())",
        "    for one in list(kept):",
        "        try:",
        "            if i == 5: one.throw(KeyError)",
        "            next(one)",
        "        except Exception: pass",
        "    return i",
    ]
    return "\n".join(writer.lines) + "\n"
