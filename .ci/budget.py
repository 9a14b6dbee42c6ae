"""Counts the lines of code of stepcoder/ by room, and fails where a budget is exceeded.

A line of code is one with more on it than blanks, a comment or a docstring. The budgets leave out
import statements as well, so that splitting a file costs nothing. What is in kernels/ and sandbox/
does not count.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "stepcoder"
BUDGETS = {"trainer core": 8170, "tools": 6530}
# What training does without, and what the commands share.
TOOLS = {"clean", "evaluate", "judge", "plan", "refine", "study", "suite"}
TOOLS |= {"adapters.py", "answers.py", "command.py", "journal.py", "smollm2.py"}
TOOLS |= {"taxonomy.py", "check.py", "__main__.py", "sinks.py", "vllm_server.py"}
NOT_COUNTED = {"kernels", "sandbox"}
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def numbers(node: ast.AST) -> range:
    """Return the numbers of a node's lines."""
    return range(node.lineno, node.end_lineno + 1)


def code_lines(source: str) -> tuple[int, int]:
    """Return how many lines hold code, and how many of those import."""
    tree = ast.parse(source)
    docstrings, imports = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                imports.update(numbers(node))
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    docstrings.update(numbers(node.body[0]))
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            held.update(range(token.start[0], token.end[0] + 1))
    lines = source.splitlines()
    code = {n for n in held - docstrings if lines[n - 1].strip()}
    return len(code), len(code & imports)


def main() -> int:
    """Print the count by room and check the budgets."""
    rooms: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    total = 0
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).parts
        if NOT_COUNTED.intersection(parts):
            continue
        code, imports = code_lines(file.read_text(encoding="utf-8"))
        rooms[parts[0] if len(parts) > 1 else "(top)"] += code
        counts["tools" if TOOLS.intersection(parts) else "trainer core"] += code - imports
        total += code
    for room, count in sorted(rooms.items()):
        sys.stdout.write(f"{count:6,} {room}\n")
    sys.stdout.write(f"{total:6,} lines of code in stepcoder/, imports included\n")
    for name, budget in BUDGETS.items():
        sys.stdout.write(f"{counts[name]:6,} {name} without imports (budget {budget:,})\n")
    over = [name for name, budget in BUDGETS.items() if counts[name] > budget]
    if over:
        sys.stderr.write(f".ci/budget.py: {' and '.join(over)} over budget; simplify something\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
