"""The worker process: a warm interpreter that isolates itself and forks a child for each run.

Started by the judge as `python -s -S -P worker.py EXTENSION LIBRARIES SLOT ROLE` and never
imported. LIBRARIES is empty or JSON: the libraries to load, and the paths of all that programs may
read. A script has no package around it, so `load_harness` makes one for its siblings.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

# The modules that programs import most, loaded before any child is forked. Every page of a module
# is copied or mapped for each run, so only common ones are here: hashlib (OpenSSL), decimal,
# statistics and fractions are left to the programs that import them.
# fmt: off
WARM_MODULES = (
    "_ast", "abc", "atexit", "bisect", "collections", "collections.abc",
    "contextlib", "copy", "dataclasses", "datetime", "enum", "functools", "gc", "heapq", "inspect",
    "io", "itertools", "json", "math", "operator", "queue", "random", "re", "string", "struct",
    "sys", "textwrap", "threading", "time", "types", "typing",
)

# Modules that test code imports and programs do not. unittest takes a child 15 ms to import.
TESTER_MODULES = ("unittest",)

# What libraries import only where it is used, which would take each child that does long.
LAZY_MODULES = {
    "numpy": ("random",),
    "scipy": (
        "cluster.hierarchy", "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize",
        "signal", "sparse.csgraph", "sparse.linalg", "spatial.distance", "special", "stats",
    ),
}

# Extension modules that would hand a program raw memory or a second interpreter.
HIDDEN_MODULES = (
    "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_testbuffer", "_testmultiphase",
    "_xxsubinterpreters", "_xxinterpchannels", "_interpreters", "_interpchannels", "_interpqueues",
    "_cffi_backend",
)
# fmt: on

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/dev/null")
TIME_ZONES = "/usr/share/zoneinfo"  # where the module zoneinfo looks first
# The folders within those that the C library itself reads.
LIBRARY_FOLDERS = ("locale", "gconv")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SCRATCH = "/tmp"
SCRATCH_BYTES = 16 << 20
FIRST_UID = 64_000


def load_file(name: str, path: str) -> ModuleType:
    """Load a module from its file, without the package around it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_harness(launcher: ModuleType) -> ModuleType:
    """Load the modules beside this file as the package `_sandbox.guest`."""
    here = os.path.dirname(os.path.abspath(__file__))
    outer, inner = ModuleType("_sandbox"), ModuleType("_sandbox.guest")
    outer.__path__, inner.__path__ = [], [here]
    vars(outer)["_launcher"] = launcher
    sys.modules.update({"_launcher": launcher, "_sandbox": outer, "_sandbox.guest": inner})
    harness = importlib.import_module("_sandbox.guest.harness")
    inner.__path__.clear()  # programs import nothing more from there
    return harness


class LibraryFinder:
    """Finds what programs may read of libraries, in folders that hold other packages too."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Note where each of the paths lies."""
        self.folders = {module_name(path): os.path.dirname(path) for path in paths}

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module or package."""
        if path is not None or name not in self.folders:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [self.folders[name]])


def module_name(path: str) -> str:
    """Return the name under which a file or folder can be imported."""
    return os.path.basename(path).partition(".")[0]


def load_libraries(names: list[str], paths: list[str]) -> None:
    """Import libraries before any child is forked, without what programs must not have.

    Ends the worker, with one line, if that fails or starts a thread: a process with threads can
    neither isolate itself nor fork.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sys.modules["ctypes"] = load_file("ctypes", f"{here}/no_ctypes.py")
    # None: an import of them fails.
    sys.modules.update(dict.fromkeys(HIDDEN_MODULES))  # type: ignore[arg-type]
    finder = LibraryFinder(paths)
    sys.meta_path.append(finder)
    try:
        for name in names:
            importlib.import_module(name)
        for name, lazy in LAZY_MODULES.items():
            for module in lazy if name in sys.modules else ():
                importlib.import_module(f"{name}.{module}")
    except Exception as error:
        give_up(f"{name} cannot be imported in the sandbox: {error!r}")
    sys.meta_path.remove(finder)
    sys.path += dict.fromkeys(finder.folders.values())
    for name in HIDDEN_MODULES:
        del sys.modules[name]
    if len(os.listdir("/proc/self/task")) > 1:
        give_up(f"importing {', '.join(names)} starts threads; leave it out of the libraries")


def give_up(why: str) -> NoReturn:
    """End the worker, whatever threads there are; the judge's message ends with the reason."""
    os.write(2, why.encode())
    os._exit(1)


def readable_paths(libraries: list[str]) -> list[str]:
    """Return what a program may read: the standard library, system libraries and its judge's."""
    folders = [*SYSTEM_LIBRARIES, TIME_ZONES, *(path for path in sys.path if os.path.exists(path))]
    folders += [path for path in libraries if module_name(path) not in HIDDEN_MODULES]
    # Parents come first, since they are mounted before what lies in them.
    return sorted(folders, key=len)


def hidden_paths() -> list[str]:
    """Return the paths within the readable folders that programs may not read.

    These are HIDDEN_MODULES, installed packages, which may do the same as those, and the system's
    folders of other software, which may hold interpreters with copies of them.
    """
    found = [
        os.path.join(folder, name + suffix)
        for folder in sys.path
        for name in HIDDEN_MODULES
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
    ]
    found += [f"{folder}/{name}" for folder in sys.path for name in PACKAGE_FOLDERS]
    kept = {*LIBRARY_FOLDERS, getattr(sys.implementation, "_multiarch", "")}
    own = [os.path.realpath(folder) + "/" for folder in sys.path]
    for library in filter(os.path.isdir, SYSTEM_LIBRARIES):
        if os.path.islink(library):  # /lib -> usr/lib
            continue
        for entry in os.scandir(library):
            is_own = any(path.startswith(entry.path + "/") for path in own)
            if entry.is_dir(follow_symlinks=False) and entry.name not in kept and not is_own:
                found.append(entry.path)
    return [path for path in found if os.path.exists(path)]


def main() -> None:
    """Warm up, then serve runs until the judge is gone."""
    extension, libraries, slot, role = sys.argv[1:]
    launcher = load_file("_launcher", extension)
    for name in WARM_MODULES + TESTER_MODULES * (role == "tester"):
        importlib.import_module(name)
    harness = load_harness(launcher)
    del sys.modules["_launcher"]  # nothing in it is for programs
    names, paths = json.loads(libraries or "[[], []]")
    readable = readable_paths(paths)
    hidden = hidden_paths()
    if names:
        load_libraries(names, paths)
    # Programs expect these two, which the module `site` would add.
    builtins.exit = _sitebuiltins.Quitter("exit", "")
    builtins.quit = _sitebuiltins.Quitter("quit", "")
    os.environ.clear()
    sys.argv[:] = [""]
    launcher.serve(
        readable=readable,
        hidden=hidden,
        # An environment in /tmp would be covered by the scratch folder.
        scratch="/scratch" if any(p.startswith(f"{SCRATCH}/") for p in readable) else SCRATCH,
        scratch_bytes=SCRATCH_BYTES,
        own_uid=FIRST_UID + int(slot),
        run=harness.run,
        rehearse=harness.rehearse,
        rehearse_small=harness.rehearse_small,
    )


main()
os._exit(0)
