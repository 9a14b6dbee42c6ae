"""The judge command on a cluster of Ray; test_judge_pool.py runs this in its own process."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from test_judge_pool import COUNT, check_verdicts, command, files  # noqa: F401

from stepcoder.judge import over_ray
from stepcoder.judge.command import main
from stepcoder.judge.stage import JudgeStage


@pytest.mark.filterwarnings("ignore")  # what Ray uses of others is not ours
def test_a_cluster_that_loses_a_node_costs_no_verdict(
    files: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A head without CPUs and two nodes, one of which is killed once it has programs."""
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    handler = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        cluster.wait_for_nodes()
        judge, begun = over_ray.RayHost.judge, []

        def judge_and_strike(host: over_ray.RayHost, batch: Any) -> Any:
            begun.append(host.name)
            if len(begun) == 8:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            return judge(host, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(over_ray.RayHost, "judge", judge_and_strike)
            assert main(command(files, "--ray", cluster.address)) == 0
        check_verdicts(files)
        assert len(set(begun)) == 2
        assert re.search(r"judge \S+ \(\w+\) is lost \(", capsys.readouterr().err)

        samples = (files / "samples.jsonl").read_text().splitlines()
        rows = ray.data.from_items([json.loads(line) for line in samples])
        one = ray.data.ActorPoolStrategy(size=1)
        given = {"fn_constructor_args": (str(files / "problems.jsonl"),), "num_cpus": 1}
        judged = rows.map_batches(JudgeStage, compute=one, **given).take_all()
        found = {row["solution"]: row["passed"] for row in judged}
        assert len(found) == len(judged) == COUNT
        assert sum(found.values()) == sum(n % 3 == 0 for n in range(COUNT))
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, handler)
    capsys.readouterr()
    assert main(command(files, "--ray", "127.0.0.1:1")) == 2
    error = capsys.readouterr().err
    assert "--ray 127.0.0.1:1: no Ray cluster answers (" in error
