"""`python -m stepcoder.judge`: verdicts in order, resume after kill -9, errors in one line."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stepcoder.judge.command import main

ROOT = Path(__file__).parents[2]


def problem(task_id: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "prompt": "Add one.",
        "starter_code": "def f(x):\n",
        "canonical_solution": "def f(x):\n    return x + 1\n",
        "entry_point": "f",
        "tests": {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 3]},
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    records = [problem(f"t/{i}") for i in range(3)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path


def command(files: Path, samples: list[Any], *more: str) -> list[str]:
    path = files / "samples.jsonl.gz"
    text = "\n".join(s if isinstance(s, str) else json.dumps(s) for s in samples)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    options = more or ("-o", str(files / "verdicts.jsonl"))
    return [str(path), "--problems", str(files / "problems.jsonl"), "--workers", "2", *options]


def verdicts(files: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (files / "verdicts.jsonl").read_text().splitlines()[1:]]


def test_completions_and_solutions_are_judged_in_order(files: Path) -> None:
    samples = [
        {"task_id": "t/2", "solution": "import time\ntime.sleep(0.3)\ndef f(x): return x + 1"},
        {"task_id": "t/0", "completion": "    return x + 1\n"},
        {"task_id": "t/0", "completion": "    return 2\n"},
    ]
    assert main(command(files, samples)) == 0
    found = [(v["line"], v["task_id"], v["status"]) for v in verdicts(files)]
    assert found == [(1, "t/2", "accepted"), (2, "t/0", "accepted"), (3, "t/0", "wrong answer")]


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler (install g++)")
def test_samples_in_other_languages(files: Path) -> None:
    stdin = {
        "task_id": "s/0",
        "prompt": "Print the number and one more.",
        "starter_code": "# Python",
        "preamble": "import os",
        "canonical_solution": "x = int(input())\nprint(x, x + 1)\n",
        "tests": {"kind": "stdin", "inputs": ["1\n", "5\n"], "outputs": ["1 2\n", "5 6\n"]},
    }
    (files / "problems.jsonl").write_text(json.dumps(stdin))
    source = '#include <cstdio>\nint main() { int x; scanf("%d", &x); printf("%d %d", x, x + 1); }'
    samples = [
        {"task_id": "s/0", "solution": source, "language": "C++"},
        {"task_id": "s/0", "completion": source.replace("cstdio", "stdio.h"), "language": "c"},
        {"task_id": "s/0", "solution": source.replace("x + 1", "x"), "language": "cpp20"},
        {"task_id": "s/0", "solution": "int main() { return x; }", "language": "cpp"},
        {"task_id": "s/0", "solution": "x = int(input())\nprint(x, x + 1)", "language": "Python 3"},
    ]
    assert main(command(files, samples)) == 0
    assert [v["status"] for v in verdicts(files)] == [
        "accepted", "accepted", "wrong answer", "compile error", "accepted"
    ]  # fmt: skip


def test_a_killed_run_goes_on_where_it_stopped(files: Path) -> None:
    slow = {"task_id": "t/0", "solution": "import time\ntime.sleep(0.1)\ndef f(x): return x + 1"}
    arguments = command(files, [slow] * 40)
    output = files / "verdicts.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-m", "stepcoder.judge", *arguments],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while not output.exists() or output.read_bytes().count(b"\n") < 5:
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = output.read_bytes()
    assert before.count(b"\n") < 41
    output.write_bytes(before + b'{"task_id": "t/')  # a line that was being written
    assert main(arguments) == 0
    assert output.read_bytes().startswith(before)
    assert [v["line"] for v in verdicts(files)] == list(range(1, 41))


def test_verdicts_of_other_samples_are_not_overwritten(files: Path) -> None:
    assert main(command(files, [{"task_id": "t/0", "solution": ""}])) == 0
    assert main(command(files, [{"task_id": "t/1", "solution": ""}])) == 2
    assert verdicts(files)[0]["task_id"] == "t/0"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ({"completion": ""}, '"task_id" is missing'),
        ({"task_id": "t/9", "completion": ""}, "no problem 't/9'"),
        ({"task_id": "t/0"}, '"completion" is missing'),
        (
            {"task_id": "t/0", "solution": "", "language": "rust"},
            "'rust' is none of python, c, cpp",
        ),
        (
            {"task_id": "t/0", "solution": "", "language": "C++"},
            "'t/0' has no stdin tests, and a cpp program reads stdin",
        ),
    ],
)
def test_a_bad_line_is_named(
    files: Path, line: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(files, [{"task_id": "t/0", "solution": ""}, line])) == 2
    error = capsys.readouterr().err
    assert "samples.jsonl.gz line 2: " in error
    assert words in error


def test_an_output_that_cannot_be_written_is_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = files / "missing" / "verdicts.jsonl"
    assert main(command(files, [{"task_id": "t/0", "solution": ""}], "-o", str(output))) == 2
    assert capsys.readouterr().err.startswith(f"{output} cannot be written")


def test_explain_shows_lines_that_ran_expected_and_got(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "def f(x):\n    if x > 9:\n        return 0\n    return 2\n"
    sample = {"task_id": "t/1", "solution": source}
    assert main(command(files, [sample], "--explain", "t/1")) == 0
    shown = capsys.readouterr().out
    for expected in (
        "   3 ·         return 0",
        "   4 ✓     return 2",
        "test 2 of 2: wrong answer",
        "  input    [2]",
        "  expected 3",
        "  got      2",
    ):
        assert expected in shown


def test_the_command_imports_no_torch() -> None:
    script = "import sys, stepcoder.judge.command; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)


def test_a_sample_that_does_not_compile_is_read_as_an_answer(files: Path) -> None:
    fence, wrong = "`" * 3, "def f(x): return x"
    draft = f"<think>\n{fence}python\n{wrong}\n{fence}\n</think>\n"
    samples = [
        {
            "task_id": "t/0",
            "solution": f"{draft}So:\n{fence}python\ndef f(x): return x + 1\n{fence}",
        },
        {"task_id": "t/0", "completion": "    return x + 1\n<|endoftext|>\ndef g(:"},
        {"task_id": "t/0", "solution": wrong},
        {"task_id": "t/0", "solution": "def f(x): return ("},
    ]
    assert main(command(files, samples)) == 0
    statuses = [verdict["status"] for verdict in verdicts(files)]
    assert statuses == ["accepted", "accepted", "wrong answer", "compile error"]


def test_the_limit_of_digits_is_an_option(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prints = {"task_id": "t/0", "solution": "def f(x): return len(str(10 ** 5000)) - 4999 + x - 1"}
    assert main(command(files, [prints])) == 0
    assert verdicts(files)[0]["status"] == "runtime error"
    output = "-o", str(files / "verdicts.jsonl")
    assert main(command(files, [prints], *output, "--int-digits", "0")) == 2  # other limits
    (files / "verdicts.jsonl").unlink()
    assert main(command(files, [prints], *output, "--int-digits", "0")) == 0
    assert verdicts(files)[0]["status"] == "accepted"
    with pytest.raises(SystemExit):
        main(command(files, [prints], *output, "--int-digits", "5"))
    assert "int_digits is 5; at least 640, or 0 for no limit" in capsys.readouterr().err


def test_libraries_are_part_of_the_settings_and_must_be_installed(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [{"task_id": "t/0", "solution": "import sys, random as r\ndef f(x): return x + 1"}]
    assert main([*command(files, samples), "--libraries", "absent"]) == 2
    assert "'absent' is not installed; pip install absent" in capsys.readouterr().err
    assert main([*command(files, samples), "--libraries", "pytest,iniconfig"]) == 0
    assert main(command(files, samples)) == 2
