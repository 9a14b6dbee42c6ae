"""A host of a `pool`: `python -m stepcoder.judge serve` on some machine, by its POST /judge."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from stepcoder.errors import RunError
from stepcoder.judge.pool import HostLost
from stepcoder.problems import schema
from stepcoder.problems.json_text import loads
from stepcoder.sandbox import Status, Submission, Verdict
from stepcoder.sandbox.verdict import TestVerdict

KEY = "STEPCODER_JUDGE_KEY"  # the environment variable with the servers' key
HEALTH_S = 5.0
QUEUED_S = 60.0  # that a batch may wait at a busy server, beyond the time of its tests

# Our objects of tests and checkers, by what describes them in a request.
_KINDS: dict[Any, tuple[str, Any]] = {
    model.builds: (get_args(model.model_fields["kind"].annotation)[0], model.model_fields)
    for model in (
        *(schema.CallTestsSchema, schema.StdinTestsSchema, schema.AssertsSchema),
        *(schema.UnittestTestsSchema, schema.ExactSchema, schema.ToleranceSchema),
        *(schema.UnorderedSchema, schema.RegexSchema, schema.CustomSchema, schema.TestlibSchema),
        schema.InteractorSchema,
    )
}


class HttpHost:
    """One server; its libraries and isolation are its own."""

    def __init__(self, url: str) -> None:
        """Take the address, such as http://10.0.0.7:8000."""
        self.name = url.rstrip("/")
        self.workers = 1
        self._open = build_opener(ProxyHandler({})).open
        self._key = os.environ.get(KEY, "").strip()

    def returned(self) -> bool:
        """Ask how many programs it judges at a time."""
        try:
            with self._open(f"{self.name}/health", timeout=HEALTH_S) as answer:
                self.workers = int(json.load(answer)["workers"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return False
        return True

    def judge(self, batch: Sequence[Submission]) -> list[Verdict]:
        """Return the verdicts, of whose tests there are only status and message."""
        programs = [_program(submission) for submission in batch]
        text = json.dumps({"programs": programs})
        if loads(text)["programs"] != programs:
            raise RunError("tests hold a tuple, a set or the like, which JSON has not: judge here")
        limit_s = sum(s.limits.wall_s * len(s.tests) for s in batch if s.limits)
        given = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = Request(f"{self.name}/judge", text.encode(), given)
        try:
            with self._open(request, timeout=QUEUED_S + limit_s) as answer:
                lines = [json.loads(line) for line in answer]
        except HTTPError as error:
            return self._refused(error, batch)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HostLost(str(getattr(error, "reason", error)) or type(error).__name__) from None
        if len(lines) != len(batch):
            raise HostLost(f"its answer ended after {len(lines)} of {len(batch)} verdicts")
        return [_verdict(line) for line in sorted(lines, key=lambda line: line["index"])]

    def _refused(self, error: HTTPError, batch: Sequence[Submission]) -> list[Verdict]:
        if error.code >= 500:
            raise HostLost(f"HTTP {error.code}")
        if error.code == 429:  # its queue is full
            time.sleep(float(error.headers.get("Retry-After", 1)))
            return self.judge(batch)
        if error.code == 413 and len(batch) > 1:
            half = len(batch) // 2
            return self.judge(batch[:half]) + self.judge(batch[half:])
        said = error.read().decode("utf-8", "replace")[:300]
        raise RunError(f"judge {self.name} refuses programs: {said} (its key goes into {KEY})")

    def close(self) -> None:
        """Do nothing: the server serves others."""


def _program(submission: Submission) -> dict[str, Any]:
    """Return a submission as a program of a request (`messages.ProgramMessage`)."""
    program = submission.program
    return {
        "source": program.source,
        "tests": _described(submission.tests),
        "entry_point": program.entry_point,
        "preamble": program.preamble,
        "language": program.language,
        "limits": asdict(submission.limits) if submission.limits else None,
        "stop_at_first_failure": submission.stop_at_first_failure,
    }


def _described(value: Any) -> Any:
    """Return tests, a checker or a subtask in the form of `schema`."""
    if isinstance(value, tuple):
        return [_described(item) for item in value]
    if not is_dataclass(value):
        return value
    known = _KINDS.get(type(value))
    kind, names = known or (None, [field.name for field in fields(value)])
    found = {name: _described(getattr(value, name)) for name in names if name != "kind"}
    if isinstance(found.get("headers"), list):
        found["headers"] = dict(found["headers"])
    return found if kind is None else {"kind": kind, **found}


def _verdict(line: dict[str, Any]) -> Verdict:
    """Return the verdict that a line of the answer tells (`record.verdict_record`)."""
    tests = tuple(TestVerdict(Status(t["status"]), t["message"]) for t in line.pop("tests"))
    lines, status = frozenset(line.pop("executed_lines")), Status(line.pop("status"))
    for name in ("index", "id", "passed"):
        del line[name]
    return Verdict(status, tests, executed_lines=lines, **line)
