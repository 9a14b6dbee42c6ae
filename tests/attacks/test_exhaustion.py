"""Programs that try to use up the machine, or to crash the judge: each gets its verdict in time."""

import resource
import time
import tracemalloc
from dataclasses import replace

import pytest

from stepcoder.sandbox import CallTests, Custom, Judge, Limits, Program, Status, StdinTests
from stepcoder.sandbox.compare import same_lines_in_any_order

# The wall limit is generous so that on a busy machine the CPU limit comes first.
LIMITS = Limits(cpu_s=0.5, wall_s=30.0, memory_bytes=128 << 20, output_bytes=1 << 16)
S = Status

ATTACKS: dict[str, tuple[str, set[Status]]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", {S.RUNTIME_ERROR}),
    "patient fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {S.CPU_TIME_LIMIT},
    ),
    "thread bomb": (
        "import threading as t, time\nwhile True: t.Thread(target=time.sleep, args=(99,)).start()",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT, S.WALL_TIME_LIMIT},
    ),
    "many small threads": (
        "import threading as t, time\nt.stack_size(32768)\n"
        "while True: t.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        # A thread that fails to start for want of memory leaves the thread that started it waiting.
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT, S.WALL_TIME_LIMIT},
    ),
    "thread stacks": (
        "import sys, threading as t\nsys.setrecursionlimit(10**6)\nt.stack_size(16 << 20)\n"
        "gate = t.Event()\ndef deep(n): return deep(n - 1) if n else gate.wait()\n"
        "while True: t.Thread(target=deep, args=(9000,), daemon=True).start()",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT},
    ),
    "huge thread stacks": (
        "import sys, threading as t\nsys.setrecursionlimit(10**9)\nt.stack_size(1 << 40)\n"
        "class A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\n"
        "while True: t.Thread(target=lambda: A().x).start()",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT},
    ),
    "raised stack": (
        "import resource as r, sys\nr.setrlimit(r.RLIMIT_STACK, (-1, -1))\n"
        "sys.setrecursionlimit(10**9)\ndef f(n): return max(map(f, [n]))\nf(0)",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT},
    ),
    "scratch files and memory": (
        "keep = []\nfor i in range(200):\n    try: open(str(i), 'wb').write(b'x' * 65536)\n"
        "    except OSError: break\nwhile True: keep.append(b'x' * 65536)",
        {S.MEMORY_LIMIT},
    ),
    "pipes and memory": (
        "import os\nkeep = []\nfor _ in range(28):\n    r, w = os.pipe()\n"
        "    os.set_blocking(w, False)\n    os.write(w, b'x' * 65536)\n"
        "while True: keep.append(b'x' * 65536)",
        {S.MEMORY_LIMIT},
    ),
    "memory by list": ("a = [0]\nwhile True: a += a", {S.MEMORY_LIMIT}),
    "memory by mmap": (
        "import mmap\nkeep = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 24)\n"
        "    m.write(b'x' * (1 << 24))\n    keep.append(m)",
        {S.MEMORY_LIMIT, S.RUNTIME_ERROR},
    ),
    "memory by large pages": (
        "import mmap\nm = mmap.mmap(-1, 1 << 32)\nm.madvise(mmap.MADV_HUGEPAGE)\n"
        "for i in range(0, 1 << 32, 4096): m[i] = 1",
        {S.MEMORY_LIMIT},
    ),
    "memory that no page table shows": (
        "import mmap\nm = mmap.mmap(-1, 1 << 31)\nfor i in range(0, 1 << 31, 1 << 24):\n"
        "    m[i:i + (1 << 24)] = b'x' * (1 << 24)\n"
        "    m.madvise(mmap.MADV_DONTNEED, i, 1 << 24)\n"
        "    assert m[i + 7] == 0\nm[5] = 1\nwhile True: pass",
        {S.CPU_TIME_LIMIT},
    ),
    "bursts of memory": ("while True: b'x' * (1 << 31)", {S.MEMORY_LIMIT}),
    "memory by recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        {S.MEMORY_LIMIT, S.RUNTIME_ERROR, S.CPU_TIME_LIMIT},
    ),
    "memory by scratch files": (
        "while True:\n    with open('x', 'ab') as f: f.write(b'x' * 65536)",
        {S.RUNTIME_ERROR, S.OUTPUT_LIMIT},
    ),
    "inode flood": ("for i in range(10**6): open(str(i), 'w').close()", {S.RUNTIME_ERROR}),
    "deep folders": (
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
        {S.RUNTIME_ERROR},
    ),
    "stack overflow": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, n):"
        " return getattr(self, n + 'x')\nA().x",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT},
    ),
    "plain recursion": ("def f(): return f()\nf()", {S.RUNTIME_ERROR}),
    "deep repr": (
        "import sys\nsys.setrecursionlimit(10**9)\na = []\nfor _ in range(10**6): a = [a]\nrepr(a)",
        {S.RUNTIME_ERROR, S.MEMORY_LIMIT, S.CPU_TIME_LIMIT},
    ),
    "deep json": ("import json\njson.loads('[' * 10**6)", {S.RUNTIME_ERROR}),
    "deep eval": ("eval('(' * 10**5 + ')' * 10**5)", {S.RUNTIME_ERROR, S.MEMORY_LIMIT}),
    "huge int to str": (
        "import sys\nsys.set_int_max_str_digits(0)\nprint(str(1 << (1 << 28)))",
        {S.CPU_TIME_LIMIT, S.MEMORY_LIMIT},
    ),
    "huge power": ("print(9 ** 9 ** 9)", {S.CPU_TIME_LIMIT, S.MEMORY_LIMIT, S.RUNTIME_ERROR}),
    "endless output": ("while True: print(1)", {S.OUTPUT_LIMIT}),
    "stderr flood": (
        "import os\nwhile True: os.write(2, b'x' * 65536)",
        {S.OUTPUT_LIMIT},
    ),
    "stubborn output": (
        "import os\nwhile True:\n    try: os.write(1, b'x' * 4096)\n    except BaseException: pass",
        {S.OUTPUT_LIMIT},
    ),
    "sparse output": ("import os\nos.ftruncate(1, 1 << 40)", {S.OUTPUT_LIMIT, S.RUNTIME_ERROR}),
    "sleep": ("import time\ntime.sleep(10**6)", {S.WALL_TIME_LIMIT}),
    "signal pause": ("import signal\nsignal.pause()", {S.WALL_TIME_LIMIT}),
    "stop signal": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time\ntime.sleep(99)",
        {S.WALL_TIME_LIMIT},
    ),
    "ignores signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        {S.CPU_TIME_LIMIT},
    ),
    "blocks signals": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        {S.CPU_TIME_LIMIT},
    ),
    "catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        {S.CPU_TIME_LIMIT},
    ),
    "resets timers": (
        "import signal\nwhile True: signal.setitimer(signal.ITIMER_REAL, 0)",
        {S.CPU_TIME_LIMIT},
    ),
    "long C loop": ("sum(range(10**12))", {S.CPU_TIME_LIMIT}),
    "catastrophic regex": (
        "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        {S.CPU_TIME_LIMIT},
    ),
    "hash collisions": (
        "p = 2**61 - 1\nd = {i * p: i for i in range(10**5)}",
        {S.CPU_TIME_LIMIT},
    ),
    "all descriptors": (
        "import os\nwhile True: os.dup(0)",
        {S.RUNTIME_ERROR},
    ),
    "abort": ("import os\nos.abort()", {S.RUNTIME_ERROR}),
    "late thread output": (
        "import threading, time\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin).start()",
        {S.CPU_TIME_LIMIT},
    ),
    "resource limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))\nwhile True: pass",
        {S.CPU_TIME_LIMIT, S.RUNTIME_ERROR},
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_gets_its_verdict_in_time(judge: Judge, name: str) -> None:
    source, statuses = ATTACKS[name]
    start = time.monotonic()
    limits = replace(LIMITS, wall_s=1.0) if statuses == {S.WALL_TIME_LIMIT} else LIMITS
    verdict = judge.run(Program(source), StdinTests(("",), ("never",)), limits)
    assert verdict.status in statuses, verdict
    # Bounds hanging, not speed, since a busy machine may be slow.
    assert time.monotonic() - start < 120
    healthy = judge.run(Program("def f(x): return x", "f"), CallTests(([1],), (1,)))
    assert healthy.passed, healthy


COMPILE_BOMBS = {
    "constant folding": "x = " + "(" * 80 + "1" + ",) * 9" * 80,
    "deep operators": "x = " + "-" * 200_000 + "1",
    "deep attributes": "x = a" + ".b" * 200_000,
    "deep indents": "".join(" " * i + "if x:\n" for i in range(2_000)) + " " * 2_000 + "pass\n",
    "many brackets": "x = " + "[" * 100_000,
    "deep f-strings": "x = " + "f'{" * 300,
    "wide": "x = (" + "a+" * 300_000 + "a)",
    "only newlines": "\n" * (4 << 20) + "(",
    "nul bytes": "x = 1\n\0\0\0",
    "bad escape": "x = '\\N{no such name}'",
    "surrogate": "x = '\ud800'",
}


@pytest.mark.parametrize("name", COMPILE_BOMBS)
def test_what_breaks_the_compiler_ends_with_a_verdict(judge: Judge, name: str) -> None:
    verdict = judge.run(Program(COMPILE_BOMBS[name], "f"), CallTests(([1],), (1,)), LIMITS)
    assert verdict.status in (
        S.COMPILE_ERROR,
        S.RUNTIME_ERROR,
        S.MEMORY_LIMIT,
        S.CPU_TIME_LIMIT,
    ), verdict


HUGE_VALUES = (
    "'x' * (1 << 26)",
    "[0] * (1 << 24)",
    "1 << (1 << 29)",
    "__import__('itertools').repeat(0)",
    "range(1 << 60)",
    "{i: [i] * 99 for i in range(10**6)}",
)


@pytest.mark.parametrize("value", HUGE_VALUES)
def test_huge_results_are_errors_of_the_program(judge: Judge, value: str) -> None:
    verdict = judge.run(Program(f"def f(): return {value}", "f"), CallTests(([],), (0,)), LIMITS)
    assert not verdict.passed
    assert verdict.status is not S.INFRASTRUCTURE_ERROR


def test_a_zombie_army_of_runs_leaves_the_judge_alive(judge: Judge) -> None:
    programs = [source for source, _ in ATTACKS.values()]
    quick = Limits(cpu_s=0.05, wall_s=0.2, memory_bytes=64 << 20, output_bytes=1 << 12)
    futures = [judge.submit(Program(s), StdinTests(("",), ("x",)), quick) for s in programs * 3]
    honest = [judge.submit(Program("print(input())"), StdinTests(("a",), ("a",))) for _ in programs]
    assert all(future.result().status is not S.INFRASTRUCTURE_ERROR for future in futures)
    assert all(future.result().passed for future in honest)


@pytest.mark.parametrize("phase", [0, 1, 3])
def test_a_program_that_goes_back_to_an_earlier_phase_ends(judge: Judge, phase: int) -> None:
    source = (
        "import sys, os\ndef f(x):\n"
        f"    sys.modules['_launcher'].enter_phase({phase})\n    os._exit(0)\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([1], [2], [3]), (0, 0, 0)), LIMITS)
    assert verdict.status is S.RUNTIME_ERROR
    assert [test.status for test in verdict.tests] == [S.RUNTIME_ERROR] * 3


TRAPS = {
    # Cheap for the program, whose integers hash by identity; as plain ints all have hash 0.
    "equal hashes": (
        "class I(int):\n    def __hash__(self): return id(self)\n"
        "    def __eq__(self, other): return self is other\n"
        "def f(): return {I(i * (2**61 - 1)) for i in range(300_000)}\n"
    ),
    "equal hashes of long keys": (
        "class I(int):\n    def __hash__(self): return id(self)\n"
        "    def __eq__(self, other): return self is other\n"
        "def f():\n    start = (0,) * 5000\n"
        "    return {start + (I(i * (2**61 - 1)),): 0 for i in range(3_000)}\n"
    ),
    # One object for the program, gigabytes for a reader of its bytes.
    "one empty set many times": "def f(): return [set()] * 16_000_000\n",
    "one short string many times": "def f(): return ['ab'] * 8_000_000\n",
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_value_that_is_costly_to_read_does_not_hold_up_the_judge(name: str) -> None:
    source = TRAPS[name]
    limits = Limits(cpu_s=10.0, wall_s=60.0, memory_bytes=512 << 20)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with Judge(workers=1) as judge:
        assert not judge.run(Program(source, "f"), CallTests(([],), (0,)), limits).passed
    # Without caps this takes minutes and four gigabytes.
    assert time.process_time() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 2 << 20


def test_the_judge_keeps_no_more_of_all_outputs_than_they_are_worth(judge: Judge) -> None:
    limits = Limits(cpu_s=5.0, wall_s=60.0, output_bytes=4 << 20)
    program = Program("print('a' * 4_000_000)")
    kept = StdinTests(("",) * 14, ("b",) * 14, keep_output=True)
    verdict = judge.run(program, kept, limits)
    assert verdict.status is S.WRONG_ANSWER
    assert 32 << 20 < sum(len(test.stdout or "") for test in verdict.tests) < 37 << 20
    # A checker is asked about whole outputs only.
    checker = Custom("def check(input, expected, got): return len(got) == 4_000_001")
    verdict = judge.run(program, StdinTests(("",) * 14, ("",) * 14, checker=checker), limits)
    counts = [sum(test.status is s for test in verdict.tests) for s in (S.ACCEPTED, S.OUTPUT_LIMIT)]
    assert sum(counts) == 14
    assert min(counts) > 0
    # Honest programs print about as much as is expected.
    expected = "a" * 4_000_000
    many = StdinTests(("",) * 14, (expected,) * 14, checker=checker)
    assert judge.run(program, many, limits).passed


def test_lines_of_an_output_are_counted_before_they_are_made() -> None:
    hostile = "a b\n" * 250_000
    tracemalloc.start()
    try:
        assert not same_lines_in_any_order(hostile, "a b", 0.0)
        assert not same_lines_in_any_order(hostile.replace("\n", " "), "a b", 0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_no_more_lines_are_noted_than_programs_have(judge: Judge) -> None:
    """Of each test the judge holds the lines that ran."""
    source = "def f(x): return x\n" + "f\n" * 20_000
    verdict = judge.run(Program(source, "f"), CallTests(([1],), (1,)))
    assert verdict.executed_lines == frozenset(range(1, 1 + (1 << 13)))
