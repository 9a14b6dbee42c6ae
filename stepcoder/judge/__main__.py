"""`python -m stepcoder.judge samples.jsonl ...` judges a file, `... serve` starts a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stepcoder.command import leave


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["serve"]:
        from stepcoder.judge.serve import main as serve

        return serve(arguments[1:])
    from stepcoder.judge.command import main as judge_files

    return judge_files(arguments)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    leave(main())
