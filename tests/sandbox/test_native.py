"""C and C++ programs: compiled in the sandbox, judged by stdin tests as Python programs are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepcoder.sandbox import (
    AssertTests,
    Custom,
    Interactor,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Submission,
    Testlib,
    Tolerance,
    Verdict,
)
from stepcoder.sandbox.points import Subtask

pytestmark = pytest.mark.skipif(
    not shutil.which("g++") or not shutil.which("gcc"), reason="no compiler (install g++)"
)

ROOT = Path(__file__).parents[2]
SUM = """
#include <bits/stdc++.h>
using namespace std;
int main() { long long a, b; cin >> a >> b; cout << a + b << endl; }
"""


@pytest.fixture(scope="module")
def native_judge() -> Iterator[Judge]:
    limits = Limits(cpu_s=2.0, wall_s=30.0, memory_bytes=256 << 20, output_bytes=1 << 16)
    with Judge(workers=2, limits=limits) as judge:
        yield judge


def judged(
    judge: Judge, source: str, stdin: str = "", stdout: str = "", language: str = "cpp"
) -> Verdict:
    return judge.run(Program(source, language=language), StdinTests((stdin,), (stdout,)))


# A third of the compiler's time for <bits/stdc++.h>.
COMMON = "\n".join(
    f"#include <{header}>"
    for header in (
        *(
            "algorithm",
            "csignal",
            "cstdio",
            "cstdlib",
            "cstring",
            "fstream",
            "iostream",
            "mutex",
            "optional",
        ),
        *("stdexcept", "string", "thread", "vector", "unistd.h"),
    )
)


def main(body: str, includes: str = f"{COMMON}\nusing namespace std;") -> str:
    return f"{includes}\nint main() {{\n{body}\n}}\n"


def test_every_test_is_a_run_and_is_compared(native_judge: Judge) -> None:
    tests = StdinTests(("1 2", "3 4", "5 6"), ("3", "7\n", "12"))
    verdict = native_judge.run(Program(SUM, language="cpp"), tests)
    assert [test.status for test in verdict.tests] == ["accepted", "accepted", "wrong answer"]
    assert verdict.message == "expected stdout '12', got '11\\n'"
    assert verdict.executed_lines == frozenset()
    assert verdict.cpu_s > 0
    assert verdict.wall_s > 0
    assert verdict.peak_memory_bytes > 0
    stops = Submission(Program(SUM, language="cpp"), tests, stop_at_first_failure=True)
    assert native_judge.submit_all(stops).result().status is Status.WRONG_ANSWER
    first = StdinTests(("1 2", "3 4"), ("4", "7"))
    verdict = native_judge.submit_all(
        Submission(Program(SUM, language="cpp"), first, stop_at_first_failure=True)
    ).result()
    assert [test.status for test in verdict.tests] == ["wrong answer", "not run"]


def test_a_program_is_compiled_once(native_judge: Judge) -> None:
    before = native_judge.compiler_runs
    program = Program(SUM + "// once", language="cpp")
    futures = [native_judge.submit(program, StdinTests(("1 2",), ("3",))) for _ in range(6)]
    assert [future.result().status for future in futures] == ["accepted"] * 6
    assert native_judge.run(program, StdinTests(("2 2",), ("4",))).passed
    assert native_judge.compiler_runs == before + 1
    broken = Program("int main() { return x; }", language="cpp")
    for _ in range(2):
        assert native_judge.run(broken, StdinTests(("",), ("",))).status is Status.COMPILE_ERROR
    assert native_judge.compiler_runs == before + 2
    # The same text in another language is another program.
    other = Program(SUM + "// once", language="cpp20")
    assert native_judge.run(other, StdinTests(("1 2",), ("3",))).passed
    assert native_judge.compiler_runs == before + 3


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("c", '#include <stdio.h>\nint main(void) { int new = 1; printf("%d\\n", new); }'),
        ("c", '#include <math.h>\n#include <stdio.h>\nint main() { printf("%.0f", sqrt(1.0)); }'),
        ("cpp11", main("auto f = [](int x) { return x; }; cout << f(1);")),
        ("cpp14", main("auto f = [](auto x) { return x; }; cout << f(1);")),
        ("cpp", main("if (auto [a, b] = pair(1, 2); a < b) cout << a;")),
        ("cpp17", main("optional<int> x = 1; cout << *x;")),
        ("cpp20", main("vector v{3, 1}; ranges::sort(v); cout << v[0];")),
        ("cpp", "#include <ext/pb_ds/assoc_container.hpp>\n" + main("cout << __gcd(2, 3);")),
        ("cpp", main("__int128 x = 1; cout << (long long)x;")),
        # An online judge reads stdin, where programs read their author's files.
        ("cpp", main('#ifndef ONLINE_JUDGE\nfreopen("in.txt", "r", stdin);\n#endif\ncout << 1;')),
    ],
)
def test_languages(native_judge: Judge, language: str, source: str) -> None:
    assert judged(native_judge, source, "", "1", language).message == ""


@pytest.mark.parametrize(
    ("body", "stdin", "stdout"),
    [
        ('string s; while (getline(cin, s)) cout << s << "\\n";', "a b\n\nc", "a b c"),
        ('ifstream f("/dev/stdin"); int x; f >> x; cout << x;', "7", "7"),
        ('freopen("/dev/stdin", "r", stdin); int x; scanf("%d", &x); cout << x;', "7", "7"),
        ("char c; while (read(0, &c, 1) == 1) write(1, &c, 1);", "bytes", "bytes"),
        ('ofstream("a.txt") << 5; ifstream f("a.txt"); int x; f >> x; cout << x;', "", "5"),
        ("cout << getpid();", "", "2"),
        ('printf("%d", system("true") != 0);', "", "1"),
        ("exit(0);", "", ""),
        ("_exit(0);", "", ""),
        ("int n = 0; vector<thread> t; mutex m; for (int i = 0; i < 8; ++i) t.emplace_back([&] {"
         "lock_guard g(m); ++n; }); for (auto& x : t) x.join(); cout << n;", "", "8"),
        ("signal(SIGUSR1, [](int) { write(1, \"got\", 3); }); raise(SIGUSR1);", "", "got"),
        ("cerr << string(5000, 'e'); cout << 1;", "", "1"),
        ("static int large[1 << 28]; large[7] = 3; auto p = (char*)calloc(1 << 30, 1);"
         "cout << large[7] + p[1 << 29];", "", "3"),
    ],
)  # fmt: skip
def test_ordinary_programs(native_judge: Judge, body: str, stdin: str, stdout: str) -> None:
    verdict = judged(native_judge, main(body), stdin, stdout)
    assert (verdict.status, verdict.message) == (Status.ACCEPTED, "")


def test_the_stack_is_as_large_as_the_memory(native_judge: Judge) -> None:
    """Recursion to a depth of which 64 MiB of stack would not do."""
    source = """
    #include <cstdio>
    int deep(int n) { volatile char frame[1000]; frame[0] = n; return n ? deep(n - 1) + frame[0] * 0 + 1 : 0; }
    int main() { printf("%d", deep(100000)); }
    """  # noqa: E501
    assert judged(native_judge, source, "", "100000").message == ""


@pytest.mark.parametrize(
    ("body", "status", "message", "error_type"),
    [
        ("return 3;", Status.RUNTIME_ERROR, "exit status 3", "exit status"),
        ("exit(117);", Status.RUNTIME_ERROR, "exit status 117", "exit status"),
        ("*(volatile int*)0 = 1;", Status.RUNTIME_ERROR, "crashed (SIGSEGV)", "SIGSEGV"),
        ("abort();", Status.RUNTIME_ERROR, "crashed (SIGABRT)", "SIGABRT"),
        ("volatile int x = 0; return 7 / x;", Status.RUNTIME_ERROR, "crashed (SIGFPE)", "SIGFPE"),
        ("__builtin_trap();", Status.RUNTIME_ERROR, "crashed (SIGILL)", "SIGILL"),
        ("raise(SIGTERM);", Status.RUNTIME_ERROR, "crashed (SIGTERM)", "SIGTERM"),
        ("throw 1;", Status.RUNTIME_ERROR,
         "crashed (SIGABRT): terminate called after throwing an instance of 'int'", "int"),
        ("vector<int>().at(1);", Status.RUNTIME_ERROR,
         "crashed (SIGABRT): terminate called after throwing an instance of 'std::out_of_range'"
         " what(): vector::_M_range_check: __n (which is 1) >= this->size() (which is 0)",
         "std::out_of_range"),
        ("volatile int i = 0; while (true) i = i + 1;", Status.CPU_TIME_LIMIT,
         "CPU time limit exceeded", None),
        ("signal(SIGXCPU, SIG_IGN); alarm(100); volatile int i = 0; while (true) i = i + 1;",
         Status.CPU_TIME_LIMIT, "CPU time limit exceeded", None),
        ("vector<thread> t; for (int i = 0; i < 2; ++i) t.emplace_back([] { volatile int i = 0;"
         "while (true) i = i + 1; }); t[0].join();", Status.CPU_TIME_LIMIT,
         "CPU time limit exceeded", None),
        ("vector<char> v(1 << 30, 1); cout << v[5];", Status.MEMORY_LIMIT,
         "memory limit exceeded", None),
        ("{ vector<char> v(270 << 20, 1); } cout << 3;", Status.MEMORY_LIMIT,
         "memory limit exceeded", None),
        ("vector<string> v; while (true) v.emplace_back(100000, 'x');", Status.MEMORY_LIMIT,
         "memory limit exceeded", None),
        ('while (true) puts("endless");', Status.OUTPUT_LIMIT, "output limit exceeded", None),
        ('signal(SIGXFSZ, SIG_IGN); for (int i = 0; i < 99999; ++i) puts("much");',
         Status.OUTPUT_LIMIT, "output limit exceeded", None),
        ('while (true) fputs("flood", stderr);', Status.OUTPUT_LIMIT, "output limit exceeded",
         None),
    ],
)  # fmt: skip
def test_how_programs_fail(
    native_judge: Judge, body: str, status: Status, message: str, error_type: str | None
) -> None:
    verdict = judged(native_judge, main(body))
    assert (verdict.status, verdict.message, verdict.error_type) == (status, message, error_type)


def test_a_program_that_sleeps_ends_at_the_wall_limit(native_judge: Judge) -> None:
    limits = Limits(cpu_s=1.0, wall_s=1.0)
    program = Program(main("while (1) pause();", "#include <unistd.h>"), language="c")
    verdict = native_judge.run(program, StdinTests(("",), ("",)), limits)
    assert (verdict.status, verdict.message) == (
        Status.WALL_TIME_LIMIT, "wall time limit exceeded"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("int main() {\n  return x;\n}", 2, "error: 'x' was not declared in this scope"),
        ("int main( {", 1, None),
        ("#include <nowhere.h>\nint main() {}", 1,
         "error: nowhere.h: No such file or directory"),
        ("int f();\nint main() { return f(); }", None, "error: undefined reference to `f()'"),
        ("void f() {}", None, "error: undefined reference to `main'"),
        ("#error stop here\n", 1, "error: #error stop here"),
        ("", None, "error: undefined reference to `main'"),
        ("int main() { \0 }", None, None),
    ],
)  # fmt: skip
def test_compile_errors(
    native_judge: Judge, source: str, line: int | None, message: str | None
) -> None:
    verdict = judged(native_judge, source)
    assert verdict.status is (Status.COMPILE_ERROR if "\0" not in source else verdict.status)
    assert message is None or (verdict.message, verdict.error_line) == (message, line)
    assert len(verdict.tests) == 1


def test_checkers_and_preambles(native_judge: Judge) -> None:
    source = main('printf("0.30000001");')
    program = Program(source, language="cpp")
    assert native_judge.run(program, StdinTests(("",), ("0.3",), False, Tolerance(1e-3))).passed
    custom = Custom("def check(input, expected, got): return float(got) > 0")
    assert native_judge.run(program, StdinTests(("",), ("",), False, custom)).passed
    program = Program("int main() {\n puts(TEXT);\n wrong; }", None, '#define TEXT "x"', "cpp")
    verdict = native_judge.run(program, StdinTests(("",), ("x",)))
    assert (verdict.status, verdict.error_line) == (Status.COMPILE_ERROR, 2)
    program = Program(
        "int main() { puts(TEXT); }", None, '#include <cstdio>\n#define TEXT "x"', "cpp"
    )
    assert native_judge.run(program, StdinTests(("",), ("x",))).passed


TESTLIB = r"""
#include "convention.h"
int main(int argc, char** argv) {
  FILE *in = fopen(argv[1], "r"), *out = fopen(argv[2], "r"), *answer = fopen(argv[3], "r");
  int n, got, expected;
  if (argc != 4 || fscanf(in, "%d", &n) + fscanf(answer, "%d", &expected) != 2) quit(3, "FAIL");
  if (fscanf(out, "%d", &got) != 1) quit(2, "wrong output format");
  if (got == -n) quit(7, "points 0.5");
  if (got == 1000) abort();
  for (volatile int i = 0; got == 1001;) i = i + 1;
  quit(got == expected ? 0 : 1, "wrong answer of the checker");
}
"""
HEADERS = (
    (
        "convention.h",
        "#include <cstdio>\n#include <cstdlib>\n"
        "void quit(int status, const char* text) { fputs(text, stderr); exit(status); }",
    ),
)


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ("5", Status.ACCEPTED, ""),
        ("6", Status.WRONG_ANSWER, "wrong answer of the checker"),
        ("none", Status.WRONG_ANSWER, "wrong output format"),
        ("-4", Status.WRONG_ANSWER, "points 0.5"),
        # It works on the expected answer.
        ("1000", Status.WRONG_ANSWER, "the checker failed on test 1: crashed (SIGABRT), and does"
         " not fail on the expected answer"),
        ("1001", Status.WRONG_ANSWER, "the checker failed on test 1: CPU time limit exceeded, and"
         " does not fail on the expected answer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("language", ["python", "cpp"])
def test_testlib_checkers(
    native_judge: Judge, language: str, output: str, status: Status, message: str
) -> None:
    sources = {"python": f"print('{output}')", "cpp": main(f'puts("{output}");')}
    tests = StdinTests(("4",), ("5",), checker=Testlib(TESTLIB, HEADERS))
    verdict = native_judge.run(Program(sources[language], language=language), tests)
    assert (verdict.status, verdict.message) == (status, message)


SHARES = (
    HEADERS[0][1]
    + r"""
int main(int, char** argv) {
  static char text[100];
  if (fread(text, 1, 99, fopen(argv[2], "r")) == 0) quit(4, "nothing");
  quit(7, text);
}
"""
)


@pytest.mark.parametrize(
    ("output", "status", "points"),
    [
        ("points 0.25 close", Status.WRONG_ANSWER, 0.25),
        ("points 1", Status.ACCEPTED, 1.0),
        ("points 1e-05", Status.WRONG_ANSWER, 1e-05),
        ("points 1/3", Status.WRONG_ANSWER, 0.0),
        ("points 5", Status.WRONG_ANSWER, 0.0),
        ("no number", Status.WRONG_ANSWER, 0.0),
        ("", Status.WRONG_ANSWER, 0.0),
    ],
)
def test_a_checker_gives_a_share_of_the_points(
    native_judge: Judge, output: str, status: Status, points: float
) -> None:
    """As checkers in Python with the same exit status do (`checker_programs`)."""
    program = Program(main(f'fputs("{output}", stdout);'), language="cpp")
    verdict = native_judge.run(program, StdinTests(("",), ("",), checker=Testlib(SHARES)))
    assert (verdict.status, verdict.points) == (status, points), verdict.message


def test_subtasks_count_shares(native_judge: Judge) -> None:
    subtasks = (Subtask(1.0, (0, 1)), Subtask(3.0, (1,)))
    tests = StdinTests(
        ("4", "5"), ("5", "-4"), checker=Testlib(TESTLIB, HEADERS), subtasks=subtasks
    )
    verdict = native_judge.run(Program(main('puts("-4");'), language="cpp"), tests)
    assert [test.partial for test in verdict.tests] == [0.5, 0.0]
    assert verdict.points == (1.0 * 0.5 + 3.0) / 4


def test_a_checker_reads_the_files_of_each_test(native_judge: Judge) -> None:
    inputs = ("0", "1", "2", "3", "4", "broken")
    answers = ("0", "1", "2", "4", "4", "0")
    tests = StdinTests(inputs, answers, checker=Testlib(TESTLIB, HEADERS))
    verdict = native_judge.run(Program("print(input())"), tests)
    assert [test.status for test in verdict.tests] == [
        "wrong answer", "accepted", "accepted", "wrong answer", "accepted", "infrastructure error",
    ]  # fmt: skip
    assert verdict.message == "the checker failed on test 6: FAIL"


def test_a_checker_that_does_not_compile_is_the_judges_failure(native_judge: Judge) -> None:
    for checker in (Testlib("int main() { return x; }"), Interactor("int main() { return x; }")):
        verdict = native_judge.run(Program("print(1)"), StdinTests(("",), ("",), False, checker))
        assert verdict.status is Status.INFRASTRUCTURE_ERROR
        assert verdict.message.startswith("the checker does not compile: error: 'x' was not")


GUESSING = r"""
#include <cstdio>
int main(int, char** argv) {
  FILE *in = fopen(argv[1], "r"), *answer = fopen(argv[3], "r");
  int secret, allowed, guess;
  if (fscanf(in, "%d", &secret) != 1 || fscanf(answer, "%d", &allowed) != 1) return 3;
  while (allowed-- > 0) {
    if (scanf("%d", &guess) != 1) { fputs("no guess", stderr); return 2; }
    puts(guess == secret ? "right" : guess < secret ? "more" : "less");
    fflush(stdout);
    if (guess == secret) return 0;
  }
  fputs("too many guesses", stderr);
  return 1;
}
"""
BISECTION = {
    "python": "low, high = 0, 1000\nwhile True:\n    middle = (low + high) // 2\n"
    "    print(middle, flush=True)\n    said = input()\n    if said == 'right': break\n"
    "    if said == 'more': low = middle + 1\n    else: high = middle - 1\n",
    "cpp": main("int low = 0, high = 1000; string said; while (true) { int m = (low + high) / 2;"
                "cout << m << endl; cin >> said; if (said == \"right\") return 0;"
                "(said == \"more\" ? low : high) = said == \"more\" ? m + 1 : m - 1; }"),
}  # fmt: skip


@pytest.mark.parametrize("language", ["python", "cpp"])
def test_interactive_problems(native_judge: Judge, language: str) -> None:
    tests = StdinTests(("0", "777", "500", "777"), ("10", "10", "1", "2"),
                       checker=Interactor(GUESSING))  # fmt: skip
    verdict = native_judge.run(Program(BISECTION[language], language=language), tests)
    assert [test.status for test in verdict.tests] == [
        "accepted", "accepted", "accepted", "wrong answer"
    ]  # fmt: skip
    assert verdict.message == "too many guesses"


@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("print('x')", Status.WRONG_ANSWER, "no guess"),
        ("1 / 0", Status.RUNTIME_ERROR, "ZeroDivisionError: division by zero"),
        ("while True: pass", Status.CPU_TIME_LIMIT, "CPU time limit exceeded"),
        ("while True: print(-1)", Status.WRONG_ANSWER, "too many guesses"),
        ("x x", Status.COMPILE_ERROR, "SyntaxError: invalid syntax (<program>, line 1)"),
        ("", Status.WRONG_ANSWER, "no guess"),
        ("import os; os.close(0); os.close(1)", Status.WRONG_ANSWER, "no guess"),
        ("import sys; sys.exit(3)", Status.RUNTIME_ERROR, "SystemExit: 3"),
        ("print('x', flush=True); input(); input()", Status.WRONG_ANSWER, "no guess"),
    ],
)
def test_how_programs_fail_at_talking(
    native_judge: Judge, source: str, status: Status, message: str
) -> None:
    tests = StdinTests(("777",), ("10",), checker=Interactor(GUESSING))
    verdict = native_judge.run(Program(source), tests, Limits(cpu_s=1.0, wall_s=60.0))
    assert (verdict.status, verdict.message) == (status, message)


def test_a_program_that_waits_for_its_interactor_ends(native_judge: Judge) -> None:
    tests = StdinTests(("777",), ("10",), checker=Interactor(GUESSING))
    verdict = native_judge.run(Program("input()"), tests, Limits(cpu_s=1.0, wall_s=1.0))
    assert verdict.status is Status.WALL_TIME_LIMIT


def test_pythons_limit_of_digits_is_not_for_others(native_judge: Judge) -> None:
    limits = Limits(wall_s=30.0, int_digits=0)
    tests = StdinTests(("1 2",), ("3",))
    assert native_judge.run(Program(SUM, language="cpp"), tests, limits).passed


def test_output_is_kept(native_judge: Judge) -> None:
    program = Program(main('puts("out"); fputs("err", stderr); return 1;'), language="cpp")
    (test,) = native_judge.run(program, StdinTests(("",), ("",), keep_output=True)).tests
    assert (test.stdout, test.stderr) == ("out\n", "err")


def test_what_makes_no_sense_is_refused(native_judge: Judge) -> None:
    tests = StdinTests(("",), ("",))
    with pytest.raises(ValueError, match="'rust' is none of python, c, cpp"):
        native_judge.run(Program("", language="rust"), tests)
    with pytest.raises(ValueError, match="a cpp program has no entry point"):
        native_judge.run(Program("", "f", language="cpp"), tests)
    with pytest.raises(ValueError, match=r"'\.\./a\.h' is no name of a header"):
        native_judge.run(Program("", language="cpp", headers=(("../a.h", ""),)), tests)
    with pytest.raises(ValueError, match="is no name of a header"):
        native_judge.run(
            Program("", language="cpp"), StdinTests(("",), ("",), checker=Testlib("", (("/", ""),)))
        )
    with pytest.raises(ValueError, match="only Python programs have files"):
        native_judge.run(Program("", language="c"), StdinTests(("",), ("",), input_file="a.txt"))
    talk = StdinTests(("",), ("",), checker=Interactor(GUESSING), output_file="a.txt")
    with pytest.raises(ValueError, match="only Python programs have files"):
        native_judge.run(Program(""), talk)
    with pytest.raises(ValueError, match="its tests must be StdinTests"):
        native_judge.run(Program("", language="c"), AssertTests(("assert f()",)))


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs get a verdict of the judge's failure that names the package."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with Judge(workers=1) as judge:
        for language, package in (("cpp", "g++"), ("c", "gcc")):
            verdict = judged(judge, SUM, language=language)
            assert verdict.status is Status.INFRASTRUCTURE_ERROR
            assert f"was found; install {package} or clang" in verdict.message
        assert judge.run(Program("print(1)"), StdinTests(("",), ("1",))).passed


@pytest.mark.skipif(not shutil.which("clang++"), reason="clang is not installed")
@pytest.mark.skipif(
    str(ROOT).startswith("/tmp/"), reason="workers cover /tmp, where these tests lie"
)
def test_a_machine_with_clang_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir=ROOT) as folder, Judge(workers=1) as judge:
        for tool in ("clang", "clang++", "ld"):
            os.symlink(shutil.which(tool), f"{folder}/{tool}")
        monkeypatch.setenv("PATH", folder)
        assert judged(judge, SUM, "1 2", "3").passed
        assert judged(judge, main('puts("3");', "#include <stdio.h>"), "", "3", "c").passed
        assert judged(judge, "int main() { return x; }").error_line == 1


def test_closing_and_cancelling() -> None:
    before = open_memory_files()
    judge = Judge(workers=1)
    program = Program(SUM, language="cpp")
    cancelled = judge.submit(program, StdinTests(("1 2",), ("3",)))
    cancelled.cancel()
    waiting = judge.submit(program, StdinTests(("1 2",), ("3",)))
    assert waiting.result().passed
    late = judge.submit(Program(SUM + "// late", language="cpp"), StdinTests(("1 2",), ("3",)))
    judge.close()
    assert late.result().status in (Status.INFRASTRUCTURE_ERROR, Status.ACCEPTED)
    assert open_memory_files() == before


def open_memory_files() -> int:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("/memfd:stepcoder-" in os.readlink(link) for link in links if os.path.islink(link))
