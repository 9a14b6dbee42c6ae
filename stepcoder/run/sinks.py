"""Sends the figures of a run to W&B, MLflow or trackio as well, where `sinks` names them.

They are set up by what they read themselves (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, TRACKIO_SPACE_ID, ...). Figures leave on a thread of each sink, so that one
that hangs delays no step; one that fails is a line, and training goes on without it. Prometheus
fetches them: the newest ones are at STEPCODER_METRICS, by default 127.0.0.1:9464.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from contextvars import copy_context
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from stepcoder.config import Config, to_dict
from stepcoder.errors import RunError
from stepcoder.journal import replace_file
from stepcoder.options import flatten

IDS = "sinks.json"  # in the folder of a run: by sink the run's id there, which a resume continues
CLOSE_S = 60.0  # that the end of a run waits for all of them together
PROJECT = "stepcoder"
METRICS = "STEPCODER_METRICS"  # HOST:PORT that Prometheus asks; port 0 takes a free one

Figures = dict[str, float]


class WandB:
    """A run of W&B; its files are in the run's folder."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        """Begin or continue a run."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=run_id,
            resume="allow",
            dir=folder,
            config=to_dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run_id: str = self._run.id
        # W&B counts later imports, which would raise in the trainer once W&B's process has died.
        getattr(self._run, "_unregister_telemetry_import_hooks", lambda _: None)(self.run_id)
        for phase in ("sft", "rl"):
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def log(self, place: int, figures: Figures) -> None:
        """Send the figures of a step."""
        self._run.log(figures, step=place)

    def close(self, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        """Begin or continue a run."""
        # By itself it tries for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            run_id = self._client.create_run(experiment, run_name=folder.name).info.run_id
            given = flatten(to_dict(config), (), "").items()
            self._client.log_batch(
                run_id, params=[Param(name, str(value)[:6000]) for name, value in given]
            )
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id

    def log(self, place: int, figures: Figures) -> None:
        """Send the figures of a step, under names that MLflow allows (pass_at_1 for pass@1)."""
        from mlflow.entities import Metric

        now, step = int(time.time() * 1000), int(figures.get("rl/step", place))
        names = {name: re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_")) for name in figures}
        metrics = [Metric(names[name], value, now, step) for name, value in figures.items()]
        self._client.log_batch(self.run_id, metrics)

    def close(self, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class Trackio:
    """A run of trackio, whose id is its name."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        """Begin or continue a run."""
        import trackio

        self.run_id = run_id or f"{folder.name}-{secrets.token_hex(3)}"
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # it would tear ours
            # In a context of its own: else trackio ends the run again, and says so, at exit.
            self._run = copy_context().run(
                trackio.init,
                os.environ.get("TRACKIO_PROJECT", PROJECT),
                self.run_id,
                config=flatten(to_dict(config), (), ""),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, place: int, figures: Figures) -> None:
        """Send the figures of a step."""
        self._run.log(figures, step=place)

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """End the run."""
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            self._run.finish()


class Prometheus:
    """Gauges over HTTP, such as stepcoder_rl_reward_mean{run="NAME"}, of the newest figures."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:  # noqa: ARG002
        """Begin to answer."""
        from prometheus_client import start_http_server
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.registry import CollectorRegistry

        self._gauge = partial(GaugeMetricFamily, documentation="", labels=["run"])
        self._run, self._figures = folder.name, Figures()
        registry = CollectorRegistry()
        registry.register(self)
        host, _, port = os.environ.get(METRICS, "127.0.0.1:9464").rpartition(":")
        self._server, self._thread = start_http_server(int(port), host, registry)
        self.run_id = f"http://{host}:{self._server.server_port}/metrics"

    def collect(self) -> Iterator[Any]:
        """Yield the figures, which Prometheus' client asks for."""
        for name, value in self._figures.items():
            words = re.sub(r"\W", "_", name.replace("@", "_at_"))
            gauge = self._gauge(f"stepcoder_{words}")
            gauge.add_metric([self._run], value)
            yield gauge

    def log(self, place: int, figures: Figures) -> None:  # noqa: ARG002
        """Keep the figures of a step, beside those that it does not have."""
        self._figures = {**self._figures, **figures}

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Sink = WandB | MLflow | Trackio | Prometheus
SINKS: dict[str, type[Sink]] = {
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
    "prometheus": Prometheus,
}
# What to install where a module is missing.
PACKAGES = {
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "trackio": ("trackio", "trackio"),
    "prometheus": ("prometheus_client", "prometheus-client"),
}


def check_installed(names: Sequence[str]) -> None:
    """Raise RunError for a sink that is unknown or not installed."""
    for name in names:
        if name not in SINKS:
            raise RunError(f"sinks: {name} is unknown; give some of {', '.join(SINKS)}")
        module, package = PACKAGES[name]
        if find_spec(module) is None:
            raise RunError(
                f"sinks: {name} is not installed; run pip install {package}, or leave it out"
            )


class Sinks:
    """The open sinks of a run; a context manager, which ends their runs."""

    def __init__(self, config: Config, folder: Path, note: Callable[[str], None]) -> None:
        """Begin the run at each sink, or continue the one that the folder knows.

        Raises:
            RunError: one cannot be used.
        """
        self._note = note
        self._open: dict[str, _Courier] = {}
        file = folder / IDS
        ids: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        for name in config.sinks:
            try:
                sink = SINKS[name](config, folder.absolute(), ids.get(name))
            except Exception as error:  # whatever the library raises
                raise RunError(
                    f"sinks: {name} does not start ({_said(error)}); set it up, or leave it out"
                ) from None
            ids[name] = sink.run_id
            self._open[name] = _Courier(sink)
            note(f"sinks: {name} run {sink.run_id}")
        if ids:
            replace_file(file, json.dumps(ids) + "\n")

    def log(self, place: int, step: int, record: Mapping[str, Any]) -> None:
        """Send the numbers of a record; `place` counts the steps of both phases, `step` its own."""
        phase = record["phase"]
        figures = {
            f"{phase}/{name}".replace(".", "/"): float(value)
            for name, value in flatten({**record, "step": step}, (), "").items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for courier in self._open.values():
            courier.queue.put(partial(courier.sink.log, place, figures))
        self._tell()

    def _tell(self) -> None:
        """Say which sinks failed, and leave them out from now on."""
        for name, courier in list(self._open.items()):
            if courier.failure:
                self._note(f"sinks: {name} failed, and gets nothing more ({courier.failure})")
                del self._open[name]

    def __enter__(self) -> Sinks:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the runs, as failed where an exception ends this one; waits CLOSE_S at most."""
        until = time.monotonic() + CLOSE_S
        for courier in self._open.values():
            courier.queue.put(partial(courier.sink.close, kind is not None))
            courier.queue.put(None)
        for courier in self._open.values():
            courier.thread.join(max(until - time.monotonic(), 0.0))
            if courier.thread.is_alive():
                courier.failure = f"it did not end within {CLOSE_S:.0f} s"
        self._tell()


class _Courier:
    """Takes figures to a sink, one call after another, until one fails."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.failure = ""
        self.thread = Thread(target=self._work, daemon=True, name="sink")
        self.thread.start()

    def _work(self) -> None:
        while (call := self.queue.get()) is not None:
            try:
                call()
            except Exception as error:  # whatever the library raises
                self.failure = _said(error)
                return


def _said(error: Exception) -> str:
    """Return an error on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
