"""The process of one vLLM server: vLLM's own entry point, which ends when the trainer does.

`python -m stepcoder.rollout.vllm_process` takes vLLM's options. (The CPU build's `vllm` command
cannot start: it looks for a distribution named "vllm".)
"""

from __future__ import annotations

import os
import signal
import threading
import time

CHECK_S = 1.0


def end_with_parent() -> None:
    """Kill this process group as soon as the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


if __name__ == "__main__":  # vLLM's own child processes import this file again
    end_with_parent()
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
