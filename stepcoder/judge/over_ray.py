"""Hosts of a `pool`: a judge on each node of a Ray cluster, with all its CPUs (the extra `ray`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from socket import create_connection
from threading import Lock
from typing import Any

from stepcoder.errors import RunError
from stepcoder.judge.pool import RETRY_S, SLOTS, HostLost
from stepcoder.sandbox import Judge, Submission, Verdict

CONNECT_S = 10.0
START_S = 60.0  # of a first actor on a node, which starts Python there


class JudgeActor:
    """A judge in a process of Ray's."""

    def __init__(self, workers: int, settings: dict[str, Any]) -> None:
        """Start the judge, with the settings of `Judge`."""
        self._judge = Judge(workers, **settings)

    def workers(self) -> int:
        """Return how many programs it judges at a time."""
        return self._judge.workers

    def judge(self, batch: Sequence[Submission]) -> list[Verdict]:
        """Return the verdicts of some submissions."""
        pending = [self._judge.submit_all(submission) for submission in batch]
        return [verdict.result() for verdict in pending]


class RayHost:
    """An actor; where its node is lost, another one on any node that has as many CPUs free."""

    def __init__(self, node: dict[str, Any], settings: dict[str, Any]) -> None:
        """Take a node as `ray.nodes` describes it. Its actor starts with `returned`."""
        self.name = f"{node['NodeName']} ({node['NodeID'][:6]})"
        self.workers = max(int(node["Resources"]["CPU"]), 1)
        self._node, self._settings = node["NodeID"], settings
        self._actor: Any = None
        self._lock, self._wait_s = Lock(), START_S

    def returned(self) -> bool:
        """Start an actor, if there is none, and return whether it is there."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with self._lock:
            if self._actor is None:
                near = NodeAffinitySchedulingStrategy(self._node, soft=True)
                options = {"num_cpus": self.workers, "max_concurrency": SLOTS + 1}
                actor = ray.remote(JudgeActor).options(scheduling_strategy=near, **options)
                self._actor = actor.remote(self.workers, self._settings)
            try:
                ray.get(self._actor.workers.remote(), timeout=self._wait_s)
            except ray.exceptions.GetTimeoutError:
                return False  # no node has room for it yet
            except ray.exceptions.RayError as error:
                self._actor = None
                if self._wait_s == START_S and error.__cause__ is not None:
                    raise RunError(f"judge on {self.name}: {_last_line(error)}") from None
                return False
            finally:
                self._wait_s = RETRY_S
            return True

    def judge(self, batch: Sequence[Submission]) -> list[Verdict]:
        """Return the verdicts."""
        import ray

        actor = self._actor
        if actor is None:
            raise HostLost("its actor ended")
        try:
            found: list[Verdict] = ray.get(actor.judge.remote(batch))
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"judge on {self.name}: {_last_line(error)}") from None
        except ray.exceptions.RayError as error:
            with self._lock:
                if self._actor is actor:
                    self._actor = None
            raise HostLost(type(error).__name__) from None
        return found

    def close(self) -> None:
        """End the actor."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def hosts_of(address: str, settings: dict[str, Any]) -> list[RayHost]:
    """Connect to a cluster and return a host for each node that has CPUs for judging.

    Raises:
        RunError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise RunError("--ray: Ray is not installed; pip install 'stepcoder[ray]'") from None
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            create_connection((host.removeprefix("ray://"), int(port)), CONNECT_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise RunError(
            f"--ray {address}: no Ray cluster answers ({why}); ray start --head"
        ) from None
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node for node in known if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise RunError(f"--ray {address}: no node of that cluster has CPUs (--num-cpus)")
    return [RayHost(node, settings) for node in nodes]
