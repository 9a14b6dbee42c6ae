"""FGO (fine-grained optimization): tokens that no test executed are masked out of the policy loss.

Takes rollouts (a program, the judge's verdict, the characters of each token), gives a bool for each
response token (StepCoder, arXiv 2402.01391, section 3).
"""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from stepcoder.config import FGOConfig
from stepcoder.problems.source import LogicalLine, line_starts, outline, split_lines
from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox.verdict import Status, Verdict

CompileErrorRule = Literal["all", "from_error"]

# Headers that belong to a statement begun above them: no statement of its own starts there.
_CLAUSES = frozenset({"elif", "else", "except", "finally"})
_JUMPS = frozenset({"return", "raise", "break", "continue"})


def executed_masks(rollouts: Sequence[Rollout], config: FGOConfig) -> list[list[bool]]:
    """Return for each rollout which response tokens the policy loss trains; without FGO, all.

    The rollouts are judged: see `executed_mask`.
    """
    if not config.enabled:
        return [[True] * len(r.completion.token_ids) for r in rollouts]
    return [
        executed_mask(
            *(r.program, r.offset, r.verdict, r.spans),
            config.compile_error,
            outside=config.outside == "train",
        )
        for r in rollouts
    ]


def executed_mask(
    source: str,
    offset: int,
    verdict: Verdict,
    spans: Sequence[tuple[int, int]],
    compile_error: CompileErrorRule = "all",
    *,
    outside: bool = True,
) -> list[bool]:
    """Return for each token of a response whether the policy loss trains it.

    `source` is the judged program, given part + code of the response. `spans` are the tokens'
    characters in the response (see `prompts.token_spans`), and `offset` turns them into places in
    the program: it is the number of characters that were given, less those of the response before
    its code. A token is trained if any of its characters lies on an executed line (see
    `executed_closure`); outside the code (the closing fence, words around a block) as `outside`
    says. So is every token without characters, such as end of sequence.

    A program that does not compile trains all tokens, or with "from_error" those from the line of
    the error on. So does a program without a single executed line: nothing is known about it.
    Raises ValueError for a verdict that says nothing about the program (`rewards.reward` is None).
    """
    if verdict.status in (Status.INFRASTRUCTURE_ERROR, Status.NOT_RUN):
        raise ValueError(f"no mask for a program that was not judged ({verdict.status})")
    starts = line_starts(source)
    if verdict.status is Status.COMPILE_ERROR:
        first = verdict.error_line or 1
        trained_lines = frozenset(
            range(first if compile_error == "from_error" else 1, len(starts) + 1)
        )
    elif verdict.executed_lines:
        trained_lines = executed_closure(source, verdict.executed_lines)
    else:
        trained_lines = frozenset(range(1, len(starts) + 1))

    mask = []
    for start, end in spans:
        begin, stop = max(offset + start, 0), min(offset + end, len(source))
        trained = start == end or (outside and stop - begin < end - start)
        if begin < stop and not trained:
            lines = range(bisect_right(starts, begin), bisect_right(starts, stop - 1) + 1)
            trained = any(line in trained_lines for line in lines)
        mask.append(trained)
    return mask


def executed_closure(source: str, executed_lines: Collection[int]) -> frozenset[int]:
    """Return the 1-based lines that ran, given those that a tracer saw.

    A tracer reports line events, which leave out lines that no instruction belongs to and differ
    between Python versions. These rules, each true of every run, complete them:

    - a statement, or the header of a compound one, ran if any line of it was seen; decorators
      belong to their definition;
    - if a line ran, so did the headers around it (`else:`, `try:`, `finally:`), and the statements
      before it in its block (`global`, docstrings, bare annotations);
    - a declaration that ends its block ran if the statement before it did, and one that is all of
      its block (a function of a docstring only) if the header did;
    - a comment or a blank line ran if the next statement of its block did, or where its block ends
      there, the statement before it.

    A source that does not split into statements gets its seen lines back.
    """
    try:
        program = outline(source)
    except SyntaxError:
        return frozenset(executed_lines)
    lines, silent = program.lines, set(_silent_lines(program.tree))
    ran = [any(n in executed_lines for n in line.lines) for line in lines]
    parent, before = _neighbours(lines)
    for i in reversed(range(len(lines))):
        if ran[i]:
            for j in (parent[i], before[i]):
                if j is not None:
                    ran[j] = True
    for i, line in enumerate(lines):
        if line.first in silent and not ran[i]:
            ran[i] = _silent_line_ran(i, lines, ran, parent[i], before[i])
        if line.word == "@" and ran[i]:
            ran[i + 1] = True

    closure = {n for line, r in zip(lines, ran, strict=True) if r for n in line.lines}
    closure.update(n for n, i in _layout_owners(source, lines) if ran[i])
    return frozenset(closure)


def _silent_line_ran(
    i: int,
    lines: Sequence[LogicalLine],
    ran: Sequence[bool],
    parent: int | None,
    before: int | None,
) -> bool:
    if before is not None:
        return ran[before] and lines[before].word not in _JUMPS
    ends_block = i + 1 == len(lines) or lines[i + 1].depth < lines[i].depth
    return ends_block and parent is not None and ran[parent]


def _silent_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of the statements that have no instruction, so that no tracer sees them.

    These are `global`, `nonlocal` and, in functions, docstrings and annotations without a value.
    """
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, in_function = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            in_function = not isinstance(node, ast.ClassDef)
            if in_function and ast.get_docstring(node, clean=False) is not None:
                yield node.body[0].lineno
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                stack.append((child, in_function))
            match child:
                case ast.Global() | ast.Nonlocal():
                    yield child.lineno
                case ast.AnnAssign(value=None) if in_function:
                    yield child.lineno


def _neighbours(lines: Sequence[LogicalLine]) -> tuple[list[int | None], list[int | None]]:
    """Return for each logical line the header around it and the statement before it in its block.

    Clauses (`else:`) are no statements: that one ran says nothing about its neighbours.
    """
    parent: list[int | None] = []
    before: list[int | None] = []
    header: list[int] = []  # header[d]: the last line at depth d that can hold a block
    statement: dict[int, int] = {}  # depth: the last statement of the open block
    for i, line in enumerate(lines):
        del header[line.depth :]
        for depth in [d for d in statement if d > line.depth]:
            del statement[depth]
        parent.append(header[-1] if header else None)
        before.append(statement.get(line.depth))
        header.append(i)
        if line.word not in _CLAUSES:
            statement[line.depth] = i
    return parent, before


def _layout_owners(source: str, lines: Sequence[LogicalLine]) -> Iterator[tuple[int, int]]:
    """Yield (line number, index of the logical line it follows) for comments and blank lines."""
    if not lines:
        return
    texts = split_lines(source)
    if not texts[-1]:
        texts.pop()  # what follows the final line end is no line
    columns = [_indentation(texts[line.first - 1]) for line in lines]
    following = 0  # index of the first logical line after line n
    for n, text in enumerate(texts, start=1):
        while following < len(lines) and lines[following].first <= n:
            following += 1
        last = following - 1
        if last >= 0 and n <= lines[last].last:
            continue
        column = _indentation(text) if text.strip() else 0
        if following < len(lines) and column <= columns[following]:
            yield n, following
        else:
            yield n, next((i for i in range(last, -1, -1) if columns[i] <= column), 0)


def _indentation(text: str) -> int:
    """Return the column of the first character that is not layout, as the compiler counts it."""
    column = 0
    for character in text:
        if character == " ":
            column += 1
        elif character == "\t":
            column = (column // 8 + 1) * 8
        elif character == "\f":
            column = 0
        else:
            break
    return column
