"""The folder of a run: configuration, metrics, TensorBoard events, samples, report.

    config.yaml              the resolved configuration
    metrics.jsonl            one JSON record a step, written before the next step begins
    tensorboard/{sft,rl}     the same numbers for TensorBoard; a resume writes them anew
    samples/step-000020.txt  rollouts with the lines that ran marked (.json: the same as data)
    report.html              everything above on one page (live.html: while somebody watches)
    .lock                    held by the process that trains here

A record of metrics.jsonl has `phase` ("sft" or "rl") and `step` (from 1 in each phase; RL's step 0
is the evaluation that it starts from), `logged_at` (seconds since 1970), then any of:

    loss, lr                    sft: nats a solution token; learning rate
    time                        {"generate", "judge", "reward", "score", "update", "sync"}: seconds
    timeline                    [[part, start, end], ...]: seconds since the start of the process
    hidden_judge_share          share of the judge's time that the loop did not wait for
    reward_mean, pass_rate      mean reward; share of the rollouts that pass all their tests
    stages, stage_moves         {stage: problems now at it}; moves back by one stage so far
    epoch                       passes begun over the training problems, from 0
    rollouts, tokens            completions; their tokens
    tokens_total                tokens of completions since RL began, greedy baselines too
    prefix_cache_hit_rate       share of the prompt tokens that vLLM need not compute again
    engine_failures             what went wrong with a server and was mended, in words
    tokens_per_s                tokens / seconds of the whole step
    response_length             tokens a completion, mean
    truncated_share             share of the completions that the token limit cut off
    masked_share                share of the response tokens that FGO leaves out of the policy loss
    kl, engine_kl               nats a token: policy to reference (if any); engine to trainer
    engine_difference           the same as engine_kl, of absolute values
    entropy                     nats a token
    clip_fraction, approx_kl    of the update, a trained token
    ratio_min, ratio_max        extremes of the probability ratio in the update
    policy_loss, value_loss     means over the minibatches
    policy_grad_norm, critic_grad_norm    before clipping
    kl_beta                     ppocoder: the adaptive weight of the KL
    imitation_loss              coderl, rltf: nats a token of the supervised step between
    discriminator_loss          rlcf: nats a program
    explained_variance          of the returns by the critic; 1 is perfect
    verdicts                    {status: rollouts}
    bugs                        {kind of bug (`taxonomy`): rollouts}, of those that fail
    infrastructure_errors       rollouts that the sandbox failed on (not trained)
    slowest_judge_s             wall seconds of the slowest program
    slowest                     {"generate": [[task_id, tokens, end], ...], "judge": [[task_id, wall
                                seconds, status], ...]}: the three of the step that took longest
    never_passed                {"problems": how many no rollout solved in three attempts or more,
                                "most_tried": [[task_id, attempts], ... up to ten]}
    eval                        {"pass@1": share, "problems": count}, where the step evaluated
    test                        the same of the test problems: at step 0 and the last one

A number that is not finite is written as null. Whoever reads must expect any series to be absent.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from stepcoder.config import Config, to_yaml
from stepcoder.errors import RunError
from stepcoder.journal import Record, locked, replace_file
from stepcoder.report.samples import RolloutSample, from_dict, to_dict, to_text

if TYPE_CHECKING:
    from stepcoder.report.events import EventFile

Phase = Literal["sft", "rl"]

CONFIG, METRICS, SAMPLES, TENSORBOARD = "config.yaml", "metrics.jsonl", "samples", "tensorboard"
# What a disk says that takes no more; whatever the cause, a person can mend it.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}


class RunDir:
    """An open run folder: `RunDir.open` makes or finds it, `begin` starts to write."""

    _metrics: TextIO  # from `begin` on, as `_events`
    _events: dict[str, EventFile]  # by phase

    def __init__(self, path: Path, config: Config, files: ExitStack) -> None:
        """Take over a folder that this process alone writes to; `files` closes what is opened."""
        self.path = path
        self._config = config
        self._files = files

    @classmethod
    @contextmanager
    def open(cls, config: Config, resumes: bool = False) -> Iterator[RunDir]:
        """Make the folder of a new run, or lock the one that the run `resumes` in.

        A new run that fails before its first record takes away the folder it made.

        Raises:
            RunError: a new run's folder already holds one; another process trains in it; a folder
                cannot be written or read; the disk is full, then or while the context lasts.
        """
        try:
            path, made_here = (Path(str(config.run_dir)), False) if resumes else _new_folder(config)
        except OSError as error:
            raise RunError(f"run_dir: {error.filename}: {error.strerror}") from None
        refusal = f"run_dir: another process trains in {path}; wait for its end, or stop it"
        try:
            with locked(path, refusal), ExitStack() as files:
                yield cls(path, config, files)
        except BaseException as error:
            metrics = path / METRICS
            lost = made_here and not (metrics.exists() and metrics.stat().st_size)
            if lost:
                shutil.rmtree(path, ignore_errors=True)  # a person may have done so
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                hint = "start again" if lost else f"continue with --resume {path}"
                where = error.filename or path
                raise RunError(f"{where}: {error.strerror}; mend that, then {hint}") from None
            raise

    def begin(self, resume_at: tuple[Phase, int] = ("sft", 0)) -> None:
        """Write the configuration and open the files, after a step where the run resumes.

        `resume_at` is phase and number of the last step that the checkpoint knows, ("sft", 0) if
        there is none yet: what the folder holds of later steps is deleted, so that no step appears
        twice.

        Raises:
            RunError: a file cannot be written or read.
        """
        # Imported here: it takes half a second, and those who only read a folder need none of it.
        from stepcoder.report.events import EventFile

        path = self.path
        try:
            kept = _forget_later(path, resume_at)
            replace_file(
                path / CONFIG, to_yaml(replace(self._config, run_dir=str(path.absolute())))
            )
            self._metrics = (path / METRICS).open("a", encoding="utf-8", buffering=1)
            self._files.callback(_close, self._metrics)
            self._events = {p: EventFile(path / TENSORBOARD / p) for p in ("sft", "rl")}
            self._files.callback(_close, *self._events.values())
            for record in kept:
                self._draw(record)
        except OSError as error:
            raise RunError(f"run_dir: {error.filename or path}: {error.strerror}") from None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the record of a step; `metrics` holds its `phase` ("rl" if absent) and figures."""
        stamp = {"logged_at": round(time.time(), 3)}
        data = json.dumps({"phase": "rl", "step": step, **metrics} | stamp)
        record = json.loads(data, parse_constant=lambda _: None)  # what is not finite
        self._metrics.write(json.dumps(record) + "\n")
        self._draw(record)

    def _draw(self, record: Record) -> None:
        """Give the numbers of a record to TensorBoard."""
        self._events[record["phase"]].write(record["step"], record["logged_at"], _scalars(record))

    def log_samples(self, step: int, samples: Sequence[RolloutSample]) -> None:
        """Write the samples of an RL step, as text for people and as data for the report."""
        folder = self.path / SAMPLES
        folder.mkdir(exist_ok=True)
        text = f"\n{'─' * 100}\n\n".join(map(to_text, samples))
        replace_file(folder / f"step-{step:06d}.txt", text)
        data = [to_dict(sample) for sample in samples]
        replace_file(folder / f"step-{step:06d}.json", json.dumps(data, default=sorted))


def resume_at(state: dict[str, Any] | None) -> tuple[Phase, int]:
    """Return the last step that a checkpoint knows, as the run folder wants it."""
    if state is None:
        return "sft", 0
    return state["phase"], state["step"] if state["phase"] == "rl" else state["sft_step"]


def read_records(path: Path) -> list[Record]:
    """Return the records of a run folder in order, without a last one that is cut off.

    Raises:
        RunError: another line is no record.
    """
    file = path / METRICS
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    records: list[Record] = []
    needed = {"phase", "step", "logged_at"}
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is cut off
        record = None
        with suppress(ValueError):
            record = json.loads(line)
        if not isinstance(record, dict) or not record.keys() >= needed:
            raise RunError(f"{file} line {number} is no record of a step; delete it")
        records.append(record)
    return records


def sample_files(path: Path) -> list[Path]:
    """Return the files of a run folder's samples, step by step."""
    return sorted((path / SAMPLES).glob("step-*.json"))


def read_rollout_samples(files: Sequence[Path]) -> list[list[RolloutSample]]:
    """Return the samples of some steps."""
    return [[from_dict(data) for data in json.loads(file.read_text("utf-8"))] for file in files]


def _new_folder(config: Config) -> tuple[Path, bool]:
    """Return the folder of a new run, and whether it was made now. Raises RunError if it holds one.

    Where run_dir names none it is runs/<date and time>.
    """
    if config.run_dir is not None:
        path = Path(config.run_dir)
        if (path / CONFIG).exists():
            raise RunError(
                f'run_dir: "{path}" already holds a run; continue it with --resume {path}, '
                "or give another run_dir"
            )
        made_here = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        return path, made_here
    path = first = Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}"
    for number in count(2):
        with suppress(FileExistsError):  # another run began in the same second
            path.mkdir(parents=True)
            break
        path = first.with_name(f"{first.name}-{number}")
    return path, True


def _close(*files: TextIO | EventFile) -> None:
    """Close files; what could not be written was told of when it was."""
    for file in files:
        with suppress(OSError):
            file.close()


def _forget_later(path: Path, last: tuple[Phase, int]) -> list[Record]:
    """Delete the records and samples of steps after `last`, and return the records that are left.

    RL's steps come after the supervised ones. TensorBoard's files are deleted altogether.
    """
    phase, step = last
    records = read_records(path)
    kept = [r for r in records if (r["phase"] == "rl", r["step"]) <= (phase == "rl", step)]
    replace_file(path / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
    for file in (path / SAMPLES).glob("step-*"):
        if phase == "sft" or int(file.stem.removeprefix("step-")) > step:
            file.unlink()
    if (path / TENSORBOARD).exists():
        shutil.rmtree(path / TENSORBOARD)
    return kept


def _scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record by name, those of {"time": {"judge": ...}} as time/judge."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "logged_at"):
            yield prefix + name, value
