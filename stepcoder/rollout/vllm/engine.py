"""Generation by vLLM: supervised server processes that speak token ids over loopback HTTP.

Takes requests, gives each completion the moment it ends. A server that dies, hangs or answers
nonsense is named, restarted and given the weights again, and what it still owed is asked anew; each
request is answered exactly once. The same code drives CPU servers, one GPU and several.
"""

from __future__ import annotations

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
from stepcoder.models.policy import lm_head, response_logprobs
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm import server as vllm_server
from stepcoder.rollout.vllm.api import Refused, ServerOptions
from stepcoder.rollout.vllm.server import NO_ANSWER, ServerFailure, VLLMServer
from stepcoder.rollout.vllm.weights import sender, transfer_s

RESTARTS = 3  # in a row, without one completion between them
WATCH_S = 2.0
PARITY_TOKENS = 16
# Mean distance of log-probabilities, by the models' numbers, that says "not the same weights".
PARITY = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class VLLMEngine:
    """Owns the servers; a context manager."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        servers: Sequence[ServerOptions],
        folder: Path,
        notify: Callable[[str], None],
    ) -> None:
        """Start one server for each of `servers`, and give them the policy's weights.

        Args:
            policy: the model; its configuration is in every server's model folder.
            tokenizer: its tokenizer.
            servers: what to start.
            folder: for the servers' logs.
            notify: is told, in one line each, of failures and what was done about them.

        Raises:
            RunError: a server does not start, or does not compute what the policy computes.
        """
        self.vocabulary: int = lm_head(policy).shape[0]
        self.eos: int | None = tokenizer.eos_token_id
        self.notify = notify
        self.servers = [VLLMServer(n, options, folder) for n, options in enumerate(servers)]
        self.limit = sum(options.max_sequences for options in servers)
        self._sender = sender(servers[0].transfer)
        self._version = 0
        self._closed = False
        self._verified: set[int] = set()  # process ids of servers whose parity was checked
        self._asleep: set[int] = set()
        torch.cuda.empty_cache()  # what the trainer does not use now may be the servers'
        try:
            with ThreadPoolExecutor(len(self.servers)) as pool:
                for start in [pool.submit(server.start) for server in self.servers]:
                    start.result()
            self.update_weights(policy)
        except ServerFailure as failure:
            self.close()
            raise RunError(str(failure)) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VLLMEngine:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def close(self) -> None:
        """End the servers; whoever still generates gets an error."""
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
        self._limit_s = vllm_server.ANSWER_S + transfer_s(policy)  # to sleep or to wake
        self._version += 1
        self._sender.publish(policy)
        failures: dict[VLLMServer, str] = {}
        for server in self.servers:
            try:
                self._deliver(server)
            except NO_ANSWER as error:
                failures[server] = server.describe(error)
            except Refused as error:
                raise RunError(server.describe(error)) from None
        self._restart(failures)

    def _deliver(self, server: VLLMServer) -> None:
        """Send the present weights to a server; check the parity of one that is new."""
        assert server.process is not None
        is_new = server.process.pid not in self._verified
        self._wake(server)
        self._sender.deliver(
            server,
            str(self._version),
            vllm_server.FIRST_ANSWER_S if is_new else vllm_server.ANSWER_S,
        )
        if is_new:
            distance = self.parity(server)
            if not distance <= PARITY.get(self._policy.dtype, 0.1):
                raise RunError(
                    f"{server.name} does not compute what the policy computes: log-probabilities "
                    f"differ by {distance:.2g} on average after the weights were sent; use "
                    "rollout.engine=hf for this model"
                )
            self._verified.add(server.process.pid)

    @torch.no_grad()
    def parity(self, server: VLLMServer) -> float:
        """Mean distance of the log-probabilities of server and policy, on a fixed prompt."""
        prompt = tuple(1 + i * 7 % (self.vocabulary - 1) for i in range(1, 1 + PARITY_TOKENS))
        greedy = Sampling(0.0, PARITY_TOKENS, stop=())
        limit_s = vllm_server.FIRST_ANSWER_S
        done = server.complete(0, Request(prompt, 0), greedy, None, self.vocabulary, limit_s)
        row = Row(prompt, done.token_ids, done.logprobs, [True] * len(done.token_ids), 0.0)
        batch = pack([row]).to(self._policy.device)
        expected, _ = response_logprobs(self._policy, batch, 1.0)
        theirs = batch.engine_logprobs[batch.response_positions]
        return (theirs - expected).abs().mean().item()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as they end, each request's once.

        Raises:
            RunError: a server failed again and again, or refuses a request.
        """
        missing = dict(enumerate(requests))
        barren = 0  # rounds in a row that failed before they gave anything
        while missing:
            before = len(missing)
            failures: dict[VLLMServer, str] = {}
            for completion in self._round(missing, sampling, failures):
                del missing[completion.index]
                yield completion
            barren = 0 if len(missing) < before else barren + 1
            if failures and barren >= RESTARTS:
                reason = "; ".join(failures.values())
                raise RunError(f"{reason}; given up after {barren} restarts in vain")
            owed = f"({len(missing)} of {len(requests)} to do again)"
            self._restart({server: f"{reason} {owed}" for server, reason in failures.items()})
        for server in self.servers:
            self._insist(server, self._sleep)

    def _round(
        self,
        missing: dict[int, Request],
        sampling: Sampling,
        failures: dict[VLLMServer, str],
    ) -> Iterator[Completion]:
        """Ask for every missing completion once; what fails is noted by server in `failures`."""
        ended: SimpleQueue[tuple[int, VLLMServer, Future[Completion]]] = SimpleQueue()
        waiting = dict.fromkeys(self.servers, 0)
        pool = ThreadPoolExecutor(min(len(missing), self.limit), "vllm request")

        def ask(index: int, request: Request, server: VLLMServer) -> None:
            future = pool.submit(
                server.complete, index, request, sampling, self.eos, self.vocabulary
            )
            future.add_done_callback(lambda done: ended.put((index, server, done)))
            waiting[server] += 1

        try:
            for server in self.servers:
                self._insist(server, self._wake)
                server.busy()
            for index, request in missing.items():
                ask(index, request, self._server_of(request))
            looked_at = time.monotonic()
            while any(waiting.values()):
                # What has ended comes first: nobody hangs because we were slow to take it.
                if ended.empty() and time.monotonic() - looked_at > WATCH_S:
                    for server, count in waiting.items():
                        if count and server not in failures and server.stalled():
                            limit_s = vllm_server.STALL_S
                            reason = f"{server.name} hangs: no token for {limit_s:.0f} s"
                            self._fail(server, reason, failures)
                    looked_at = time.monotonic()
                try:
                    _, server, future = ended.get(timeout=WATCH_S)
                except Empty:
                    continue
                waiting[server] -= 1
                error = None if future.cancelled() else future.exception()
                if error is None:
                    yield future.result()
                elif isinstance(error, Refused):
                    raise RunError(server.describe(error))
                elif not isinstance(error, NO_ANSWER):
                    raise error
                elif server not in failures:
                    self._fail(server, server.describe(error), failures)
        finally:
            if any(waiting.values()):  # left early: nobody wants the rest
                for server in self.servers:
                    server.stop()
            pool.shutdown(cancel_futures=True)

    def _server_of(self, request: Request) -> VLLMServer:
        """Return the server of a request: equal prompts share one, and with it their KV cache."""
        place = zlib.crc32(repr(request.prompt_ids[:256]).encode()) % len(self.servers)
        return self.servers[place]

    def _fail(self, server: VLLMServer, reason: str, failures: dict[VLLMServer, str]) -> None:
        """Note why a server is given up, and end it: whoever waits for it learns so at once."""
        failures[server] = reason
        server.stop()

    def _restart(self, failures: Mapping[VLLMServer, str]) -> None:
        """Start failed servers again, all at once, and give them the weights.

        Raises:
            RunError: that fails too.
        """
        if self._closed:
            raise RunError("the engine was closed")
        for server, reason in failures.items():
            self.notify(f"{reason}; restarting it")
            server.stop()
            self._asleep.discard(id(server))
        with ThreadPoolExecutor(len(self.servers)) as pool:
            starts = {server: pool.submit(server.start) for server in failures}
        for server, reason in failures.items():
            try:
                starts[server].result()
                self._deliver(server)
            except ServerFailure as failure:
                raise RunError(f"{reason}; then: {failure}") from None
            except (Refused, *NO_ANSWER) as error:
                raise RunError(f"{reason}; then: {server.describe(error)}") from None

    def _insist(self, server: VLLMServer, work: Callable[[VLLMServer], None]) -> None:
        """Do something with a server; one that fails at it is restarted, and tries once more."""
        try:
            work(server)
        except NO_ANSWER as error:
            self._restart({server: server.describe(error)})
            try:
                work(server)
            except NO_ANSWER as again:
                raise RunError(f"{server.describe(again)}, right after a restart") from None

    def _sleep(self, server: VLLMServer) -> None:
        """Let a server on the trainer's GPU free its memory; its weights wait on the CPU."""
        if server.options.can_sleep:
            server.client.post(api.SLEEP, timeout_s=self._limit_s)
            self._asleep.add(id(server))

    def _wake(self, server: VLLMServer) -> None:
        """Give a sleeping server its memory back, after the trainer gave up what it kept of it."""
        if id(server) in self._asleep:
            torch.cuda.empty_cache()
            server.client.post(api.WAKE, timeout_s=self._limit_s)
            self._asleep.discard(id(server))
