"""How new weights reach a vLLM server, version by version.

On a CPU: a safetensors file in shared memory that the server's worker reads. On CUDA: vLLM's native
weight transfer, by memory handles on one GPU ("ipc") or by NCCL between GPUs. The CUDA part is
written against vLLM 0.32's trainer interface and has not run on a GPU yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm.api import BadAnswer, Transfer
from stepcoder.rollout.vllm.server import VLLMServer, free_port

SLOWEST = 2e8  # bytes a second at which weights arrive at least


class SharedFile:
    """Weights in an anonymous file in memory, which goes away with this process, however it ends.

    Another process of the same user opens it by its path under /proc; unlike a file in /dev/shm it
    has no size limit but the machine's memory, and a killed trainer leaves nothing behind.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._descriptor = -1
        self._tensors = 0
        self._transfer_s = 0.0

    def publish(self, policy: PreTrainedModel) -> None:
        """Write the policy's parameters; what was published before is freed."""
        self.close()
        self._descriptor = os.memfd_create("stepcoder-weights")
        # A tied LM head comes twice, because the server's is its own: hence the copies.
        parameters = {
            name: p.detach().clone(memory_format=torch.contiguous_format)
            for name, p in policy.named_parameters(remove_duplicate=False)
        }
        self._tensors = len(parameters)
        self._transfer_s = transfer_s(policy)
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(save(parameters))

    @property
    def _path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def deliver(self, server: VLLMServer, version: str, patience_s: float) -> None:
        """Let a server load what is published; each call may take `patience_s` and the transfer.

        Raises:
            BadAnswer: it loaded less than that. OSError, http.client.HTTPException: no answer.
        """
        body = {"method": "load_weights_file", "args": [self._path]}
        answer = server.client.post(api.COLLECTIVE, body, patience_s + self._transfer_s)
        if any(result != {"tensors": self._tensors} for result in answer["results"]):
            raise BadAnswer(f"it loaded {answer['results']} of {self._tensors} tensors")
        finish(server, version, patience_s)

    def close(self) -> None:
        """Free the memory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class NativeTransfer:
    """vLLM's own weight transfer, one channel a server. Not yet run on a GPU."""

    def __init__(self, backend: Transfer) -> None:
        """`backend` is "ipc" (server and trainer share a GPU) or "nccl"."""
        self._backend = backend
        self._policy: PreTrainedModel | None = None
        self._channels: dict[VLLMServer, tuple[int, Any]] = {}  # with the server's process id

    def publish(self, policy: PreTrainedModel) -> None:
        """Send this policy from now on."""
        self._policy = policy

    def deliver(self, server: VLLMServer, version: str, patience_s: float) -> None:
        """Send the weights; a server that was started anew gets a new channel.

        Each call may take `patience_s` and the transfer.

        Raises:
            BadAnswer: it refused them. OSError, http.client.HTTPException: no answer.
        """
        from vllm.distributed.weight_transfer import ModuleSource

        assert server.process is not None
        assert self._policy is not None
        pid, channel = self._channels.get(server, (0, None))
        if pid != server.process.pid:
            channel = self._open(server, patience_s + transfer_s(self._policy))
            self._channels[server] = server.process.pid, channel
        assert channel is not None
        channel.source = ModuleSource(self._policy)
        channel.client.timeout = patience_s + transfer_s(self._policy)
        channel.send_weights()
        finish(server, version, patience_s)

    def _open(self, server: VLLMServer, limit_s: float) -> Any:
        from vllm.distributed.weight_transfer import (
            HTTPVLLMWeightSyncClient,
            ModuleSource,
            WeightTransferTrainerFactory,
        )
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info: Any = IPCTrainerInitInfo(rank=0, packed=True)
        if self._backend == "nccl":
            info = NCCLTrainerInitInfo(
                master_address="127.0.0.1", master_port=free_port(), world_size=2, rank=0
            )

        class KeyedClient(HTTPVLLMWeightSyncClient):  # type: ignore[misc]  # vllm may be absent
            """Speaks to the server by our client, which has the key."""

            def _post(self, path: str, json: Mapping[str, Any] | None = None) -> None:
                server.client.post(f"/{path}", json, self.timeout)

        return WeightTransferTrainerFactory.trainer_init(
            info, client=KeyedClient("", limit_s), source=ModuleSource(self._policy)
        )

    def close(self) -> None:
        """Close the channels."""
        for _, channel in self._channels.values():
            channel.shutdown()
        self._channels = {}


def transfer_s(policy: PreTrainedModel) -> float:
    """Return how many seconds a server that works needs at most to take these weights."""
    return sum(p.nbytes for p in policy.parameters()) / SLOWEST


def finish(server: VLLMServer, version: str, patience_s: float) -> None:
    """Give the server's new weights their version, and forget what the old ones computed."""
    server.client.post(api.SET_VERSION, {"new_version": version}, patience_s)
    if server.client.post(api.RESET_CACHE, timeout_s=patience_s) != {"success": True}:
        raise BadAnswer("it still held the old weights' cache")
    server.weights = version


def sender(transfer: Transfer) -> SharedFile | NativeTransfer:
    """Return what delivers weights by this way."""
    return SharedFile() if transfer == "file" else NativeTransfer(transfer)
