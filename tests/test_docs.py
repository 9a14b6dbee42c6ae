"""The pages against the code: links, paths, commands, the map of files, and who imports whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = ("stepcoder", "kernels", "sandbox", "csrc", "bench", "deploy", "tests", "docs", ".ci")
LINKS = {"kernels", "sandbox"}  # `stepcoder/kernels` and `stepcoder/sandbox` are links to them
GENERATED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".benchmarks"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def files_under(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder of the repository, without links and what tools leave behind."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in GENERATED:
            continue
        if path.is_dir():
            yield from files_under(path)
        elif path.suffix not in (".so", ".pyc"):
            yield path


FILES = [path for folder in FOLDERS for path in files_under(ROOT / folder)]


@pages
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pages
def test_links_to_headings_lead_to_one(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            text = (page.parent / target).read_text() if target else page.read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert heading in slugs, f"{target}#{heading}"


@pages
def test_paths_of_the_repository_exist(page: Path) -> None:
    text = page.read_text()
    in_code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (.+)$", text, re.MULTILINE)
    for word in {word.rstrip(".,;:") for code in in_code for word in code.split()}:
        path = word.split("::")[0].rstrip("/")
        if re.search(r"[^\w./\-]", path) or path.startswith(("/", "~")):
            continue  # an option, an expression, a pattern, a path of the machine
        if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert (ROOT / path).exists() or exists_under("stepcoder", path), word
        elif path.endswith((".py", ".cpp", ".h", ".sh", ".svg", ".pyi")):
            # Pages also name files by their end: `method/fgo.py`, `compare.py`.
            assert any(str(file).endswith(f"/{path}") for file in FILES), word


def exists_under(folder: str, path: str) -> bool:
    return (ROOT / folder / path).exists()


def commands() -> list[str]:
    """Return the modules that pages run."""
    found = {
        name.rstrip(".")
        for page in PAGES
        for name in re.findall(r"python -m (stepcoder[\w.]*(?: serve\b)?)", page.read_text())
    }
    return sorted(found)


def test_every_command_answers_help() -> None:
    def answer(command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command.split(), "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return "" if done.returncode == 0 and done.stdout else f"{command}: {done.stderr}"

    assert "stepcoder.train" in commands()
    with ThreadPoolExecutor(2) as threads:
        assert not [line for line in threads.map(answer, commands()) if line]


def listed_files() -> dict[str, str]:
    """Return the files that architecture.md gives a line, each with what it says."""
    found, folder = {}, ""
    for line in ARCHITECTURE.split("## Every file")[1].splitlines():
        if heading := re.match(r"### `(.*/)`", line):
            folder = heading[1]
        elif row := re.match(r"\| (`.*`) \| (.*) \|$", line):
            found.update({folder + name: row[2] for name in re.findall(r"`([^`]+)`", row[1])})
    return found


def test_the_map_has_a_line_for_each_file() -> None:
    listed = listed_files()
    folders = tuple(name for name in listed if name.endswith("/"))
    missing = [
        name
        for path in FILES
        if (name := str(path.relative_to(ROOT))).startswith(
            ("stepcoder/", "kernels/", "sandbox/", "csrc/", "bench/", "deploy/")
        )
        and not name.startswith(folders)
        and not name.endswith(("__init__.py", "py.typed"))
        and name not in listed
    ]
    assert not missing
    gone = [name for name in listed if not (ROOT / name).exists()]
    assert not gone
    assert all(listed.values())


def test_the_steps_of_algorithm_1_are_where_the_map_says() -> None:
    loop = " ".join((ROOT / "stepcoder" / "train.py").read_text().split())
    section = ARCHITECTURE.split("## The steps of Algorithm 1")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for _, call, done_by in rows:
        assert call.strip("`") in loop, call
        for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?: -> )?)+)", done_by):
            place = next(p for p in (ROOT / "stepcoder" / path, ROOT / path) if p.exists())
            for name in re.findall(r"`([\w.]+)`", names):
                for part in name.split("."):
                    assert re.search(rf"\b{part}\b", place.read_text()), f"{path}: {name}"


# The direction of imports.


def rooms() -> list[str]:
    """Return the rooms in the order of architecture.md: each may import those before it."""
    section = ARCHITECTURE.split("## The direction of imports")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)


def room_of(module: str) -> str:
    """Return the room of a module such as stepcoder.method.fgo."""
    if module.startswith("stepcoder.sandbox.guest"):
        return "sandbox.guest"
    return module.split(".")[1]


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "stepcoder" else ("stepcoder", *parts)
    return ".".join(parts)


def imports_of(source: str, module: str) -> Iterator[tuple[str, int]]:
    """Yield what a module imports of the package, with the line, imports for types among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{name}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((n, node.lineno) for n in names if n.startswith("stepcoder."))


def import_errors(file: Path, source: str, order: list[str]) -> list[str]:
    """Return the imports of a file that go against the order."""
    module = module_of(file)
    here = room_of(module)
    return [
        f"{file.relative_to(ROOT)}:{line} imports {name}, but `{here}` may not import `{there}`"
        for name, line in imports_of(source, module)
        if (there := room_of(name)) != here
        and (there not in order or order.index(there) > order.index(here))
    ]


PACKAGE = [
    path
    for folder in ("stepcoder", "kernels", "sandbox")
    for path in files_under(ROOT / folder)
    if path.suffix == ".py" and path != ROOT / "stepcoder" / "__init__.py"
]


def test_every_room_has_its_place() -> None:
    order = rooms()
    assert len(order) == len(set(order))
    assert set(order) == {room_of(module_of(path)) for path in PACKAGE}


def test_no_room_imports_against_the_order() -> None:
    """An order of all rooms that every import keeps leaves no circle between rooms."""
    order = rooms()
    assert not [e for path in PACKAGE for e in import_errors(path, path.read_text(), order)]


def test_an_import_against_the_order_is_found() -> None:
    source = "def f():\n    from stepcoder.run.run import Run\n"
    fgo = ROOT / "stepcoder" / "method" / "fgo.py"
    assert import_errors(fgo, source, rooms()) == [
        "stepcoder/method/fgo.py:2 imports stepcoder.run.run.Run, but `method` may not import `run`"
    ]
    assert not import_errors(fgo, "from stepcoder.models.batch import Batch", rooms())
    worker = ROOT / "sandbox" / "guest" / "worker.py"
    assert imported(worker, "from ..judge import Judge") == ["stepcoder.sandbox.judge.Judge"]


def imported(file: Path, source: str) -> list[str]:
    return [name for name, _ in imports_of(source, module_of(file))]


def test_a_sandboxed_process_imports_nothing_of_the_judge_but_the_extension() -> None:
    for path in files_under(ROOT / "sandbox" / "guest"):
        for name in imported(path, path.read_text()):
            assert room_of(name) == "sandbox.guest" or "._launcher" in name, f"{path.name}: {name}"


def test_only_the_named_import_for_types_goes_between_rooms() -> None:
    """The page names the imports under TYPE_CHECKING that leave their room."""
    found = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                block = "\n".join(map(ast.unparse, node.body))
                leaving = [
                    n for n in imported(path, block) if room_of(n) != room_of(module_of(path))
                ]
                found += [(str(path.relative_to(ROOT)), name) for name in leaving]
    assert found == [("stepcoder/method/rewards.py", "stepcoder.rollout.rollout.Rollout")]
