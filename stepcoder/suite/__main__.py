"""Writes the embedded suite as a JSONL file of problems: python -m stepcoder.suite --out FILE."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections import Counter
from pathlib import Path

from stepcoder.suite import FILE, problems


def main() -> None:
    """Write the file named by --out and say what is in it."""
    parser = argparse.ArgumentParser(prog="python -m stepcoder.suite", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    path: Path = parser.parse_args().out
    path.write_bytes(gzip.decompress(FILE.read_bytes()))
    parts = Counter(problem.split for problem in problems())
    counts = ", ".join(f"{parts[part]} {part}" for part in ("train", "validation", "eval"))
    sys.stdout.write(f"{path}: {counts} problems\n")


if __name__ == "__main__":
    main()
