"""One supervised vLLM server: a child process on a random loopback port, watched and restarted.

Whatever ends a server, hangs it or makes it talk nonsense becomes a ServerFailure that names it;
the engine decides what to do.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm.api import BadAnswer, Client, ServerOptions

START_S = 900.0  # large models load and compile for minutes
STALL_S = 18.0  # without a single token while completions are waited for
ANSWER_S = 18.0  # for a request that needs no time to speak of
FIRST_ANSWER_S = 120.0  # of a new server, which may still compile kernels
POLL_S = 0.2
PORT_TRIES = 3

NO_ANSWER = (OSError, http.client.HTTPException, BadAnswer)


class ServerFailure(Exception):
    """A server cannot be used any more; the message names it and says why."""


class VLLMServer:
    """A server process; `start`, then `complete` and `post`, then `stop`."""

    def __init__(self, number: int, options: ServerOptions, folder: Path) -> None:
        """Remember what to start; the log goes to `folder`/server-<number>.log."""
        self.name = f"vLLM server {number}"
        self.options = options
        self.log = folder / f"server-{number}.log"
        self.weights = ""  # version that it was last given
        self.process: subprocess.Popen[bytes] | None = None
        self._scratch = Path()
        self.client = Client(0, "")
        self._tokens_at = (0.0, 0.0)  # tokens processed, and when that was first seen

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerFailure: it ended, or did not answer in time; with its own error text.
        """
        for tries in range(1, PORT_TRIES + 1):
            self._launch(free_port())
            try:
                self._wait_until_healthy()
                return
            except ServerFailure as failure:
                self.stop()
                if "address already in use" not in str(failure).lower() or tries == PORT_TRIES:
                    raise

    def _launch(self, port: int) -> None:
        self.client = Client(port, secrets.token_hex(16))
        self.weights = ""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix="stepcoder-vllm-"))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                api.command(self.options, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=api.environment(self.options, self.client.api_key, self._scratch),
                start_new_session=True,  # one process group: all of it can be killed
            )

    def _wait_until_healthy(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerFailure(f"{self.name} did not start: {self._own_words()}")
            try:
                self.client.call("GET", api.HEALTH, timeout_s=5)
                return
            except (api.Refused, *NO_ANSWER):
                time.sleep(POLL_S)
        raise ServerFailure(
            f"{self.name} did not answer within {START_S:.0f} s of its start: {self._own_words()}"
        )

    def complete(
        self,
        index: int,
        request: Request,
        sampling: Sampling,
        eos: int | None,
        vocabulary: int,
        timeout_s: float = 86400,
    ) -> Completion:
        """Return the completion of a request. Raises NO_ANSWER's exceptions, or api.Refused.

        By default without a deadline to speak of: `stalled` watches all requests together.
        """
        body = api.generate_body(request, sampling, eos)
        answer = self.client.post(api.GENERATE, body, timeout_s)
        return api.completion_of(answer, index, sampling, vocabulary, self.weights)

    def stalled(self) -> bool:
        """Return whether no token was read or written for STALL_S (call it every few seconds)."""
        now = time.monotonic()
        tokens, since = self._tokens_at
        try:
            text = self.client.call("GET", api.METRICS, timeout_s=3)
            seen = api.tokens_processed(text)
        except (api.Refused, *NO_ANSWER):
            seen = tokens
        if seen != tokens or not since:
            self._tokens_at = (seen, now)
            return False
        return now - since > STALL_S

    def busy(self) -> None:
        """Begin to watch for a stall from now."""
        self._tokens_at = (self._tokens_at[0], time.monotonic())

    def describe(self, error: BaseException) -> str:
        """Name what a failed call means, now that the process may have ended too."""
        process = self.process
        if process is None:
            return f"{self.name} was stopped"
        if isinstance(error, api.Refused):
            return f"{self.name} refuses a request: {error}"
        deadline = time.monotonic() + 3
        while process.poll() is None and time.monotonic() < deadline:
            if isinstance(error, BadAnswer) and "HTTP 5" not in str(error):
                return f"{self.name} answered garbage: {error}"
            time.sleep(POLL_S)
        code = process.poll()
        if code is not None and code < 0:
            killer = signal.Signals(-code).name
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"{self.name} was killed by {killer}{memory}"
        if code is not None:
            return f"{self.name} ended with status {code}: {self._own_words()}"
        if isinstance(error, BadAnswer):
            return f"{self.name} failed: {error} ({self._own_words()})"
        if isinstance(error, TimeoutError):
            return f"{self.name} hangs: it did not answer in time"
        return f"{self.name} does not answer: {error!r}"

    def _own_words(self) -> str:
        return api.cause_of(self.log.read_text(encoding="utf-8", errors="replace"))

    def stop(self) -> None:
        """End the process and everything that it started."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):  # it is gone already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        shutil.rmtree(self._scratch, ignore_errors=True)


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
