"""The training loop: phases, epochs, updates; validation, checkpoints and resume around them.

It receives the model, the data, the objective and a resolved curriculum, and knows none of them
by name. Devices, precision and parallel strategies are Lightning Fabric's; everything optional is
a callback. State changes only in `_update`, `_validate` and at the ends of epochs and phases, and
a checkpoint is written only between updates, so a resumed run repeats the very same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from neuro.data.base import Batch, DataSource
from neuro.errors import DivergedError, Interrupted, OutOfMemoryError
from neuro.learning.continual.metrics import continual_metrics, scalars
from neuro.learning.evaluation import Sums, evaluate
from neuro.learning.objective import Increment, Loss, Objective, TrainStep
from neuro.models.base import CoreModel
from neuro.tracking.base import Tracker
from neuro.training import checkpoint, randomness
from neuro.training.callbacks.base import Callback
from neuro.training.phases import PhasePlan
from neuro.training.settings import TrainerSettings


@dataclass
class Progress:
    """Where a run is. Counted in optimizer updates; `batch` and `epoch` are within the phase."""

    step: int = 0
    phase_index: int = 0
    phase_step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


class Trainer:
    """Trains a model through a curriculum.

    `pretrained` says that the weights came from another run; `checkpoints` is where checkpoints go; `metrics_length` tells how much of metrics.jsonl a
    checkpoint covers; `interrupted` is polled between updates.
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
    ):
        self.fabric = fabric
        self.model = model
        self.data = data
        self.objective = objective
        self.plan = tuple(plan)
        self.phase = self.plan[0]
        self.settings = settings
        self.callbacks = {
            name: callback
            for name, callback in callbacks.items()
            if fabric.is_global_zero or not callback.main_process_only
        }
        self.tracker = tracker
        self.run_dir = run_dir
        self.pretrained = pretrained
        self.checkpoints = run_dir / "checkpoints"
        self.is_main = fabric.is_global_zero
        self.progress = Progress()
        self.optimizer: Any = None
        self.lr = 0.0
        self.best: float | None = None
        self.rows: list[dict[str, dict[str, float]]] = []  # after each phase: task -> metrics
        self.initial: dict[str, dict[str, float]] = {}
        self.validation: dict[str, float] = {}
        self._metrics_length = metrics_length
        self._interrupted = interrupted
        self._meter: dict[str, Tensor] = {}
        self._stop_reason: str | None = None
        self._log_time = time.perf_counter()

    # -- the curriculum ---------------------------------------------------------------------

    def fit(self, resume: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run all phases, or the rest of them from a checkpoint's state; returns the report."""
        self.model.to(self.fabric.device)
        if resume is not None:
            self._restore(resume)
        self._call("on_fit_start")
        for phase in self.plan[self.progress.phase_index :]:
            self.phase = phase
            self._enter(phase, resume)
            resume = None
            try:
                self._run_epochs(phase)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                self._raise_if_out_of_memory(error)
                raise
            self._leave(phase)
        report = self._report()
        self._call("on_fit_end", report)
        return report

    def stop_phase(self, reason: str) -> None:
        """End the current phase after this update (not the run)."""
        self._stop_reason = reason

    def _enter(self, phase: PhasePlan, resume: Mapping[str, Any] | None) -> None:
        """Put flags, frozen parameters, optimizer and the parallel wrapper of a phase in place."""
        self._stop_reason = None
        self.model.set_phase(**phase.flags)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not phase.frozen(name))
        carried = self.optimizer.state_dict() if self._carries_optimizer(phase) else None
        self.optimizer = self.fabric.setup_optimizers(phase.optimizer(self.model.parameters()))
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        if carried is not None:
            self.optimizer.load_state_dict(carried)
        if resume is not None:
            if resume["optimizer"] is not None:
                self.optimizer.load_state_dict(resume["optimizer"])
            randomness.restore(resume["rng"])
        started = resume is not None and resume["progress"]["phase_step"] > 0
        if not started:
            self.best = None
            if phase.index == 0:
                self.initial = self._test(self._columns())
            self._call("on_phase_start")
        self.step = self.fabric.setup_module(TrainStep(self.model, self.objective))
        self._buffers = dict(self.model.named_buffers())
        self.model.train()

    def _carries_optimizer(self, phase: PhasePlan) -> bool:
        return (
            self.optimizer is not None and phase.index > 0
            and self.plan[phase.index - 1].carry_optimizer
        )  # fmt: skip

    def _leave(self, phase: PhasePlan) -> None:
        """Choose the phase's weights, test them, and let model and objective consolidate."""
        if phase.carry_weights == "best" and self.best is not None:
            state = checkpoint.load(self.checkpoints / f"best{checkpoint.SUFFIX}")
            self.model.load_state_dict(state["model"])
        results = self._test(phase.evaluate)
        self.rows.append(results)
        metrics = {f"test/{t}/{k}": v for t, row in results.items() for k, v in row.items()}
        self.tracker.log(metrics, self.progress.step)
        self.model.consolidate(self._on_device(phase.loader.batches(0)))
        self.objective.consolidate(self.model, self._on_device(phase.loader.batches(0)))
        self._call("on_phase_end", metrics)
        self.progress = Progress(
            step=self.progress.step,
            phase_index=phase.index + 1,
            skipped=self.progress.skipped,
        )
        self._save("last")
        self._save(f"{phase.name}-final")

    # -- one phase ----------------------------------------------------------------------------

    def _run_epochs(self, phase: PhasePlan) -> None:
        settings, progress = self.settings, self.progress
        self._log_time = time.perf_counter()
        while progress.epoch < phase.epochs and self._stop_reason is None:
            batches = phase.loader.batches(progress.epoch, progress.batch)
            for group in _groups(batches, settings.accumulate):
                self._update(group)
                logged = settings.log.due_at_step(progress.phase_step)
                self._call("on_step", self._log() if logged else {})
                self._stop_if_asked()
                if progress.phase_step == phase.total_steps or self._stop_reason is not None:
                    break
                if settings.validation.due_at_step(progress.phase_step):
                    self._validate()
                if settings.checkpoint.due_at_step(progress.phase_step):
                    self._save("last", periodic=True)
            self._call("on_epoch_end")
            progress.epoch += 1
            progress.batch = 0
            if settings.validation.due_at_epoch(progress.epoch, phase.epochs):
                self._validate()
            if settings.checkpoint.due_at_epoch(progress.epoch, phase.epochs):
                self._save("last", periodic=True)

    def _update(self, group: Sequence[Batch]) -> None:
        """One optimizer update from a group of micro-batches, skipped if it is not finite."""
        progress = self.progress
        self._set_rate()
        counts = [len(batch.targets) for batch in group]
        increments: dict[str, Increment] = {}
        for i, batch in enumerate(group):
            share = counts[i] / sum(counts)
            batch = batch._replace(
                inputs=self.fabric.to_device(batch.inputs),
                targets=self.fabric.to_device(batch.targets),
            )
            with self.fabric.no_backward_sync(self.step, enabled=i < len(group) - 1):
                loss: Loss = self.step(batch)
                if loss.total.requires_grad:
                    self.fabric.backward(loss.total * share)
            self._measure(loss, counts[i])
            for name, increment in loss.increments.items():
                value = increment.value * (share if increment.reduce == "mean" else 1.0)
                if name in increments:
                    value = value + increments[name].value
                increments[name] = Increment(value, increment.reduce)
        if self._finite(loss.total):
            self.optimizer.step()
            self._apply(increments)
            progress.skipped_in_a_row = 0
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.phase_step += 1
        progress.batch += len(group)
        progress.samples += sum(counts)
        if progress.skipped_in_a_row >= self.settings.max_skipped:
            self._save("last")
            raise DivergedError(
                f"Training diverged: {progress.skipped_in_a_row} updates in a row had a "
                f"non-finite loss or gradient (update {progress.step}). Weights from before are "
                f"in {self.checkpoints / 'last'}{checkpoint.SUFFIX}. Try a lower optimizer.lr or "
                "trainer.clip_norm=1."
            )

    def _finite(self, loss: Tensor) -> bool:
        """Whether loss and gradients are finite on all processes; clips them by norm if asked."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else loss.new_zeros(())
        self._meter_add("grad_norm", norm, 1)
        if self.settings.clip_norm is not None and gradients:
            torch.nn.utils.clip_grads_with_norm_(
                [p for p in self.model.parameters() if p.grad is not None],
                self.settings.clip_norm,
                norm,
            )
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        if self.fabric.world_size > 1:
            finite = (
                self.fabric.all_reduce(finite.float(), reduce_op="sum") == self.fabric.world_size
            )
        return bool(finite)

    def _apply(self, increments: Mapping[str, Increment]) -> None:
        for name, increment in increments.items():
            value = increment.value
            if self.fabric.world_size > 1:
                value = self.fabric.all_reduce(value, reduce_op=increment.reduce)
            self._buffers[name].add_(value.to(self._buffers[name].dtype))

    def _set_rate(self) -> None:
        factor = self.phase.schedule.factor(self.progress.phase_step, self.phase.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self._peaks[0] * factor

    # -- measuring ------------------------------------------------------------------------------

    def _measure(self, loss: Loss, count: int) -> None:
        """Add a micro-batch to the running means, on the device and without waiting for it."""
        self._meter_add("loss", loss.total.detach(), count)
        for name, value in loss.terms.items():
            if len(loss.terms) > 1:
                self._meter_add(name, value, count)
        self._meter_add("accuracy", loss.correct / count, count)

    def _meter_add(self, name: str, value: Tensor, count: int) -> None:
        entry = torch.stack([value.double() * count, value.new_tensor(count).double()])
        self._meter[name] = self._meter[name] + entry if name in self._meter else entry

    def _log(self) -> dict[str, float]:
        """Means since the last log, over all processes."""
        sums = {name: self._sum_over_processes(entry) for name, entry in self._meter.items()}
        metrics = {f"train/{name}": float(s[0] / s[1]) for name, s in sums.items()}
        now = time.perf_counter()
        metrics["train/lr"] = self.lr
        metrics["train/samples_per_s"] = float(sums["loss"][1]) / (now - self._log_time)
        if self.progress.skipped:
            metrics["train/skipped_updates"] = float(self.progress.skipped)
        self._meter = {}
        self._log_time = now
        self.tracker.log(metrics, self.progress.step)
        return metrics

    def _validate(self) -> None:
        """Validate on the phase's tasks; a new best of the monitored metric is saved."""
        per_task = {task: self._evaluate(task, "val") for task in self.phase.tasks}
        names = next(iter(per_task.values()))
        metrics = {f"val/{n}": _mean(row[n] for row in per_task.values()) for n in names}
        if len(per_task) > 1:
            metrics |= {f"val/{t}/{n}": v for t, row in per_task.items() for n, v in row.items()}
        self.validation = metrics
        self.tracker.log(metrics, self.progress.step)
        self._call("on_validation", metrics)
        value = metrics[self.settings.monitor]
        if self.settings.better(value, self.best):
            self.best = value
            self._save("best")

    def _test(self, tasks: Iterable[str]) -> dict[str, dict[str, float]]:
        return {task: self._evaluate(task, "test") for task in tasks}

    def _evaluate(self, task: str, split: Any) -> dict[str, float]:
        loader = self.data.loader(
            task, split, rank=self.fabric.global_rank, world_size=self.fabric.world_size
        )
        sums = evaluate(self.model, self.objective, loader, self.fabric.device)
        return Sums(*self._sum_over_processes(torch.stack(sums))).metrics()

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        return self.fabric.all_reduce(value, reduce_op="sum")

    def _columns(self) -> tuple[str, ...]:
        """All tasks that any phase evaluates, in the order of the curriculum."""
        return tuple(dict.fromkeys(task for phase in self.plan for task in phase.evaluate))

    def _report(self) -> dict[str, Any]:
        """What goes into report.json, besides what the run itself adds."""
        final = self.rows[-1]
        metrics = {f"test/{t}/{k}": v for t, row in final.items() for k, v in row.items()}
        for name in next(iter(final.values())):
            metrics[f"test/{name}"] = _mean(row[name] for row in final.values())
        metrics |= self.validation
        report: dict[str, Any] = {"metrics": metrics}
        columns = self._columns()
        complete = all(set(row) == set(columns) for row in self.rows)
        if len(self.plan) > 1 and complete:
            report["continual"] = continual_metrics(
                columns,
                [[row[t]["accuracy"] for t in columns] for row in self.rows],
                [phase.tasks for phase in self.plan],
                [self.initial[t]["accuracy"] for t in columns],
            )
            metrics |= scalars(report["continual"])
        report["phases"] = [
            {"name": phase.name, "task": phase.task, "test": row}
            for phase, row in zip(self.plan, self.rows, strict=True)
        ]
        return report

    # -- saving, resuming, stopping -----------------------------------------------------------------

    def _save(self, name: str, periodic: bool = False) -> None:
        """Write a checkpoint; with `periodic`, keep numbered ones beside it as configured."""
        self.tracker.flush()
        if not self.is_main:
            return
        path = self.checkpoints / f"{name}{checkpoint.SUFFIX}"
        checkpoint.save(path, self._state())
        if periodic and self.settings.keep:
            checkpoint.keep_copy(path, self.progress.step, self.settings.keep)

    def _state(self) -> dict[str, Any]:
        between_phases = self.progress.phase_step == 0
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": None
            if between_phases and not self.phase.carry_optimizer
            else self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in self.callbacks.items()},
            "progress": asdict(self.progress),
            "phase": self.phase.name,
            "best": self.best,
            "rows": self.rows,
            "initial": self.initial,
            "validation": self.validation,
            "meter": self._meter,
            "rng": randomness.capture(),
            "metrics_length": self._metrics_length(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take everything but the optimizer (made by its phase) back from a checkpoint."""
        checkpoint.load_weights(self.model, state["model"], "the checkpoint")
        self.objective.load_state_dict(state["objective"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        for name, callback in self.callbacks.items():
            callback.load_state_dict(state["callbacks"].get(name, {}))
        self.progress = Progress(**state["progress"])
        self.best = state["best"]
        self.rows = state["rows"]
        self.initial = state["initial"]
        self.validation = state["validation"]
        self._meter = {name: self.fabric.to_device(v) for name, v in state["meter"].items()}

    def _stop_if_asked(self) -> None:
        """Save and leave between two updates when a signal came to any process."""
        flag = torch.tensor(float(self._interrupted()))
        if float(self._sum_over_processes(self.fabric.to_device(flag))) > 0:
            self._save("last")
            raise Interrupted(f"Interrupted at update {self.progress.step}; the run was saved.")

    def _raise_if_out_of_memory(self, error: BaseException) -> None:
        text = str(error)
        memory_error = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not memory_error and "allocate memory" not in text:
            return
        self.optimizer.zero_grad(set_to_none=True)
        self._save("last")
        raise OutOfMemoryError(
            f"Out of memory at update {self.progress.step + 1}; everything up to update "
            f"{self.progress.step} was saved. Try data.batch_size={self.data.batch_size // 2} with "
            "trainer.accumulate=2, hardware.precision=bf16-mixed, or fewer frames."
        ) from error

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch._replace(
                inputs=self.fabric.to_device(batch.inputs),
                targets=self.fabric.to_device(batch.targets),
            )

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks.values():
            getattr(callback, hook)(self, *arguments)


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive groups of micro-batches; the last one of an epoch may be smaller."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
