"""An open run folder that can be written to."""

from collections.abc import Iterator
from contextlib import contextmanager

from stepcoder.config import Config
from stepcoder.report.run_dir import Phase, RunDir


@contextmanager
def begun(config: Config, resume_at: tuple[Phase, int] | None = None) -> Iterator[RunDir]:
    with RunDir.open(config, resumes=resume_at is not None) as run:
        run.begin(resume_at or ("sft", 0))
        yield run
