"""One judge for all attacks: what one program does must not matter to the next."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from stepcoder.sandbox import Judge, Limits

# Those of the judge's documentation that this environment has.
LIBRARIES = [
    name
    for name in ("numpy", "sortedcontainers", "sympy", "scipy", "pandas", "networkx")
    if find_spec(name)
]


@pytest.fixture(scope="session")
def libraries() -> list[str]:
    return LIBRARIES


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    limits = Limits(cpu_s=2.0, wall_s=30.0, memory_bytes=256 << 20, output_bytes=1 << 16)
    with Judge(workers=2, limits=limits, libraries=LIBRARIES) as judge:
        yield judge
