"""Runs the methods of unittest.TestCase classes and records each as one test.

Takes the module that the test code ran in: in the tester's process, or in the program's where tests
share it. Imports unittest only when such tests are run.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

from .. import _launcher
from .describe import describe

# Values of the last field of an error's record, which else says if the program raised the error.
SKIPPED, BROKEN = "skipped", "broken"


def prepare(module: types.ModuleType) -> None:
    """Prepare for test code that is about to run in `module`."""
    import unittest

    unittest.main = lambda *_, **__: None  # type: ignore[assignment]
    sys.modules[module.__name__] = module


class Runner:
    """One run of tests, in the order given; those of a class stand together.

    `begin` is called with a test's number when its phase has begun. `failed` records an exception.
    `swallowed` returns a failed assertion that a test did not let out. `is_over` says whether the
    program is gone, after which no result counts.
    """

    def __init__(
        self, module: types.ModuleType, names: list[str], begin: Callable[[int], object]
    ) -> None:
        """Take the tests `names` ("Class.method") of a module."""
        self.module = module
        self.names = names
        self.begin = begin
        self.failed: Callable[[BaseException], object] = lambda error: _launcher.record_error(
            describe(error)
        )
        self.is_over: Callable[[], bool] = lambda: False
        self.swallowed: Callable[[], BaseException | None] = lambda: None
        self.ended: Callable[[], object] = lambda: None  # called after each test

    def run(self, first: int = 0, *, stop_at_first_failure: bool = False) -> None:
        """Run the tests from number `first` on. Raises what setUpModule raises."""
        import unittest

        self._fixture("setUpModule")
        tests = [(i, *name.rpartition(".")[::2]) for i, name in enumerate(self.names)][first:]
        for class_name, group in itertools.groupby(tests, key=lambda test: test[1]):
            kind = getattr(self.module, class_name, None)
            if not (isinstance(kind, type) and issubclass(kind, unittest.TestCase)):
                kind = None
            broken: BaseException | None = None
            methods = list(group)
            for i, _, method in methods:
                _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + i)
                self.begin(i)
                is_first, is_last = i == methods[0][0], i == methods[-1][0]
                if kind is None or not callable(getattr(kind, method, None)):
                    message = f"the tests have no {self.names[i]}"
                    _launcher.record_error(("LookupError", message, None, BROKEN))
                    continue
                skipped = _skipped(kind, method)
                if is_first and not _skipped(kind):
                    broken = _raised(kind.setUpClass)
                outcome = _Outcome(broken)
                if broken is None and skipped is None:
                    outcome.run(kind, method)
                if is_last and not _skipped(kind):
                    outcome.fail(_torn_down(kind, broken))
                if i + 1 == len(self.names):
                    outcome.fail(_raised(lambda: self._fixture("tearDownModule")))
                if self.is_over():
                    return
                passed = self._record(outcome, skipped)
                self.ended()
                if not passed and stop_at_first_failure:
                    return
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + len(self.names))

    def _fixture(self, name: str) -> None:
        """Call a function of the tests' own."""
        fixture = getattr(self.module, name, None)
        if isinstance(fixture, types.FunctionType):
            fixture()

    def _record(self, outcome: _Outcome, skipped: str | None) -> bool:
        """Record how a test ended; False if it did not pass."""
        if outcome.error is not None:
            self.failed(outcome.error)
        elif skipped is not None:
            _launcher.record_value(f"skipped: {skipped}", not_plain)
            return True
        elif outcome.skipped is not None:
            _launcher.record_error(("SkipTest", outcome.skipped, None, SKIPPED))
        elif outcome.passed and (error := self.swallowed()) is not None:
            self.failed(error)
        elif outcome.passed or outcome.failed_as_expected:
            _launcher.record_value(None, not_plain)
            return True
        else:
            unexpected = "unexpected success" if outcome.came_to_its_end else "the test did not end"
            self.failed(AssertionError(unexpected))
        return False


class _Outcome:
    """How a test ended: the part of unittest.TestResult that a TestCase calls."""

    failfast = buffer = shouldStop = tb_locals = False

    def __init__(self, error: BaseException | None) -> None:
        self.error: BaseException | None = None
        self.skipped: str | None = None
        self.passed = self.failed_as_expected = self.came_to_its_end = False
        self.fail(error)

    def run(self, kind: Any, method: str) -> None:
        """Run one test with its setUp, tearDown and cleanups."""
        self.fail(_raised(lambda: self._run(kind(method))))

    def _run(self, case: Any) -> None:
        """Run a test case. Some exceptions end a test as if it had passed, so its end is noted."""
        call = case._callTestMethod

        def call_to_its_end(method: Any) -> None:
            call(method)
            self.came_to_its_end = True

        case._callTestMethod = call_to_its_end
        case.run(self)

    def fail(self, error: BaseException | None) -> None:
        """Keep the first error; a skip is no error."""
        from unittest import SkipTest

        if isinstance(error, SkipTest):
            self.skipped = self.skipped or str(error)[:300]
        elif self.error is None:
            self.error = error

    def startTest(self, _test: object) -> None: ...
    def stopTest(self, _test: object) -> None: ...
    def addDuration(self, _test: object, _elapsed: float) -> None: ...
    def addUnexpectedSuccess(self, _test: object) -> None: ...

    def addSuccess(self, _test: object) -> None:
        self.passed = self.came_to_its_end

    def addExpectedFailure(self, _test: object, _error: object) -> None:
        self.failed_as_expected = True

    def addSkip(self, _test: object, reason: object) -> None:
        self.skipped = self.skipped or str(reason)[:300]

    def addError(self, _test: object, error: Any) -> None:
        self.fail(error[1])

    addFailure = addError

    def addSubTest(self, _test: object, _subtest: object, error: Any) -> None:
        if error is not None:
            self.fail(error[1])


def _skipped(kind: Any, method: str = "setUpClass") -> str | None:
    """Return why a decorator skips a class, or a method of it; None if none does."""
    for thing in (kind, getattr(kind, method)):
        if getattr(thing, "__unittest_skip__", False):
            return str(getattr(thing, "__unittest_skip_why__", ""))[:300]
    return None


def _torn_down(kind: Any, broken: BaseException | None) -> BaseException | None:
    """Run the class's tearDown and cleanups; return the first error."""
    error = _raised(kind.tearDownClass) if broken is None else None
    kind.doClassCleanups()
    errors = [error] if error else [found[1] for found in kind.tearDown_exceptions]
    return errors[0] if errors else None


def _raised(do: Callable[[], object]) -> BaseException | None:
    try:
        do()
    except BaseException as error:
        return error
    return None


def not_plain(_value: object) -> Any:
    """Normalize nothing: what tests report is plain already."""
    return NotImplemented
