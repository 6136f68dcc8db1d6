"""The full phase: a whole training with evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Protocol

from peprof.devices import Device
from peprof.errors import PeprofError
from peprof.events import Progress
from peprof.results.record import Evaluation
from peprof.suite.schema import TrainConfig
from peprof.training.batches import Batch, EncodedSplit
from peprof.training.best import copied, judge, put_back
from peprof.training.evaluation import evaluate
from peprof.training.pending import PendingSteps
from peprof.training.prefetching import prefetch
from peprof.training.step import ClassifierStep
from peprof.training.training_state import Training
from peprof.training.watching import TrainingWatcher

FLUSH_STEPS = 20
"""Steps between two looks at the losses: each look waits for the device, so it is not done at every step."""

FLUSH_SECONDS = 1.0
"""Seconds after which slower steps are looked at too: for these, waiting for the device costs nothing."""


class DivergedError(PeprofError):
    """The training or validation loss became infinite or not a number."""

    exit_code = 3


def check_finite(loss: float, what: str, when: str) -> None:
    """A loss that is no number means that the weights are of no use: nothing may be concluded from them.

    Args:
        loss: the loss.
        what: its name, for the message: ``training loss``.
        when: a step in words, for the message: ``at step 3``.

    Raises:
        DivergedError: it is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"the {what} became {loss} {when}",
            hint="Lower the learning rate of this method, or train in float32.",
        )


def planned_steps(config: TrainConfig, rows: int) -> int:
    """Steps of a training on ``rows`` examples: epochs of whole and one rest batch, cut at ``max_steps``."""
    steps = config.epochs * math.ceil(rows / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps is not None else steps


class Keeper(Protocol):
    """Keeps the state of a training now and then, so that a killed one goes on from there.

    Asked only between steps, when the device has been waited for and nothing is pending; not after the last.
    """

    def due(self, elapsed_s: float) -> bool:
        """Whether to keep it now.

        Args:
            elapsed_s: seconds since it was last kept, or since this attempt began. Must be quick.
        """

    def keep(self, training: Training) -> None:
        """Keeps it. Its seconds are counted as ``checkpoint_time_s``, no step's and no evaluation's.

        Args:
            training: complete up to this step; the trainer goes on changing it afterwards.
        """


class Trainer:
    """Trains and evaluates, once.

    Limits are looked at where the device is waited for anyway: after ``FLUSH_STEPS`` steps, or
    ``FLUSH_SECONDS`` where steps are slow. So a training may outlast ``max_seconds`` by as much. The learning
    rate's schedule is that of the planned steps, also where time or patience ends it sooner.

    A restored ``training`` goes on after its last step, with what would have been the next batch: the order
    of examples is a function of seed and epoch. Whoever restores it puts model, step and random generators
    into the state of then as well.

    Attributes:
        found: what it has found; when ``train`` raises, what it had found until then.

    Args:
        step: the training step.
        config: epochs, batch sizes, when to evaluate, when to stop.
        device: where it runs.
        seed: decides the order of the examples.
        metrics: by which answers are judged; the first says which evaluation is best.
        progress: told about each step and each evaluated batch, and of training and of each evaluation
            before it starts, so that whatever fails in it is known to belong to it.
        watchers: told what was found, whenever the device is waited for.
        keeper: keeps the state now and then; ``None`` for nobody.
        training: to go on with; ``None`` starts anew.
    """

    def __init__(
        self,
        step: ClassifierStep,
        config: TrainConfig,
        device: Device,
        *,
        seed: int,
        metrics: Sequence[str] = ("accuracy",),
        progress: Callable[[Progress], None] = lambda event: None,
        watchers: Sequence[TrainingWatcher] = (),
        keeper: Keeper | None = None,
        training: Training | None = None,
    ) -> None:
        self._step = step
        self._config = config
        self._device = device
        self._seed = seed
        self._metrics = tuple(metrics)
        self._progress = progress
        self._watchers = watchers
        self._keeper = keeper
        self._clock = device.clock()
        self._pending = PendingSteps()
        self._energy_j: float | None = None
        if training is not None:
            training.resumes += 1
        self.found = training or Training()
        self._steps_before = self.found.steps
        self._wall_before_s = self.found.wall_time_s
        self._begin_s = self._flushed_s = self._kept_s = time.perf_counter()
        self._aside_s = 0.0

    def train(self, train: EncodedSplit, validation: EncodedSplit) -> Training:
        """Runs the whole training; the last evaluation is after the last step.

        Raises:
            DivergedError: the loss is no longer finite, of a training step or of an evaluation.
        """
        try:
            self._train(train, validation)
        except BaseException:
            # Steps that are done but not looked at yet. The device may be in no state to answer, and a loss
            # that isn't finite is not why the training ended.
            with suppress(RuntimeError, DivergedError):
                self._flush()
            raise
        finally:
            self._note_wall_time()
        return self.found

    def _train(self, train: EncodedSplit, validation: EncodedSplit) -> None:
        config, found = self._config, self.found
        total = planned_steps(config, len(train))
        per_epoch = math.ceil(len(train) / config.batch_size)
        self._begin_s = self._flushed_s = self._kept_s = time.perf_counter()
        self._energy_j = self._device.energy_j()
        self._progress(Progress(phase="full: training", step=found.steps, total=total))
        done = found.steps
        made = self._batches(train, done, total)
        with closing(prefetch(made, self._device.torch_device)) as batches:
            for batch in self._waited_for(batches):
                self._run(batch)
                done += 1
                epoch_ends = done % per_epoch == 0
                evaluates = self._is_evaluated(done, epoch_ends) or done == total
                flushes = evaluates or epoch_ends or self._is_flush_due(done)
                if flushes:
                    self._flush()
                    found.epochs = done / per_epoch
                if epoch_ends:
                    found.epoch_times_s.append(sum(found.step_time_s[done - per_epoch :]))
                if done == total:
                    found.stopped_by = "epochs" if done == config.epochs * per_epoch else "max_steps"
                elif flushes and config.max_seconds is not None and self._trained_s() >= config.max_seconds:
                    found.stopped_by = "max_seconds"
                if evaluates or found.stopped_by is not None:
                    self._evaluate(validation)
                self._tell(done, total)
                if found.stopped_by is not None:
                    break
                if flushes:
                    self._keep_if_due()
        if found.kept:
            put_back(self._step.model, found.kept)

    def _batches(self, train: EncodedSplit, after: int, total: int) -> Iterator[Batch]:
        """Batches of the steps after the first ``after``; those before aren't built."""
        config = self._config
        per_epoch = math.ceil(len(train) / config.batch_size)
        given = after
        for epoch in range(after // per_epoch, config.epochs):
            for batch in train.epoch(
                config.batch_size,
                seed=self._seed * 1_000_003 + epoch,
                group_by_length=config.group_by_length,
                skip=given - epoch * per_epoch,
            ):
                if given == total:
                    return
                given += 1
                yield batch

    def _waited_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there is noted."""
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.found.waiting_time_s += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def _run(self, batch: Batch) -> None:
        learning_rate = self._step.optimizer.param_groups[0]["lr"]
        loss = self._step(batch, self._clock.mark, self._pending.norms)
        self._pending.add(
            loss,
            learning_rate=float(learning_rate),
            samples=len(batch.inputs["labels"]),
            real_tokens=batch.real_tokens,
        )

    def _is_evaluated(self, done: int, epoch_ends: bool) -> bool:
        every = self._config.evaluate_every_steps
        return done % every == 0 if every else epoch_ends

    def _is_flush_due(self, done: int) -> bool:
        return done % FLUSH_STEPS == 0 or time.perf_counter() - self._flushed_s >= FLUSH_SECONDS

    def _trained_s(self) -> float:
        return math.fsum(self.found.step_time_s)

    def _flush(self) -> None:
        """Waits for the device, reads the steps since the last flush, and tells who watches."""
        found = self.found
        before = found.steps
        self._pending.read_into(found, self._clock.drain())
        self._flushed_s = time.perf_counter()
        if found.steps == before:
            return
        if self._watchers:
            history = found.history(after=before)
            for watcher in self._watchers:
                watcher.steps(before + 1, history)
        check_finite(found.loss[-1], "training loss", f"at step {found.steps}")

    def _evaluate(self, validation: EncodedSplit) -> None:
        found = self.found

        def on_batch(examples: int, total: int) -> None:
            self._progress(
                Progress(phase="full: evaluation", step=examples, total=total, loss=found.loss[-1])
            )

        with self._aside():
            on_batch(0, len(validation))
            score = evaluate(
                self._step.model,
                validation,
                self._device,
                batch_size=self._config.evaluation_batch_size,
                on_batch=on_batch,
            )
            # The last update's fault shows in no training loss: classes picked among NaNs would pass as a
            # result.
            check_finite(score.loss, "validation loss", f"after step {found.steps}")
            evaluation = Evaluation(
                step=found.steps,
                train_time_s=self._trained_s(),
                correct=score.correct,
                total=score.total,
                loss=score.loss,
                time_s=score.time_s,
                exact_matches=score.exact_matches,
                invalid=score.invalid,
                metrics=dict(score.metrics),
                energy_j=found.energy_j,
            )
            found.evaluations.append(evaluation)
            judge(found, evaluation, self._config, self._metrics[0])
            if found.result_step == evaluation.step:
                found.predictions = score.predictions
            # No step follows the last evaluation: its weights stay without a copy.
            if self._config.keep == "best" and found.best_step == found.steps and found.stopped_by is None:
                found.kept = copied(self._step.model)
        for watcher in self._watchers:
            watcher.evaluated(evaluation)

    def _keep_if_due(self) -> None:
        if self._keeper is None or not self._keeper.due(time.perf_counter() - self._kept_s):
            return
        with self._aside():
            self._note_wall_time()
            begin = time.perf_counter()
            self._keeper.keep(self.found)
            self._kept_s = time.perf_counter()
            self.found.checkpoint_time_s += self._kept_s - begin

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What is done in it belongs to no training step; to be entered when all steps are done."""
        begin = time.perf_counter()
        self._note_energy()
        yield
        self._energy_j = self._device.energy_j()
        self._aside_s += time.perf_counter() - begin
        self._flushed_s = time.perf_counter()

    def _note_energy(self) -> None:
        """Adds the joules since training went on last."""
        found, now = self.found, self._device.energy_j()
        if found.energy_j is None or now is None or self._energy_j is None or now < self._energy_j:
            found.energy_j = None  # not told, or the counter was set back: the driver was restarted
        else:
            found.energy_j += now - self._energy_j

    def _note_wall_time(self) -> None:
        self.found.wall_time_s = self._wall_before_s + time.perf_counter() - self._begin_s

    def _tell(self, done: int, total: int) -> None:
        found = self.found
        elapsed = time.perf_counter() - self._begin_s - self._aside_s
        self._progress(
            Progress(
                phase="full: training",
                step=done,
                total=total,
                loss=found.loss[-1] if found.loss else None,
                seconds_left=elapsed / (done - self._steps_before) * (total - done),
            )
        )
