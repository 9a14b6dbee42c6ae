"""The worker process for C and C++ programs, or for their compiler.

Started by the judge as `python -s -S -P native_worker.py EXTENSION KIND PATH SLOT ROLE` and never
imported. It isolates itself and forks a child for each run. The child starts the compiler or the
program as another process, waits for it, and is not reached by it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from types import ModuleType

# The first that is installed compiles.
COMPILERS = {"c": ("gcc", "clang", "cc"), "c++": ("g++", "clang++", "c++")}
PACKAGES = {"c": "gcc", "c++": "g++"}
TOOLS = ("cc1", "cc1plus", "collect2", "as", "ld")
SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
SCRATCH = "/tmp"
OUTPUT = f"{SCRATCH}/program"
SCRATCH_BYTES = {"native": 16 << 20, "compiler": 160 << 20}
FIRST_UID = 64_000
SETUP_FAILED = 113  # kExitSetupFailed: the machine's failure
MESSAGE_BYTES = 4096  # of the compiler, whose first error counts
# ONLINE_JUDGE keeps programs from opening files of their author's machine. Older C libraries need
# all of libpthread, whose symbols are weak.
FLAGS = (
    *("-O2", "-pipe", "-w", "-fdiagnostics-color=never", "-DONLINE_JUDGE", "-", "-x", "none"),
    *("-o", OUTPUT, "-s", "-Wl,--whole-archive", "-lpthread", "-Wl,--no-whole-archive", "-lm"),
)


def load_extension(path: str) -> ModuleType:
    """Load the extension from its file, without the package around it."""
    loader = importlib.machinery.ExtensionFileLoader("_launcher", path)
    spec = importlib.util.spec_from_file_location("_launcher", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def asked(compiler: str, *arguments: str) -> str:
    """Return what a compiler prints, "" if it does not know the question."""
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    done = subprocess.run([compiler, *arguments], env=environment, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip() + done.stderr


def chain(path: str) -> list[str]:
    """Return a path and, if it is a symbolic link, those that it leads to, without linked folders.

    g++ -> g++-12 -> x86_64-linux-gnu-g++-12: a driver is known by the name that it is called by.
    """
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if not os.path.islink(path):
        return [path]
    return [path, *chain(os.path.join(os.path.dirname(path), os.readlink(path)))]


def compilers() -> dict[str, str]:
    """Return the compiler of each language that has one on this machine."""
    found = {
        name: next(filter(None, map(shutil.which, names)), "") for name, names in COMPILERS.items()
    }
    return {language: path for language, path in found.items() if path}


def files_of(compiler: str, language: str) -> list[str]:
    """Return what a compiler reads: its programs, its libraries, and the folders of headers."""
    folders = [asked(compiler, "-print-resource-dir")]  # clang's
    for line in asked(compiler, "-print-search-dirs").splitlines():
        kind, _, found = line.partition(": =")
        folders += found.split(":") if kind in ("programs", "libraries") else []
    headers = asked(compiler, "-x", language, "-E", "-v", "/dev/null")
    headers = headers.partition("search starts here:")[2].partition("End of search list.")[0]
    folders += [line.strip() for line in headers.splitlines()]
    tools = [shutil.which(asked(compiler, f"-print-prog-name={tool}")) for tool in TOOLS]
    programs = [file for path in [compiler, *tools] if path for file in chain(path)]
    real = {os.path.realpath(folder) for folder in folders if os.path.isdir(folder)} - {"/"}
    # clang names the folder that it lies in, which has all the machine's programs.
    real -= {os.path.dirname(program) for program in programs}
    return [*programs, *real, *SYSTEM_LIBRARIES]


def is_static(compiler: str) -> bool:
    """Return whether the libraries for programs that need no file are installed."""
    libraries = ("libc.a", "libstdc++.a" if "+" in os.path.basename(compiler) else "libm.a")
    return all(os.path.isabs(asked(compiler, f"-print-file-name={name}")) for name in libraries)


def within(paths: list[str]) -> list[str]:
    """Return the paths that lie in none of the others."""
    folders = tuple(f"{path}/" for path in paths if not os.path.islink(path))
    return [path for path in sorted(set(paths)) if not path.startswith(folders)]


def lay_out(files: dict[str, bytes]) -> None:
    """Write files to the scratch folder of this run."""
    for name, content in files.items():
        with open(f"{SCRATCH}/{name}", "wb") as file:
            file.write(content)


class Compiler:
    """Compiles the source on stdin; the program is the output of its run."""

    def __init__(self, launcher: ModuleType) -> None:
        """Find the compilers of this machine."""
        self.launcher = launcher
        self.commands: dict[str, list[str]] = {}
        self.readable: list[str] = []
        for language, compiler in compilers().items():
            self.commands[language] = [chain(compiler)[0], *["-static"] * is_static(compiler)]
            self.readable += files_of(compiler, language)
        self.readable = within(self.readable)
        self.environment = ["LC_ALL=C", f"TMPDIR={SCRATCH}", f"PATH={os.environ['PATH']}"]

    def run(self, request: tuple[str, str, dict[str, bytes]], _channel: int) -> None:
        """Compile in this child."""
        language, standard, headers = request
        if language not in self.commands:
            name = language.upper()
            line = f"no compiler for {name} was found; install {PACKAGES[language]} or clang\n"
            os.write(2, line.encode())
            os._exit(SETUP_FAILED)
        argv = [*self.commands[language], "-x", language, f"-std={standard}", *FLAGS]
        lay_out(headers)
        if self.launcher.run_native(True, argv, self.environment, -1) != 0:
            if os.fstat(2).st_size > MESSAGE_BYTES:
                os.ftruncate(2, MESSAGE_BYTES)
            return
        program = os.open(OUTPUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        left = os.fstat(program)
        if stat.S_ISREG(left.st_mode):
            while os.sendfile(1, program, None, left.st_size):
                continue


class Native:
    """Runs the program that the judge sends along."""

    def __init__(self, launcher: ModuleType) -> None:
        """Say what a program may read: nothing, or the libraries that it is not linked with."""
        self.launcher = launcher
        static = all(map(is_static, compilers().values()))
        self.readable = [] if static else [*SYSTEM_LIBRARIES]

    def run(self, request: tuple[list[str], bool, dict[str, bytes]], channel: int) -> None:
        """Lay out the files of the run and run the program beside this child."""
        argv, reads_dev_stdin, files = request
        stdin_bytes = os.fstat(0).st_size
        if reads_dev_stdin and stdin_bytes < SCRATCH_BYTES["native"] // 2:
            files = {**files, ".stdin": os.pread(0, stdin_bytes, 0)}  # where /dev/stdin leads to
        lay_out(files)
        self.launcher.run_native(False, argv, [], channel)


def main() -> None:
    """Serve runs until the judge is gone."""
    extension, kind, path, slot, _role = sys.argv[1:]
    os.environ["PATH"] = path
    launcher = load_extension(extension)
    guest = Compiler(launcher) if kind == "compiler" else Native(launcher)
    launcher.serve_native(
        compiler=kind == "compiler",
        readable=guest.readable,
        scratch=SCRATCH,
        scratch_bytes=SCRATCH_BYTES[kind],
        own_uid=FIRST_UID + int(slot),
        run=guest.run,
    )


main()
os._exit(0)
