"""One judge for all attacks: what one program does must not matter to the next."""

from collections.abc import Iterator

import pytest

from stepcoder.sandbox import Judge, Limits


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    limits = Limits(cpu_s=2.0, wall_s=30.0, memory_bytes=256 << 20, output_bytes=1 << 16)
    with Judge(workers=2, limits=limits) as judge:
        yield judge
