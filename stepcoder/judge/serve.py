"""`python -m stepcoder.judge serve`: the judge as an HTTP server, by default on loopback.

Takes the judge's options and the server's limits; `server` answers the requests.

requests:
  POST /judge      {"programs": [{"source": ..., "entry_point": "f",
                    "tests": {"kind": "call", "inputs": [[1]], "outputs": [2]}}, ...]};
                   the answer has one verdict a line, as programs finish
  POST /run_code   SandboxFusion's request and response, for Python
  GET  /health, /metrics (Prometheus), /openapi.json

The API key is read from --api-key-file or the variable STEPCODER_JUDGE_KEY; clients send
`Authorization: Bearer <key>`. An address that others can reach is refused without one.

exit status: 2 wrong arguments, 3 full isolation is unavailable here
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from stepcoder.command import LIMITS, Parser, add_sandbox_options, exit_status, for_users, judge_of
from stepcoder.errors import InputError

EPILOG = for_users(__doc__)
KEY_VARIABLE = "STEPCODER_JUDGE_KEY"


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("stepcoder.judge serve", "Judge programs that come in over HTTP.", EPILOG)
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--api-key-file", type=Path, help="file that holds the API key")
    add_sandbox_options(parser, "sandbox; a program may bring limits of its own")
    group = parser.add_argument_group("limits of the server; beyond them it answers 413 or 429")
    group.add_argument("--max-body-mib", type=int, default=64, help="(default: %(default)s)")
    group.add_argument("--max-batch", type=int, default=4096, help="programs in one request")
    group.add_argument("--max-queue", type=int, default=16_384, help="programs that wait or run")
    parser.add_argument(
        "--grace-s",
        type=int,
        default=5,
        help="at a stop, seconds for requests to end by themselves",
    )
    arguments = parser.parse(argv, "workers", *LIMITS, "max_body_mib", "max_batch")
    if arguments.max_queue < arguments.max_batch:
        parser.error(
            f"--max-queue is {arguments.max_queue}, less than --max-batch "
            f"({arguments.max_batch}): a full batch would never be taken; raise it"
        )
    return arguments


def _key(file: Path | None) -> str:
    """Return the API key, "" if there is none. Raises InputError if one was meant but is empty."""
    try:
        key = file.read_text(encoding="ascii") if file else os.environ.get(KEY_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file: {file} cannot be read ({error})") from None
    if key is None:
        return ""
    if not key.strip():
        raise InputError(f"{file or KEY_VARIABLE} holds no API key; write one into it or remove it")
    return key.strip()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(argv: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit status."""
    arguments = _arguments(argv)
    return exit_status(lambda: _serve(arguments), resumable=False)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from stepcoder.judge.server import ServerLimits, make_app
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'stepcoder[server]'"
        ) from None
    key = _key(arguments.api_key_file)
    if not key and not _is_loopback(arguments.host):
        raise InputError(
            f"--host {arguments.host} can be reached by others and there is no API key; "
            f"set {KEY_VARIABLE} or --api-key-file, or use --host 127.0.0.1"
        )
    server_limits = ServerLimits(
        arguments.max_body_mib << 20, arguments.max_batch, arguments.max_queue
    )
    # uvicorn raises the signal that stopped it once more: by default that would end this process
    # before the judge has ended its programs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with judge_of(arguments) as judge:
        uvicorn.run(
            make_app(judge, server_limits, key),
            host=arguments.host,
            port=arguments.port,
            access_log=False,
            timeout_graceful_shutdown=arguments.grace_s,
        )
    return 0
