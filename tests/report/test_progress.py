"""Live progress: one line a step in a log, a block that updates in place on a terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from stepcoder.config import Config, SFTConfig
from stepcoder.report.progress import Progress, bar, clock, trend

CONFIG = Config(steps=40, sft=SFTConfig(steps=5))
RECORD = {
    "phase": "rl",
    "reward_mean": -0.12,
    "pass_rate": 0.412,
    "masked_share": 0.21,
    "kl": 0.0123,
    "tokens_per_s": 1234.5,
    "stages": {"0": 312, "1": 100},
    "time": {"generate": 2.1, "judge": 0.3},
}


def log() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rendered(width: int) -> list[str]:
    """What a terminal of this width shows after a step."""
    progress = Progress(CONFIG, Console(file=io.StringIO(), width=width))
    progress.update(0, {"phase": "rl", "eval": {"pass@1": 0.4}})
    progress.update(7, RECORD)
    console = Console(file=io.StringIO(), width=width)
    console.print(progress)
    return shown(console).splitlines()


def test_a_log_gets_one_plain_line_a_step() -> None:
    console = log()
    with Progress(CONFIG, console) as progress:
        progress.update(3, {"phase": "sft", "loss": 1.25, "tokens_per_s": 2000.0})
        progress.update(0, {"phase": "rl", "eval": {"pass@1": 0.4}})
        progress.update(1, {**RECORD, "eval": {"pass@1": 0.52}})
    first, second, third = shown(console).splitlines()
    assert first == "sft 3/5  loss 1.250  2,000 tokens/s"
    assert second == "rl 0/40  held-out 40.0% (at step 0)"
    assert third.startswith(
        "rl 1/40  reward -0.12  pass 41.2%  held-out 52.0% (at step 1, 40.0% at 0)  masked 21%  "
        "kl 0.012  stages 0:312 1:100  1,234 tokens/s  2.4 s (generate 2.1, judge 0.3)"
    )
    assert third.endswith(" left")


def test_the_test_problems_are_shown_where_they_were_evaluated() -> None:
    console = log()
    with Progress(CONFIG, console) as progress:
        progress.update(0, {"phase": "rl", "test": {"pass@1": 0.1}})
        progress.update(1, {"phase": "rl", "reward_mean": 0.5})
        progress.update(2, {"phase": "rl", "test": {"pass@1": 0.25}})
    start, between, end = shown(console).splitlines()
    assert "test 10.0% (at step 0)" in start
    assert "test" not in between
    assert "test 25.0% (at step 2, 10.0% at 0)" in end


def test_an_evaluation_is_followed_by_what_was_slow_and_what_never_passes() -> None:
    stuck = [["p/1", 9], ["p/2", 8], ["p/3", 5], ["p/4", 3]]
    record = {
        "phase": "rl",
        "slowest": {
            "generate": [["long", 160, "cut off"], ["short", 9, "ended"]],
            "judge": [["slow", 2.913, "wall time limit"]],
        },
        "never_passed": {"problems": 12, "most_tried": stuck},
    }
    console = log()
    with Progress(CONFIG, console) as progress:
        progress.update(1, record)
        progress.update(2, {**record, "eval": {"pass@1": 0.25}})
        progress.update(3, {"phase": "rl", "eval": {"pass@1": 0.25}, "never_passed": None})
    first, second, remark, third = shown(console).splitlines()
    assert [line[:4] for line in (first, second, third)] == ["rl 1", "rl 2", "rl 3"]
    assert remark.strip() == (
        "slowest to judge: slow (2.913 s, wall time limit);  slowest to generate: long (160 "
        "tokens, cut off);  never passed in 3 attempts or more: p/1 (9), p/2 (8), p/3 (5), 9 more"
    )


def test_a_step_without_figures_is_still_a_line() -> None:
    console = log()
    with Progress(CONFIG, console) as progress:
        progress.update(1, {"phase": "rl", "kl": None, "stages": {}, "time": {}})
    assert shown(console) == "rl 1/40\n"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_shows_every_part_within_its_width(width: int) -> None:
    lines = rendered(width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines] == ["RL", "scores", "stages", "time"]
    assert "step 7/40" in lines[0]
    assert "pass 41.2%" in lines[1]
    assert "0 312" in lines[2]
    assert "generate 2.1" in lines[3]


def test_what_is_printed_meanwhile_is_kept_whole() -> None:
    console = terminal()
    with Progress(CONFIG, console) as progress:
        progress.update(1, RECORD)
        print("a line of a log", file=sys.stdout)
        progress.update(2, RECORD)
    lines = [re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", line) for line in shown(console).splitlines()]
    assert "a line of a log" in lines
    assert any("step 2/40" in line for line in lines)


def test_an_exception_leaves_the_terminal_and_the_streams_as_they_were() -> None:
    console = terminal()
    streams = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), Progress(CONFIG, console):
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == streams
    text = shown(console)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is visible again
    with Progress(CONFIG, console) as progress:  # nothing is left of the first: rich refuses two
        progress.update(2, RECORD)
    assert "step 2/40" in shown(console)


def test_a_bar_gives_every_part_its_share() -> None:
    text = bar({"a": 30, "b": 10, "c": 0}, width=40 + len("  a 30  b 10  c 0"))
    assert text.plain == "█" * 40 + "  a 30  b 10  c 0"
    lengths = [span.end - span.start for span in text.spans[:3]]
    assert lengths == [30, 10, 3]  # no cell for c: the third span is its legend


def test_a_bar_of_nothing_is_only_its_legend() -> None:
    assert bar({"a": 0.0}, width=40).plain == "  a 0.0"


def test_a_trend_runs_from_the_least_to_the_greatest() -> None:
    assert trend([0.0, 0.5, 1.0]) == "▁▅█"
    assert trend([0.3, 0.3]) == "▁▁"


def test_a_duration_reads_as_a_clock() -> None:
    assert [clock(5), clock(83.4), clock(3725)] == ["0:05", "1:23", "1:02:05"]
