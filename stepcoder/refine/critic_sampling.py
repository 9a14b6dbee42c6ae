"""Critic sampling (CodeRL, arXiv 2207.01780, section 3.3): the critic chooses what to go on from.

N programs are split by the visible tests. Where some pass, each is cut at the token where the
critic gives the highest probability of passing all tests, and its end is sampled anew (refining);
else the M best failed ones are shown with their outcome and error and asked for anew (repairing): N
programs again, in one round. The answer passes the visible tests, if one does, and has the critic's
highest probability. `--chop` cuts earlier, where failing a test is first likelier than passing.

Ours: the policy itself repairs, where the paper trains a second model on failed programs; the
critic is that of a run of `recipe=coderl`. Without visible tests the critic alone chooses, at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stepcoder.config import load_config
from stepcoder.errors import RunError
from stepcoder.evaluate.policies import Policy
from stepcoder.method.rewards import Outcome
from stepcoder.models.batch import Row, microbatches, pack
from stepcoder.models.lora import load_own_state
from stepcoder.models.policy import OutcomeCritic, choose_device
from stepcoder.models.pretrained import load_pretrained
from stepcoder.problems import prompts
from stepcoder.problems.template import in_own_words
from stepcoder.refine.self_critique import feedback
from stepcoder.refine.steps import Answer, Ask, Case, Reply, Run, Steps, fenced
from stepcoder.report.run_dir import CONFIG
from stepcoder.rollout.rollout import response_text
from stepcoder.run.checkpoint import load_state, newest_checkpoint
from stepcoder.sandbox import Verdict

TOKENS = 8192  # that the critic reads at a time
REPAIR = """\
{statement}

This program fails a test ({outcome}):
{program}
{feedback}

Repair it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A program and what the critic thinks of it: p(passed), of all of it and after each token.

    `failing` is p(fails a test) after each token; `verdict` is that of the visible tests, if any.
    """

    reply: Reply
    verdict: Verdict | None
    passing: float
    passing_after: tuple[float, ...]
    failing_after: tuple[float, ...]

    @property
    def passes(self) -> bool:
        """Whether the visible tests pass."""
        return self.verdict is not None and self.verdict.passed


@dataclass(frozen=True, slots=True)
class CriticSampling:
    """The method, for one policy and its critic."""

    critic: OutcomeCritic
    policy: Policy

    def __call__(self, case: Case) -> Steps:
        """Sample N programs, refine or repair the best of them, and answer with the best of all."""
        count = case.options.samples
        first = yield from self.scored(case, [Ask(case.statement)] * count)
        yield Answer(best(first).reply.program)
        if case.visible is None:
            return
        if passing := [one for one in first if one.passes]:
            asks = [self.refining(case, one) for one in passing]
        else:
            ranked = sorted(first, key=lambda one: -one.passing)
            asks = [repairing(case, one) for one in ranked[: case.options.top]]
        again = [ask for ask in asks for _ in range(-(-count // len(asks)))][:count]
        second = yield from self.scored(case, again)
        yield Answer(best([*first, *second]).reply.program)

    def scored(self, case: Case, asks: Sequence[Ask]) -> Steps:
        """Sample programs, run the visible tests and ask the critic."""
        replies = yield list(asks)
        verdicts: Sequence[Verdict | None] = [None] * len(replies)
        if case.visible is not None:
            verdicts = yield [Run(reply.program, case.visible.tests) for reply in replies]
        scores = list(self.scores(replies))
        parts = zip(replies, verdicts, scores, strict=True)
        return [Scored(reply, verdict, *score) for reply, verdict, score in parts]

    @torch.no_grad()
    def scores(
        self, replies: Sequence[Reply]
    ) -> Iterator[tuple[float, tuple[float, ...], tuple[float, ...]]]:
        """Yield of each program the last three fields of Scored."""
        rows = []
        for reply in replies:
            count = len(reply.token_ids)
            prompt = prompts.encode_prompt(self.policy.tokenizer, reply.task.prompt_text)
            mask, logprobs = (True,) * count, (0.0,) * count
            rows.append(Row(tuple(prompt), reply.token_ids, logprobs, mask, 0.0, 0, ()))
        batch = pack(rows).to(self.critic.head.weight.device)
        found = {}
        for places, piece in microbatches(batch, TOKENS):
            whole = torch.softmax(self.critic.logits(piece), -1)[:, Outcome.PASSED].tolist()
            after = self.critic.token_probabilities(piece)  # (N, C)
            lengths = [len(replies[place].token_ids) for place in places]
            for place, p, tokens in zip(places, whole, after.split(lengths), strict=True):
                columns = tokens[:, [Outcome.PASSED, Outcome.WRONG_ANSWER]].T.tolist()
                found[place] = (p, *map(tuple, columns))
        for place in range(len(replies)):
            yield found[place]

    def refining(self, case: Case, one: Scored) -> Ask:
        """Give the program's beginning, up to where the critic hopes most (or no longer hopes)."""
        reply, passing = one.reply, one.passing_after
        cut = max(range(len(passing)), key=passing.__getitem__)
        if case.options.chop:
            doubted = (t for t in range(cut) if one.failing_after[t] > passing[t])
            cut = next(doubted, cut)
        tokenizer = self.policy.tokenizer
        prompt = prompts.encode_prompt(tokenizer, reply.task.prompt_text)
        text, spans = response_text(reply.task, tokenizer, prompt, reply.token_ids)
        code = len(reply.program) - len(reply.task.given)  # what follows is the closing fence
        given = reply.task.given + text[: min(spans[cut][1], code)]
        return Ask(case.statement, given=given)


def repairing(case: Case, one: Scored) -> Ask:
    """Show the failed program, how it ended and with which error, and ask for it anew."""
    assert one.verdict is not None
    subtype = one.verdict.error_type
    outcome = f"{one.verdict.status}, {subtype}" if subtype else str(one.verdict.status)
    said = feedback(case, one.verdict)
    text = REPAIR.format(
        statement=case.statement, outcome=outcome, program=fenced(one.reply.program), feedback=said
    )
    return Ask(text)


def best(candidates: Sequence[Scored]) -> Scored:
    """Return the most promising program, of those that pass the visible tests if there are any."""
    passing = [one for one in candidates if one.passes]
    return max(passing or candidates, key=lambda one: one.passing)


def critic_sampling(path: Path, policy: Policy, device: str) -> CriticSampling:
    """Return the method with the critic of a run's newest checkpoint.

    Raises:
        RunError: the folder has none, or the policy answers in words, which cannot be gone on with.
    """
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is None or not (path / CONFIG).is_file():
        raise RunError(f"--policy {path}: no run with a checkpoint is there, and so no critic")
    state = load_state(checkpoint)
    if load_config(path / CONFIG).recipe != "coderl" or state["phase"] != "rl":
        raise RunError(f'--policy {path}: its newest checkpoint has no critic of recipe "coderl"')
    if in_own_words(policy.template):
        raise RunError("critic sampling goes on with programs, not with answers in words")
    dtype = state["critic"]["head.weight"].dtype
    folder = checkpoint / "policy"
    _, decoder = load_pretrained(folder, dtype, choose_device(device), "--policy")
    critic = OutcomeCritic.from_policy(decoder, len(Outcome))
    load_own_state(critic, state["critic"])
    return CriticSampling(critic, policy)
