"""Judges programs with a launcher that was built with sanitizers, in a process of its own.

`python sanitized_judge.py EXTENSION`: the judge, its workers and the programs' processes load it.
Prints "judged" at the end; sanitizers write what they find to stderr.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path


def load(path: str) -> None:
    """Make stepcoder.sandbox find the launcher at `path`."""
    name = "stepcoder.sandbox._launcher"
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module


def main() -> None:
    """Judge programs that end in every way, then try input of every kind on the codec."""
    load(sys.argv[1])
    from stepcoder.sandbox import service

    plain = service.worker_command
    # Workers get no environment: what the extension needs comes before the interpreter.
    before = ["/usr/bin/env", f"LD_PRELOAD={os.environ['LD_PRELOAD']}", "PYTHONMALLOC=malloc"]
    service.worker_command = lambda *arguments: before + plain(*arguments)
    fates()
    codec()
    print("judged", flush=True)


def fates() -> None:
    """Judge programs that pass, fail, crash, are killed, cancelled or lose their worker."""
    from stepcoder.sandbox import AssertTests, CallTests, Judge, Limits, Program, StdinTests

    limits = Limits(cpu_s=20.0, wall_s=120.0)
    short = Limits(cpu_s=0.2, wall_s=60.0, memory_bytes=64 << 20, output_bytes=1 << 12)
    calls = CallTests(([1], [2]), (2, 3))
    right = Program("def f(x):\n    return x + 1\n", "f")
    bodies = {
        "def f(x): return [x] * 9, {x: {1.5}}": "wrong answer",
        "def f(x): raise ValueError('x' * 9999)": "runtime error",
        "def f(x)": "compile error",
        "import os\ndef f(x): os.abort()": "runtime error",
        "import os\ndef f(x): os.execv('/x', ['x'])": "security violation",
        "def f(x):\n    while True: pass": "cpu time limit",
        "def f(x): print('x' * 99999)": "output limit",
        "def f(x): return f": "wrong answer",
    }
    with Judge(2, limits) as judge:
        assert judge.run(right, calls).passed, judge.run(right, calls)
        for source, status in bodies.items():
            verdict = judge.run(Program(source, "f"), calls, short)
            assert verdict.status == status, verdict
        sleeper = Program("import time\ndef f(x): time.sleep(99)", "f")
        verdict = judge.run(sleeper, calls, Limits(cpu_s=5.0, wall_s=0.5))
        assert verdict.status == "wall time limit", verdict
        asserts = AssertTests(("assert f(1) == 2", "assert f(map(int, '1'))"), "import math")
        assert not judge.run(right, asserts).passed
        stdin = StdinTests(("1", "2"), ("2", "3"))
        assert judge.run(Program("print(int(input()) + 1)"), stdin).passed
        assert judge.run(Program("import numpy\n" + right.source, "f"), calls).passed
        endless = Program("def f(x):\n    while True: pass", "f")
        futures = [judge.submit(endless, calls) for _ in range(4)]
        time.sleep(0.3)
        assert all([future.cancel() or future.done() for future in futures])
        assert judge.run(right, calls).passed
        for pid in children():  # the workers; each is replaced when its run is repeated
            os.kill(pid, signal.SIGKILL)
        verdict = judge.run(right, calls)
        assert verdict.passed, verdict
        judge.submit(endless, calls)
    with Judge(1) as unused:
        assert unused.workers == 1


def children() -> list[int]:
    """Return the processes that this one started."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def codec() -> None:
    """Encode and decode every kind of value; every prefix of its bytes must be refused."""
    from stepcoder.sandbox import _launcher

    values = [None, True, -5, 1 << 200, -(1 << 64), 1.5, 2j, "é", "\ud800", b"x", [1, [2]], (3,)]
    value = [*values, {4}, frozenset({5}), {6: {7: "8"}}]
    data = _launcher.encode(value, 1 << 20)
    assert _launcher.decode(data) == value
    for end in range(len(data)):
        try:
            _launcher.decode(data[:end])
        except ValueError:
            continue
        raise AssertionError(f"{end} bytes of a value are a value")
    marked = _launcher.encode([object()], 99, lambda _: ("mark",))
    assert _launcher.decode(marked, lambda payload: payload) == [("mark",)]
    for bad, error in (([object()], TypeError), ("x" * 999, ValueError)):
        try:
            _launcher.encode(bad, 99)
        except error:
            continue
        raise AssertionError(bad)


if __name__ == "__main__":
    main()
