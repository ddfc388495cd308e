"""Log the state of a model's memories at intervals, with warnings if one of them has collapsed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from neuro.data.base import Batch
from neuro.models.capabilities import Budgeted
from neuro.training.callbacks.base import Callback, Setup, TrainerView

log = logging.getLogger(__name__)

Share = Annotated[float, Interval(ge=0, le=1)]


class MemoryHealth(Callback):
    """Logs means of the model's records as `memory/<record>`, such as `memory/pm/budget_use`.

    Every `every_steps` updates the (first) batch of the update is run again without a graph, from
    the state of its streams: no other update has a cost, and the device is read only then.

    Warnings:

    - `unused_below`: used fraction of a budget below which a memory stores almost nothing
    - `full_above`: used fraction above which it can only store by forgetting
    - `saturated_above`: share of gates, or mean novelty, above which they distinguish nothing
    """

    main_process_only = True
    requires = (Budgeted,)
    optional = True

    def __init__(
        self,
        every_steps: Annotated[int, Gt(0)] = 50,
        unused_below: Share = 1e-4,
        full_above: Share = 0.98,
        saturated_above: Share = 0.95,
    ):
        self.every_steps = every_steps
        self.unused_below = unused_below
        self.full_above = full_above
        self.saturated_above = saturated_above
        self._batch: tuple[Batch, Any] | None = None
        self._warned: set[str] = set()

    def notes(self, setup: Setup) -> Iterator[str]:
        assert isinstance(setup.model, Budgeted)
        span = setup.model.span
        for task in dict.fromkeys(task for phase in setup.plan for task in phase.tasks):
            steps, _ = setup.data.spec(task).timings[0]
            if steps < 2 * span:
                yield (
                    f"batches of '{task}' have {steps} tokens (data.span), less than two spans of "
                    f"the model (model.span={span}): no gradient reaches what was written, and the "
                    "neuromodulators do not learn."
                )

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        due = (trainer.progress.step + 1) % self.every_steps == 0
        if due and self._batch is None:  # the first micro-batch: later ones start where it ends
            self._batch = batch, trainer.stream_state(batch)
        return batch

    @torch.no_grad()
    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self._batch is None:
            return
        (batch, state), self._batch = self._batch, None
        model = trainer.model
        output = model(batch.sequence(), state, dt_ms=batch.dt_ms, record=model.recordable)
        means: dict[str, Tensor] = {
            name: record.float().mean() for name, record in output.records.items()
        }
        values = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
        trainer.log({f"memory/{name}": value for name, value in values.items()})
        self._warn(trainer, values)

    def _warn(self, trainer: TrainerView, values: Mapping[str, float]) -> None:
        """One warning for each problem, until it has ended and returns."""
        found = dict(self._problems(trainer, values))
        for name, problem in found.items():
            if name not in self._warned:
                log.warning("update %d: memory/%s %s", trainer.progress.step, name, problem)
        self._warned = set(found)

    def _problems(
        self, trainer: TrainerView, values: Mapping[str, float]
    ) -> Iterator[tuple[str, str]]:
        assert isinstance(trainer.model, Budgeted)
        for memory, name in trainer.model.budget_records().items():
            if values[name] < self.unused_below:
                yield name, f"is {values[name]:.2g}: {memory} memory stores almost nothing"
            elif values[name] > self.full_above:
                yield name, f"is {values[name]:.2f}: {memory} memory is full, and forgets to store"
        for name in ("gates/saturation", "em/novelty"):
            if values.get(name, 0) > self.saturated_above:
                yield name, f"is {values[name]:.2f}: it is saturated, and distinguishes nothing"

    def state_dict(self) -> dict[str, Any]:
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._warned = set(state["warned"])
