"""Runs programs and reports which of their lines ran, in two ways that share no code with FGO.

A script for any Python from 3.11 on, standard library only: one JSON job a line on stdin (`source`,
`preamble`, `entry_point`, `tests`), one JSON answer a line on stdout. `seen` are the line events of
`sys.settrace`, `seen_by_test` those of loading and of each test; `probed` (left out if the job says
`only_seen`) are the lines of every statement that a probe, put before it in the syntax
tree, saw start; `unclear` are lines for which probes cannot tell.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import random
import re
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

FILE = "<program>"
MAX_S = 10


class Slow(BaseException):
    """Raised in a program that takes too long."""


def _stop(*_: object) -> None:
    raise Slow


def run_tests(
    code: Any,
    job: dict[str, Any],
    namespace: dict[str, Any],
    only_program: bool = False,
    begin_test: Callable[[], None] = lambda: None,
) -> int:
    """Run the program and its tests in a namespace; return how many tests passed."""
    random.seed(0)
    tests = job["tests"]
    preamble = job.get("preamble") or ""
    passed = 0
    with contextlib.redirect_stderr(io.StringIO()):
        if tests["kind"] == "stdin":
            for stdin, expected in zip(tests["inputs"], tests["outputs"], strict=True):
                fresh = dict(namespace)
                exec(preamble, fresh)
                sys.stdin, out = io.StringIO(stdin), io.StringIO()
                begin_test()
                with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit, Exception):
                    exec(code, fresh)
                    if job["entry_point"]:
                        eval(job["entry_point"], fresh)()
                passed += out.getvalue().split() == expected.split()
            return passed
        exec(preamble, namespace)
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(Exception):
                exec(code, namespace)
            if only_program:
                return 0
            if tests["kind"] == "call":
                for args, expected in zip(tests["inputs"], tests["outputs"], strict=True):
                    begin_test()
                    with contextlib.suppress(Exception):
                        got = eval(job["entry_point"], namespace)(*copy.deepcopy(args))
                        plain = json.loads(json.dumps(got, default=list))  # lazy ones too
                        passed += plain == expected
            else:
                with contextlib.suppress(Exception):
                    exec(tests["setup"], namespace)
                for piece in tests["asserts"]:
                    begin_test()
                    with contextlib.suppress(Exception):
                        exec(piece, namespace)
                        passed += 1
    return passed


def traced(job: dict[str, Any]) -> tuple[list[set[int]], int]:
    """Return the line events while the program loads and in each test, and how many passed."""
    seen: list[set[int]] = [set()]

    def local(frame: Any, event: str, _: object) -> Any:
        if event == "line":
            seen[-1].add(frame.f_lineno)
        return local

    def tracer(frame: Any, *_: object) -> Any:
        return local if frame.f_code.co_filename == FILE else None

    def begin_test() -> None:
        seen.append(set())
        # The interpreter removes a tracer that raises a RecursionError itself.
        sys.settrace(tracer)

    code = compile(job["source"], FILE, "exec", dont_inherit=True)
    sys.settrace(tracer)
    try:
        passed = run_tests(code, job, {"__name__": "__main__"}, begin_test=begin_test)
    finally:
        sys.settrace(None)
    return seen, passed


class Probes(ast.NodeTransformer):
    """Puts a probe before every statement, and into every `except` type."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.lines: list[range] = []

    def header(self, first: int, inner: ast.stmt) -> range:
        """Return the lines of a header, to the line above `inner` or to that line, if shared."""
        body = first_line(inner)
        text = self.texts[body - 1]
        indentation = len(text) - len(text.lstrip())
        shared = inner.lineno == body and inner.col_offset > indentation
        return range(first, body + 1 if shared else body)

    def probe(self, lines: range) -> ast.stmt:
        self.lines.append(lines)
        return ast.parse(f"__hit__({len(self.lines) - 1})").body[0]

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            self.lines.append(self.header(node.lineno, node.body[0]))
            hit = ast.Name("__hit__", ast.Load())
            node.type = ast.Call(hit, [ast.Constant(len(self.lines) - 1), node.type], [])
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, self.block(statements))
        for child in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            self.visit(child)
        return node

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for i, node in enumerate(statements):
            first = first_line(node)
            if isinstance(node, ast.Match):
                lines = range(first, node.cases[0].pattern.lineno)
            elif body := getattr(node, "body", []):
                lines = self.header(first, body[0])
            else:
                lines = range(first, (node.end_lineno or first) + 1)
            docstring = i == 0 and isinstance(node, ast.Expr) and is_text(node.value)
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            probe = self.probe(lines)
            self.visit(node)
            result.extend([node, probe] if docstring or future else [probe, node])
        return result


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def first_line(node: Any) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    lines: list[int] = [node.lineno, *(decorator.lineno for decorator in decorators)]
    return min(lines)


def probed(job: dict[str, Any]) -> tuple[set[int], set[int]]:
    """Return the lines of the statements that started, and the lines that probes cannot decide."""
    source = job["source"]
    texts = re.split(r"\r\n|\r|\n", source)
    probes = Probes(texts)
    tree = ast.parse(source)
    probes.visit(tree)
    ast.fix_missing_locations(tree)
    hits: set[int] = set()

    def hit(k: int, value: Any = None) -> Any:
        hits.add(k)
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(tree, FILE, "exec", dont_inherit=True)
    run_tests(code, job, {"__name__": "__main__", "__hit__": hit})
    lines = {n for k in hits for n in probes.lines[k]}
    covered = {n for span in probes.lines for n in span}
    unclear = set()
    for n in range(len(texts), 0, -1):
        text = texts[n - 1].strip()
        if not text or text.startswith("#"):
            unclear.add(n)
        elif re.match(r"case\b", text) and n not in lines:
            unclear.add(n)  # its pattern may have been tried
        elif n not in covered:  # `else:` and its like follow the first line of their body
            below = next((m for m in range(n + 1, len(texts) + 1) if m not in unclear), n)
            if below in lines:
                lines.add(n)
    return lines, unclear


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job both ways."""
    result: dict[str, Any] = {"id": job["id"]}
    signal.alarm(job.get("max_s", MAX_S))
    try:
        seen, passed = traced(job)
        result |= {"seen": sorted(set().union(*seen)), "passed": passed}
        result["seen_by_test"] = [sorted(seen[0] | lines) for lines in seen[1:]]
        if not job.get("only_seen"):
            lines, unclear = probed(job)
            result |= {"probed": sorted(lines), "unclear": sorted(unclear)}
    except Slow:
        result["error"] = "slow"
    except BaseException as error:
        result["error"] = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return result


def main(read: Callable[[], str] = sys.stdin.readline) -> None:
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(20000)
    signal.signal(signal.SIGALRM, _stop)
    stdout = sys.stdout
    while line := read():
        stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        stdout.flush()


if __name__ == "__main__":
    main()
