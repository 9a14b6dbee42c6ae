"""Further escapes and crashes: what the filter, the file system and signals stop."""

from __future__ import annotations

import json
import os
import platform
import sysconfig

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Tests,
    Verdict,
)
from stepcoder.sandbox.libraries import Libraries

LIMITS = Limits(cpu_s=1.0, wall_s=10.0)

X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")


def value_of(judge: Judge, source: str, expected: object) -> str:
    """Return "" if `f()` gave what was expected, else what it gave instead."""
    verdict = judge.run(Program(source, "f"), CallTests(([],), (expected,)), LIMITS)
    return "" if verdict.passed else f"{verdict.status}: {verdict.message}"


@X86_64
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("clone3", 435),
        ("clone", 56),
        ("process_vm_writev", 311),
        ("memfd_create", 319),
        ("io_uring_enter", 426),
        ("add_key", 248),
        ("name_to_handle_at", 303),
        ("socket", 41),
        ("umount2", 166),
        ("move_mount", 429),
        ("mount_setattr", 442),
        ("kexec_load", 246),
        ("reboot", 169),
    ],
)
def test_a_call_only_an_escape_needs_does_not_succeed(name: str, number: int) -> None:
    from stepcoder.sandbox import _launcher

    # Killed, or refused with an error: 0 would be success.
    assert _launcher.try_filter(number) != 0, name


def test_renames_and_links_in_scratch_lead_nowhere_else(judge: Judge) -> None:
    source = """
import os, threading
def f():
    os.mkdir('a'); open('plain', 'w').write('mine')
    found = []
    def swap():
        for _ in range(300):
            try: os.rename('plain', 'a/x'); os.rename('a/x', 'plain')
            except OSError: pass
    thread = threading.Thread(target=swap); thread.start()
    for _ in range(300):
        for path in ('a/../../etc/passwd', 'a/x/../../../etc/passwd', '../../../etc/passwd'):
            try: found.append(open(path).read())
            except OSError: pass
    thread.join()
    try: os.symlink('/', 'root')
    except OSError: pass
    for path in ('root/etc/passwd', '/proc/self/root/etc/passwd', '/proc/1/root/etc/passwd'):
        try: found.append(open(path).read())
        except OSError: pass
    return found
"""
    assert value_of(judge, source, []) == ""


def test_device_and_kernel_files_cannot_be_opened(judge: Judge) -> None:
    source = """
import os
def f():
    found = []
    for path in ('/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/tty', '/dev/ptmx',
                 '/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/kcore',
                 '/proc/kallsyms', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/cgroup.procs'):
        for flags in (os.O_RDONLY, os.O_WRONLY):
            try: os.close(os.open(path, flags)); found.append(path)
            except OSError: pass
    return found
"""
    assert value_of(judge, source, []) == ""


def test_what_hands_out_raw_memory_is_nowhere_to_be_found(
    judge: Judge, libraries: list[str]
) -> None:
    # Not in the interpreter's own folders, other interpreters' or those of installed packages.
    source = """
import os
def f():
    found = []
    for folder, _, files in os.walk('/'):
        found += [os.path.join(folder, name) for name in files
                  if name.startswith(('_ctypes', '_cffi_backend', '_testcapi'))
                  and name.endswith('.so') and os.stat(os.path.join(folder, name)).st_size]
        if os.path.basename(folder) in ('site-packages', 'dist-packages'):
            found += [name for name in os.listdir(folder) if name not in SHOWN]
    return found
"""
    patient = Limits(cpu_s=30.0, wall_s=120.0)
    argument = Libraries(libraries).argument(*libraries)
    shown = [os.path.basename(path) for path in json.loads(argument)[1]] if argument else []
    for line in ("", *(f"import {name}\n" for name in libraries)):
        program = Program(f"{line}SHOWN = {shown if line else []}\n{source}", "f")
        verdict = judge.run(program, CallTests(([],), ([],)), patient)
        assert verdict.passed, verdict


def test_no_library_hands_out_ctypes(judge: Judge, libraries: list[str]) -> None:
    # Libraries are loaded before a worker isolates itself, when _ctypes could still be read.
    source = """
import gc, importlib, sys
from importlib.machinery import ExtensionFileLoader
def kinds(kind):
    return {kind}.union(*map(kinds, type.__subclasses__(kind))) if kind is not type else {kind}
def f():
    raw = {'_ctypes', '_cffi_backend', '_testcapi'}
    found = [name for name in raw if sys.modules.get(name) is not None]
    found += [k.__name__ for k in kinds(object) if k.__module__ in raw]
    found += [o.__name__ for o in gc.get_objects() if getattr(type(o), '__module__', '') in raw]
    for name in raw:
        sys.modules.pop(name, None)
        for load in (lambda: importlib.import_module(name),
                     lambda: ExtensionFileLoader(name, PLACE.format(name)).create_module(
                         importlib.util.spec_from_file_location(name, PLACE.format(name)))):
            try: load(); found.append(name)
            except ImportError: pass
    import ctypes
    for use in (lambda: ctypes.string_at(id(f), 8)[0], lambda: ctypes.CDLL(None).getpid(),
                lambda: ctypes.cast(id(f), ctypes.py_object).value,
                lambda: ctypes.c_char.from_address(id(f)).value,
                lambda: sys.modules['numpy'].arange(3).ctypes.data_as(ctypes.c_void_p).value,
                lambda: sys.modules['numpy'].random.PCG64().ctypes.next_double(),
                lambda: sys.modules['numpy'].random.PCG64().cffi.next_double()):
        try: found.append(str(use()))
        except (AttributeError, TypeError, KeyError, ImportError): pass
    return found
"""
    place = os.path.join(sysconfig.get_path("stdlib"), "lib-dynload", "{}")
    place += str(sysconfig.get_config_var("EXT_SUFFIX"))
    for name in libraries:
        program = Program(f"import {name}\nPLACE = {place!r}\n{source}", "f")
        verdict = judge.run(program, CallTests(([],), ([],)), Limits(cpu_s=10.0, wall_s=60.0))
        assert verdict.passed, verdict


def test_a_crash_dumps_no_core(judge: Judge) -> None:
    source = "import resource\ndef f(): return resource.getrlimit(resource.RLIMIT_CORE)"
    assert value_of(judge, source, (0, 0)) == ""


CRASHES = {
    "segmentation fault": (
        "code = compile('x = 12345678', '', 'exec')\nexec(code.replace(co_consts=(), co_names=()))",
        {"SIGSEGV", "SIGABRT", "SIGBUS"},
    ),
    "abort": ("import os\nos.abort()", {"SIGABRT"}),
    "bus error": (
        "import mmap, os\nf = open('x', 'wb+')\nf.truncate(8192)\nm = mmap.mmap(f.fileno(), 8192)\n"
        "f.truncate(0)\nm[4096]",
        {"SIGBUS"},
    ),
}


@pytest.mark.parametrize("name", CRASHES)
@pytest.mark.parametrize("kind", ["call", "stdin", "assert"])
def test_a_crash_is_a_runtime_error_with_its_signal(judge: Judge, name: str, kind: str) -> None:
    source, signals = CRASHES[name]
    verdict = judged(judge, source, kind)
    assert verdict.status is Status.RUNTIME_ERROR
    assert verdict.error_type in signals
    assert judge.run(Program("def f(): return 1", "f"), CallTests(([],), (1,))).passed


@pytest.mark.parametrize("number", [4, 7, 8, 9, 11, 19])
@pytest.mark.parametrize("kind", ["call", "stdin", "assert"])
def test_a_signal_to_itself_earns_nothing(judge: Judge, number: int, kind: str) -> None:
    # A program is the init of its own pid namespace, where the kernel drops such signals.
    verdict = judged(judge, f"import os\nos.kill(os.getpid(), {number})\nprint(0)", kind)
    assert verdict.status in (Status.WRONG_ANSWER, Status.RUNTIME_ERROR, Status.MEMORY_LIMIT)
    assert judge.run(Program("def f(): return 1", "f"), CallTests(([],), (1,))).passed


def judged(judge: Judge, body: str, kind: str) -> Verdict:
    """Judge `body` as the program, or as that of the function that its tests call."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = Program(body) if kind == "stdin" else Program(f"def f():\n{lines}", "f")
    tests: dict[str, Tests] = {
        "call": CallTests(([],), (1,)),
        "stdin": StdinTests(("",), ("never",)),
        "assert": AssertTests(("assert f() == 1",)),
    }
    return judge.run(program, tests[kind], LIMITS)


FORGED_LINES = {
    "sys.settrace(None)": "import sys\nsys.settrace(None)\n",
    "f_trace": "import sys\nsys._getframe().f_trace = lambda *a: None\n",
    "every tool of sys.monitoring freed": (
        "import sys\nfor i in range(6):\n"
        "    try: sys.monitoring.set_events(i, 0); sys.monitoring.free_tool_id(i)\n"
        "    except (AttributeError, ValueError): pass\n"
    ),
}


@pytest.mark.parametrize("name", FORGED_LINES)
def test_meddling_with_the_tracer_is_noticed_or_without_effect(judge: Judge, name: str) -> None:
    tail = "def f(x):\n    if x > 5:\n        return 1\n    return 2\n"
    source = FORGED_LINES[name] + tail
    first = FORGED_LINES[name].count("\n")
    verdict = judge.run(Program(source, "f"), CallTests(([1],), (2,)), LIMITS)
    assert verdict.passed
    assert verdict.tampered or {first + 2, first + 4} <= verdict.executed_lines
    assert first + 3 not in verdict.executed_lines


@pytest.mark.parametrize(
    "source",
    [
        "#" + "x" * (100 << 20),
        b"x = '\xff'".decode("latin-1") + "\n# coding: utf-7\n",
        "# -*- coding: no-such-encoding -*-\nx = 1\nraise ValueError\n",
        "\ufeff" * 3 + "x = 1",
        "x = 1\x1a\x00",
    ],
    ids=["100 MB", "latin-1", "unknown coding", "byte order marks", "nul"],
)
def test_a_strange_source_has_a_verdict(judge: Judge, source: str) -> None:
    verdict = judge.run(Program(source, "f"), CallTests(([1],), (1,)), LIMITS)
    assert verdict.status in (Status.COMPILE_ERROR, Status.RUNTIME_ERROR)
