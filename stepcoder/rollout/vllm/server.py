"""One vLLM server as a child process on a random loopback port: start it, call it, stop it.

Or one that a person started (`options.url`): then to start is to wait until it answers, and to stop
is to break the connections. `describe` and ServerFailure say in one line how a server failed; the
engine decides what to do.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from stepcoder.errors import RunError
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm.api import Client, InvalidResponse, RequestRefused, ServerOptions

START_S = 900.0  # until a server answers: large models load and compile for minutes
CONNECT_S = 120.0  # the same of one that a person started, or starts again after it ended
KEY = "VLLM_API_KEY"  # the environment variable with the key of such a one
STALL_S = 18.0  # without a single token while completions are waited for
ANSWER_S = 18.0  # for a call that takes hardly any time
FIRST_ANSWER_S = 120.0  # for a first call to a new server, which may still compile kernels
POLL_S = 0.2
PORT_TRIES = 3

# What a call to a server raises if the server, and not the request, is at fault.
TRANSPORT_ERRORS = (OSError, http.client.HTTPException, InvalidResponse)


class ServerFailure(RunError):
    """A server cannot be used any more; the message names it and says why."""


class VLLMServer:
    """A server process: `start` it, call `complete` or `client.post`, `stop` it."""

    def __init__(self, number: int, options: ServerOptions, folder: Path) -> None:
        """Prepare server `number`; its log will be `folder`/server-<number>.log."""
        self.name = f"the vLLM server at {options.url}" if options.url else f"vLLM server {number}"
        self.options = options
        self.log = folder / f"server-{number}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(0, "")
        self.weights = ""  # the version that it holds
        self.adapters: str | None = None  # the name of those that it holds
        self.verified = ""  # with what its log-probabilities were compared with the policy's
        self.asleep = False
        self.scratch: Path | None = None  # its temporary files, deleted when it ends
        self._progress = (0.0, 0.0)  # tokens processed, and when that number was first seen

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerFailure: it ended, or did not answer in time; with the error in its log.
        """
        if self.options.url:
            self._connect(urlsplit(self.options.url))
            return
        for tries in range(1, PORT_TRIES + 1):
            self.launch(free_port(), secrets.token_hex(16))
            try:
                self.wait_until_healthy()
                return
            except ServerFailure as failure:
                self.stop()
                if "address already in use" not in str(failure).lower() or tries == PORT_TRIES:
                    raise

    def _connect(self, url: SplitResult) -> None:
        """Wait until the server of a person answers, which may be starting."""
        self._begin(Client(url.port or 80, os.environ.get(KEY, ""), url.hostname or ""))
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                self.client.call("GET", api.GET_VERSION, timeout_s=5)
                return
            except RequestRefused as error:
                raise ServerFailure(
                    f"{self.name} refuses this trainer ({error}); start it with python -m "
                    f"stepcoder.run.vllm_server, and give its {KEY} here too"
                ) from None
            except TRANSPORT_ERRORS as error:
                if time.monotonic() > deadline:
                    raise ServerFailure(
                        f"{self.name} did not answer for {CONNECT_S:.0f} s ({error}); start it"
                    ) from None
            time.sleep(POLL_S)

    def _begin(self, client: Client) -> Path:
        """Forget what an earlier start had, and return a new folder for temporary files."""
        self.client = client
        self.weights, self.adapters, self.verified, self.asleep = "", None, "", False
        self.scratch = Path(tempfile.mkdtemp(prefix="stepcoder-vllm-"))
        return self.scratch

    def check_unchanged(self) -> None:
        """Raise InvalidResponse if a person's server has other weights than those sent to it."""
        if self.options.url and self.weights:
            version = json.loads(self.client.call("GET", api.GET_VERSION))["weight_version"]
            if version != self.weights:
                raise InvalidResponse(
                    f"it has weights {version!r}, not {self.weights!r}: it was started again, or "
                    "another trainer uses it"
                )

    def launch(self, port: int, key: str, more: Sequence[str] = ()) -> None:
        """Start the process on a port, with `more` options of vLLM's own."""
        scratch = self._begin(Client(port, key))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*api.command(self.options, port), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=api.environment(self.options, key, scratch),
                start_new_session=True,  # one process group, so that its children can be killed
            )

    def wait_until_healthy(self) -> None:
        """Wait until the process answers. Raises ServerFailure if it ends, or does not in time."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerFailure(f"{self.name} did not start: {self._logged_cause()}")
            try:
                self.client.call("GET", api.HEALTH, timeout_s=5)
                return
            except (RequestRefused, *TRANSPORT_ERRORS):
                time.sleep(POLL_S)
        raise ServerFailure(
            f"{self.name} did not answer within {START_S:.0f} s of its start: "
            f"{self._logged_cause()}"
        )

    def complete(
        self,
        index: int,
        request: Request,
        sampling: Sampling,
        ends: tuple[int, ...],
        vocabulary: int,
        timeout_s: float = 86400,
    ) -> Completion:
        """Return the completion of a request.

        The default timeout of a day is in effect none: `stalled` watches all requests together.

        Raises:
            RequestRefused: the request is wrong. TRANSPORT_ERRORS: the server failed.
        """
        body = api.generate_body(request, sampling, ends, self.adapters)
        response = self.client.post(api.GENERATE, body, timeout_s)
        return api.completion_of(response, index, sampling, vocabulary, self.weights)

    def stalled(self) -> bool:
        """Return whether no token was read or written for STALL_S; call it every few seconds."""
        now = time.monotonic()
        tokens, since = self._progress
        try:
            seen = api.tokens_processed(self.client.call("GET", api.METRICS, timeout_s=3))
        except (RequestRefused, *TRANSPORT_ERRORS):
            seen = tokens
        if seen != tokens or not since:
            self._progress = (seen, now)
            return False
        return now - since > STALL_S

    def reset_stall_timer(self) -> None:
        """Let `stalled` count from now."""
        self._progress = (self._progress[0], time.monotonic())

    def describe(self, error: BaseException) -> str:
        """Say in one line what a failed call means, waiting 3 s for the process to end."""
        process = self.process
        if process is None and not self.options.url:
            return f"{self.name} was stopped"
        if isinstance(error, RequestRefused):
            return f"{self.name} refuses a request: {error}"
        invalid = isinstance(error, InvalidResponse)
        if process is None and not isinstance(error, TimeoutError):
            return f"{self.name}{'' if invalid else ' does not answer'}: {error}"
        if process is None:
            return f"{self.name} hangs: it did not answer in time"
        if invalid and "HTTP 5" not in str(error) and process.poll() is None:
            return f"{self.name} answered garbage: {error}"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        code = process.poll()
        if code is not None and code < 0:
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"{self.name} was killed by {signal.Signals(-code).name}{memory}"
        if code is not None:
            return f"{self.name} ended with status {code}: {self._logged_cause()}"
        if invalid:
            return f"{self.name} failed: {error} ({self._logged_cause()})"
        if isinstance(error, TimeoutError):
            return f"{self.name} hangs: it did not answer in time"
        return f"{self.name} does not answer: {error!r}"

    def _logged_cause(self) -> str:
        return api.cause_of(self.log.read_text(encoding="utf-8", errors="replace"))

    def stop(self) -> None:
        """Kill the process and everything that it started; a person's server is left to itself."""
        if self.options.url:
            self.client.close()
            if self.scratch is not None:
                shutil.rmtree(self.scratch, ignore_errors=True)
        if self.process is None:
            return
        with suppress(ProcessLookupError):  # it has ended already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        assert self.scratch is not None
        shutil.rmtree(self.scratch, ignore_errors=True)


def free_port() -> int:
    """Return a loopback port that is free now; another process may still take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
