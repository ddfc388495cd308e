"""States of a few samples over time, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, MinLen

from neuro.errors import ConfigError
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.pictures import first_samples, write_picture
from neuro.training.callbacks.quantisation import matching, unmatched

if TYPE_CHECKING:
    from neuro.data.base import Batch
    from neuro.training.trainer import Trainer


class Trajectories(Callback):
    """Draws what each layer that matches one of `layers` does while it sees a validation sample.

    `samples` are the numbers of the samples in the first task of the phase; at most `nodes` nodes
    of a layer are drawn, evenly chosen. After the last phase, and every `every_epochs` epochs, as
    `plots/trajectories.png`. (The spikes of a spiking network are in the raster of `plots`.)
    """

    main_process_only = True

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

    def check(self, **parts: Any) -> Iterator[str]:
        model = parts["model"]
        records = model.activity_records()
        if records:
            yield from unmatched("layers", self.layers, records)
        else:
            yield f"layers: {type(model).__name__} has none whose states can be recorded."

    def on_fit_start(self, trainer: Trainer) -> None:
        self._batch(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self.every_epochs and (trainer.progress.epoch + 1) % self.every_epochs == 0:
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, report: Mapping[str, Any]) -> None:
        self._draw(trainer)

    def _batch(self, trainer: Trainer) -> Batch:
        wanted = max(self.samples) + 1
        batch = first_samples(trainer, "val", wanted)
        if len(batch.targets) < wanted:
            raise ConfigError(
                f"callbacks.trajectories.samples: got {max(self.samples)}; the validation data "
                f"have {len(batch.targets)} samples, numbered from 0."
            )
        return batch

    @torch.no_grad()
    def _draw(self, trainer: Trainer) -> None:
        from neuro.analysis.plots import states as state_plots

        batch, step = self._batch(trainer), trainer.progress.step
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
            title=f"States after update {step}",
        )
        write_picture(trainer, "trajectories", figure)


def _label(batch: Batch, sample: int) -> str:
    target = batch.targets[sample]
    label = f" (label {target.item()})" if target.ndim == 0 else ""
    return f"sample {sample}{label}"
