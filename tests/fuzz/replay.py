"""Feeds the corpus to its targets, with a launcher that was built with sanitizers.

`python replay.py EXTENSION` prints how many inputs each target took.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.sanitized_judge import load

CORPUS = Path(__file__).with_name("corpus")


def main() -> None:
    """Run every input of the corpus once."""
    load(sys.argv[1])
    from targets import TARGETS

    for name, target in TARGETS.items():
        inputs = sorted((CORPUS / name).iterdir())
        for path in inputs:
            try:
                target(path.read_bytes())
            except BaseException:
                print(f"{name}: {path.name}", file=sys.stderr)
                raise
        print(name, len(inputs))


if __name__ == "__main__":
    main()
