"""Feeds the corpus to its targets, with a launcher that was built with sanitizers.

`python replay.py EXTENSION` prints how many inputs each target took.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.sanitized_judge import load

CORPUS = Path(__file__).with_name("corpus")


def inputs(target: str) -> list[tuple[str, bytes]]:
    """Return the names and bytes of a target's inputs."""
    with zipfile.ZipFile(CORPUS / f"{target}.zip") as archive:
        return [(name, archive.read(name)) for name in sorted(archive.namelist())]


def main() -> None:
    """Run every input of the corpus once."""
    load(sys.argv[1])
    from targets import TARGETS

    for target, parse in TARGETS.items():
        for name, data in inputs(target):
            try:
                parse(data)
            except BaseException:
                print(f"{target}: {name}", file=sys.stderr)
                raise
        print(target, len(inputs(target)))


if __name__ == "__main__":
    main()
