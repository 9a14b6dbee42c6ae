"""`python -m stepcoder.evaluate PROBLEMS --policy DIR -o OUT`: pass@k of a policy or of samples.

Takes problems in any form of `problems` and a policy, a file of samples or the canonical solutions;
leaves verdicts, tables and a page in a folder. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stepcoder.errors import RunError
from stepcoder.evaluate.page import render
from stepcoder.evaluate.policies import Answer, Sampler, find_checkpoint, sampler
from stepcoder.evaluate.results import (
    Result,
    result_of,
    to_csv,
    to_json,
    to_markdown,
    to_table,
)
from stepcoder.evaluate.records import (
    SAMPLES,
    VERDICTS,
    Key,
    Record,
    Sample,
    Store,
    fingerprint_of,
    program_in,
    read_samples,
    verdict_record,
)
from stepcoder.judge.command import InputError
from stepcoder.options import ConfigError
from stepcoder.problems.problem import Problem, ProblemError, fingerprint, load_problems, program_of
from stepcoder.report.run_dir import replace_file
from stepcoder.sandbox import IsolationError, Judge, Limits, Status, Submission

EPILOG = """\
what lies in OUT afterwards:
  report.html     the page: pass@k with intervals, plots, the first failure of each problem
  results.md/.csv/.json  the table
  problems.jsonl  a line a problem: how many pass, and its first failing test
  verdicts.jsonl  a line a program: status and failing test
  samples.jsonl   a line an answer, as the policy wrote it

exit status:
  0  everything was judged (whatever the verdicts)
  1  some programs ended in an infrastructure error; the same command judges them again
  2  the arguments or an input are wrong; one line says what and where
  3  full isolation was asked for and this machine refuses a layer of it
130  interrupted; the same command goes on where it stopped
"""
KS = (1, 5, 10)
QUIET_S = 30.0  # between two lines of progress where there is no terminal

Source = Callable[[], Iterator[Sample]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Leave with one line instead of the usage."""
        self.exit(2, f"stepcoder.evaluate: {message}\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m stepcoder.evaluate",
        description="Measure pass@k in the sandbox, with a 95% interval over problems.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("problems", type=Path, help="our JSONL, APPS(+), HumanEval(+) or MBPP(+)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--policy", type=Path, help="transformers checkpoint, run, or checkpoint of it"
    )
    what.add_argument(
        "--samples", type=Path, help="file of samples: answer, completion or solution"
    )
    what.add_argument("--canonical", action="store_true", help="the problems' own solutions")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument("-k", type=int, nargs="+", help="default: 1 5 10, as far as -n goes")
    parser.add_argument("--split", help="only problems of this split, such as eval")
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    parser.add_argument("--extract", action="store_true", help="find the code in all samples' text")
    group = parser.add_argument_group("sampling (defaults: StepCoder's evaluation)")
    group.add_argument("-n", type=int, default=10, help="programs a problem (10)")
    group.add_argument("--temperature", type=float, default=0.2, help="0 is greedy (0.2)")
    group.add_argument("--top-p", type=float, default=0.95, help="(0.95)")
    group.add_argument("--max-new-tokens", type=int, default=1024, help="(1024)")
    group.add_argument("--max-prompt-tokens", type=int, default=1024, help="(1024)")
    group.add_argument(
        "--prompt",
        choices=("auto", "chat", "answer", "plain"),
        default="auto",
        help="auto: as trained, else chat if there is a chat template; chat: it, the "
        "code begun; answer: it, in the policy's own words; plain: no template",
    )
    group.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    group.add_argument("--group-size", type=int, default=64, help="answers generated together (64)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="bfloat16 on a GPU")
    group = parser.add_argument_group("judging")
    limits = Limits()
    group.add_argument("--workers", type=int, help="programs at a time (one per CPU)")
    group.add_argument("--isolation", choices=("warn", "full"), default="warn")
    group.add_argument("--cpu-s", type=float, default=limits.cpu_s, help="CPU seconds a test")
    group.add_argument("--wall-s", type=float, default=limits.wall_s, help="seconds a test")
    group.add_argument("--memory-mib", type=int, default=limits.memory_bytes >> 20)
    arguments = parser.parse_args(argv)
    for name in (
        "n",
        "limit",
        "max_new_tokens",
        "max_prompt_tokens",
        "group_size",
        "workers",
        "cpu_s",
        "wall_s",
        "memory_mib",
    ):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    if not 0 < arguments.top_p <= 1 or arguments.temperature < 0:
        parser.error("--top-p must be above 0 and at most 1, --temperature at least 0")
    if any(k < 1 for k in arguments.k or ()):
        parser.error(f"-k holds {min(arguments.k)}; it must be above 0")
    if arguments.policy and arguments.k and max(arguments.k) > arguments.n:
        parser.error(f"-k holds {max(arguments.k)}, but only -n {arguments.n} programs are sampled")
    if arguments.policy and arguments.temperature == 0 and arguments.n > 1:
        parser.error("--temperature 0 gives the same program each time; add -n 1")
    return arguments


def chosen_problems(arguments: argparse.Namespace, console: Console) -> list[Problem]:
    """Load the problems that were asked for. Raises ProblemError or InputError."""
    if not arguments.problems.exists():
        raise InputError(f"{arguments.problems}: no such file or folder of problems")
    report = load_problems(arguments.problems)
    for line in report.skipped:
        console.print(f"skipped: {line}", markup=False, highlight=False, soft_wrap=True)
    problems = list(report.problems)
    if arguments.split:
        splits = sorted({p.split for p in problems})
        problems = [p for p in problems if p.split == arguments.split]
        if not problems:
            raise InputError(f"--split {arguments.split}: the problems have {', '.join(splits)}")
    if not problems:
        raise InputError(f"{arguments.problems} holds no usable problem")
    return problems[: arguments.limit]


def settings_of(
    arguments: argparse.Namespace, problems: Sequence[Problem], options: Sampler
) -> dict[str, Any]:
    """Return all that the verdicts depend on; a folder with other settings is not gone on with."""
    settings: dict[str, Any] = {
        "problems": str(arguments.problems),
        "problems_fingerprint": fingerprint(problems),
        "cpu_s": arguments.cpu_s,
        "wall_s": arguments.wall_s,
        "memory_mib": arguments.memory_mib,
    }
    if arguments.policy:
        checkpoint = find_checkpoint(arguments.policy)
        sampling = asdict(options)
        del sampling["group_size"]
        return settings | {
            "policy": str(checkpoint.folder.resolve()),
            "weights_fingerprint": checkpoint.fingerprint,
            "n": arguments.n,
            **sampling,
        }
    if arguments.samples:
        return settings | {
            "samples": str(arguments.samples),
            "samples_fingerprint": fingerprint_of(arguments.samples),
            "extract": arguments.extract,
        }
    return settings | {"canonical": True}


def evaluate(
    store: Store, judge: Judge, samples: Iterator[Sample], total: int, console: Console
) -> int:
    """Judge samples as they come and store the verdicts; return how many the judge failed on."""
    taken: list[Sample] = []

    def submissions() -> Iterator[Submission]:
        for sample in samples:
            taken.append(sample)
            yield Submission(program_of(sample.problem, sample.program), sample.problem.tests)

    done = len(store.verdicts)
    passed = sum(r["passed"] for r in store.verdicts.values())
    failed, begun, last = 0, time.monotonic(), time.monotonic()
    columns = (
        TextColumn("judged"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[share]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total, completed=done, share="")
        first = done
        for index, verdict in judge.map(submissions()):
            done += 1
            if verdict.status is Status.INFRASTRUCTURE_ERROR:
                failed += 1
                console.print(f"the sandbox failed: {verdict.message}", markup=False)
            else:
                store.add(VERDICTS, verdict_record(taken[index], verdict))
                passed += verdict.passed
            share = f"{passed / max(done - failed, 1):.1%} pass"
            progress.update(bar, advance=1, share=share)
            now = time.monotonic()
            if not console.is_terminal and (now - last > QUIET_S or done == total):
                last, rate = now, (done - first) / max(now - begun, 1e-9)
                left = (total - done) / max(rate, 1e-9)
                line = f"judged {done} of {total}, {rate:.1f}/s, {left:.0f} s left, {share}"
                console.print(line, markup=False, highlight=False)
    return failed


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return programs a second."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def from_policy(
    store: Store,
    problems: Sequence[Problem],
    n: int,
    draw: Callable[[Sequence[tuple[Problem, int]]], Iterator[Answer]],
) -> Iterator[Sample]:
    """Yield the stored answers that have no verdict yet, then new ones, storing each at once."""
    by_id = {problem.task_id: problem for problem in problems}
    for (task_id, number), record in list(store.samples.items()):
        if (task_id, number) not in store.verdicts:
            yield Sample(by_id[task_id], number, program_in(record, by_id[task_id]))
    missing = [(p, i) for p in problems for i in range(n) if (p.task_id, i) not in store.samples]
    if not missing:
        return
    for answer in draw(missing):
        record = answer_record(answer)
        store.add(SAMPLES, record)
        problem = by_id[answer.task_id]
        yield Sample(problem, answer.sample, program_in(record, problem))


def answer_record(answer: Answer) -> Record:
    """Return an answer as JSON data, in a form that --samples reads too."""
    record: Record = {"task_id": answer.task_id, "sample": answer.sample}
    if answer.free:
        record["answer"] = answer.text
    else:
        record |= {"given": answer.given, "completion": answer.text}
    return record | {"tokens": answer.tokens, "stopped": answer.stopped}


def without(samples: Sequence[Sample], judged: set[Key]) -> Iterator[Sample]:
    """Yield the samples that have no verdict yet."""
    yield from (sample for sample in samples if sample.key not in judged)


def run(arguments: argparse.Namespace, console: Console) -> tuple[Result, int]:
    """Evaluate, write the files, and return the result and the number of infrastructure errors."""
    problems = chosen_problems(arguments, console)
    options = Sampler(
        arguments.engine, arguments.prompt, arguments.temperature, arguments.top_p,
        arguments.max_new_tokens, arguments.max_prompt_tokens, arguments.group_size,
        arguments.seed, arguments.device, arguments.dtype,
    )  # fmt: skip
    settings = settings_of(arguments, problems, options)
    store = Store(arguments.output, settings)
    with ExitStack() as stack:
        stack.enter_context(store.writing())
        limits = Limits(arguments.cpu_s, arguments.wall_s, arguments.memory_mib << 20)
        if arguments.policy:
            total = len(problems) * arguments.n
            draw = _lazily(stack, arguments, options, console)
            samples = from_policy(store, problems, arguments.n, draw)
        else:
            if arguments.samples:
                by_id = {problem.task_id: problem for problem in problems}
                found = read_samples(arguments.samples, by_id, arguments.extract)
                lacking = len(by_id) - len({s.problem.task_id for s in found})
                if lacking:
                    console.print(f"{lacking} of {len(by_id)} problems have no sample: left out")
            else:
                found = [Sample(p, 0, p.canonical_solution) for p in problems]
            total = len(found)
            samples = without(found, set(store.verdicts))
        judge = stack.enter_context(Judge(arguments.workers, limits, arguments.isolation))
        failed = evaluate(store, judge, samples, total, console)
    if not store.verdicts:
        raise RunError("nothing was judged: every run ended in an infrastructure error")
    result = result_of(problems, store.verdicts, sorted(set(arguments.k or KS)))
    if not result.ks:
        raise InputError(f"-k {arguments.k}: no problem has so many samples")
    write(arguments.output, result, settings)
    return result, failed


def _lazily(
    stack: ExitStack, arguments: argparse.Namespace, options: Sampler, console: Console
) -> Callable[[Sequence[tuple[Problem, int]]], Iterator[Answer]]:
    """Return a function that loads the policy when the first answer is wanted."""

    def draw(wanted: Sequence[tuple[Problem, int]]) -> Iterator[Answer]:
        console.print(f"loading {arguments.policy}", markup=False, soft_wrap=True)
        notify = partial(console.print, markup=False, soft_wrap=True)
        checkpoint = find_checkpoint(arguments.policy)
        opened = sampler(checkpoint, options, arguments.output / "engine", notify)
        yield from stack.enter_context(opened)(wanted)

    return draw


def write(folder: Path, result: Result, settings: dict[str, Any]) -> None:
    """Write tables, problems and page."""
    lines = "".join(json.dumps(problem) + "\n" for problem in result.problems)
    what = settings.get("policy") or settings.get("samples") or "canonical solutions"
    title = f"{Path(what).name} on {Path(settings['problems']).name}"
    replace_file(folder / "problems.jsonl", lines)
    replace_file(folder / "results.md", to_markdown(result))
    replace_file(folder / "results.csv", to_csv(result))
    replace_file(folder / "results.json", json.dumps(to_json(result), indent=1) + "\n")
    replace_file(folder / "report.html", render(title, result, settings))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    console = Console(stderr=True)
    try:
        result, failed = run(arguments, console)
    except (InputError, ProblemError, RunError, ConfigError, OSError) as error:
        console.print(f"stepcoder.evaluate: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except IsolationError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 3
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    out = Console()
    out.print(to_table(result), soft_wrap=True)
    out.print(str(arguments.output / "report.html"), markup=False, highlight=False, soft_wrap=True)
    if failed:
        console.print(f"the sandbox failed on {failed} programs; run the same command again")
    return 1 if failed else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # After an interrupt, threads that still wait for programs must not hold the exit up.
    os._exit(status) if status == 130 else sys.exit(status)
