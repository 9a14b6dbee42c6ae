"""Generates completions with vLLM servers, which it starts, supervises and restarts.

A server that a person started (`rollout.server`) it waits for instead.

Takes requests as token ids and yields each completion when it ends, over HTTP on the loopback
interface. A server that dies, hangs or sends an invalid response is restarted and given the weights
again, and its outstanding requests are resent; each request is answered exactly once. The same code
runs one server on the CPU, one on a GPU or one on each of several GPUs.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.errors import RunError
from stepcoder.models.batch import Row, pack
from stepcoder.models.lora import adapter_rank, adapters_changed, probe_of
from stepcoder.models.policy import lm_head, response_logprobs
from stepcoder.problems.prompts import end_tokens
from stepcoder.rollout.engine import Completion, Engine, Request, Sampling
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm import server as vllm_server
from stepcoder.rollout.vllm.api import RequestRefused, ServerOptions
from stepcoder.rollout.vllm.server import TRANSPORT_ERRORS, ServerFailure, VLLMServer
from stepcoder.rollout.vllm.weights import max_transfer_s, weight_sender

MAX_FRUITLESS_ROUNDS = 3  # failed rounds in a row, without one completion between them
STALL_CHECK_S = 2.0
PARITY_TOKENS = 16
# Mean difference of log-probabilities, by the models' dtype, above which the weights are not equal.
PARITY = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class VLLMEngine(Engine):
    """Owns the servers."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        servers: Sequence[ServerOptions],
        folder: Path,
        on_recovered_failure: Callable[[str], None],
    ) -> None:
        """Start one server for each of `servers`, and give them the policy's weights.

        Args:
            policy: the model; its configuration is in every server's model folder.
            tokenizer: its tokenizer.
            servers: the options of each server.
            folder: for the servers' logs.
            on_recovered_failure: called with one line for each failure before the restart.

        Raises:
            RunError: a server does not start, or does not compute what the policy computes.
        """
        self.vocabulary: int = len(lm_head(policy).weight)
        self.ends = end_tokens(tokenizer)
        self.on_recovered_failure = on_recovered_failure
        self.servers = [VLLMServer(n, options, folder) for n, options in enumerate(servers)]
        self.max_concurrent = sum(options.max_sequences for options in servers)
        self._sender = weight_sender(servers[0].transfer, adapters=adapter_rank(policy) > 0)
        self._version = 0
        # Of a person's server: two trainers that use one would not notice with equal names.
        self._mark = f"{secrets.token_hex(3)}-" if servers[0].url else ""
        self._closed = False
        torch.cuda.empty_cache()  # lets the servers use what the trainer's allocator keeps free
        try:
            with ThreadPoolExecutor(len(self.servers)) as pool:
                list(pool.map(VLLMServer.start, self.servers))
            self.update_weights(policy)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the servers; a `generate` in another thread raises RunError."""
        self._closed = True
        for server in self.servers:
            server.stop()
        self._sender.close()

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Give every server the policy's weights, as the next version.

        Raises:
            RunError: a server keeps failing, or does not compute what the policy computes.
        """
        self._policy = policy
        self._sleep_timeout_s = vllm_server.ANSWER_S + max_transfer_s(policy)
        self._version += 1
        self._sender.publish(policy)
        failures: dict[VLLMServer, str] = {}
        for server in self.servers:
            try:
                self._deliver(server)
            except TRANSPORT_ERRORS as error:
                failures[server] = server.describe(error)
            except RequestRefused as error:
                raise RunError(server.describe(error)) from None
        self._restart(failures)

    def _deliver(self, server: VLLMServer) -> None:
        """Send the current weights to a server, and check a new server's parity with the policy.

        Adapters are checked with random ones first, because those of a new policy change nothing,
        and once more after the first update that changed them.
        """
        self._wake(server)
        server.check_unchanged()
        policy = self._policy
        timeout_s = vllm_server.ANSWER_S if server.verified else vllm_server.FIRST_ANSWER_S
        if adapter_rank(policy) and not server.verified:
            probe = probe_of(policy)
            self._sender.publish(probe)
            try:
                self._sender.deliver(server, "probe", timeout_s)
                self._check_parity(server, probe, "random adapters")
            finally:
                self._sender.publish(policy)
        self._sender.deliver(server, f"{self._mark}{self._version}", timeout_s)
        sent = "trained adapters" if adapters_changed(policy) else "weights"
        if server.verified != sent:
            self._check_parity(server, policy, sent)
            server.verified = sent

    @torch.no_grad()
    def _check_parity(self, server: VLLMServer, policy: PreTrainedModel, sent: str) -> None:
        """Compare the server's log-probabilities of 16 tokens with a policy's.

        Raises:
            RunError: they differ.
        """
        prompt = tuple(1 + i * 7 % (self.vocabulary - 1) for i in range(1, 1 + PARITY_TOKENS))
        greedy = Sampling(0.0, PARITY_TOKENS, stop=())
        timeout_s = vllm_server.FIRST_ANSWER_S
        done = server.complete(0, Request(prompt, 0), greedy, (), self.vocabulary, timeout_s)
        row = Row(prompt, done.token_ids, done.logprobs, [True] * len(done.token_ids), 0.0)
        batch = pack([row]).to(policy.device)
        expected, _ = response_logprobs(policy, batch, 1.0)
        found = batch.engine_logprobs[batch.response_positions]
        difference = (found - expected).abs().mean().item()
        if not difference <= PARITY.get(policy.dtype, 0.1):
            raise RunError(
                f"{server.name} does not compute what the policy computes: log-probabilities "
                f"differ by {difference:.2g} on average after the {sent} were sent; use "
                "rollout.engine=hf for this model"
            )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield each request's completion once, when it ends.

        Raises:
            RunError: a server failed again and again, or refuses a request.
        """
        outstanding = dict(enumerate(requests))
        fruitless_rounds = 0  # in a row, without a completion
        while outstanding:
            before = len(outstanding)
            failures: dict[VLLMServer, str] = {}
            for completion in self._dispatch(outstanding, sampling, failures):
                del outstanding[completion.index]
                yield completion
            fruitless_rounds = 0 if len(outstanding) < before else fruitless_rounds + 1
            if failures and fruitless_rounds >= MAX_FRUITLESS_ROUNDS:
                reason = "; ".join(failures.values())
                raise RunError(f"{reason}; no completion after {fruitless_rounds} restarts")
            again = f"({len(outstanding)} of {len(requests)} to do again)"
            self._restart({server: f"{reason} {again}" for server, reason in failures.items()})
        for server in self.servers:
            self._with_restart(server, self._sleep)

    def _dispatch(
        self,
        outstanding: Mapping[int, Request],
        sampling: Sampling,
        failures: dict[VLLMServer, str],
    ) -> Iterator[Completion]:
        """Send every outstanding request once; servers that fail are added to `failures`."""
        pending: dict[Future[Completion], VLLMServer] = {}
        ended: SimpleQueue[Future[Completion]] = SimpleQueue()
        pool = ThreadPoolExecutor(min(len(outstanding), self.max_concurrent), "vllm request")

        def fail(server: VLLMServer, reason: str) -> None:
            failures[server] = reason
            server.stop()  # breaks the connections of its other requests, which end at once

        try:
            for server in self.servers:
                self._with_restart(server, self._wake)
                server.reset_stall_timer()
            for index, request in outstanding.items():
                server = self._server_of(request)
                future = pool.submit(
                    server.complete, index, request, sampling, self.ends, self.vocabulary
                )
                pending[future] = server
                future.add_done_callback(ended.put)
            checked_at = time.monotonic()
            while pending:
                # Not while completions wait to be taken: if the caller is slow, no server stalls.
                if ended.empty() and time.monotonic() - checked_at > STALL_CHECK_S:
                    waiting = set(pending.values()) - failures.keys()
                    for server in self.servers:
                        if server in waiting and server.stalled():
                            limit_s = vllm_server.STALL_S
                            fail(server, f"{server.name} hangs: no token for {limit_s:.0f} s")
                    checked_at = time.monotonic()
                try:
                    future = ended.get(timeout=STALL_CHECK_S)
                except Empty:
                    continue
                server, error = pending.pop(future), future.exception()
                if error is None:
                    yield future.result()
                elif isinstance(error, RequestRefused):
                    raise RunError(server.describe(error))
                elif not isinstance(error, TRANSPORT_ERRORS):
                    raise error
                elif server not in failures:
                    fail(server, server.describe(error))
        finally:
            if pending:  # the caller stopped early, or an error ended this: the rest is not wanted
                for server in self.servers:
                    server.stop()
            pool.shutdown(cancel_futures=True)

    def _server_of(self, request: Request) -> VLLMServer:
        """Return a request's server: equal prompts go to the same one and share their KV cache."""
        place = zlib.crc32(repr(request.prompt_ids[:256]).encode()) % len(self.servers)
        return self.servers[place]

    def _restart(self, failures: Mapping[VLLMServer, str]) -> None:
        """Restart failed servers, all at once, and give them the weights.

        Raises:
            RunError: that fails too.
        """
        if self._closed:
            raise RunError("the engine was closed")
        for server, reason in failures.items():
            again = "waiting for it" if server.options.url else "restarting it"
            self.on_recovered_failure(f"{reason}; {again}")
            server.stop()
            if server.options.can_sleep:  # it shares the trainer's GPU, and checks what is free
                torch.cuda.empty_cache()
        with ThreadPoolExecutor(len(self.servers)) as pool:
            starts = {server: pool.submit(server.start) for server in failures}
        for server, reason in failures.items():
            try:
                starts[server].result()
                self._deliver(server)
            except ServerFailure as failure:
                raise RunError(f"{reason}; then: {failure}") from None
            except (RequestRefused, *TRANSPORT_ERRORS) as error:
                raise RunError(f"{reason}; then: {server.describe(error)}") from None

    def _with_restart(self, server: VLLMServer, action: Callable[[VLLMServer], None]) -> None:
        """Call `action` with a server; if that fails, restart the server and call it once more."""
        try:
            action(server)
        except TRANSPORT_ERRORS as error:
            self._restart({server: server.describe(error)})
            try:
                action(server)
            except TRANSPORT_ERRORS as again:
                raise RunError(f"{server.describe(again)}, right after a restart") from None

    def _sleep(self, server: VLLMServer) -> None:
        """Free the memory of a server on the trainer's GPU; its weights move to the CPU."""
        if server.options.can_sleep:
            server.client.post(api.SLEEP, timeout_s=self._sleep_timeout_s)
            server.asleep = True

    def _wake(self, server: VLLMServer) -> None:
        """Give a sleeping server its GPU memory back; the trainer frees its unused memory first."""
        if server.asleep:
            torch.cuda.empty_cache()
            server.client.post(api.WAKE, timeout_s=self._sleep_timeout_s)
            server.asleep = False
