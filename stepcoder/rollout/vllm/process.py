"""Runs one vLLM server, `python -m stepcoder.rollout.vllm.process OPTIONS`, and ends it in time.

The options are vLLM's. This starts vLLM's own entry point and kills it when the trainer has ended.
(The CPU build's `vllm` command does not start: it looks for a distribution named "vllm".)
"""

from __future__ import annotations

import hmac
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

TRAINER = "STEPCODER_TRAINER"  # the environment variable with the trainer's process id
CHECK_S = 1.0  # seconds between two looks whether the parent process still runs

Message = MutableMapping[str, Any]  # these three are ASGI's
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RequireKey:
    """ASGI middleware that answers 401 to every call without the server's key, on every route.

    vLLM's own check leaves out the routes for weights, sleep and remote procedure calls, so that
    any user of the machine could control the server.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Protect `app`; the key is in the environment variable VLLM_API_KEY."""
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a call with the key on to the app."""
        if scope["type"] != "lifespan":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
                return
        await self._app(scope, receive, send)


def end_with(parent: int) -> None:
    """Kill this process group, and delete its temporary files, once process `parent` has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_S)
        shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)  # TMPDIR, made for this server
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


if __name__ == "__main__":  # vLLM's own child processes import this file again
    end_with(int(os.environ[TRAINER]))
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
elif __name__ == "__mp_main__":
    end_with(os.getppid())
