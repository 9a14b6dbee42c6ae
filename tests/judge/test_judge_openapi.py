"""A fuzzer reads the server's OpenAPI document and finds every answer to be what it promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra `server` is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from stepcoder.judge.server import make_app
from stepcoder.sandbox import Judge, Limits

pytestmark = pytest.mark.filterwarnings("default")

PATHS = [("/judge", "POST"), ("/run_code", "POST"), ("/health", "GET"), ("/metrics", "GET")]


@pytest.fixture(scope="module")
def schema() -> Iterator[schemathesis.BaseSchema]:
    with Judge(workers=2, limits=Limits(cpu_s=0.2, wall_s=5.0)) as judge:
        yield schemathesis.openapi.from_asgi("/openapi.json", make_app(judge, key="secret"))


def test_the_document_names_every_path(schema: schemathesis.BaseSchema) -> None:
    found = {(o.ok().path, o.ok().method.upper()) for o in schema.get_all_operations()}
    assert found == set(PATHS)


@pytest.mark.parametrize(("path", "method"), PATHS)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_what_the_document_says(
    schema: schemathesis.BaseSchema, path: str, method: str, mode: schemathesis.GenerationMode
) -> None:
    if method == "GET" and mode.is_negative:
        pytest.skip("nothing of a request without a body can be wrong")

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def fuzz(case: schemathesis.Case) -> None:
        # A schema cannot say that there must be as many outputs as inputs, nor does the key change.
        case.call_and_validate(
            headers={"Authorization": "Bearer secret"},
            excluded_checks=[positive_data_acceptance, ignored_auth],
        )

    fuzz()
