"""The records of an evaluation: its samples and verdicts as JSON data.

A sample is an answer of the policy or a line of a file that others wrote.
"""

from __future__ import annotations

from stepcoder.command import Sample
from stepcoder.journal import Record
from stepcoder.judge.record import failing_test
from stepcoder.problems.answers import extract_completion, program_of_answer
from stepcoder.problems.problem import Problem
from stepcoder.sandbox import Status, Verdict
from stepcoder.taxonomy import bug_of

SAMPLES, VERDICTS = "samples.jsonl", "verdicts.jsonl"
FIELDS = ("answer", "solution", "completion")  # that may hold a sample's program
SHOWN = 500  # characters of a test's input, of what was expected, of what came

Key = tuple[str, int]  # task id, number of the sample


def key_of(record: Record) -> Key:
    """Return what names the sample of a record."""
    return record["task_id"], record["sample"]


def program_in(record: Record, problem: Problem) -> str:
    """Return the program in a record of ours.

    Raises:
        KeyError: it holds none.
    """
    if "solution" in record:
        return str(record["solution"])
    if "answer" in record:
        return program_of_answer(record["answer"], problem)
    if "given" in record:
        return str(record["given"] + extract_completion(record["completion"]))
    return str(problem.starter_code + record["completion"])


def extracted_program(record: Record, problem: Problem) -> str:
    """Return the program in a record whose completion or solution is read as a chat answer too."""
    if "given" not in record:
        text = next(record[name] for name in FIELDS if name in record)
        return program_of_answer(text, problem)
    return program_in(record, problem)


def judged_record(sample: Sample, verdict: Verdict) -> Record:
    """Return the verdict on a sample as JSON data, with the first test that failed."""
    record: Record = {
        "task_id": sample.problem.task_id,
        "sample": sample.number,
        "status": str(verdict.status),
        "passed": verdict.passed,
        "bug": bug_of(verdict, sample.program, sample.problem.entry_point),
        "tests": len(verdict.tests),
        "tests_passed": sum(t.status is Status.ACCEPTED for t in verdict.tests),
    }
    if verdict.passed:
        return record
    record |= {"message": verdict.message[:SHOWN], "error_line": verdict.error_line}
    if failing := failing_test(sample.problem.tests, verdict):
        record["failing_test"] = {
            key: value[:SHOWN] if isinstance(value, str) else value
            for key, value in failing.items()
        }
    return record | {"program": sample.program}
