"""Plots of the states of a few samples over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, MinLen

from neuro.models.capabilities import Layered
from neuro.runs.report import Report
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.plotting import due_after_epoch, first_samples, write_plot
from neuro.training.callbacks.quantisation import matching, unmatched

if TYPE_CHECKING:
    from neuro.data.base import Batch


class Trajectories(Callback):
    """Plots the states of layers that match one of `layers` for validation samples.

    - `samples`: indices of the samples in the first task of the phase
    - `nodes`: largest number of nodes of a layer, evenly spaced

    Plotted after the last phase, and every `every_epochs` epochs, as `plots/trajectories.png`. (The
    spikes of a spiking network are in the raster of `plots`.)
    """

    main_process_only = True
    requires = (Layered,)

    def __init__(
        self,
        samples: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] = (0, 1),
        layers: Annotated[tuple[str, ...], MinLen(1)] = ("*",),
        nodes: Annotated[int, Gt(0)] = 12,
        every_epochs: Annotated[int, Gt(0)] | None = None,
    ):
        self.samples = samples
        self.layers = layers
        self.nodes = nodes
        self.every_epochs = every_epochs

    def check(self, setup: Setup) -> Iterator[str]:
        assert isinstance(setup.model, Layered)
        yield from unmatched("layers", self.layers, setup.model.activity_records())
        for task in dict.fromkeys(phase.tasks[0] for phase in setup.plan):
            if max(self.samples) >= (available := setup.data.loader(task, "val").samples):
                yield (
                    f"samples: got {max(self.samples)}; the validation data of task '{task}' have "
                    f"{available} samples, numbered from 0."
                )

    def on_epoch_end(self, trainer: TrainerView) -> None:
        if due_after_epoch(trainer, self.every_epochs):
            self._draw(trainer)

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        self._draw(trainer)

    @torch.no_grad()
    def _draw(self, trainer: TrainerView) -> None:
        from neuro.analysis.plots import states as state_plots

        task = trainer.phase.tasks[0]
        batch = first_samples(trainer, "val", max(self.samples) + 1)
        assert isinstance(trainer.model, Layered)
        available = trainer.model.activity_records()
        records = {name: available[name] for name in matching(self.layers, available)}
        was_training = trainer.model.training
        trainer.model.eval()
        output = trainer.model(batch.sequence(), dt_ms=batch.dt_ms, record=list(records.values()))
        trainer.model.train(was_training)
        found = {
            n: output.records[record].flatten(2).cpu().numpy() for n, record in records.items()
        }
        figure = state_plots.trajectories(
            [
                {name: states[:, sample] for name, states in found.items()}
                for sample in self.samples
            ],
            [_label(batch, sample) for sample in self.samples],
            self.nodes,
            title=f"States after update {trainer.progress.step} (validation of '{task}')",
        )
        write_plot(trainer, "trajectories", figure)


def _label(batch: Batch, sample: int) -> str:
    target = batch.targets[sample]
    label = f" (label {target.item()})" if target.ndim == 0 else ""
    return f"sample {sample}{label}"
