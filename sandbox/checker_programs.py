"""Checkers that are whole programs with files as arguments, as public judges have them.

Takes a checker's Python source and its convention; gives a Custom checker that runs it. Three files
lie in the checker's scratch folder; their names are its arguments:

- testlib: input, output, answer. It ends with exit code 0 for accepted, 1 for wrong, 2 for a wrong
  presentation (wrong), 4 for more output than asked for (wrong), 7 for partly right, with
  `points 0.5` on stderr or stdout. With 3 or any other code the checker failed.
- open-r1 (open-r1/codeforces' `generated_checker`): input, answer, output. The last word on stdout
  is 1 for accepted, 0 for wrong, or what between them is the credit for partly right.

"answer" is the expected output. A checker that raises has met either a fault of its own or an
output that it cannot read. So it then runs on the expected output in place of the program's: if it
accepts that, the program's output is wrong, and otherwise the checker failed.
"""

from __future__ import annotations

from typing import Literal

from stepcoder.sandbox.checkers import Custom

Convention = Literal["testlib", "open-r1"]

_RUNNER = '''
import contextlib, io, json, re, sys, types

_code = compile(_SOURCE, "checker.py", "exec", dont_inherit=True)

def _run(texts):
    for name, text in texts.items():
        with open(name, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
    sys.argv[:] = ["checker.py", *texts]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
        for _ in range(2)
    )
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(_code, module.__dict__)
        except SystemExit as end:
            code = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    return code, *(s.buffer.getvalue().decode("utf-8", "replace").strip() for s in (out, err))

class _Failed(Exception):
    """What the checker says itself, so that no second run is needed."""

def _of_testlib(code, out, err):
    if code in (0, 1, 2, 4):
        return code == 0
    points = re.match(r"points\\s+(\\d*\\.?\\d+(?:e[+-]?\\d+)?)(?!\\S)", err or out)
    if code == 7 and points:
        return float(points[1])
    raise _Failed(f"exit code {code}: {(err or out)[:200]}")

def _of_open_r1(code, out, err):
    if code != 0 or not out:
        raise RuntimeError(f"exit code {code}: {err[:200]}")
    return float(out.split()[-1])

def _answer(input, expected, got):
    if _CONVENTION == "testlib":
        points = _of_testlib(*_run({"input.txt": input, "output.txt": got, "answer.txt": expected}))
    else:
        texts = {"input.txt": input, "correct_output.txt": expected, "solution_output.txt": got}
        points = _of_open_r1(*_run(texts))
    return bool(points) if points in (0, 1) else points

def check(input, expected, got):
    try:
        return _answer(input, expected, got)
    except _Failed:
        raise
    except Exception:
        if _answer(input, expected, expected) is not True:
            raise
        return False
'''


def program_checker(source: str, convention: Convention = "testlib") -> Custom:
    """Return the checker that runs a program for each test, in the sandbox as every Custom one."""
    return Custom(f"_SOURCE = {source!r}\n_CONVENTION = {convention!r}\n{_RUNNER}")
