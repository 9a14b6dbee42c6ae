"""The worker process: a warm interpreter that goes behind its walls and forks a child for each run.

Started by the judge as `python -s -S -P _worker.py EXTENSION KIND NUMPY_FOLDER SLOT ROLE`; the
judge never imports it.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

# What programs import most: every child finds these loaded already. Every page of a module is
# copied or mapped for each run, so a module has to be common to be here: hashlib (OpenSSL),
# decimal, statistics and fractions are not, and are imported by the programs that name them.
# fmt: off
WARM_MODULES = (
    "_ast", "abc", "atexit", "bisect", "collections", "collections.abc",
    "contextlib", "copy", "dataclasses", "datetime", "enum", "functools", "gc", "heapq", "inspect",
    "io", "itertools", "json", "math", "operator", "queue", "random", "re", "string", "struct",
    "sys", "textwrap", "threading", "time", "types", "typing",
)

# What test code imports and programs do not: unittest takes a child 15 ms to import.
TESTER_MODULES = ("unittest",)

# Extension modules that would hand a program raw memory or a second interpreter.
HIDDEN_MODULES = (
    "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_testbuffer", "_testmultiphase",
    "_xxsubinterpreters", "_xxinterpchannels", "_interpreters", "_interpchannels", "_interpqueues",
)
# fmt: on

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/dev/null")
# Of the folders in those, the ones that the C library itself looks into.
LIBRARY_FOLDERS = ("locale", "gconv")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SCRATCH = "/tmp"
SCRATCH_BYTES = 16 << 20
FIRST_UID = 64_000


def load_extension(path: str) -> ModuleType:
    """Load stepcoder.sandbox._launcher from its file, without the package around it."""
    loader = importlib.machinery.ExtensionFileLoader("_launcher", path)
    spec = importlib.util.spec_from_file_location("_launcher", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def readable_folders(numpy_folder: str) -> list[str]:
    """Return what a program may read: the standard library, the system's, numpy where asked for."""
    folders = [*SYSTEM_LIBRARIES, *(path for path in sys.path if os.path.exists(path))]
    if numpy_folder:
        folders += [f"{numpy_folder}/numpy", f"{numpy_folder}/numpy.libs"]
    # A parent is mounted before what lies in it.
    return sorted(folders, key=len)


def hidden_paths() -> list[str]:
    """Return what lies within the readable folders and is not for programs.

    That is HIDDEN_MODULES; packages that someone has installed, which may do the same as those; and
    the system's folders of other software, which may bring interpreters with copies of them.
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
    """Warm up, then serve orders until the judge is gone."""
    extension, kind, numpy_folder, slot, role = sys.argv[1:]
    launcher = load_extension(extension)
    sys.modules["_launcher"] = launcher
    for name in WARM_MODULES + TESTER_MODULES * (role == "tester"):
        importlib.import_module(name)
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    harness = importlib.import_module("_harness")
    sys.path.pop()
    readable = readable_folders(numpy_folder if kind == "numpy" else "")
    hidden = hidden_paths()
    if kind == "numpy":
        sys.path.append(numpy_folder)
        importlib.import_module("numpy")
        importlib.import_module("numpy.random")
    # What `site` would add for programs.
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
