"""`python -m stepcoder.judge serve`: verdicts over HTTP, limits, keys, and a clean end."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `server` is not installed")

import httpx
from fastapi.testclient import TestClient

from stepcoder.judge.messages import VerdictMessage
from stepcoder.judge.server import ServerLimits, make_app
from stepcoder.sandbox import Judge, Limits

ROOT = Path(__file__).parents[2]
RIGHT = "def f(x): return x + 1\n"


def program(source: str = RIGHT, **more: Any) -> dict[str, Any]:
    tests = {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 3]}
    return {"source": source, "entry_point": "f", "tests": tests, **more}


def client_of(judge: Judge, limits: ServerLimits = ServerLimits(), key: str = "") -> TestClient:  # noqa: B008
    return TestClient(make_app(judge, limits, key), base_url="http://localhost")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=2, limits=Limits(cpu_s=1.0, wall_s=20.0)) as judge:
        yield judge


@pytest.fixture(scope="module")
def client(judge: Judge) -> TestClient:
    return client_of(judge)


def verdicts(client: TestClient, programs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = client.post("/judge", json={"programs": programs})
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    for line in lines:
        VerdictMessage.model_validate_json(json.dumps(line))
    return sorted(lines, key=lambda line: line["index"])


def test_a_batch_is_judged_with_every_kind_of_tests(client: TestClient) -> None:
    stdin = {"kind": "stdin", "inputs": ["2"], "outputs": ["4"]}
    asserts = {"kind": "assert", "asserts": ["assert f(1) == two"], "setup": "two = 2"}
    found = verdicts(
        client,
        [
            program(id="right"),
            program("def f(x): return x", id=7),
            program("print(int(input()) * 2)", tests=stdin, entry_point=None),
            program(tests=asserts),
            program("def f(x):\n    while True: pass", limits={"cpu_s": 0.2}),
            program("def f(x) return"),
        ],
    )
    assert [line["status"] for line in found] == [
        "accepted",
        "wrong answer",
        "accepted",
        "accepted",
        "cpu time limit",
        "compile error",
    ]
    assert [found[0]["id"], found[1]["id"]] == ["right", 7]
    assert found[0]["executed_lines"] == [1]
    assert found[5]["error_line"] == 1


def test_verdicts_come_as_they_finish(server: str) -> None:
    slow = program("import time\ntime.sleep(5)\n" + RIGHT)
    body = json.dumps({"programs": [slow, program()]}).encode()
    connection = http.client.HTTPConnection(server)
    connection.request("POST", "/judge", body, {"Content-Type": "application/json"})
    with closing(connection), connection.getresponse() as lines:
        assert json.loads(lines.readline())["index"] == 1  # before the slow one has ended
        assert json.loads(lines.readline())["index"] == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", "the body: "),
        (b'{"programs": []}', "programs: "),
        ({"programs": [program(sauce="")]}, "programs[0].sauce: "),
        ({"programs": [program(), program(source=1)]}, "programs[1].source: "),
        ({"programs": [program(tests={"kind": "magic"})]}, "programs[0].tests: "),
        ({"programs": [program(entry_point=None)]}, "programs[0]: call tests need"),
        (
            {"programs": [program(tests={"kind": "unittest", "code": "x = 1"})]},
            "programs[0]: the unittest code has no class",
        ),
        ({"programs": [program(limits={"cpu_s": 0})]}, "programs[0].limits.cpu_s: "),
        ({"programs": [program(limits={"memory_bytes": 1})]}, "limits.memory_bytes: "),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, body: Any, words: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/judge", content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_inputs_and_outputs_of_different_number_are_refused(client: TestClient) -> None:
    tests = {"kind": "call", "inputs": [[1]], "outputs": [2, 3]}
    answer = client.post("/judge", json={"programs": [program(), program(tests=tests)]})
    assert answer.status_code == 422
    assert "programs[1]: 1 inputs but 2 outputs" in answer.json()["error"]


@pytest.mark.parametrize("depth", [200, 50_000])
def test_deep_json_harms_nobody(client: TestClient, depth: int) -> None:
    value = "[" * depth + "]" * depth
    text = '{"programs": [{"source": "def f(x): return x", "entry_point": "f", "tests": '
    text += f'{{"kind": "call", "inputs": [[{value}]], "outputs": [1]}}}}]}}'
    answer = client.post("/judge", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422)
    assert verdicts(client, [program()])[0]["passed"]


def test_limits_of_size_and_number_hold(judge: Judge) -> None:
    client = client_of(judge, ServerLimits(body_bytes=4096, batch=2, queue=3))
    answer = client.post("/judge", json={"programs": [program()] * 3})
    assert answer.status_code == 413
    assert "at most 2" in answer.json()["error"]
    for content in (b" " * 5000, iter([b" " * 5000])):  # with a length in the header, and without
        headers = {"Content-Type": "application/json"}
        answer = client.post("/judge", content=content, headers=headers)
        assert answer.status_code == 413
        assert "larger than 4096 bytes" in answer.json()["error"]


def test_a_full_queue_answers_429_and_empties(judge: Judge) -> None:
    client = client_of(judge, ServerLimits(batch=2, queue=2))
    slow = program("import time\ntime.sleep(1)\n" + RIGHT)
    busy = threading.Thread(target=verdicts, args=(client, [slow, slow]))
    busy.start()
    while client.get("/health").json()["queued"] < 2:
        time.sleep(0.01)
    refused = client.post("/judge", json={"programs": [program()]})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"]
    assert client.post("/run_code", json={"code": "", "language": "python"}).status_code == 429
    busy.join()
    assert client.get("/health").json() == {"status": "ok", "workers": 2, "queued": 0}


def test_without_the_key_nothing_runs(judge: Judge) -> None:
    client = client_of(judge, key="secret")
    body = {"programs": [program()]}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        answer = client.post("/judge", json=body, headers=headers)
        assert answer.status_code == 401
        assert "API key" in answer.json()["error"]
    assert client.get("/metrics").status_code == 401
    assert client.get("/health").status_code == 200
    assert client.post("/judge", json=body, headers={"Authorization": "Bearer secret"}).is_success


def test_a_web_page_under_another_name_gets_no_answer(client: TestClient) -> None:
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400


def test_metrics_count_verdicts_and_refusals(judge: Judge) -> None:
    client = client_of(judge)
    verdicts(client, [program(), program("def f(x): return 0")])
    client.post("/judge", json={})
    text = client.get("/metrics").text
    assert 'stepcoder_programs_total{status="accepted"} 1.0' in text
    assert 'stepcoder_programs_total{status="wrong answer"} 1.0' in text
    assert 'stepcoder_refused_requests_total{code="422"} 1.0' in text
    assert "stepcoder_queued_programs 0.0" in text
    assert "stepcoder_program_wall_seconds_count 2.0" in text


def run_code(client: TestClient, code: str, **more: Any) -> Any:
    answer = client.post("/run_code", json={"code": code, "language": "python", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_metrics_do_not_call_what_run_code_ran_a_wrong_answer(judge: Judge) -> None:
    client = client_of(judge)
    run_code(client, "print(1)")
    run_code(client, "")
    run_code(client, "raise ValueError")
    text = client.get("/metrics").text
    assert 'stepcoder_programs_total{status="finished"} 2.0' in text
    assert 'stepcoder_programs_total{status="runtime error"} 1.0' in text
    assert "wrong answer" not in text
    assert "accepted" not in text


def test_run_code_answers_as_sandbox_fusion_does(client: TestClient) -> None:
    done = run_code(client, "print(input() * 200)", stdin="ab", compile_timeout=10, run_timeout=5)
    assert done["status"] == "Success"
    assert done["compile_result"] is None
    result = done["run_result"]
    assert result["status"] == "Finished"
    assert result["return_code"] == 0
    assert result["stdout"] == "ab" * 200 + "\n"
    assert result["execution_time"] > 0


@pytest.mark.parametrize(
    ("code", "status", "return_code", "stderr"),
    [
        ("print(1)\nraise ValueError('no')", "Finished", 1, "ValueError: no"),
        ("import sys\nprint(1)\nsys.exit(3)", "Finished", 3, ""),
        ("import os\nprint(1, flush=True)\nos.abort()", "Finished", -6, "SIGABRT"),
        ("print(1)\nimport sys\nprint('so', file=sys.stderr)\n1/0", "Finished", 1, "so\n"),
        ("print(1)\nwhile True: pass", "TimeLimitExceeded", None, ""),
        ("print(1)\nimport sys\nsys.exit('so')", "Finished", 1, "so\n"),
    ],
)
def test_run_code_tells_how_a_program_failed(
    client: TestClient, code: str, status: str, return_code: int | None, stderr: str
) -> None:
    done = run_code(client, code, run_timeout=0.5)
    assert done["status"] == "Failed"
    result = done["run_result"]
    assert (result["status"], result["return_code"]) == (status, return_code)
    assert result["stdout"] == "1\n"
    assert stderr in result["stderr"]


def test_run_code_returns_the_whole_traceback(client: TestClient) -> None:
    code = "def g():\n    1 / 0\ndef f():\n    g()\nprint(__file__)\nf()\n"
    result = run_code(client, code)["run_result"]
    assert result["stdout"] == "main.py\n"
    lines = result["stderr"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    frames = [line.strip() for line in lines if line.startswith("  File")]
    assert frames == [
        'File "main.py", line 6, in <module>',
        'File "main.py", line 4, in f',
        'File "main.py", line 2, in g',
    ]
    assert "    1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_run_code_tells_that_memory_ran_out(client: TestClient) -> None:
    done = run_code(client, "a = [0]\nwhile True: a += a", memory_limit_MB=64)
    assert done["status"] == "Failed"
    assert done["message"] == "memory limit exceeded"


def test_run_code_names_the_line_that_does_not_compile(client: TestClient) -> None:
    result = run_code(client, "x = 1\ny = (")["run_result"]
    assert result["return_code"] == 1
    assert "line 2" in result["stderr"]
    assert "SyntaxError" in result["stderr"]


def test_run_code_lays_out_files(client: TestClient) -> None:
    content = base64.b64encode(b"some\0bytes").decode()
    done = run_code(
        client, "print(open('a/b.bin', 'rb').read(), dir())", files={"a/b.bin": content}
    )
    assert done["run_result"]["stdout"].startswith("b'some\\x00bytes'")
    assert "_lay_out" not in done["run_result"]["stdout"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"language": "cpp"}, "language: Input should be 'python'"),
        ({"files": {"x": "?"}}, "files['x'] is not base64"),
        ({"fetch_files": ["x"]}, "fetch_files: "),
        ({"run_timeout": 1e9}, "run_timeout: "),
    ],
)
def test_run_code_says_what_it_cannot_do(
    client: TestClient, fields: dict[str, Any], words: str
) -> None:
    answer = client.post("/run_code", json={"code": "", "language": "python", **fields})
    assert answer.status_code == 422
    assert words in answer.json()["error"]


# The server as a process of its own.


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepcoder.judge", "serve", "--port", "0", *arguments]
    kept = {k: v for k, v in os.environ.items() if k != "STEPCODER_JUDGE_KEY"}
    return subprocess.Popen(
        command,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"running on http://(\S+)", line):
            return found[1]
    raise AssertionError("the server did not start")


@pytest.fixture
def server() -> Iterator[str]:
    process = start("--workers", "2")
    yield address_of(process)
    process.terminate()
    process.communicate(timeout=60)


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | children(child)
    return found


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_ends_its_programs(stop: signal.Signals) -> None:
    process = start("--workers", "1", "--grace-s", "1")
    address = address_of(process)
    endless = program("import time\ntime.sleep(99)\n" + RIGHT, limits={"wall_s": 100})
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(httpx.post(f"http://{address}/judge", json={"programs": [endless]}))
        except httpx.HTTPError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    url = f"http://{address}/health"
    while httpx.get(url).json()["queued"] == 0 or len(children(process.pid)) < 2:
        assert asking.is_alive(), answers
        time.sleep(0.01)
    below = children(process.pid)
    process.send_signal(stop)
    process.communicate(timeout=60)
    asking.join()
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert answers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached by others"),
        (["--api-key-file", "/nonexistent"], "--api-key-file: /nonexistent cannot be read"),
        (["--max-queue", "1"], "--max-queue is 1, less than --max-batch"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], words: str) -> None:
    process = start(*arguments)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert words in error.splitlines()[-1]


def test_a_public_address_is_served_with_a_key() -> None:
    process = start("--host", "0.0.0.0", STEPCODER_JUDGE_KEY="secret")
    port = address_of(process).rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/judge"
    body = {"programs": [program()]}
    assert httpx.post(url, json=body).status_code == 401
    answer = httpx.post(url, json=body, headers={"Authorization": "Bearer secret"})
    assert answer.json()["passed"]
    process.terminate()
    process.communicate(timeout=60)


def test_integers_have_any_length_in_requests(client: TestClient) -> None:
    huge = "1" + "0" * 5000
    tests = f'{{"kind": "call", "inputs": [[{huge}], [-{huge}], [7]], "outputs": [{huge}, 0, 7]}}'
    fields = f'"source": "def f(x): return x", "entry_point": "f", "tests": {tests}'
    text = f'{{"programs": [{{{fields}}}]}}'
    answer = client.post("/judge", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    statuses = [test["status"] for test in answer.json()["tests"]]
    assert statuses == ["accepted", "wrong answer", "accepted"]
    text = text.replace(huge, "1" * 1_000_001)
    answer = client.post("/judge", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, len(answer.text) < 200) == (422, True)
    assert "an integer of 1,000,00" in answer.json()["error"]


def test_a_request_may_switch_the_limit_of_digits_off(client: TestClient) -> None:
    stdin = {"kind": "stdin", "inputs": [""], "outputs": ["1" + "0" * 5000]}
    prints = program("print(10 ** 5000)", tests=stdin, entry_point=None)
    found = verdicts(client, [prints, {**prints, "limits": {"int_digits": 0}}])
    assert [line["status"] for line in found] == ["runtime error", "accepted"]
    answer = client.post("/judge", json={"programs": [{**prints, "limits": {"int_digits": 9}}]})
    assert answer.status_code == 422
    assert "int_digits is 9; at least 640" in answer.json()["error"]
