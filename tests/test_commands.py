"""What the commands share: a quick --help, errors of one line, files that survive a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepcoder.command import exit_status
from stepcoder.errors import InputError, RunError
from stepcoder.journal import Journal, append, open_to_append, read_lines
from stepcoder.judge.__main__ import main as judge_main
from stepcoder.sandbox import IsolationError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["judge", "evaluate", "clean", "study", "report", "plan", "check"])
def test_help_imports_no_torch(name: str) -> None:
    script = (
        "import runpy, sys\n"
        "try: runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
        "except SystemExit: sys.exit('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, f"stepcoder.{name}", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m stepcoder.{name}" in done.stdout


@pytest.mark.parametrize("arguments", [["samples.jsonl"], ["serve", "--workers", "0"]])
def test_a_wrong_option_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        judge_main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("x line 1: wrong"), 2, "stepcoder.x: x line 1: wrong\n"),
        (RunError("no such run"), 2, "stepcoder.x: no such run\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on\n"),
        (IsolationError("landlock"), 3, f"{IsolationError('landlock')}\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise error

    assert exit_status(work, "stepcoder.x") == status
    assert capsys.readouterr().err == line


def test_a_record_that_was_not_written_whole_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_lines(path) == []
    path.write_text('{"number": 1}\n{"numb')
    assert read_lines(path) == [{"number": 1}]
    with open_to_append(path) as file:
        append(file, {"number": 2})
        assert path.read_text() == '{"number": 1}\n{"number": 2}\n'  # on the disk at once


def opened(folder: Path, **settings: int) -> Journal:
    names = ("a.jsonl", "inner/b.jsonl")
    return Journal(folder, settings, names, lambda r: r["number"], "a test", folder.glob("*.txt"))


def test_a_journal_goes_on_with_its_records_and_refuses_other_settings(tmp_path: Path) -> None:
    with opened(tmp_path / "out", seed=1) as journal:
        journal.add("inner/b.jsonl", {"number": 7})
        assert journal["inner/b.jsonl"] == {7: {"number": 7}}
    with opened(tmp_path / "out", seed=1) as journal:
        assert journal["inner/b.jsonl"] == {7: {"number": 7}}
        assert journal["a.jsonl"] == {}
    with pytest.raises(InputError, match=r"holds a test with other settings \(seed was 1, is 2\)"):
        opened(tmp_path / "out", seed=2)
    (tmp_path / "out" / "a.jsonl").write_text(json.dumps(["no record"]) + "\n")
    with pytest.raises(InputError, match="its files are damaged"):
        opened(tmp_path / "out", seed=1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        opened(tmp_path)


def test_a_pipe_or_device_is_written_and_never_read(tmp_path: Path) -> None:
    """A read of them would not end: the null device is empty, but /dev/zero is not."""
    assert read_lines(Path("/dev/zero")) == []
    with open_to_append(Path("/dev/zero")) as file:
        append(file, {"id": 1})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read_lines(pipe) == []
