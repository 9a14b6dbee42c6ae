"""The cost of executed lines: `python bench/sandbox_coverage.py` prints slowdowns as JSON.

Each program times its own call with its CPU clock, so that starting up does not count. A script
of its own, so that test_sandbox.py can run it with other Pythons that have stepcoder.sandbox.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from stepcoder.sandbox import CallTests, Judge, Limits, Program  # noqa: E402

ROUNDS = 3
SIZE = 12_000
# CPU-heavy bodies: loops, calls, strings, dicts, numbers.
BODIES = {
    "loops": "    s = 0\n    for i in range(400 * n):\n        s += i * i % 7\n    return s\n",
    "calls": "    def g(k):\n        return k if k < 2 else g(k - 1) + g(k - 2)\n"
    "    return [g(14) for _ in range(n // 10)][-1]\n",
    "strings": "    t = ''\n    for i in range(60 * n):\n        t = (t + str(i))[-99:]\n"
    "    return t\n",
    "dicts": "    d = {}\n    for i in range(150 * n):\n"
    "        d[i % 997] = d.get(i % 997, 0) + i\n"
    "    return sum(d.values())\n",
    "sieve": "    p = [True] * (60 * n)\n    for i in range(2, len(p)):\n        if p[i]:\n"
    "            for j in range(i * i, len(p), i):\n                p[j] = False\n"
    "    return sum(p)\n",
}
TIMED = (
    "def timed(n):\n    import time\n    start = time.process_time()\n    f(n)\n"
    "    return time.process_time() - start\n"
)
# What comes before and after the call in a plain process, and how the code is loaded.
TOOLS = {
    "plain": ("", "", ""),
    "coverage.py": (
        "import coverage\nc = coverage.Coverage(data_file=None, include=['*/body.py'])\n"
        "c.start()\n",
        "",
        "c.stop()\n",
    ),
    "slipcover": (
        "import slipcover\nc = slipcover.Slipcover()\n",
        "code = c.instrument(code)\n",
        "",
    ),
}


def plain_process(tool: str, source: str, folder: Path) -> float:
    """Return CPU seconds of the call under a tool, in a process of its own."""
    start, load, stop = TOOLS[tool]
    path = folder / "body.py"
    path.write_text(source)
    script = (
        f"{start}code = compile(open({str(path)!r}).read(), {str(path)!r}, 'exec')\n{load}"
        f"names = {{}}\nexec(code, names)\nseconds = names['timed']({SIZE})\n{stop}print(seconds)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def slowdowns() -> dict[str, dict[str, float]]:
    """Return, for each tool, each program's time over its plain time (the best of a few each)."""
    tools = [t for t in TOOLS if t == "plain" or importlib.util.find_spec(t.partition(".")[0])]
    found: dict[str, dict[str, float]] = {tool: {} for tool in ["ours", *tools[1:]]}
    with (
        tempfile.TemporaryDirectory() as name,
        Judge(workers=1, limits=Limits(cpu_s=60.0, wall_s=120.0)) as judge,
    ):

        def in_sandbox(source: str) -> float:
            # The expected value does not matter: the program returns its time.
            verdict = judge.run(Program(source, "timed"), CallTests(([SIZE],), (None,)))
            if verdict.tests[0].got is None or len(verdict.executed_lines) < source.count("\n") - 1:
                raise RuntimeError(f"ours: {verdict.status}: {verdict.message}")
            return float(verdict.tests[0].got)

        for program, body in BODIES.items():
            source = f"def f(n):\n{body}{TIMED}"
            clocks: dict[str, Callable[[], float]] = {"ours": lambda s=source: in_sandbox(s)}  # type: ignore[misc]
            for tool in tools:
                clocks[tool] = lambda t=tool, s=source: plain_process(t, s, Path(name))  # type: ignore[misc]
            # In turns, so that a busy moment of the machine affects all alike.
            times: dict[str, list[float]] = {tool: [] for tool in clocks}
            for _ in range(ROUNDS):
                for tool, clock in clocks.items():
                    times[tool].append(clock())
            for tool in found:
                found[tool][program] = min(times[tool]) / min(times["plain"])
    return found


if __name__ == "__main__":
    print(json.dumps({"python": sys.version.split()[0], "slowdowns": slowdowns()}))
