"""A worker that runs nothing: what it leaves behind is its request, laid out over the board.

Started by the launcher's event loop in the place of `guest/worker.py`. A request's bytes are, in
this order: how to answer (1), the report (40), the board's header (80), three records (3 x 40),
the length of stdout (1), stdout, and the arena. See csrc/wire/protocol.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

CONTROL_FD, REQUEST_FD, BOARD_FD = 3, 4, 5
RUN = 1
REPORT_BYTES, HEADER_BYTES, SECRETS_BYTES, RECORDS_BYTES = 40, 80, 16, 120
AFTER_THE_TESTS = struct.pack("<iIIIqqq", 0, 0, 5, 0, 0, 0, 0)
PHASE = slice(8, 12)
RECORDS_OFFSET = 4096
ARENA_OFFSET_FIELD = 24


def main() -> None:
    """Answer every message to run with what the request says."""
    control = socket.socket(fileno=CONTROL_FD)
    control.send(struct.pack("<I", 0))
    while message := control.recv(64):
        if struct.unpack_from("<I", message)[0] != RUN:
            continue
        request = os.pread(REQUEST_FD, 1 << 20, 0)
        (arena_offset,) = struct.unpack("<Q", os.pread(BOARD_FD, 8, ARENA_OFFSET_FIELD))
        how, rest = request[:1] or b"\0", request[1:]
        report, rest = rest[:REPORT_BYTES], rest[REPORT_BYTES:]
        report += AFTER_THE_TESTS[len(report) :]
        if how != b"\xfd" and report[PHASE] == bytes(4):  # the judge starts another worker for it
            report = report[: PHASE.start] + AFTER_THE_TESTS[PHASE.start :]
        header, rest = rest[:HEADER_BYTES], rest[HEADER_BYTES:]
        records, rest = rest[:RECORDS_BYTES], rest[RECORDS_BYTES:]
        length = rest[0] if rest else 0
        os.pwrite(BOARD_FD, header, 0)
        if report[PHASE] != bytes(4):
            os.pwrite(BOARD_FD, bytes(SECRETS_BYTES), HEADER_BYTES)
        os.pwrite(BOARD_FD, records, RECORDS_OFFSET)
        if how == b"\xfc":  # the seals and the lines that ran lie behind the records
            os.pwrite(BOARD_FD, rest[1:], RECORDS_OFFSET + RECORDS_BYTES)
        os.pwrite(1, rest[1 : 1 + length], 0)
        os.pwrite(2, rest[1 : 1 + length], 0)
        os.pwrite(BOARD_FD, rest[1 + length :], arena_offset)
        if how == b"\xff":
            sys.exit(1)
        control.send(report[:-1] if how == b"\xfe" else report)


main()
