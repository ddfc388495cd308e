"""The training loop: phases, epochs, updates; validation, checkpoints and resume around them.

It receives the model, the data, the objective and a resolved curriculum through their contracts.
Devices, precision and parallel strategies are Lightning Fabric's; everything optional is a
callback. A checkpoint is written only after all work that is due after an update (logs, hooks,
validation), so that a resumed run repeats the numbers exactly.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from torch import Tensor

from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch, DataSource, Loader, Split
from neuro.data.prefetch import Prefetch
from neuro.errors import ConfigError
from neuro.learning.buffers import BufferUpdate, Reduction, apply_updates, merge_updates
from neuro.learning.evaluation import evaluate
from neuro.learning.objective import Loss, Objective
from neuro.learning.step import ForwardContext, TrainStep, WeightChange
from neuro.learning.terms import Count
from neuro.models.base import CoreModel
from neuro.models.weights import swapped
from neuro.runs.report import Report
from neuro.runtime import randomness
from neuro.runtime.distributed import gathered
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback, Evaluation
from neuro.training.lr_find import LRFindResult, find_lr, rates_at
from neuro.training.optimizer_state import load_state_by_name
from neuro.training.phases import PhasePlan
from neuro.training.progress import Progress
from neuro.training.report import make_report, mean, named, untrained_tasks
from neuro.training.saving import (
    Saver,
    raise_if_out_of_memory,
    stop_if_diverged,
    stop_if_interrupted,
)
from neuro.training.sections import Observed, Sections
from neuro.training.sequences import streams_for
from neuro.training.stability import GradientGuard, all_finite
from neuro.training.state import TrainState

log = logging.getLogger("neuro")


class Trainer:
    """Trains a model through a curriculum.

    - `pretrained`: whether the initial weights are those of another run
    - `metrics_length`: returns the bytes of metrics.jsonl so far, which a checkpoint records
    - `interrupted`: returns True after a stop signal; called between updates
    - `compiled`: compile the training step by torch
    """

    def __init__(
        self,
        fabric: Fabric,
        model: CoreModel,
        data: DataSource,
        objective: Objective,
        plan: Sequence[PhasePlan],
        settings: TrainerSettings,
        callbacks: Mapping[str, Callback],
        tracker: Tracker,
        run_dir: Path,
        pretrained: bool = False,
        metrics_length: Callable[[], int] = lambda: 0,
        interrupted: Callable[[], bool] = lambda: False,
        compiled: bool = False,
    ):
        self.fabric = fabric
        self.model = model
        self.data = data
        self.objective = objective
        self.plan = tuple(plan)
        self.settings = settings
        self.callbacks = {
            name: callback
            for name, callback in callbacks.items()
            if fabric.is_global_zero or not callback.main_process_only
        }
        self.tracker = tracker
        self.run_dir = run_dir
        self.pretrained = pretrained
        self.is_main = fabric.is_global_zero
        self.state = TrainState(fabric, model, data, objective, self.plan, settings, self.callbacks)
        self.saver = Saver(run_dir / "checkpoints", self.state, tracker.flush, metrics_length)
        self.meter = self.state.meter
        self.sequences = self.state.sequences
        self.optimizer: Any = None
        self.lr = 0.0
        self._tokens: int | None = None  # of a sample of the phase
        self.grad_norm: Tensor | None = None  # of the last update, before clipping
        self._losses: Sequence[Loss] = ()  # of the last update's micro-batches
        self._lr_override: float | None = None
        self.ms_per_sample: dict[str, float] = {}  # of this process's last test of each task
        self._interrupted = interrupted
        self._weight_changes: list[WeightChange] = []
        self._forward_contexts: list[ForwardContext] = []
        self._module = TrainStep(model, objective, self._weight_changes, self._forward_contexts)
        if compiled:  # with dynamic shapes inductor fails in strided convolutions
            self._module.compile(dynamic=False)
        self.sections = Sections()
        self._batch_hooks = [
            callback.on_batch
            for callback in self.callbacks.values()
            if type(callback).on_batch is not Callback.on_batch
        ]
        self._in_epochs = False  # True while updates are made, not before and after them
        self._final_weights: Mapping[str, Tensor] | None = None
        self._logged = time.perf_counter(), 0

    # -- the curriculum ---------------------------------------------------------------------------

    def fit(self, resume: Mapping[str, Any] | None = None) -> Report:
        """Run all phases, or the rest of them from a checkpoint's state; returns the report."""
        self.model.to(self.fabric.device)
        if resume is not None:
            self.state.load_state_dict(resume)
            if self.state.best is not None and not self.saver.has_best():
                self.state.best = None
        for callback in self.callbacks.values():
            callback.on_fit_start(self)
        for phase in self.plan[self.progress.phase_index :]:
            self.state.phase = phase
            try:
                self._enter(phase, resume)
                if phase.optimizer.auto:
                    self.peaks = self._auto_rates(phase)
                self._run_epochs(phase)
                self._leave(phase)
            except (MemoryError, RuntimeError) as error:
                raise_if_out_of_memory(error, self.saver, in_epochs=self._in_epochs)
                raise
            resume = None
        report = make_report(
            self.plan,
            self.state.rows,
            self.state.initial,
            self.state.validation,
            self.objective.directions,
            self.state.found_lr,
            [found for c in self.callbacks.values() for found in c.criteria(self)],
        )
        for callback in self.callbacks.values():
            callback.on_fit_end(self, report)
        return report

    def find_lr(self) -> LRFindResult:
        """Learning-rate range test on the first phase; the state of training is restored."""
        self.model.to(self.fabric.device)
        for callback in self.callbacks.values():
            callback.on_fit_start(self)
        self._enter(self.phase, None)
        return self._find_lr()

    def _enter(self, phase: PhasePlan, resume: Mapping[str, Any] | None) -> None:
        """Set a phase's flags and frozen parameters; make its optimizer and parallel wrapper."""
        self.model.set_phase(**phase.flags)
        self._tokens = self.data.spec(phase.tasks[0]).tokens
        parameters = dict(self.model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(not phase.frozen(name))
        optimizer = phase.optimizer(parameters.items())
        load_state_by_name(
            optimizer,
            parameters,
            self.state.carried_optimizer if resume is None else resume["optimizer"],
        )
        self.state.optimizer = optimizer
        self.optimizer = self.fabric.setup_optimizers(optimizer)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.guard = GradientGuard(
            self.fabric,
            parameters.values(),
            optimizer,
            self.settings,
            self.progress.skipped_in_a_row,
        )
        if resume is not None:
            rank = self.fabric.global_rank
            randomness.restore(resume["rng"][rank if rank < len(resume["rng"]) else 0])
        if not self.progress.entered:
            self.state.best = None
            if phase.index == 0:
                self.state.initial = self.measure(untrained_tasks(self.plan), "test")
            for callback in self.callbacks.values():
                callback.on_phase_start(self)
            self.progress.entered = True
        wrapped = self.fabric.setup_module(self._module)
        # One process in full precision takes the step itself: Fabric's wrapper inspects every
        # tensor that goes in or out, which costs a tenth of a millisecond per update.
        full_precision = type(self.fabric.strategy.precision) is Precision
        self.step = self._module if self.fabric.world_size == 1 and full_precision else wrapped
        self._updated = {**dict(self.model.named_buffers()), **parameters}  # by terms
        self.model.train()

    def _leave(self, phase: PhasePlan) -> None:
        """Select the phase's final weights, consolidate model and objective, and test."""
        self._final_weights = None
        for callback in self.callbacks.values():
            callback.on_training_end(self)
        if self._final_weights is not None:
            self.model.load_state_dict(self._final_weights)
        elif phase.carry_weights == "best" and self.state.best is not None:
            self.model.load_state_dict(self.saver.best_weights())
        self.model.consolidate(self._on_device(phase.own.batches()))
        self.objective.consolidate(self.model, lambda: self._on_device(phase.own.batches()))
        results = self.measure(phase.evaluate, "test")
        self.state.rows.append(results)
        metrics = named(results)
        self.log(metrics)
        for callback in self.callbacks.values():
            callback.on_phase_end(self, metrics)
        self.sequences.end_phase(phase.carry_state)
        carry = phase.carry_optimizer
        self.state.carried_optimizer = self.state.optimizer_state() if carry else {}
        self.state.progress = Progress(
            step=self.progress.step,
            phase_index=phase.index + 1,
            samples=self.progress.samples,
            skipped=self.progress.skipped,
        )
        self.saver.save(f"{phase.name}-final")  # first: a run resumed from `last` skips the phase
        self.saver.save("last")

    # -- one phase --------------------------------------------------------------------------------

    def _run_epochs(self, phase: PhasePlan) -> None:
        """Make the updates of a phase, each followed by what is due after it."""
        settings, progress = self.settings, self.progress
        self._logged = time.perf_counter(), progress.samples
        self._in_epochs = True
        while not self._over():
            batches = self._prefetched(phase.loader).batches(progress.epoch, progress.batch)
            with closing(batches):  # ends the prefetching thread, also after an error
                for group in self._groups(self.sections.batches("train", batches)):
                    self._set_rate()
                    self.update(group)
                    epoch = progress.epoch + 1 if progress.batch >= len(phase.loader) else None
                    last = phase.over(epoch or progress.epoch, progress.phase_step)
                    logged = settings.log.due(progress.phase_step, epoch, last)
                    saved = settings.checkpoint.due(progress.phase_step, epoch, last)
                    if (logged or saved) and not self.guard.immediate:
                        self._count_skipped()
                    metrics = self._log() if logged else {}
                    for callback in self.callbacks.values():
                        callback.on_step(self, metrics)
                    if epoch is not None:
                        self.sequences.end_epoch()
                        for callback in self.callbacks.values():
                            callback.on_epoch_end(self)
                        progress.epoch, progress.batch = epoch, 0
                    if settings.validation.due(progress.phase_step, epoch, self._over()):
                        self._validate()
                    if settings.checkpoint.due(progress.phase_step, epoch, self._over()):
                        with self.sections.section("checkpoint"):
                            self.saver.save("last", periodic=True)
                    stop_if_diverged(self.saver)
                    stop_if_interrupted(self._is_interrupted(), self.saver)
                    if self._over():
                        break
        self._in_epochs = False
        if self.meter:  # a callback ended the phase between two logs
            self._log()

    def _groups(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """Group batches by updates, `accumulate` each; the last of an epoch may be smaller."""
        group: list[Batch] = []
        for batch in batches:
            group.append(batch)
            if len(group) == self.settings.accumulate:
                yield group
                group = []
        if group:
            yield group

    def _find_lr(self) -> LRFindResult:
        """Learning-rate range test on the current phase; the state of training is restored."""

        def loss_of(group: Sequence[Batch]) -> float | None:
            self.update(group)
            return self.meter.read(self.sum_over_processes).get("loss")

        epochs = (self.phase.loader.batches(epoch) for epoch in itertools.count())
        groups = (group for batches in epochs for group in self._groups(batches))
        attempts = (self.settings.max_skipped or 1) if self.guard.scaled else 1
        return find_lr(self.state, loss_of, groups, self._is_interrupted, attempts)

    def _auto_rates(self, phase: PhasePlan) -> list[float]:
        """Peak rates of all parameter groups from a range test, for optimizer.lr=auto."""
        found = self.state.found_lr
        if phase.name not in found:
            result = self._find_lr()
            if result.suggestion is None:
                raise ConfigError(f"optimizer.lr=auto: {result.lines()[0]} Give a number.")
            found[phase.name] = result.suggestion
            self.log({"lr_find/suggestion": result.suggestion})
            if self.is_main:
                for line in result.lines():
                    log.info("%s: %s", phase.name, line)
                name = "lr_find" if len(self.plan) == 1 else f"lr_find-{phase.name}"
                path = result.save_plot(self.run_dir / "plots" / f"{name}.png")
                self.log_artifact(path, f"plots/{name}")
        self.tracker.add_config({"found_lr": dict(found)})
        return rates_at(found[phase.name], phase.optimizer, self.model)

    @property
    def loss(self) -> Tensor:
        """The loss of the last update on this process, the mean over its micro-batches."""
        return torch.stack([loss.reported for loss in self._losses]).mean()

    def _over(self) -> bool:
        progress = self.progress
        return progress.stopped is not None or self.phase.over(progress.epoch, progress.phase_step)

    def update(self, group: Sequence[Batch]) -> None:
        """One optimizer update from a group of micro-batches, skipped if it is not finite."""
        progress = self.progress
        prepared: list[Batch] = []
        for batch in self._on_device(group):
            for on_batch in self._batch_hooks:
                batch = on_batch(self, batch)
            prepared.append(batch)
        totals, samples = self._totals(prepared)
        losses: list[Loss] = []
        updates: dict[str, BufferUpdate] = {}
        for i, batch in enumerate(prepared):
            with self.sections.section("backward"):  # its forward pass is a section, too
                loss = self.sequences.learn(self.step, batch, totals, last=i == len(prepared) - 1)
            losses.append(loss)
            merge_updates(updates, loss.updates, len(batch.targets) / samples)
        self._losses = losses
        norm = self.grad_norm = self.guard.norm(self.objective.gradient_change(self.model))

        def change() -> None:
            if self.guard.has_gradient:
                with self.sections.section("optimizer"):
                    self.guard.clip(norm)
                    self.optimizer.step()
            apply_updates(self._updated, updates, self._reduced)

        finite = self._finite(norm, losses, updates)
        made = self.guard.make(change, finite, [self._updated[name] for name in updates])
        if made is not True:  # skipped, or not known yet
            self.sequences.skipped()
        if made is not False:
            self.objective.on_step(self.model, prepared[-1], progress.phase_step + 1)
            self.meter.add_update(losses, norm, made)
            if self.phase.loader.uses_losses:
                self._observe(prepared, losses)
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.phase_step += 1
        progress.batch += len(prepared)
        progress.samples += sum(len(batch.targets) for batch in prepared)

        if self.guard.immediate:
            self._count_skipped()

    def _observe(self, group: Sequence[Batch], losses: Sequence[Loss]) -> None:
        """Pass the losses of an update's samples, of all processes, to the phase's loader."""
        for batch, loss in zip(group, losses, strict=True):
            assert batch.ids is not None, "a loader that uses losses gives ids"
            per_sample = self.objective.task_loss.per_sample(loss.pooled, batch.targets)
            finite = per_sample.isfinite()  # whether the update counts may not be known yet
            own = batch.task, batch.ids[finite].cpu(), per_sample[finite].cpu()
            for task, ids, values in gathered(own):
                self.phase.loader.observe(ids, values, task)

    def _count_skipped(self) -> None:
        """Add the updates that were skipped since the last call to the progress, with a warning."""
        progress = self.progress
        skipped, progress.skipped_in_a_row = self.guard.read_skipped()
        progress.skipped += skipped
        if skipped and self.is_main:
            log.warning(
                "Update %d skipped: loss or gradient is not finite (%d in a row, %d in all).",
                progress.step,
                progress.skipped_in_a_row,
                progress.skipped,
            )

    def _totals(self, group: Sequence[Batch]) -> tuple[dict[str, Count], Count]:
        """Counts of the terms over the whole update, and its number of samples.

        Both are divided by the number of processes, because gradients are averaged over them.
        """
        counts = [self.objective.counts(batch) for batch in group]
        totals: dict[str, Count] = {name: sum(c[name] for c in counts) for name in counts[0]}
        samples = sum(len(batch.targets) for batch in group)
        if self.fabric.world_size == 1:
            return totals, samples
        device = self.fabric.device
        own = [torch.as_tensor(x, dtype=torch.float32, device=device) for x in totals.values()]
        own.append(torch.tensor(float(samples), device=device))
        *summed, all_samples = self.sum_over_processes(torch.stack(own)) / self.fabric.world_size
        return dict(zip(totals, summed, strict=True)), all_samples

    def _finite(
        self, norm: Tensor | None, losses: Sequence[Loss], updates: Mapping[str, BufferUpdate]
    ) -> Tensor | None:
        """Whether an update is finite on all processes; None where trainer.max_skipped is null."""
        if self.settings.max_skipped is None:
            return None
        checked = [loss.total for loss in losses] + [x.value for x in updates.values()]
        finite = all_finite(checked if norm is None else [norm, *checked])
        return self.sum_over_processes(finite) == self.fabric.world_size

    def _reduced(self, value: Tensor, reduction: Reduction) -> Tensor:
        """A value summed or averaged over processes."""
        if self.fabric.world_size == 1:
            return value
        return cast(Tensor, self.fabric.all_reduce(value, reduce_op=reduction))

    def _set_rate(self) -> None:
        """Set the learning rates of the next update."""
        factor = self.phase.schedule.factor(self.progress.phase_step, self.phase.span)
        if self._lr_override is not None:
            factor = self._lr_override / self.peaks[0]
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self.peaks[0] * factor

    # -- measuring --------------------------------------------------------------------------------

    def _log(self) -> dict[str, float]:
        """Means since the last log, over all processes."""
        progress = self.progress
        means = self.meter.read(self.sum_over_processes)
        metrics = {f"train/{name}": value for name, value in means.items()}
        (before, samples), now = self._logged, time.perf_counter()
        seen = (progress.samples - samples) * self.fabric.world_size
        metrics["train/lr"] = self.lr
        metrics["train/samples_per_s"] = seen / (now - before)
        if self._tokens is not None:
            metrics["train/tokens_per_s"] = self._tokens * metrics["train/samples_per_s"]
        if progress.skipped:
            metrics["train/skipped_updates"] = float(progress.skipped)
        self._logged = now, progress.samples
        self.log(metrics)
        return metrics

    def validate(self, prefix: str = "val") -> dict[str, float]:
        """Metrics on the phase's validation data with the current weights; a collective operation.

        `<prefix>/<metric>` is the mean over the tasks, `<prefix>/<task>/<metric>` one of several.
        """
        per_task = self.measure(self.phase.tasks, "val")
        names = next(iter(per_task.values()))
        metrics = {f"{prefix}/{n}": mean(row[n] for row in per_task.values()) for n in names}
        if len(per_task) > 1:
            metrics |= {
                f"{prefix}/{t}/{n}": v for t, row in per_task.items() for n, v in row.items()
            }
        return metrics

    def _validate(self) -> None:
        """Validate on the phase's tasks; a new best of the monitored metric is saved."""
        metrics = self.validate()
        for callback in self.callbacks.values():
            metrics |= callback.validate(self)
        self.state.validation = metrics
        self.log(metrics)
        for callback in self.callbacks.values():
            callback.on_validation(self, metrics)
        watched = self.phase.schedule.monitor or self.settings.monitor
        if watched in metrics:  # a callback may have nothing to measure yet
            self.phase.schedule.observe(
                metrics[watched],
                self.settings.direction_of(watched),
                self.progress.phase_step,
                self.phase.span,
            )
        value = metrics.get(self.settings.monitor)
        if value is None:
            return
        if self.settings.better(value, self.state.best):
            self.state.best = value
            with self.validated_weights(self.settings.monitor) as others:
                self.saver.save_best(weights_only=others)

    def measure(self, tasks: Iterable[str], split: Split) -> dict[str, dict[str, float]]:
        """Loss and metrics by task with the current weights; a collective operation."""
        return {task: self._evaluate(task, split) for task in tasks}

    def _evaluate(self, task: str, split: Split) -> dict[str, float]:
        """Loss and metrics of a task on a split, over all processes."""
        loader = self.data.loader(
            task, split, rank=self.fabric.global_rank, world_size=self.fabric.world_size
        )
        loader = self._prefetched(loader)
        streams = streams_for(split, self.model, self.settings.stateful)
        sections = self.sections if split == "val" else Sections()
        batches = len(loader)

        def after_batch(done: int) -> None:
            evaluation = Evaluation(task, split, done, batches)
            for callback in self.callbacks.values():
                callback.on_evaluation(self, evaluation)

        started = time.perf_counter()
        measured = evaluate(
            self.model,
            self.objective,
            Observed(loader, sections, after_batch),
            self.fabric.device,
            streams,
            forward=lambda: sections.section("forward"),
        )
        samples, measured.sums = measured.samples, self.sum_over_processes(measured.sums)
        values = measured.values()
        if split == "test" and samples:
            self.ms_per_sample[task] = (time.perf_counter() - started) / samples * 1e3
        return values

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """The sum of the values of all processes; a collective operation."""
        return self._reduced(value, "sum")

    # -- helpers of both --------------------------------------------------------------------------

    def _is_interrupted(self) -> bool:
        """True if any process has received a stop signal; a collective operation."""
        interrupted = self._interrupted()
        if self.fabric.world_size == 1:
            return interrupted
        flag = self.fabric.to_device(torch.tensor(float(interrupted)))
        return bool(self.sum_over_processes(flag) > 0)

    def _prefetched(self, loader: Loader) -> Prefetch:
        """The loader with batches made ahead by a thread, as configured by trainer.prefetch."""
        ahead = self.settings.prefetch
        if ahead == "auto":
            ahead = 2 if self.fabric.device.type == "cuda" else 0
        return Prefetch(loader, ahead, self.fabric.device)

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches moved to the device of this process."""
        on_cpu = self.fabric.device.type == "cpu"  # where loaders make them
        for batch in batches:
            yield batch if on_cpu else batch.map(self.fabric.to_device)

    # -- for callbacks (documented in `TrainerView`) ----------------------------------------------

    @property
    def phase(self) -> PhasePlan:
        return self.state.phase

    @property
    def progress(self) -> Progress:
        return self.state.progress

    @property
    def best(self) -> float | None:
        return self.state.best

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def world_size(self) -> int:
        return self.fabric.world_size

    def validated_weights(self, metric: str) -> AbstractContextManager[bool]:
        kind = metric.partition("/")[0]
        own = (c.validated_weights(self) for c in self.callbacks.values() if c.validates == kind)
        return next(own, nullcontext(False))

    def stream_state(self, batch: Batch) -> Any:
        streams = self.sequences.streams
        return None if streams is None else streams.start(batch)

    def log(self, metrics: Mapping[str, float]) -> None:
        self.tracker.log(metrics, self.progress.step)

    def log_histogram(self, name: str, values: np.ndarray) -> None:
        self.tracker.log_histogram(name, values, self.progress.step)

    def log_artifact(self, path: Path, name: str) -> None:
        self.tracker.log_artifact(path, name, self.progress.step)

    def add_to_report(self, metrics: Mapping[str, float]) -> None:
        self.state.validation |= metrics
        self.log(metrics)

    def save_weights(self, name: str, also: str) -> None:
        self.saver.save_weights(name, also)

    def stop_phase(self, reason: str) -> None:
        self.progress.stopped = reason

    def override_lr(self, lr: float | None) -> None:
        self._lr_override = lr

    def swap_weights(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return swapped(self.model, weights)

    def set_final_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._final_weights = weights

    def add_weight_change(self, change: WeightChange) -> None:
        self._weight_changes.append(change)

    def add_forward_context(self, enter: ForwardContext) -> None:
        self._forward_contexts.append(enter)

    def profile(self, sections: Sections | None) -> None:
        self.sections = sections or Sections()
