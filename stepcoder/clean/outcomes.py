"""What the steps of a cleaning gave, as JSON data for its journal, and back.

The journal holds records in the order in which they finished; the results do not depend on it.
"""

from __future__ import annotations

from dataclasses import replace

from stepcoder.clean.comparison import Comparison
from stepcoder.clean.extend import Cleaned
from stepcoder.clean.reasons import Dropped, Reason
from stepcoder.clean.records import Candidate
from stepcoder.clean.verify import Verified
from stepcoder.journal import Record

VERIFIED, EXTENDED = "journal/verified.jsonl", "journal/extended.jsonl"


def verified_record(candidate: Candidate, outcome: Verified | Dropped) -> Record:
    """Return an outcome as JSON data, with what a repair changed."""
    if isinstance(outcome, Dropped):
        dropped = {"reason": outcome.reason, "detail": outcome.detail}
        return {"number": outcome.number, "dropped": dropped}
    before, after = candidate.record, outcome.candidate.record
    return {
        "number": candidate.number,
        "changes": {key: value for key, value in after.items() if before.get(key) != value},
        "repairs": list(outcome.candidate.repairs),
        "lines": sorted(outcome.executed_lines),
        "checker": outcome.comparison,
    }


def verified_of(candidate: Candidate, record: Record) -> Verified | Dropped:
    """Return what `verified_record` wrote of the same candidate."""
    if "dropped" in record:
        dropped = record["dropped"]
        return candidate.dropped(Reason(dropped["reason"]), dropped["detail"])
    merged = {**candidate.record, **record["changes"]}
    changed = replace(candidate, record=merged, repairs=tuple(record["repairs"]))
    return Verified(changed, frozenset(record["lines"]), Comparison(record["checker"]))


def extended_record(number: int, cleaned: Cleaned) -> Record:
    """Return a cleaned problem as JSON data."""
    return {
        "number": number,
        "tests": cleaned.tests if cleaned.generated else None,
        "generated": cleaned.generated,
        "lines": sorted(cleaned.executed_lines),
        "mutants": list(cleaned.mutants),
    }


def cleaned_of(verified: Verified, record: Record) -> Cleaned:
    """Return what `extended_record` wrote of the same problem."""
    tests = record["tests"] or verified.candidate.record["tests"]
    first, second, third = record["mutants"]
    lines = frozenset(record["lines"])
    return Cleaned(verified, tests, record["generated"], lines, (first, second, third))
