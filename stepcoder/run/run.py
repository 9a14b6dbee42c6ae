"""What a run consists of, put together: data, models, engine, judge, curriculum, folder, state.

`open_run` builds all of it from a configuration, or restores it from the newest checkpoint of a run
folder; `Run` carries it through the loop. Whatever a resume needs is in `state_dict`; the loop's
random numbers are functions of the seed and the step, so there is no hidden generator to lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.method.curriculum import Curriculum, Task
from stepcoder.method.ppo import Learner, RunningDeviation
from stepcoder.method.rewards import reward
from stepcoder.models.batch import Batch
from stepcoder.models.load import models, with_template
from stepcoder.models.lora import merged_model
from stepcoder.models.optim import load_optimizers, optimizers_of
from stepcoder.models.policy import Critic, OutcomeCritic, choose_device, frozen_copy
from stepcoder.problems.problem import Problem
from stepcoder.recipes import RECIPES
from stepcoder.recipes.recipe import Recipe
from stepcoder.report.progress import Progress
from stepcoder.report.run_dir import RunDir, resume_at
from stepcoder.rollout.engine import Completion
from stepcoder.rollout.open_engine import open_engine
from stepcoder.rollout.pipeline import Pipeline
from stepcoder.rollout.replay import from_plain, to_plain
from stepcoder.rollout.rollout import Rollout, chosen_samples, sample_of
from stepcoder.run.checkpoint import load_state, newest_checkpoint, save_checkpoint, save_model
from stepcoder.run.data import TrainingData, load_data, spread
from stepcoder.run.held_out import evaluate, pass_at_1
from stepcoder.run.metrics import Clock, batch_metrics, curriculum_metrics, rollout_metrics
from stepcoder.sandbox import Judge, Limits


@dataclass
class Run:
    """Everything a run holds. The fields without a default exist from `begin_rl` on."""

    config: Config
    data: TrainingData
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    policy: PreTrainedModel
    sft_optimizers: list[torch.optim.Optimizer]
    judge: Judge
    curriculum: Curriculum
    rundir: RunDir
    progress: Progress
    sft_step: int = 0
    step: int = 0
    tokens: int = 0  # generated in RL
    recipe_state: dict[str, Any] = field(default_factory=dict)  # plain data, in the checkpoint
    deviation: RunningDeviation = field(default_factory=RunningDeviation)
    clock: Clock = field(default_factory=Clock)
    # Batches that were generated ahead when the state was saved.
    restored: list[tuple[list[Task], list[Completion]]] = field(default_factory=list)
    engine_failures: list[str] = field(default_factory=list)  # of the present step
    reference: PreTrainedModel = field(init=False)
    critic: Critic | OutcomeCritic | None = field(init=False)
    recipe_model: OutcomeCritic | None = field(init=False)
    recipe_optimizer: torch.optim.Optimizer | None = field(init=False)
    learner: Learner = field(init=False)
    pipeline: Pipeline = field(init=False)

    def generator(self, step: int) -> torch.Generator:
        """Return the step's own generator: a function of seed and step."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)

    @property
    def recipe(self) -> Recipe:
        """The algorithm."""
        return RECIPES[self.config.recipe]

    @property
    def budget_spent(self) -> bool:
        """True once RL has generated the tokens that `max_tokens` allows."""
        return self.config.max_tokens is not None and self.tokens >= self.config.max_tokens

    @property
    def rl_begun(self) -> bool:
        """True once the parts that only RL needs exist."""
        return hasattr(self, "pipeline")

    def steps_left(self) -> Iterator[int]:
        """Begin the RL phase if it has not begun, and yield the numbers of the steps to do."""
        if not self.rl_begun:
            self.begin_rl()
        while self.step < self.config.steps and not self.budget_spent:
            yield self.step + 1

    def begin_rl(self) -> None:
        """Freeze the supervised policy as the reference, build critic and engine, evaluate."""
        self.make_rl_parts(self.policy)
        save_model(self.rundir.path / "start", self.policy, self.tokenizer)
        metrics = {
            **curriculum_metrics(self.curriculum),
            "eval": self.evaluate(self.data.validation),
            "test": self.evaluate(self.data.test),
        }
        self.log(0, metrics)
        self.checkpoint("rl", 0)

    def make_rl_parts(self, start: PreTrainedModel) -> None:
        """Build what only RL needs. `start` is the policy that RL starts from."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)  # for the fresh heads
            self.critic = self.recipe.critic(self, start)
            self.recipe_model = self.recipe.model(start) if self.recipe.model else None
        self.recipe_optimizer = (
            torch.optim.AdamW(self.recipe_model.parameters(), self.config.ppo.critic_lr)
            if self.recipe_model
            else None
        )
        self.reference = frozen_copy(start)
        self.learner = Learner.create(self.policy, self.critic, self.config.ppo)
        policy = merged_model(self.policy)
        folder, tell = self.rundir.path / "engine", self.progress.note
        engine = open_engine(self.config, policy, self.tokenizer, folder, self.note, tell)
        self.pipeline = Pipeline(engine, self.config.rollout.ahead)

    def note(self, failure: str) -> None:
        """Show a failure that the engine got over, and keep it for the step's record."""
        self.engine_failures.append(failure)
        self.progress.note(failure)

    def close(self) -> None:
        """Close what begin_rl opened."""
        if self.rl_begun:
            self.pipeline.close()

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """Tell the curriculum how each visit's judged rollouts ended."""
        samples = self.config.rollout.samples_per_task
        for first in range(0, len(rollouts), samples):
            visit = rollouts[first : first + samples]
            passes = [float(r.verdict.passed) for r in visit if reward(r.verdict) is not None]
            self.curriculum.observe(visit[0].task, passes)

    def finish_supervised_step(self, step: int, metrics: dict[str, float]) -> None:
        """Log a step of the supervised phase, and save when it is time."""
        self.sft_step = step
        record = {"phase": "sft", **metrics}
        self.rundir.log(step, record)
        self.progress.update(step, record)
        if step == self.config.sft.steps or step % self.config.checkpoint.every == 0:
            self.checkpoint("sft", step)

    def finish_step(
        self, step: int, rollouts: Sequence[Rollout], batch: Batch, stats: dict[str, float]
    ) -> None:
        """Log the step, evaluate and save when it is time."""
        config, spent = self.config, self.clock.take()
        seconds = spent.seconds
        self.step = step
        self.tokens += sum(len(r.completion.token_ids) for r in rollouts)
        rewards = [value for r in rollouts if (value := reward(r.verdict)) is not None]
        metrics: dict[str, Any] = {
            "time": seconds,
            "timeline": spent.timeline,
            "hidden_judge_share": spent.hidden_judge_share,
            "reward_mean": sum(rewards) / len(rewards),
            **rollout_metrics(rollouts, seconds),
            **batch_metrics(batch),
            **curriculum_metrics(self.curriculum),
            **stats,
            "tokens_total": self.tokens,
            "engine_failures": self.engine_failures,
        }
        self.engine_failures = []
        last = step == config.steps or self.budget_spent
        if last or step % config.eval.every == 0:
            metrics["eval"] = self.evaluate(self.data.validation)
            chosen = [sample_of(r, step, config.fgo) for r in chosen_samples(rollouts)]
            self.rundir.log_samples(step, chosen)
        if last:
            metrics["test"] = self.evaluate(self.data.test)
        self.log(step, metrics)
        if last or step % config.checkpoint.every == 0:
            self.checkpoint("rl", step)
        if last or step % config.eval.every == 0:
            self.rundir.write_report()

    def evaluate(self, problems: Sequence[Problem]) -> dict[str, float]:
        """Pass@1 on problems that are not trained on (none: no figures)."""
        config = self.config
        problems = spread(problems, config.eval.limit)
        if not problems or config.rollout.replay:
            return {}
        rollouts = self.pipeline.run(
            lambda: evaluate(
                problems,
                self.pipeline.engine,
                self.judge,
                self.tokenizer,
                template=config.prompt.template,
                max_prompt_tokens=config.prompt.max_prompt_tokens,
                max_new_tokens=config.rollout.max_new_tokens,
                temperature=config.eval.temperature,
                samples=config.eval.samples,
            )
        )
        try:
            return {"pass@1": pass_at_1(rollouts), "problems": len(problems)}
        except ValueError as error:
            raise RunError(f"evaluation: {error} ({rollouts[0].verdict.message})") from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record a step of the RL phase and show it."""
        self.rundir.log(step, {"phase": "rl", **metrics})
        self.progress.update(step, metrics)

    def checkpoint(self, phase: str, step: int) -> None:
        """Save everything that a resume needs, atomically."""
        save_checkpoint(
            self.rundir.path / "checkpoints",
            f"{phase}-{step:06d}",
            self.state_dict(phase),
            self.policy,
            self.tokenizer,
            self.config.checkpoint.keep,
        )

    def state_dict(self, phase: str) -> dict[str, Any]:
        """Everything that changes in a run, as tensors and plain data."""
        state = {
            "phase": phase,
            "sft_step": self.sft_step,
            "step": self.step,
            "fingerprint": self.data.fingerprint,
            "policy": self.policy.state_dict(),
            "curriculum": self.curriculum.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if phase == "sft":
            return {**state, "sft_optimizers": [o.state_dict() for o in self.sft_optimizers]}
        return {
            **state,
            "reference": self.reference.state_dict(),
            "critic": self.critic.state_dict() if self.critic else None,
            "policy_optimizers": [o.state_dict() for o in self.learner.policy_optimizers],
            "critic_optimizers": [o.state_dict() for o in self.learner.critic_optimizers],
            "deviation": asdict(self.deviation),
            "tokens": self.tokens,
            "recipe_state": self.recipe_state,
            "recipe_model": self.recipe_model.state_dict() if self.recipe_model else None,
            "recipe_optimizer": (
                self.recipe_optimizer.state_dict() if self.recipe_optimizer else None
            ),
            "ahead": [
                to_plain(batch.rollouts, self.config.rollout.samples_per_task)
                for batch in self.pipeline.pending()
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            RunError: the state was saved with other data.
        """
        if state["fingerprint"] != self.data.fingerprint:
            raise RunError(
                f"{self.config.data.path}: the problems are not those that this run was started "
                "with (fingerprints differ); restore the file, or start a new run without --resume"
            )
        self.sft_step, self.step = state["sft_step"], state["step"]
        self.curriculum.load_state_dict(state["curriculum"])
        torch.set_rng_state(state["torch_rng"])
        if state["phase"] == "sft":
            self.policy.load_state_dict(state["policy"])
            load_optimizers(self.sft_optimizers, state["sft_optimizers"])
            return
        self.policy.load_state_dict(state["reference"])
        self.make_rl_parts(self.policy)
        self.policy.load_state_dict(state["policy"])
        if self.critic:
            self.critic.load_state_dict(state["critic"])
        if self.recipe_model and self.recipe_optimizer:
            self.recipe_model.load_state_dict(state["recipe_model"])
            self.recipe_optimizer.load_state_dict(state["recipe_optimizer"])
        self.tokens, self.recipe_state = state["tokens"], state["recipe_state"]
        load_optimizers(self.learner.policy_optimizers, state["policy_optimizers"])
        load_optimizers(self.learner.critic_optimizers, state["critic_optimizers"])
        self.deviation = RunningDeviation(**state["deviation"])
        self.pipeline.update_weights(self.policy)
        problems = {problem.task_id: problem for problem in self.data.train}
        self.restored = [from_plain(batch, problems) for batch in state["ahead"]]


@contextmanager
def open_run(config: Config, resume: Path | None) -> Iterator[Run]:
    """Build a run, or restore it from the newest checkpoint of the folder `resume`.

    Raises:
        RunError: something that the configuration names is missing or does not fit.
    """
    transformers_logging.disable_progress_bar()  # its bars would tear our own progress
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # nothing of ours draws from it; a library might
    device = choose_device(config.device)
    data = load_data(config.data, config.sft.share)
    checkpoint = newest_checkpoint(resume / "checkpoints") if resume else None
    state = load_state(checkpoint) if checkpoint else None
    with ExitStack() as stack:
        rundir = stack.enter_context(RunDir.open(config, resume_at(resume, state)))
        tokenizer, policy = models(config, data, device, rundir.path)
        config = with_template(config, tokenizer)
        run = Run(
            config=config,
            data=data,
            device=device,
            tokenizer=tokenizer,
            policy=policy,
            sft_optimizers=optimizers_of(
                policy,
                config.sft.optimizer,
                config.sft.lr,
                betas=(0.9, 0.98),
                weight_decay=config.sft.weight_decay,
            ),
            judge=stack.enter_context(judge(config)),
            curriculum=curriculum(config, data),
            rundir=rundir,
            progress=stack.enter_context(Progress(config)),
        )
        stack.callback(run.close)
        if state is not None:
            run.load_state_dict(state)
        yield run


def judge(config: Config) -> Judge:
    """Start the sandbox with the configured limits."""
    sandbox = config.sandbox
    return Judge(
        workers=sandbox.workers or None,
        limits=Limits(
            cpu_s=sandbox.cpu_s,
            wall_s=sandbox.wall_s,
            memory_bytes=sandbox.memory_mb << 20,
            output_bytes=sandbox.output_kb << 10,
        ),
    )


def curriculum(config: Config, data: TrainingData) -> Curriculum:
    """Start CCCS on the training problems."""
    options = config.curriculum
    return Curriculum(
        data.train,
        seed=config.seed,
        cccs=options.cccs,
        scopes=options.scopes,
        alpha=options.alpha,
        threshold=options.threshold,
        full_prompt_share=options.full_prompt_share,
        template=config.prompt.template,
    )
