"""The JSON form of problems, their tests and checkers: in problem files, other trainers, /judge.

Takes JSON data, gives the frozen data of `sandbox.program` and `sandbox.checkers`. Each kind of
tests and each checker is one pydantic model, whose fields are those of the class that it `builds`;
the server's OpenAPI document is made from the same models. Files and requests differ in two ways:
a file may hold assert tests as one text (`AssertCodeSchema`), a request holds pieces
(`AssertsSchema`); and files may have further fields, which are ignored, and null, "" and the like
for absent ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, WrapValidator

from stepcoder.problems.asserts import split_asserts
from stepcoder.sandbox.checker_programs import Convention, program_checker
from stepcoder.sandbox.checkers import (
    Custom,
    Exact,
    Interactor,
    Regex,
    Testlib,
    Tolerance,
    Unordered,
)
from stepcoder.sandbox.compare import FLOAT_TOLERANCE
from stepcoder.sandbox.points import Subtask
from stepcoder.sandbox.program import AssertTests, CallTests, StdinTests, Tests, UnittestTests

TESTS_SCHEMA = (
    '{"kind": "call" or "stdin", "inputs": [...], "outputs": [...]} or '
    '{"kind": "assert" or "unittest", "code": "..."}'
)
MAX_TESTS_A_REQUEST = 10_000  # of each program

FILE = "file"  # the context in which records of files are validated

# Optional fields that are taken for absent where they hold anything false: 0, [] and so on.
_LABELS = {"starter_code", "entry_point", "preamble", "source", "difficulty", "split", "names"}

_EXPECTED = {"string_type": "a text", "list_type": "a list", "dict_type": "an object"}


class BrokenRecordError(ValueError):
    """What is wrong with one record, in words that follow its place."""


class Schema(BaseModel):
    """JSON data with these fields and no others, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


S = TypeVar("S", bound=Schema)


class _Buildable(Schema):
    """Describes an object of the class `builds`, whose fields have the same names."""

    builds: ClassVar[Callable[..., Any]]

    def build(self) -> Any:
        """Return what the data describes. Raises ValueError."""
        values = {name: _built(value) for name, value in vars(self).items() if name != "kind"}
        return self.builds(**values)


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return (
            tuple(map(_built, value))
            if value and isinstance(value[0], _Buildable)
            else tuple(value)
        )
    return value.build() if hasattr(value, "build") else value


def _tolerance(value: Any, check: Callable[[Any], Any], info: ValidationInfo) -> Any:
    """Return a checked number as it was given: 0 and 0.0 have different fingerprints.

    Files may hold any number; requests are held to the range.
    """
    if info.context != FILE or type(value) not in (int, float):
        check(value)
    return value


FloatTolerance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), WrapValidator(_tolerance)]
# Told in the OpenAPI document; `judge.messages` refuses more, since files may have more.
_AT_MOST: dict[str, Any] = {"maxItems": MAX_TESTS_A_REQUEST}
_ONE_A_TEST = Field(min_length=1, json_schema_extra=_AT_MOST)


class ExactSchema(_Buildable):
    """Compare values without tolerance; stdout by lines."""

    builds = Exact
    kind: Literal["exact"]


class ToleranceSchema(_Buildable):
    """Compare numbers within a relative tolerance; also among the tokens of stdout."""

    builds = Tolerance
    kind: Literal["tolerance"]
    float_tolerance: FloatTolerance = FLOAT_TOLERANCE
    absolute_tolerance: FloatTolerance | None = None


class UnorderedSchema(_Buildable):
    """Compare the items of a returned list in any order; of stdout its lines, or their words."""

    builds = Unordered
    kind: Literal["unordered"]
    float_tolerance: FloatTolerance = FLOAT_TOLERANCE


class RegexSchema(_Buildable):
    """Take outputs as regular expressions for all of stdout, or all of a returned text."""

    builds = Regex
    kind: Literal["regex"]


class CustomSchema(_Buildable):
    """Compare by source that defines `check(input, expected, got) -> bool`, in a sandbox too."""

    builds = Custom
    kind: Literal["custom"]
    source: str


class ProgramSchema(_Buildable):
    """Compare by a program that gets the names of files with input, output and answer."""

    builds = staticmethod(program_checker)
    kind: Literal["program"]
    source: str
    convention: Convention = "testlib"


class _CheckerProgramSchema(_Buildable):
    source: str
    headers: dict[str, str] = {}

    def build(self) -> Any:
        """Return the checker, whose headers are pairs."""
        return self.builds(self.source, tuple(self.headers.items()))


class TestlibSchema(_CheckerProgramSchema):
    """Compare stdout by a C++ program with testlib's convention, in a sandbox too."""

    builds = Testlib
    kind: Literal["testlib"]


class InteractorSchema(_CheckerProgramSchema):
    """Let the program talk to a C++ program with testlib's convention."""

    builds = Interactor
    kind: Literal["interactor"]


CheckerSchema = Annotated[
    ExactSchema
    | ToleranceSchema
    | UnorderedSchema
    | RegexSchema
    | CustomSchema
    | ProgramSchema
    | TestlibSchema
    | InteractorSchema,
    Field(discriminator="kind"),
]


class SubtaskSchema(_Buildable):
    """Points for tests (their places, from 0): the share that the worst of them earns."""

    builds = Subtask
    points: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    tests: list[Annotated[int, Field(ge=0)]] = _ONE_A_TEST


class CallTestsSchema(_Buildable):
    """Call the entry point with each list of arguments and compare what it returns."""

    builds = CallTests
    kind: Literal["call"]
    inputs: list[list[Any]] = _ONE_A_TEST
    outputs: list[Any] = _ONE_A_TEST
    float_tolerance: FloatTolerance = FLOAT_TOLERANCE
    checker: CheckerSchema | None = None
    process_per_test: bool = False
    in_place: int | None = Field(None, ge=0)
    subtasks: list[SubtaskSchema] = []


class StdinTestsSchema(_Buildable):
    """Run the program on each stdin and compare its stdout, by tokens without a checker.

    `input_file` and `output_file` are names of files that stand for stdin and stdout.
    """

    builds = StdinTests
    kind: Literal["stdin"]
    inputs: list[str] = _ONE_A_TEST
    outputs: list[str] = _ONE_A_TEST
    checker: CheckerSchema | None = None
    input_file: str = ""
    output_file: str = ""
    subtasks: list[SubtaskSchema] = []


class AssertsSchema(_Buildable):
    """Run each piece of test code after the program, in a process that it cannot reach."""

    builds = AssertTests
    kind: Literal["assert"]
    asserts: list[str] = _ONE_A_TEST
    setup: str = ""
    process_per_test: bool = False


class AssertCodeSchema(_Buildable):
    """Test code that raises on failure, to be cut into its asserts (`split_asserts`)."""

    kind: Literal["assert"]
    code: str
    process_per_test: bool = False

    def build(self) -> AssertTests:
        """Return the single tests. Raises ValueError if the code does not parse."""
        try:
            tests = split_asserts(self.code)
        except SyntaxError as error:
            raise ValueError(f"the tests do not parse ({error})") from None
        return replace(tests, process_per_test=True) if self.process_per_test else tests


class UnittestTestsSchema(_Buildable):
    """Run each test method of a unittest module, in a process that the program cannot reach.

    `names` ("TestStack.test_push") are read off the code where there are none. `shared_process`
    runs the tests in the program's own process, where it can lie to them.
    """

    builds = UnittestTests
    kind: Literal["unittest"]
    code: str
    names: list[str] = Field([], json_schema_extra=_AT_MOST)
    shared_process: bool = False
    process_per_test: bool = False


RequestTestsSchema = Annotated[
    CallTestsSchema | StdinTestsSchema | AssertsSchema | UnittestTestsSchema,
    Field(discriminator="kind"),
]
_FILE_TESTS: dict[str, type[_Buildable]] = {
    "call": CallTestsSchema,
    "stdin": StdinTestsSchema,
    "assert": AssertCodeSchema,
    "unittest": UnittestTestsSchema,
}


class ProblemSchema(Schema):
    """One line of problems.jsonl; the fields are `Problem`'s. Labels may be of any type."""

    task_id: str
    prompt: str
    tests: dict[str, Any]
    canonical_solution: str = ""
    starter_code: str = ""
    entry_point: str | None = None
    preamble: str = ""
    source: Any = ""
    difficulty: Any = "unknown"
    split: Any = None


@cache
def _fields(model: type[Schema]) -> dict[str, bool]:
    """Return the fields of a model, each with whether it is required."""
    return {name: field.is_required() for name, field in model.model_fields.items()}


def read_record(model: type[S], record: Mapping[str, Any]) -> S:
    """Return a record of a file as a model. Raises BrokenRecordError that names the field."""
    given = {}
    for name, required in _fields(model).items():
        value = record.get(name)
        absent = value is None or value == "" or (not value and name in _LABELS)
        if required or not absent:
            given[name] = value
            _check_text(name, value)
    try:
        return model.model_validate(given, context=FILE)
    except ValidationError as error:
        raise BrokenRecordError(_line(error)) from None


def _check_text(name: str, value: Any) -> None:
    """Raise BrokenRecordError for a text with half of a surrogate pair: tokenizers refuse it."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError as error:
        raise BrokenRecordError(
            f'field "{name}" holds {value[error.start]!a} at character {error.start + 1}, half of '
            "a surrogate pair, which UTF-8 cannot encode"
        ) from None


def read_tests(record: Mapping[str, Any]) -> Tests:
    """Return the tests of a problem in a file. Raises BrokenRecordError that names the field."""
    model = _FILE_TESTS.get(str(record.get("kind")))
    if model is AssertCodeSchema and "code" not in record and "asserts" in record:
        model = AssertsSchema
    if model is None:
        raise BrokenRecordError(
            f'field "tests" has kind {record.get("kind")!r} (expected {TESTS_SCHEMA})'
        )
    inputs, outputs = record.get("inputs"), record.get("outputs")
    if isinstance(inputs, list) and isinstance(outputs, list) and "inputs" in _fields(model):
        counts = len(inputs), len(outputs)
        if counts[0] == 0 or counts[0] != counts[1]:
            raise BrokenRecordError(f'field "tests" has {counts[0]} inputs, {counts[1]} outputs')
    found = read_record(model, record)
    try:
        tests: Tests = found.build()
    except ValueError as error:
        raise BrokenRecordError(str(error)) from None
    return tests


def place_of(location: Iterable[int | str]) -> str:
    """Return where a validation error is, such as "programs[2].tests.call.inputs"."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _line(error: ValidationError) -> str:
    """Return the first error: the field, what it holds, and what it should hold."""
    first = error.errors(include_url=False)[0]
    place, kind = place_of(first["loc"]), first["type"]
    wrong = f'field "{place}" is {json.dumps(first["input"], default=repr)[:40]}'
    if place.endswith("]"):
        return f"{wrong}, no {'text' if kind == 'string_type' else 'list of arguments'}"
    expected = TESTS_SCHEMA if place == "tests" else _EXPECTED.get(kind)
    if first["input"] is None:
        wrong = f'field "{place}" is missing'
    return f"{wrong} (expected {expected})" if expected else f"{wrong}: {first['msg']}"
