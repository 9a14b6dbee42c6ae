"""One run: its parts, and what happens between the steps of its loop (`open_run.py` builds it).

Whatever a resume needs is in `state_dict`. The loop's random numbers are functions of the seed and
the step; torch's own generator is saved as well, in case a library draws from it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config, PPOConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import Curriculum
from stepcoder.method.ppo import Learner, RunningDeviation
from stepcoder.method.rewards import Outcome
from stepcoder.method.schedule import rate_factor
from stepcoder.models import ranks
from stepcoder.models.batch import Batch
from stepcoder.models.load import new_critic
from stepcoder.models.lora import load_own_state, own_state
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import OutcomeCritic, frozen_copy
from stepcoder.models.sharding import compute_dtype, gathered, sharded
from stepcoder.problems.problem import Problem
from stepcoder.recipes.recipe import Recipe
from stepcoder.report.chosen import sample_of, worth_reading
from stepcoder.report.page import write_report
from stepcoder.report.progress import Progress
from stepcoder.report.run_dir import Phase, RunDir, resume_at
from stepcoder.rollout.engine import Completion, Elsewhere, Sampling
from stepcoder.rollout.open_engine import open_engine
from stepcoder.rollout.pipeline import Pipeline
from stepcoder.rollout.replay import from_plain, to_plain
from stepcoder.rollout.rollout import Rollout, Task, roll_out, sampling_of, whole_program_tasks
from stepcoder.run.checkpoint import replace_model, save_checkpoint, save_model
from stepcoder.run.data import TrainingData, evenly_spaced
from stepcoder.run.held_out import any_passed, pass_at_1
from stepcoder.run.metrics import StepTimer, curriculum_metrics, step_metrics
from stepcoder.run.sinks import Sinks
from stepcoder.run.stop import Stopped
from stepcoder.sandbox import Judge

M = TypeVar("M", bound=torch.nn.Module)
SEED_STRIDE = 1_000_003  # odd: the steps of neighboring seeds stay apart
# Nats a token, by the policy's dtype: what `Run.check_engine` allows.
MAX_MISMATCH = {torch.float32: 0.01, torch.bfloat16: 0.1}
# A policy that after so many steps is so near to its start, in nats a token, hardly learns:
# SmolLM2-135M gained nothing at a rate of 5e-6 (0.0007) and 9 points at 4e-5 (0.07).
STILL_STEPS, STILL_KL = 8, 0.002


@dataclass
class Run:
    """Everything a run holds. The fields at the end exist from `begin_rl` on (phase "rl")."""

    config: Config
    recipe: Recipe
    data: TrainingData
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    policy: PreTrainedModel
    masters: Masters  # of the policy's weights
    sft_optimizer: Optimizer  # until RL begins
    judge: Judge
    curriculum: Curriculum
    run_dir: RunDir
    progress: Progress
    sinks: Sinks = field(init=False)  # set once the run is whole
    phase: Phase = "sft"
    sft_step: int = 0
    step: int = 0
    tokens: int = 0  # generated in RL
    best: float = -1.0  # pass@1 of the validation problems in the best evaluation so far
    recipe_state: dict[str, Any] = field(default_factory=dict)  # plain data, see `recipe_steps.py`
    deviation: RunningDeviation = field(default_factory=RunningDeviation)
    clock: StepTimer = field(default_factory=StepTimer)
    # Batches that were generated ahead when the state was saved.
    restored: list[tuple[list[Task], list[Completion]]] = field(default_factory=list)
    engine_failures: list[str] = field(default_factory=list)  # of the present step
    engine_unchecked: bool = True  # True until a batch has been compared that is on-policy
    stop_signal: int | None = None  # that asks the run to stop before its next step
    saved: tuple[Phase, int] | None = None  # phase and step of the newest checkpoint
    reference: PreTrainedModel | None = field(init=False, default=None)
    learner: Learner = field(init=False)
    discriminator: OutcomeCritic | None = field(init=False, default=None)
    discriminator_optimizer: Optimizer | None = field(init=False, default=None)
    pipeline: Pipeline = field(init=False)

    @property
    def adapts_kl(self) -> bool:
        """True where `ppo.kl_beta` is only the first weight of the KL."""
        return self.recipe.adapts_kl or self.config.ppo.kl_target is not None

    @property
    def ppo(self) -> PPOConfig:
        """PPO's numbers of the present step: rates follow a schedule, the KL's weight may adapt."""
        ppo, step = self.config.ppo, self.step + 1
        factor = rate_factor(step, self.config.steps, ppo.warmup_steps, ppo.schedule)
        return replace(
            ppo,
            policy_lr=factor * ppo.policy_lr,
            critic_lr=factor * ppo.critic_lr,
            kl_beta=float(self.recipe_state.get("kl_beta", ppo.kl_beta)),
        )

    def generator(self, step: int) -> torch.Generator:
        """Return the step's own generator, a function of seed and step; supervised: -1, -2, ..."""
        return torch.Generator().manual_seed(self.config.seed * SEED_STRIDE + step)

    def roll_out(self, tasks: Sequence[Task], sampling: Sampling, samples: int) -> list[Rollout]:
        """Return judged completions of tasks, by the engine's present weights."""
        engine, judge, tokenizer = self.pipeline.engine, self.judge, self.tokenizer
        return ranks.from_first(
            lambda: self.pipeline.run(
                lambda: roll_out(tasks, engine, judge, tokenizer, sampling, samples)
            ),
            (*self.data.problems, *tasks),
        )

    @property
    def is_done(self) -> bool:
        """True once all steps are done, `max_tokens` generated, or `eval.target` reached."""
        budget, target = self.config.max_tokens, self.config.eval.target
        return (
            self.step >= self.config.steps
            or (budget is not None and self.tokens >= budget)
            or (target is not None and self.best >= target)
        )

    @property
    def scores_in_update(self) -> bool:
        """True where the update's own forward pass gives the old log-probabilities."""
        ppo = self.config.ppo
        return self.recipe.scores_in_update and ppo.epochs == ppo.minibatches == 1

    def steps_left(self) -> Iterator[int]:
        """Yield the numbers of the RL steps that are left to do. Raises Stopped."""
        while not self.is_done:
            self.stop_if_asked(self.step)
            yield self.step + 1

    def stop_if_asked(self, step: int) -> None:
        """Save what is done of the present phase and stop, where a signal asks for it.

        Raises:
            Stopped: a signal asked.
        """
        signal = ranks.any_of(self.stop_signal or 0)
        if not signal:
            return
        if (self.phase, step) == ("sft", 0):
            raise Stopped(signal, "stopped before the first step")
        if self.saved != (self.phase, step):
            self.checkpoint(step)
        where = f"{'supervised ' * (self.phase == 'sft')}step {step}"
        hint = f"continue with --resume {self.run_dir.path}"
        raise Stopped(signal, f"stopped at {where}, saved; {hint}")

    def begin_rl(self) -> None:
        """Freeze the supervised policy as the reference, build critic and engine, evaluate.

        Nothing is left to do where a checkpoint of RL was restored.
        """
        if self.phase == "rl":
            return
        start = gathered(self.policy)
        self.make_rl_parts(start)
        ranks.from_first(lambda: save_model(self.run_dir.path / "start", start, self.tokenizer))
        metrics = {
            **curriculum_metrics(self.curriculum),
            "eval": self.evaluate(self.data.validation),
            "test": self.evaluate(self.data.test),
        }
        self.log(0, metrics)
        self.checkpoint(0)

    def make_rl_parts(self, start: PreTrainedModel) -> None:
        """Build what only RL needs.

        `start` is the policy that RL starts from, whole; only the first process has its weights.
        """
        config, recipe, critic, whole = self.config, self.recipe, None, cast(Any, start)

        def spread(make: Callable[[], M]) -> M:
            return sharded(ranks.from_first_alone(make), self.device)

        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # for the fresh heads
            if kind := recipe.critic:
                classes = len(Outcome)
                critic = spread(lambda: new_critic(kind, whole, config, self.tokenizer, classes))
            if recipe.discriminates:
                self.discriminator = spread(lambda: OutcomeCritic.from_policy(whole, classes=2))
                self.discriminator_optimizer = Optimizer(
                    Masters(self.discriminator), "adamw", config.ppo.critic_lr, (0.9, 0.999), 0.01
                )
        if config.ppo.kl_beta or recipe.adapts_kl:
            self.reference = spread(lambda: frozen_copy(whole, config.model.offload_reference))
        self.learner = Learner.create(self.masters, critic, config.ppo)
        del self.sft_optimizer  # its moments take 8 bytes a weight
        engine = ranks.from_first_alone(
            lambda: open_engine(
                config,
                whole.to(self.device),
                self.tokenizer,
                self.run_dir.path / "engine",
                self.note_engine_failure,
                self.progress.note,
            )
        )
        self.pipeline = Pipeline(engine or Elsewhere(), config.rollout.ahead)
        self.phase = "rl"

    def note_engine_failure(self, failure: str) -> None:
        """Show a failure that the engine got over, and keep it for the step's record."""
        self.engine_failures.append(failure)
        self.progress.note(failure)

    def close(self) -> None:
        """Close what begin_rl opened."""
        if self.phase == "rl":
            self.pipeline.close()

    def check_engine(self, difference: float | None) -> None:
        """Stop if the engine's log-probabilities are not the trainer's, at the first step.

        `difference` is the mean absolute one over the sampled tokens, in nats. The transformers
        engine with SmolLM2-135M, 30 layers, gave 0.00001 in float32 and 0.034 in bfloat16 (640
        tokens, temperatures 1 and 0.7), which is rounding; a wrong head gives 1 and more. Batches
        sampled by older weights or in another run differ rightly: not checked are those of a
        replay, and the first one after a resume if it was generated before, or rows are replayed.

        Raises:
            RunError: they differ by more than MAX_MISMATCH.
        """
        if difference is None:  # nothing was trained
            return
        if self.engine_unchecked and self.config.rollout.replay is None:
            limit = MAX_MISMATCH[compute_dtype(self.policy)]
            if not difference <= limit:
                raise RunError(
                    f"rollout.engine: {self.config.rollout.engine} does not compute what the "
                    f"trainer does for {type(self.policy).__name__}: the log-probabilities of the "
                    f"first step's tokens differ by {difference:.2g} nats on average (at most "
                    f"{limit}); use another engine, or another model"
                )
        self.engine_unchecked = False

    def note_a_still_policy(self, kl: float | None) -> None:
        """Say once that the rate is too low: after some steps the policy is where it started.

        `kl` is that from the reference, which is the start; None without a reference.
        """
        steps = self.step - self.config.ppo.critic_warmup_steps
        if steps == STILL_STEPS and kl is not None and abs(kl) < STILL_KL:
            self.progress.note(
                f"after {self.step} steps the policy is {kl:.4f} nats a token from its start: it "
                f"hardly learns; raise ppo.policy_lr ({self.config.ppo.policy_lr:g})"
            )

    def finish_supervised_step(self, step: int, metrics: dict[str, float]) -> None:
        """Log a step of the supervised phase, and save when it is time."""
        self.sft_step = step
        self.log(step, metrics)
        if step == self.config.sft.steps or step % self.config.checkpoint.every == 0:
            self.checkpoint(step)

    def finish_step(
        self, step: int, rollouts: Sequence[Rollout], batch: Batch, stats: dict[str, float]
    ) -> None:
        """Log the step, evaluate and save when it is time."""
        config = self.config
        self.step = step
        self.tokens += sum(len(r.completion.token_ids) for r in rollouts)
        metrics: dict[str, Any] = {
            **step_metrics(self.clock.take(), rollouts, batch, self.curriculum),
            **stats,
            "tokens_total": self.tokens,
            "engine_failures": self.engine_failures,
        }
        self.engine_failures = []
        self.check_engine(metrics.get("engine_difference"))
        self.note_a_still_policy(metrics.get("kl"))
        trim_heap()
        evaluates = self.is_done or step % config.eval.every == 0
        if evaluates:
            metrics["eval"] = self.evaluate(self.data.validation)
            self.note_evaluation(metrics["eval"].get("pass@1", -1.0))
        shows = evaluates or step == 1
        if shows and ranks.is_first():
            chosen = worth_reading(rollouts)
            samples = [sample_of(r, step, self.tokenizer, batch) for r in chosen]
            self.run_dir.log_samples(step, samples)
        last = self.is_done
        if last:
            metrics["test"] = self.evaluate(self.data.test)
        self.log(step, metrics)
        if last or step % config.checkpoint.every == 0:
            self.checkpoint(step)
        if shows and ranks.is_first():
            write_report(self.run_dir.path)

    def note_evaluation(self, pass_rate: float) -> None:
        """Remember the best evaluation, and keep its policy if `checkpoint.best` asks for it."""
        if pass_rate <= self.best:
            return
        self.best = pass_rate
        if self.config.checkpoint.best:
            policy, folder = gathered(self.policy), self.run_dir.path / "best"
            ranks.from_first(lambda: replace_model(folder, policy, self.tokenizer))

    def evaluate(self, problems: Sequence[Problem]) -> dict[str, float]:
        """Pass@1 of whole programs on problems that are not trained on (none: no figures)."""
        config = self.config
        problems = evenly_spaced(problems, config.eval.limit)
        if not problems or config.rollout.replay:
            return {}
        template = config.prompt.template
        tasks = whole_program_tasks(problems, template, self.tokenizer)
        sampling = sampling_of(template, config.eval.temperature, config.rollout.max_new_tokens)
        rollouts = self.roll_out(tasks, sampling, config.eval.samples)
        try:
            figures = {"pass@1": pass_at_1(rollouts), "problems": len(problems)}
        except ValueError as error:
            raise RunError(f"evaluation: {error} ({rollouts[0].verdict.message})") from None
        if config.eval.samples > 1:
            figures[f"pass@{config.eval.samples}"] = any_passed(rollouts)
        return figures

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record a step of the present phase and show it."""
        if not ranks.is_first():
            return
        record = {"phase": self.phase, **metrics}
        self.run_dir.log(step, record)
        self.sinks.log(step + (self.phase == "rl") * self.config.sft.steps, step, record)
        self.progress.update(step, record)

    def checkpoint(self, step: int) -> None:
        """Save everything that a resume needs, atomically."""
        save_checkpoint(
            self.run_dir.path / "checkpoints",
            f"{self.phase}-{step:06d}",
            self.state_dict(),
            self.policy,
            self.learner.critic if self.phase == "rl" else None,
            self.tokenizer,
            self.config.checkpoint.keep,
        )
        self.saved = self.phase, step

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes in a run, as tensors and plain data.

        The weights below adapters do not.
        """
        state = {
            "phase": self.phase,
            "sft_step": self.sft_step,
            "step": self.step,
            "fingerprint": self.data.fingerprint,
            "policy": own_state(self.policy),
            "curriculum": self.curriculum.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if self.phase == "sft":
            return {**state, "sft_optimizer": self.sft_optimizer.state_dict()}
        learner = self.learner
        model, optimizer = self.discriminator, self.discriminator_optimizer
        samples = self.config.rollout.samples_per_task
        return {
            **state,
            "reference": self.reference and own_state(self.reference),
            "critic": learner.critic and own_state(learner.critic),
            "policy_optimizer": learner.policy_optimizer.state_dict(),
            "critic_optimizer": learner.critic_optimizer and learner.critic_optimizer.state_dict(),
            "deviation": asdict(self.deviation),
            "tokens": self.tokens,
            "best": self.best,
            "recipe_state": self.recipe_state,
            "kl_beta": self.config.ppo.kl_beta,  # from which recipe_state's was adapted
            "recipe_model": model and own_state(model),
            "recipe_optimizer": optimizer and optimizer.state_dict(),
            "ahead": [to_plain(batch.rollouts, samples) for batch in self.pipeline.pending()],
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
        self.saved = resume_at(state)  # not to be saved again without what was generated ahead
        self.curriculum.load_state_dict(state["curriculum"])
        torch.set_rng_state(state["torch_rng"])
        if state["phase"] == "sft":
            load_own_state(self.policy, state["policy"])
            self.sft_optimizer.load_state_dict(state["sft_optimizer"])
            return
        load_own_state(self.policy, state["reference"] or state["policy"])
        self.make_rl_parts(gathered(self.policy))
        load_own_state(self.policy, state["policy"])
        learner = self.learner
        if learner.critic:
            load_own_state(learner.critic, state["critic"])
        if self.discriminator and self.discriminator_optimizer:
            load_own_state(self.discriminator, state["recipe_model"])
            self.discriminator_optimizer.load_state_dict(state["recipe_optimizer"])
        self.tokens, self.recipe_state = state["tokens"], state["recipe_state"]
        beta = self.config.ppo.kl_beta
        if not self.adapts_kl or state.get("kl_beta", beta) != beta:
            self.recipe_state.pop("kl_beta", None)  # the option given now is the first weight anew
        self.best = state.get("best", -1.0)
        learner.policy_optimizer.load_state_dict(state["policy_optimizer"])
        if learner.critic_optimizer:
            learner.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.deviation = RunningDeviation(**state["deviation"])
        self.pipeline.update_weights(self.policy)
        problems = {problem.task_id: problem for problem in self.data.train}
        self.restored = [from_plain(batch, problems) for batch in state["ahead"]]
        self.engine_unchecked = not (self.restored or self.recipe.replay_steps)


def trim_heap() -> None:
    """Give the heap's free pages back to the system.

    glibc keeps the holes that a step's tensors leave, and the next step's are of other sizes: with
    SmolLM2-135M on a CPU the process grew from 5 to 12 GiB in twelve steps.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
