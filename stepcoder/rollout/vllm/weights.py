"""Sends the policy's weights to a vLLM server, version by version.

To a CPU server they go by a safetensors file in shared memory, which the server's worker reads; to
a CUDA server by vLLM's native weight transfer, with memory handles on a shared GPU ("ipc") or by
NCCL between GPUs. The CUDA part is written against vLLM 0.32's trainer interface and has not run on
a GPU yet.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from stepcoder.models.lora import base_model
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm.api import InvalidResponse, RequestRefused, Transfer
from stepcoder.rollout.vllm.server import VLLMServer, free_port

MIN_BYTES_PER_S = 2e8  # the slowest transfer that is not taken for a failure


class SharedFile:
    """Sends weights by an anonymous file in memory (memfd).

    Another process of the same user opens it by its path under /proc. Unlike a file in /dev/shm it
    has no size limit but the machine's memory, and it vanishes with this process, even if killed.
    """

    def __init__(self) -> None:
        """Hold no file yet."""
        self._descriptor = -1
        self._tensors = 0
        self._transfer_s = 0.0

    def publish(self, policy: PreTrainedModel) -> None:
        """Write the policy's parameters to a new file; the one before is freed."""
        self.close()
        self._descriptor = os.memfd_create("stepcoder-weights")
        # A tied LM head comes twice, since the server's is untied; `save` refuses shared memory.
        parameters = {
            name: p.detach().clone(memory_format=torch.contiguous_format)
            for name, p in policy.named_parameters(remove_duplicate=False)
        }
        self._tensors = len(parameters)
        self._transfer_s = max_transfer_s(policy)
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(save(parameters))

    def deliver(self, server: VLLMServer, version: str, timeout_s: float) -> None:
        """Let a server load the published file; loading may take `timeout_s` plus the transfer.

        Raises:
            RequestRefused: it cannot read the file. InvalidResponse: it loaded fewer tensors.
            OSError, http.client.HTTPException: no answer.
        """
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        body = {"method": "load_weights_file", "args": [path]}
        response = server.client.post(api.COLLECTIVE, body, timeout_s + self._transfer_s)
        if {"tensors": 0} in response["results"]:
            raise RequestRefused(
                "it cannot read this process's memory, by which weights go; start it on this "
                "machine, as the same user and in the same container"
            )
        if any(result != {"tensors": self._tensors} for result in response["results"]):
            raise InvalidResponse(f"it loaded {response['results']} of {self._tensors} tensors")
        set_version(server, version, timeout_s)

    def close(self) -> None:
        """Free the memory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class NativeTransfer:
    """Sends weights by vLLM's own weight transfer, over one channel a server."""

    def __init__(self, backend: Transfer) -> None:
        """`backend` is "ipc" (server and trainer share a GPU) or "nccl"."""
        self._backend = backend
        self._policy: PreTrainedModel | None = None
        self._channels: dict[VLLMServer, tuple[int, Any]] = {}  # with the server's process id

    def publish(self, policy: PreTrainedModel) -> None:
        """Send this policy from now on."""
        self._policy = policy

    def deliver(self, server: VLLMServer, version: str, timeout_s: float) -> None:
        """Send the weights, over a new channel to a server that was restarted.

        Each call may take `timeout_s` plus the transfer.

        Raises:
            InvalidResponse: it refused them. OSError, http.client.HTTPException: no answer.
        """
        from vllm.distributed.weight_transfer import ModuleSource

        assert server.process is not None
        assert self._policy is not None
        limit_s = timeout_s + max_transfer_s(self._policy)
        pid, channel = self._channels.get(server, (0, None))
        if pid != server.process.pid:
            if channel is not None:
                del self._channels[server]
                within(limit_s, channel.shutdown)
            channel = within(limit_s, lambda: self._open(server, limit_s))
            self._channels[server] = server.process.pid, channel
        assert channel is not None
        channel.source = ModuleSource(self._policy)
        channel.client.timeout = limit_s
        # The client's time limit is that of its calls; the copies beside them have none.
        within(limit_s, channel.send_weights)
        set_version(server, version, timeout_s)

    def _open(self, server: VLLMServer, limit_s: float) -> Any:
        from vllm.distributed.weight_transfer import (
            HTTPVLLMWeightSyncClient,
            ModuleSource,
            WeightTransferTrainerFactory,
        )
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        assert self._policy is not None
        # Tensors go through a buffer that must hold the largest: at 7B that is over vLLM's 1 GiB.
        largest = max(p.nbytes for p in self._policy.parameters())
        info: Any = IPCTrainerInitInfo(rank=0, packed=True)
        if self._backend == "nccl":
            info = NCCLTrainerInitInfo(
                master_address="127.0.0.1", master_port=free_port(), world_size=2, rank=0
            )
        info.packed_buffer_size_bytes = max(info.packed_buffer_size_bytes, largest)

        class KeyedClient(HTTPVLLMWeightSyncClient):  # type: ignore[misc]  # vllm may be absent
            """Makes vLLM's calls by our client, which sends the server's key."""

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


class Adapters:
    """Sends a new server the weights below the adapters, and then the adapters alone."""

    def __init__(self, base: SharedFile | NativeTransfer) -> None:
        """`base` sends the weights."""
        self._base = base
        self._policy: PreTrainedModel | None = None

    def publish(self, policy: PreTrainedModel) -> None:
        """Send this policy's adapters from now on; the weights are always those of the first."""
        if self._policy is None:
            self._base.publish(base_model(policy))
        self._policy = policy

    def deliver(self, server: VLLMServer, version: str, timeout_s: float) -> None:
        """Let a server load the adapters from its folder for temporary files.

        Every version has a name of its own, by which requests ask for it, so that no other one can
        answer them.

        Raises:
            RequestRefused: vLLM cannot load them. InvalidResponse: the server failed.
            OSError, http.client.HTTPException: no answer.
        """
        assert self._policy is not None
        assert server.scratch is not None
        if not server.weights:
            self._base.deliver(server, version, timeout_s)
        old, name = server.adapters, f"adapters-{version}"
        self._policy.save_pretrained(server.scratch / name)
        path = str(server.scratch / name)
        body = {"lora_name": name, "lora_path": path, "is_3d_lora_weight": True}
        try:
            limit_s = timeout_s + max_transfer_s(self._policy)
            server.client.call("POST", api.LOAD_ADAPTERS, body, limit_s)
        except InvalidResponse as error:
            server.client.call("GET", api.HEALTH, timeout_s=timeout_s)  # raises if it is dead
            raise RequestRefused(
                f"vLLM cannot load this model's adapters ({error}); use rollout.engine=hf"
            ) from None
        if old is not None:
            server.client.call("POST", api.UNLOAD_ADAPTERS, {"lora_name": old}, timeout_s)
            shutil.rmtree(server.scratch / old)
        server.adapters = name
        set_version(server, version, timeout_s)

    def close(self) -> None:
        """Free what sending weights needs."""
        self._base.close()


def within(limit_s: float, action: Callable[[], Any]) -> Any:
    """Return what a function returns. NCCL and CUDA wait for ever for a peer that has died.

    Raises:
        TimeoutError: it has not returned in time; its thread is left behind.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(action())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(limit_s)
    except TimeoutError:
        if done.done():
            raise
        raise TimeoutError(f"the transfer of weights took over {limit_s:.0f} s") from None


def max_transfer_s(policy: PreTrainedModel) -> float:
    """Return after how many seconds a transfer of these weights counts as failed."""
    return sum(p.nbytes for p in policy.parameters()) / MIN_BYTES_PER_S


def set_version(server: VLLMServer, version: str, timeout_s: float) -> None:
    """Name the weights that a server has received, and empty its prefix cache of the old ones'.

    Raises:
        InvalidResponse: the cache was not emptied. OSError, http.client.HTTPException: no answer.
    """
    server.client.post(api.SET_VERSION, {"new_version": version}, timeout_s)
    if server.client.post(api.RESET_CACHE, timeout_s=timeout_s) != {"success": True}:
        raise InvalidResponse("it still holds the old weights' prefix cache")
    server.weights = version


def weight_sender(transfer: Transfer, adapters: bool) -> SharedFile | NativeTransfer | Adapters:
    """Return the sender for a way of transfer, of a policy with adapters or without."""
    sender = SharedFile() if transfer == "file" else NativeTransfer(transfer)
    return Adapters(sender) if adapters else sender
