"""The judge over HTTP: an ASGI application around one Judge.

POST /judge takes a batch of programs and streams one verdict a line as they finish; POST /run_code
is SandboxFusion's request; GET /health, /metrics (Prometheus) and /openapi.json describe the
server.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepcoder.judge.fusion import (
    RunCodeRequest,
    RunCodeResponse,
    response_of,
    status_of,
    submission_of,
)
from stepcoder.judge.messages import (
    BatchMessage,
    ErrorMessage,
    HealthMessage,
    ProgramMessage,
    VerdictMessage,
    verdict_line,
)
from stepcoder.problems.json_text import loads
from stepcoder.problems.schema import place_of
from stepcoder.sandbox import Judge, Submission, Verdict

# Written out: FastAPI would put a model under the media type of the route's answer.
_ERROR_SCHEMA = ErrorMessage.model_json_schema()
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, text in {
        400: "the body is no JSON, or the Host header is not this server's",
        401: "the API key is missing or wrong",
        413: "the body or the batch is too large",
        422: "a field is wrong; the line names it",
        429: "the queue is full; try again",
    }.items()
}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """At most so many bytes a request, programs a request, and programs that wait or run."""

    body_bytes: int = 64 << 20
    batch: int = 4096
    queue: int = 16_384


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.programs = Counter(
            "stepcoder_programs", "Programs judged.", ["status"], registry=self.registry
        )
        self.refused = Counter(
            "stepcoder_refused_requests", "Requests refused.", ["code"], registry=self.registry
        )
        self.queued = Gauge(
            "stepcoder_queued_programs", "Programs that wait or run.", registry=self.registry
        )
        self.wall_s = Histogram(
            "stepcoder_program_wall_seconds",
            "Wall time of a program over all its tests.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def count(self, verdict: Verdict, status: str) -> None:
        self.programs.labels(status).inc()
        self.wall_s.observe(verdict.wall_s)


class _Queue:
    """Counts the programs that wait or run, over all requests, and refuses more than `size`."""

    def __init__(self, size: int, gauge: Gauge) -> None:
        self.size = size
        self.held = 0
        self._gauge = gauge

    def enter(self, count: int) -> None:
        """Count `count` programs as waiting. Raises HTTPException if that is too many."""
        if self.held + count > self.size:
            raise HTTPException(
                429,
                f"programs: {count} more than the queue takes now ({self.held} of {self.size} "
                "places are taken); try again in a second or with a smaller batch",
                {"Retry-After": "1"},
            )
        self._add(count)

    def leave(self, count: int) -> None:
        self._add(-count)

    def _add(self, count: int) -> None:
        self.held += count
        self._gauge.set(self.held)


class _VerdictStream(StreamingResponse):
    """Streams verdicts; however it ends, its programs leave the queue and the rest is cancelled."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        judge: Judge,
        queue: _Queue,
        metrics: _Metrics,
        programs: list[ProgramMessage],
        submissions: list[Submission],
    ) -> None:
        self._judge, self._queue, self._metrics = judge, queue, metrics
        self._programs, self._submissions = programs, submissions
        self._waiting = len(programs)
        self._verdicts = self._lines()
        super().__init__(self._verdicts)

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        async for index, verdict in self._judge.map_async(self._submissions):
            self._metrics.count(verdict, str(verdict.status))
            self._waiting -= 1
            self._queue.leave(1)
            line = verdict_line(index, self._programs[index], verdict)
            yield json.dumps(line).encode() + b"\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._verdicts.aclose()
            self._queue.leave(self._waiting)


class _BodyLimit:
    """Refuses a body as soon as more than `limit` bytes of it were received."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(
                    413,
                    f"the body is larger than {self._limit} bytes; send several requests or start "
                    "the server with a larger --max-body-mib",
                )
            return message

        await self._app(scope, limited, send)


class _KeyCheck:
    """Refuses requests without the API key before their body is read; /health needs none."""

    def __init__(self, app: ASGIApp, key: str, metrics: _Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in ("/health", "/openapi.json"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                text = "header Authorization: no or a wrong API key; send `Bearer <key>`"
                self._metrics.refused.labels("401").inc()
                response = JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _JsonRequest(Request):
    """A request whose JSON may hold integers of any length."""

    async def json(self) -> Any:
        try:
            return loads(await self.body())
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise HTTPException(422, f"the body is not JSON ({error})") from None


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


def make_app(judge: Judge, limits: ServerLimits = ServerLimits(), key: str = "") -> FastAPI:
    """Return the application. The caller closes the judge, after the server.

    Without a key, only requests with this machine's name in their Host header are answered. A web
    page whose own name resolves to the loopback address (DNS rebinding) therefore cannot reach a
    judge there.
    """
    metrics = _Metrics()
    queue = _Queue(limits.queue, metrics.queued)

    app = FastAPI(
        title="StepCoder judge",
        version="1",
        description="Judges untrusted Python programs in a sandbox.",
        docs_url=None,
        redoc_url=None,
        dependencies=[Security(HTTPBearer(auto_error=False))] if key else [],
    )
    app.router.route_class = _JsonRoute
    _answer_errors(app, metrics)
    app.add_middleware(_BodyLimit, limit=limits.body_bytes)
    if key:
        app.add_middleware(_KeyCheck, key=key, metrics=metrics)
    else:
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", "::1"]
        )

    @app.post(
        "/judge",
        status_code=200,
        response_class=_VerdictStream,
        responses={
            **_REFUSALS,
            200: {"model": VerdictMessage, "description": "One a line, as programs finish."},
        },
    )
    async def judge_batch(batch: BatchMessage) -> Response:
        """Judge a batch; verdicts come as they finish, each with its program's index."""
        if len(batch.programs) > limits.batch:
            raise HTTPException(
                413,
                f"programs: {len(batch.programs)} programs in a request, at most "
                f"{limits.batch} are taken; send several requests",
            )
        queue.enter(len(batch.programs))
        try:
            submissions = await run_in_threadpool(_submissions, judge, batch.programs)
        except BaseException:
            queue.leave(len(batch.programs))
            raise
        return _VerdictStream(judge, queue, metrics, batch.programs, submissions)

    @app.post("/run_code", responses=_REFUSALS)
    async def run_code(request: RunCodeRequest) -> RunCodeResponse:
        """Run a Python program and return what it printed, in SandboxFusion's form."""
        try:
            submission = submission_of(request, judge.limits)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        queue.enter(1)
        try:
            verdict = await judge.run_async(submission.program, submission.tests, submission.limits)
        finally:
            queue.leave(1)
        metrics.count(verdict, status_of(verdict))
        return response_of(verdict)

    @app.get("/health", responses={400: _REFUSALS[400]})
    async def health() -> HealthMessage:
        """Say that the server answers."""
        return HealthMessage(status="ok", workers=judge.workers, queued=queue.held)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            400: _REFUSALS[400],
            401: _REFUSALS[401],
        },
    )
    async def prometheus() -> Response:
        """Return counters in Prometheus' text form."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _submissions(judge: Judge, programs: list[ProgramMessage]) -> list[Submission]:
    submissions = []
    for index, program in enumerate(programs):
        try:
            submissions.append(program.submission(judge.limits))
        except (TypeError, ValueError) as error:  # TypeError: nested too deeply to be sent on
            raise HTTPException(422, f"programs[{index}]: {error}") from None
    return submissions


def _answer_errors(app: FastAPI, metrics: _Metrics) -> None:
    """Make every refusal one JSON line {"error": ...}."""

    def refusal(status: int, text: str, headers: Any = None) -> JSONResponse:
        metrics.refused.labels(str(status)).inc()
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, _sentence(error.errors()))


def _sentence(errors: Iterable[Any]) -> str:
    """Return the first validation error as `field: what is wrong (expected ...)`."""
    first, *more = errors
    if first["type"] == "json_invalid":
        return f"the body is not JSON ({first['ctx']['error']})"
    place = place_of(first["loc"][1:]) or "the body"
    text = first["msg"].encode("ascii", "backslashreplace").decode()
    return f"{place}: {text}" + (f" (and {len(more)} more)" if more else "")
