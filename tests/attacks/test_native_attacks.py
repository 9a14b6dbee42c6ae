"""Attacks in C and C++, on the judge's machine and through the compiler.

One judge with one worker of each kind serves them all, and an honest program follows each.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Interactor,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Testlib,
    Verdict,
    native,
)

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no compiler (install g++)")

ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64's own calls")
INCLUDES = """
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <vector>
#include <fcntl.h>
#include <sched.h>
#include <linux/seccomp.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
using namespace std;
// Prints what the test expects if the attack has got through.
void report(long result) { if (result >= 0) { puts("ESCAPED"); exit(0); } }
"""
HONEST = Program(
    "#include <cstdio>\nint main() { int x; if (scanf(\"%d\", &x) == 1) printf(\"%d\", x + 1); }",
    language="cpp",
)  # fmt: skip


@pytest.fixture(scope="module")
def native_judge() -> Iterator[Judge]:
    limits = Limits(cpu_s=1.0, wall_s=20.0, memory_bytes=256 << 20, output_bytes=1 << 16)
    # Shorter than a judge's own, since many of the sources below use all of it.
    compile_limits = replace(native.COMPILE_LIMITS, cpu_s=3.0, wall_s=30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "COMPILE_LIMITS", compile_limits)
        with Judge(workers=1, limits=limits) as judge:
            yield judge


def attack(judge: Judge, source: str, expected: str = "ESCAPED") -> Verdict:
    verdict = judge.run(Program(source, language="cpp"), StdinTests(("",), (expected,)))
    after = judge.run(HONEST, StdinTests(("41",), ("42",)))
    assert (after.status, after.message) == (Status.ACCEPTED, "")
    return verdict


def body(code: str) -> str:
    return f"{INCLUDES}\nint main() {{\n{code}\n}}\n"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("execve", 'report(execl("/bin/sh", "sh", "-c", "echo ESCAPED", nullptr));'),
        ("execveat", 'report(syscall(SYS_execveat, 1, "", nullptr, nullptr, AT_EMPTY_PATH));'),
        ("execveat", 'report(syscall(SYS_execveat, 5, "", nullptr, nullptr, AT_EMPTY_PATH, 0L));'),
        ("ptrace", "report(ptrace(PTRACE_TRACEME, 0, 0, 0));"),
        ("ptrace", "report(ptrace(PTRACE_ATTACH, 1, 0, 0));"),
        ("process_vm_readv", "char b[8]; iovec l{b, 8}, r{b, 8}; report(process_vm_readv("
         "1, &l, 1, &r, 1, 0));"),
        ("mount", 'report(mount("proc", "/tmp", "proc", 0, ""));'),
        ("umount2", 'report(umount2("/", MNT_DETACH));'),
        ("chroot", 'report(chroot("/tmp"));'),
        ("unshare", "report(unshare(CLONE_NEWUSER));"),
        ("setns", "report(setns(0, 0));"),
        ("clone", "report(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));"),
        ("bpf", "report(syscall(SYS_bpf, 0, 0, 0));"),
        ("io_uring_setup", "report(syscall(SYS_io_uring_setup, 4, 0));"),
        ("userfaultfd", "report(syscall(SYS_userfaultfd, 0));"),
        ("perf_event_open", "report(syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));"),
        ("seccomp", "report(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, 0));"),
        ("setuid", "report(syscall(SYS_setuid, 0));"),
        ("pidfd_open", "report(syscall(434, 1, 0));"),
        ("keyctl", "report(syscall(SYS_keyctl, 0, 0, 0, 0, 0));"),
        ("reboot", "report(syscall(SYS_reboot, 0, 0, 0, 0));"),
        # It cannot take the signal of a violation, nor go on in another thread.
        ("mount", 'signal(SIGSYS, [](int) {}); mount("", "", "", 0, ""); report(0);'),
        ("mount", "thread([] { syscall(SYS_mount, 0, 0, 0, 0, 0); }).join(); report(0);"),
        ("mount", "thread t([] { syscall(SYS_mount, 0, 0, 0, 0, 0); }); sleep(5); report(0);"),
    ],
)  # fmt: skip
def test_what_only_an_escape_needs_is_named(native_judge: Judge, call: str, code: str) -> None:
    verdict = attack(native_judge, body(code))
    assert (verdict.status, verdict.message) == (
        Status.SECURITY_VIOLATION,
        f"system call {call} is not allowed",
    )


@pytest.mark.parametrize(
    "code",
    [
        # Nobody outside is reached.
        "report(socket(AF_INET, SOCK_STREAM, 0));",
        "report(socket(AF_UNIX, SOCK_DGRAM, 0));",
        "report(socket(AF_NETLINK, SOCK_RAW, 0));",
        "report(syscall(SYS_fork));",
        "report(fork());",
        "report(vfork());",
        "report(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));",
        "report(syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0, 0));",
        "report(syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));",
        "report(syscall(435, 0, 0));",  # clone3
        "report(kill(-1, SIGKILL));",  # there is only the init of its namespace
        "kill(1, SIGKILL); kill(1, SIGTERM); kill(getppid(), SIGSTOP); return 1;",
        "rlimit l{0, 0}; report(prlimit(1, RLIMIT_CPU, &l, nullptr));",
        "rlimit l{RLIM_INFINITY, RLIM_INFINITY}; report(setrlimit(RLIMIT_AS, &l));",
        "rlimit l{1 << 20, 1 << 20}; report(setrlimit(RLIMIT_FSIZE, &l));",
        "report(setpriority(PRIO_PROCESS, 1, 19));",
        "report(prctl(PR_SET_DUMPABLE, 1));",
        "report(prctl(PR_SET_PDEATHSIG, 0));",
        # No file but its scratch folder's is there.
        'report(open("/etc/passwd", O_RDONLY));',
        'report(open("/proc/self/environ", O_RDONLY));',
        'report(open("/proc/1/mem", O_RDWR));',
        'report(open("/sys/kernel", O_RDONLY));',
        'report(open("/dev/zero", O_RDONLY));',
        'report(open("/usr/lib", O_RDONLY));',
        'report(open("/lib64/ld-linux-x86-64.so.2", O_RDONLY));',
        'report(open("/../../etc/passwd", O_RDONLY));',
        'symlink("/etc/passwd", "p"); report(open("p", O_RDONLY));',
        'report(open("/new", O_CREAT | O_RDWR, 0777));',
        'report(mkdir("/dev/shm", 0777));',
        'report(unlink("/dev/stdin"));',
        'report(mknod("/tmp/null", S_IFCHR | 0666, 1 << 8 | 3));',
        "report(syscall(SYS_memfd_create, \"m\", 0));",
        'report(syscall(437, AT_FDCWD, "/etc/passwd", 0, 0));',  # openat2
        # Nothing is open but stdin, stdout and stderr.
        "for (int fd = 3; fd < 1024; ++fd) report(fcntl(fd, F_GETFD));",
        "for (int fd = 3; fd < 64; ++fd) report(write(fd, \"x\", 1));",
        "dup2(0, 9); close(9); report(read(9, nullptr, 0));",
        # What would stay on the descriptors of the next run.
        "fcntl(0, F_SETFL, O_APPEND | O_NONBLOCK); return 1;",
        "fcntl(1, F_SETFL, O_APPEND | O_NONBLOCK | O_ASYNC); return 1;",
        "int on = 1; ioctl(0, FIONBIO, &on); return 1;",
        "flock(0, LOCK_EX | LOCK_NB); return 1;",
        "struct flock l{}; l.l_type = F_WRLCK; fcntl(1, F_SETLK, &l); return 1;",
        "report(fcntl(0, 1033, 0xf));",  # F_ADD_SEALS
        "report(fchmod(0, 0));",
        "report(fcntl(0, F_SETOWN, 1));",
    ],
)  # fmt: skip
def test_the_rest_is_refused(native_judge: Judge, code: str) -> None:
    verdict = attack(native_judge, body(code))
    assert verdict.status in (
        Status.WRONG_ANSWER, Status.RUNTIME_ERROR, Status.SECURITY_VIOLATION
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        ("while (true) fork();", {Status.CPU_TIME_LIMIT}),
        ("vector<thread> v; while (true) v.emplace_back([] { sleep(100); });",
         {Status.RUNTIME_ERROR, Status.MEMORY_LIMIT}),
        ("while (true) if (!mmap(0, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) return 1;",
         {Status.CPU_TIME_LIMIT}),
        ("for (;;) { auto p = (char*)malloc(1 << 20); if (!p) return 1; memset(p, 1, 1 << 20); }",
         {Status.RUNTIME_ERROR, Status.MEMORY_LIMIT}),
        ("string b(1 << 20, 'x'); for (int i = 0;; ++i) { int f = open(to_string(i).c_str(), "
         "O_CREAT | O_RDWR, 0600); if (write(f, b.data(), b.size()) < 0) return 1; }",
         {Status.RUNTIME_ERROR, Status.OUTPUT_LIMIT}),
        ("for (int i = 0; i < 100000; ++i) if (mkdir(to_string(i).c_str(), 0) < 0) return 1;",
         {Status.RUNTIME_ERROR}),
        ("for (int i = 0; i < 99; ++i) { mkdir(\"d\", 0700); chdir(\"d\"); } return 1;",
         {Status.RUNTIME_ERROR}),
        ("ftruncate(1, 1L << 40); fallocate(1, 0, 0, 1L << 40); return 1;",
         {Status.RUNTIME_ERROR, Status.OUTPUT_LIMIT}),
        ("lseek(1, 1L << 40, SEEK_SET); write(1, \"x\", 1);",
         {Status.RUNTIME_ERROR, Status.OUTPUT_LIMIT, Status.WRONG_ANSWER}),
        ("for (int s = 1; s < 65; ++s) signal(s, SIG_IGN); while (true) pause();",
         {Status.WALL_TIME_LIMIT}),
        ("sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, 0); for (;;);",
         {Status.CPU_TIME_LIMIT}),
        ("kill(getpid(), SIGSTOP);", {Status.WALL_TIME_LIMIT}),
        ("function<int(int)> f = [&](int x) { return f(x + 1) + 1; }; return f(0);",
         {Status.RUNTIME_ERROR, Status.MEMORY_LIMIT}),
        # Memory that stays in use where no page table shows it, which is refused.
        ("auto p = (char*)mmap(0, 1L << 31, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);"
         "for (long i = 0; i < 1L << 31; i += 4096) { p[i] = 1; madvise(p, i, MADV_DONTNEED); }",
         {Status.RUNTIME_ERROR}),
        ("mmap(0, 1L << 31, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0); for (;;);",
         {Status.MEMORY_LIMIT}),
        ("vector<thread> v; for (int i = 0; i < 8; ++i) v.emplace_back([] { for (;;)"
         "memset(malloc(1 << 26), 1, 1 << 26); }); for (;;);", {Status.MEMORY_LIMIT}),
        # Harmless: memory that can be written and run means nothing for machine code.
        ("if (mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) return 1;",
         {Status.RUNTIME_ERROR}),
        # A 32-bit call has other numbers than those that the filter knows.
        pytest.param("asm volatile(\"int $0x80\" :: \"a\"(20));", {Status.SECURITY_VIOLATION},
                     marks=ON_X86),
        pytest.param("syscall(0x40000000 + 39);", {Status.SECURITY_VIOLATION}, marks=ON_X86),
        pytest.param("asm volatile(\"hlt\");", {Status.RUNTIME_ERROR}, marks=ON_X86),
    ],
)  # fmt: skip
def test_exhaustion_ends_with_its_verdict(
    native_judge: Judge, code: str, statuses: set[Status]
) -> None:
    limits = Limits(cpu_s=1.0, wall_s=3.0, memory_bytes=256 << 20, output_bytes=1 << 16)
    program = Program(body(code), language="cpp")
    verdict = native_judge.run(program, StdinTests(("",), ("ESCAPED",)), limits)
    assert verdict.status in statuses, verdict.message
    assert native_judge.run(HONEST, StdinTests(("41",), ("42",))).passed


def test_a_run_leaves_nothing_to_the_next(native_judge: Judge) -> None:
    leave = body(
        'ofstream("left") << 1; ofstream(".stdin") << 1; mkdir("d", 0); mkdir("/tmp/e", 0);'
        'write(0, "changed", 7); ftruncate(0, 3); lseek(0, 2, SEEK_SET); lseek(1, 9, SEEK_SET);'
        "umask(0777); thread([] { sleep(100); }).detach(); fflush(0); _exit(1);"
    )
    assert attack(native_judge, leave).status is Status.RUNTIME_ERROR
    look = body(
        'for (auto& e : filesystem::directory_iterator("/tmp")) cout << e.path() << endl;'
        'ofstream("x") << 1; int x; cin >> x; cout << x << (access("x", R_OK) == 0);'
    )
    verdict = native_judge.run(Program(look, language="cpp"), StdinTests(("41",), ("411",)))
    assert verdict.message == ""


@pytest.mark.parametrize(
    "source",
    [
        '#include "/etc/passwd"',
        "#include </etc/passwd>",
        '#include "../../../../etc/passwd"',
        '#include "/proc/self/environ"',
        '#include "/proc/self/mem"',
        "#include </dev/zero>",
        "#include </dev/urandom>",
        '#include "/dev/stdin"',
        "#include </usr/bin/g++>",
        "#include __FILE__",
        'asm(".include \\"/etc/passwd\\"");\nint main() {}',
        'asm(".incbin \\"/etc/passwd\\"");\nint main() {}',
        'asm(".incbin \\"/proc/self/environ\\"");\nint main() {}',
        'asm(".incbin \\"/dev/zero\\"");\nint main() {}',
        'asm(".fill 1 << 40");\nint main() {}',
        'asm(".rept 1000000000\\n.quad 1\\n.endr");\nint main() {}',
        "int a[1 << 30] = {1};\nint main() {}",
        "char a[1LL << 40] = {1};\nint main() {}",
        "template <int n> struct A { A<n + 1> next; };\nA<0> a;\nint main() {}",
        "template <int n> struct A { static const int v = A<n-1>::v + A<n-2>::v; };\n"
        "template <class T, class U> struct P {};\n"
        "template <int n, class T> struct B { typename B<n-1, P<T, T>>::t x; };\n"
        "B<500, int> b;\nint main() {}",
        "constexpr int f() { int i = 0; while (true) i ^= 1; return i; }\n"
        "constexpr int x = f();\nint main() {}",
        "\n".join(["#define A0 1"] + [f"#define A{i} A{i-1} A{i-1} A{i-1}" for i in range(1, 40)])
        + "\nint x[] = {A39};",
        "(" * 100_000,
        "int main() { return " + "-(" * 50_000 + "1" + ")" * 50_000 + "; }",
        "#include <bits/stdc++.h>\n" * 3 + "int main() {" + "std::map<int, int> m;" * 20_000 + "}",
        "#pragma GCC plugin \"/tmp/x.so\"\nint x",
        "\0" * 1000,
        "\ud800 int",
        "int main() { " + "{" * 100_000,
        "#line 99999 \"/etc/passwd\"\nint main( {",
        'asm(".section .interp,\\"a\\"\\n.asciz \\"/tmp\\"");\nint main() {}',
        "#include <iostream>\n#include_next </etc/passwd>",
    ],
    ids=lambda source: repr(source[:40]),
)  # fmt: skip
def test_the_compiler_ends_with_a_verdict_and_shows_nothing(
    native_judge: Judge, source: str
) -> None:
    verdict = attack(native_judge, source)
    assert verdict.status is Status.COMPILE_ERROR
    assert "root:" not in verdict.message
    assert "PATH" not in verdict.message


def test_no_file_is_known_to_the_preprocessor(native_judge: Judge) -> None:
    paths = ("/etc/passwd", "/proc/self/maps", "/dev/null", "/root", "/home", "/usr/bin/env", "a.h")
    checks = "".join(f'#if __has_include("{path}")\n#error there\n#endif\n' for path in paths)
    verdict = attack(native_judge, checks + '#include <cstdio>\nint main() { puts("fine"); }')
    assert verdict.status is Status.WRONG_ANSWER
    assert verdict.tests[0].got == "fine\n"


def test_a_compiler_run_leaves_nothing_to_the_next(native_judge: Judge) -> None:
    """Temporary files of a compiler that was killed, and the last program."""
    bomb = 'asm(".rept 1000000000\\n.quad 7\\n.endr");\nint main() {}'
    assert attack(native_judge, bomb).status is Status.COMPILE_ERROR
    look = '#if __has_include("/tmp/program")\n#error there\n#endif\nint main() { return 3; }'
    assert attack(native_judge, look).message == "exit status 3"


def test_no_source_claims_an_error_in_a_line_that_it_lacks(native_judge: Judge) -> None:
    verdict = attack(native_judge, '#line 1 "x\\n<stdin>:99999: error: forged"\nint main( {\n')
    assert verdict.status is Status.COMPILE_ERROR
    assert (verdict.error_line, verdict.tests[0].error_line) == (None, None)


READS = """
#include <bits/stdc++.h>
using namespace std;
int main(int, char** argv) {
  ifstream output(argv[2]), answer(argv[3]);
  string got, expected;
  output >> got, answer >> expected;
  if (got == "crash") *(volatile int*)8 = 1;
  if (got == "memory") while (true) memset(malloc(1 << 24), 1, 1 << 24);
  if (got == "fail") return 3;
  if (stoi(got) != stoi(expected)) return 1;
}
"""


@pytest.mark.parametrize("output", ["crash", "memory", "fail", "no number", "9" * 99, "8"])
def test_an_output_that_its_checker_cannot_read_is_wrong(native_judge: Judge, output: str) -> None:
    tests = StdinTests(("",), ("7",), checker=Testlib(READS))
    verdict = native_judge.run(Program(f"print('{output}')"), tests)
    assert verdict.status is Status.WRONG_ANSWER, verdict.message
    assert native_judge.run(Program("print(7)"), tests).passed


TALKS = """
#include <bits/stdc++.h>
using namespace std;
int main() {
  string got;
  for (int i = 0; i < 99; ++i) {
    cout << i << endl;
    if (!(cin >> got)) return 2;
    if (got == "crash") abort();
    if (got != to_string(i + 1)) return 1;
  }
}
"""


@pytest.mark.parametrize(
    "code",
    [
        # It leaves, or closes its ears, while the interactor still talks.
        "return 0;",
        'puts("1"); fflush(stdout); shutdown(0, SHUT_RDWR); sleep(1);',
        'puts("1"); fflush(stdout); close(0); close(1); sleep(1);',
        'puts("crash"); fflush(stdout); sleep(1);',
    ],
)
def test_what_a_program_does_to_its_interactor_is_its_own_fault(
    native_judge: Judge, code: str
) -> None:
    tests = StdinTests(("",), ("",), checker=Interactor(TALKS))
    verdict = native_judge.run(Program(body(code), language="cpp"), tests)
    assert verdict.status is Status.WRONG_ANSWER, verdict.message
    honest = "for _ in range(99): print(int(input()) + 1, flush=True)"
    assert native_judge.run(Program(honest), tests).passed
    broken = StdinTests(("",), ("",), checker=Interactor("int main() { __builtin_trap(); }"))
    assert native_judge.run(Program(honest), broken).status is Status.INFRASTRUCTURE_ERROR


def test_descriptors_under_way_keep_no_other_program_from_its_own(native_judge: Judge) -> None:
    """The kernel counts them for all processes of a user; another judge's have the same users."""
    hold = """
import os, socket, time
left, right = socket.socketpair()
descriptors = [os.dup(0) for _ in range(50)]
try:
    while True: socket.send_fds(left, [b'x'], descriptors)
except OSError:
    time.sleep(2)
"""
    indirect = AssertTests(("got = f(1)\nassert got == 2",))
    with Judge(workers=1) as other:
        assert other.run(Program("print(1)"), StdinTests(("",), ("1",))).passed
        future = other.submit(Program(hold), StdinTests(("",), ("",)))
        while not future.done():
            assert native_judge.run(HONEST, StdinTests(("41",), ("42",))).message == ""
            apart = native_judge.run(Program("import gc\ndef f(x): return x + 1", "f"), indirect)
            assert apart.message == ""
        assert future.result().passed


def test_python_programs_are_judged_as_before(native_judge: Judge) -> None:
    assert native_judge.run(Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,))).passed
    assert native_judge.run(Program("print(int(input()))"), StdinTests(("1",), ("1",))).passed
