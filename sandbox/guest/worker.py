"""The worker process: a warm interpreter that isolates itself and forks a child for each run.

Started by the judge as `python -s -S -P worker.py EXTENSION KIND NUMPY_FOLDER SLOT ROLE` and never
imported. A script has no package around it, so `load_harness` makes one for its siblings.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

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

# Extension modules that would hand a program raw memory or a second interpreter.
HIDDEN_MODULES = (
    "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_testbuffer", "_testmultiphase",
    "_xxsubinterpreters", "_xxinterpchannels", "_interpreters", "_interpchannels", "_interpqueues",
)
# fmt: on

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/dev/null")
# The folders within those that the C library itself reads.
LIBRARY_FOLDERS = ("locale", "gconv")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SCRATCH = "/tmp"
SCRATCH_BYTES = 16 << 20
FIRST_UID = 64_000


def load_extension(path: str) -> ModuleType:
    """Load the extension from its file, without the package around it."""
    loader = importlib.machinery.ExtensionFileLoader("_launcher", path)
    spec = importlib.util.spec_from_file_location("_launcher", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
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


def readable_folders(numpy_folder: str) -> list[str]:
    """Return what a program may read: the standard library, system libraries and perhaps numpy."""
    folders = [*SYSTEM_LIBRARIES, *(path for path in sys.path if os.path.exists(path))]
    if numpy_folder:
        folders += [f"{numpy_folder}/numpy", f"{numpy_folder}/numpy.libs"]
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
    extension, kind, numpy_folder, slot, role = sys.argv[1:]
    launcher = load_extension(extension)
    for name in WARM_MODULES + TESTER_MODULES * (role == "tester"):
        importlib.import_module(name)
    harness = load_harness(launcher)
    del sys.modules["_launcher"]  # nothing in it is for programs
    readable = readable_folders(numpy_folder if kind == "numpy" else "")
    hidden = hidden_paths()
    if kind == "numpy":
        sys.path.append(numpy_folder)
        importlib.import_module("numpy")
        importlib.import_module("numpy.random")
    # Programs expect these two, which the module `site` would add.
    builtins.exit = _sitebuiltins.Quitter("exit", "")
    builtins.quit = _sitebuiltins.Quitter("quit", "")
    os.environ.clear()
    sys.argv[:] = [""]
    launcher.serve(
        readable=readable,
        hidden=hidden,
        scratch=SCRATCH,
        scratch_bytes=SCRATCH_BYTES,
        own_uid=FIRST_UID + int(slot),
        run=harness.run,
        rehearse=harness.rehearse,
        rehearse_small=harness.rehearse_small,
    )


main()
os._exit(0)
