"""What a program does to its own run: to its clock, its phase, its lines, its files, its scratch.

None of it may spare the program its verdict, give it more time, or reach the next program.
"""

from __future__ import annotations

import json

import pytest
from helpers.raw_memory import RAW_MEMORY

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Tests,
    UnittestTests,
    Verdict,
)

ONE = CallTests(([1],), (2,))
SHORT = Limits(cpu_s=1.0, wall_s=1.0)
HARNESS = """
import os, sys
frame = sys._getframe()
while '_launcher' not in frame.f_globals:
    frame = frame.f_back
launcher = frame.f_globals['_launcher']
"""


def judged(judge: Judge, source: str, tests: CallTests = ONE, limits: Limits = SHORT) -> Verdict:
    """Judge a program, and after it an honest one."""
    verdict = judge.run(Program(source, "f"), tests, limits)
    honest = judge.run(Program("def f(x):\n    return x + 1\n", "f"), ONE)
    assert honest.passed, honest.message
    assert honest.executed_lines == {1, 2}
    return verdict


def test_a_program_that_is_called_by_a_test_cannot_enter_the_next_one(judge: Judge) -> None:
    source = f"""{HARNESS}
import time
def f(x):
    for phase in range(4, 8):
        launcher.enter_phase(phase)
        time.sleep(0.7)
    return x
class Indirect:
    pass
"""
    # Not calls of the function alone: these run in a tester's process.
    asserts = tuple(f"assert f({i}) == {i} and Indirect()" for i in range(8))
    verdict = judge.run(Program(source, "f"), AssertTests(asserts), SHORT)
    assert verdict.status is Status.WALL_TIME_LIMIT
    assert verdict.tests[0].status is Status.WALL_TIME_LIMIT


@pytest.mark.parametrize("count", [1, 4])
def test_entering_phases_gives_no_time(judge: Judge, count: int) -> None:
    source = f"""{HARNESS}
import time
def f(x):
    phase = 3
    while True:
        phase += 1
        launcher.enter_phase(phase)
        time.sleep(0.1)
"""
    verdict = judged(judge, source, CallTests(([1],) * count, (2,) * count))
    assert verdict.status is Status.WALL_TIME_LIMIT
    # Each test had its own limit, as it has in a program that only sleeps.
    assert verdict.wall_s < count * SHORT.wall_s + 4


def test_the_time_of_later_tests_cannot_be_spent_on_the_first(judge: Judge) -> None:
    source = f"""{RAW_MEMORY}
import time
where = board()
def f(x):
    if x == 0:
        for test in range(4):
            time.sleep(0.4)
            launcher.record_value(1, lambda value: value)
            launcher.enter_phase(4 + test)
        offset, = read('<Q', where + 4096 + 40 + 8)
        write(where + read('<Q', where + ARENA)[0] + offset, launcher.encode(7, 99))
        return 7
    return x
"""
    tests = CallTests(tuple([i] for i in range(5)), (7, 1, 2, 3, 4))
    verdict = judged(judge, source, tests, Limits(cpu_s=0.5, wall_s=0.5))
    assert verdict.tests[0].status is not Status.ACCEPTED
    assert verdict.status is not Status.INFRASTRUCTURE_ERROR


def test_a_run_cannot_pass_for_one_that_never_began(judge: Judge) -> None:
    source = f"""{RAW_MEMORY}
def f(x):
    write(board() + PHASE, bytes(4))
    os._exit(113)
"""
    verdict = judged(judge, source)
    assert verdict.status is Status.RUNTIME_ERROR
    assert "exit status 113" in verdict.message


def test_a_run_cannot_pass_for_one_that_did_not_compile(judge: Judge) -> None:
    source = f"""{RAW_MEMORY}
def f(x):
    write(board() + PHASE, b'\\1\\0\\0\\0')
    raise ValueError
"""
    assert judged(judge, source).status is Status.RUNTIME_ERROR


@pytest.mark.parametrize(
    "tests",
    [
        ONE,
        StdinTests(("",), ("x",)),
        AssertTests(("assert f(1) == 2",)),
        AssertTests(("got = f(1)\nassert got == 2",)),
        UnittestTests(
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test(self): self.assertEqual(f(1), 2)\n"
        ),
    ],
    ids=["calls", "stdin", "asserts", "indirect asserts", "unittests"],
)
@pytest.mark.parametrize("mark", ["broken", "strict"])
def test_no_program_says_that_its_tests_are_broken(judge: Judge, tests: Tests, mark: str) -> None:
    """As the tests' own process does, before they begin."""
    source = f"{HARNESS}\nlauncher.record_error(('E', 'm', None, '{mark}'))\n"
    verdict = judge.run(Program(f"{source}os._exit(0)\n", "f"), tests, SHORT)
    assert verdict.status in (Status.RUNTIME_ERROR, Status.WRONG_ANSWER)


@pytest.mark.parametrize("line", ["10 ** 9999", "999_999", "-1", "True", "'1'"])
def test_no_error_is_in_a_line_that_is_not_there(judge: Judge, line: str) -> None:
    source = f"{HARNESS}\ndef f(x):\n"
    source += (
        f"    launcher.record_error(('E\\ud800', 'm\\ud800', {line}, None))\n    os._exit(0)\n"
    )
    verdict = judged(judge, source)
    assert verdict.status is Status.RUNTIME_ERROR
    assert verdict.error_line is verdict.tests[0].error_line is None
    said = json.dumps([verdict.error_type, verdict.message], ensure_ascii=False)
    assert said.encode() == b'["E?", "E?: m?"]'


def test_a_call_that_was_not_made_is_no_violation(judge: Judge) -> None:
    source = f"""{RAW_MEMORY}
def f(x):
    write(board() + VIOLATION, b'\\x27\\0\\0\\0')
    os._exit(0)
"""
    assert judged(judge, source).status is Status.RUNTIME_ERROR


@pytest.mark.parametrize("pattern", ["b'\\xff' * 16", "bytes(16)", "bytes(8) + b'\\4' + bytes(7)"])
def test_lines_written_to_the_board_are_not_believed(judge: Judge, pattern: str) -> None:
    source = f"{RAW_MEMORY}\ndef f(x):\n    where = board()\n    bitmaps = where + read('<Q', where"
    source += f" + BITMAPS)[0]\n    write(bitmaps, {pattern})\n    return 2\n    return 3\n"
    verdict = judged(judge, source)
    assert verdict.passed, verdict.message
    assert verdict.tampered
    assert verdict.executed_lines == set()
    assert all(test.executed_lines == set() for test in verdict.tests)


@pytest.mark.parametrize(
    "made_up",
    [
        "exec(compile('\\n' * 9 + 'x = 1', '<program>', 'exec'))",
        "exec(compile('x = 1\\n' * 9, f.__code__.co_filename, 'exec')); os._exit(0)",
        "code = f.__code__; exec(code.replace(co_code=code.co_code[:2] * 9 + code.co_code[-2:]))",
    ],
)
def test_lines_of_code_that_a_program_makes_up_are_not_believed(judge: Judge, made_up: str) -> None:
    source = f"import os\ndef f(x):\n    try:\n        {made_up}\n    except Exception: pass\n"
    source += "    return 2\n"
    verdict = judged(judge, source)
    assert verdict.tampered
    assert verdict.executed_lines == set()


SCRATCH = {
    "names like a cleaner's": """
os.makedirs('.moved0/q'); os.makedirs('z'); open('z/x', 'w').close()
os.makedirs('.moved1/q'); os.makedirs('y'); open('y/x', 'w').close()
for i in range(2, 9): open(f'.moved{i}', 'w').close()
""",
    "folders without rights": """
os.makedirs('a/b/c/d'); open('a/b/c/x', 'w').close()
for folder in ('a/b/c', 'a/b', 'a'): os.chmod(folder, 0)
""",
    "the folder itself without rights": "os.makedirs('a/b')\nos.chmod('/tmp', 0)",
    "deep folders with long names": """
for i in range(200): os.mkdir('n' * 255); os.chdir('n' * 255)
os.chmod('..', 0o100)
""",
    "links and names of bytes": """
os.mkdir(b'\\xff\\n'); os.symlink('/usr', b'\\xff\\n/\\x01'); os.symlink('.', 'loop')
open('x', 'w').close(); os.link('x', b'\\xff\\n/x')
""",
    "times": "os.utime('/tmp', (5, 5))",
}


@pytest.mark.parametrize("name", SCRATCH)
def test_nothing_in_scratch_ends_the_worker_or_stays(judge: Judge, name: str) -> None:
    look = "import os\ninfo = os.stat('/tmp')\nprint(os.listdir('/tmp'), oct(info.st_mode))\n"
    look += "print(info.st_mtime, info.st_atime)\n"
    empty = StdinTests(("",), ("[] 0o40777 0.0 0.0",))
    for _ in range(4):  # both workers
        source = f"import os\n{SCRATCH[name]}\ndef f(x): return 2\n"
        verdict = judge.run(Program(source, "f"), ONE)
        assert verdict.passed, verdict.message
        after = judge.run(Program(look), empty)
        assert after.passed, after.message


STATE = {
    "appending": "fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND)",
    "not blocking": "os.set_blocking(0, False); os.set_blocking(1, False)",
    "all flags": "fcntl.fcntl(1, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME)",
    "where the files stand": "os.lseek(0, 999, 0); os.lseek(2, 7, 0)",
    "what stdin holds": "os.ftruncate(0, 4000); os.pwrite(0, b'x' * 4000, 0)",
}


@pytest.mark.parametrize("name", STATE)
def test_nothing_that_a_program_does_to_its_files_reaches_the_next(judge: Judge, name: str) -> None:
    look = "import fcntl, os, sys\nprint(repr(sys.stdin.read()))\n"
    look += "print([fcntl.fcntl(n, fcntl.F_GETFL) & 0xfff for n in (0, 1, 2)])\n"
    change = Program(f"import fcntl, os\n{STATE[name]}")
    for text in ("hello\n", "", "a longer text than before\n" * 9, "abc\n"):
        for _ in range(2):  # both workers
            judge.run(change, StdinTests((text,), ("",)))
            after = judge.run(Program(look), StdinTests((text,), (f"{text!r}\n[2, 2, 2]",)))
            assert after.passed, after.message


def test_a_lock_on_a_file_is_noticed_by_nobody_else(judge: Judge) -> None:
    source = """
import fcntl, os
def f(x):
    first, second = open(os.__file__), open(os.__file__)
    fcntl.flock(first, fcntl.LOCK_EX)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused if the first lock were real
    fcntl.lockf(first, fcntl.LOCK_SH)
    with open('/tmp/x', 'w') as own:
        fcntl.lockf(own, fcntl.LOCK_EX)
    return x + 1
"""
    verdict = judged(judge, source)
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    "call",
    [
        "os.fchmod(0, 0)",
        "os.utime(0, (5, 5))",
        "os.utime(1)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())",
        "fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        "fcntl.fcntl(0, 1033, 15)",  # seals
        "fcntl.fcntl(0, 1036, b'12345678')",  # how long the data will live
        "os.setxattr(0, 'user.x', b'x')",
        "os.setpriority(os.PRIO_PROCESS, 0, 5)",
        "os.sched_setaffinity(0, {0})",
        "resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (9, 9))",
        "os.setsid()",
    ],
)
def test_what_would_outlive_a_run_is_refused(judge: Judge, call: str) -> None:
    source = f"import fcntl, os, resource\ndef f(x):\n    try: {call}\n"
    source += "    except OSError: return 2\n    return 'done'\n"
    verdict = judged(judge, source)
    assert verdict.passed, verdict.message
