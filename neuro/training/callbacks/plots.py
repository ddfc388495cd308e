"""Plots of a run in `<run>/plots`, from its metrics and a few test samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt

from neuro.models.capabilities import Observable, Spiking
from neuro.models.running import mean_activity, run
from neuro.runs.record import RunRecord
from neuro.runs.report import Report
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.callbacks.plotting import first_samples, write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plots(Callback):
    """Plots training curves, matrices of metrics, gates, a spike raster and firing rates.

    All of them after the last phase; the curves also every `every_epochs` epochs. `sample` is the
    test sample of the raster, `rate_samples` the number of test samples for the firing rates.
    """

    main_process_only = True

    def __init__(
        self,
        every_epochs: Annotated[int, Gt(0)] | None = None,
        sample: Annotated[int, Ge(0)] = 0,
        rate_samples: Annotated[int, Gt(0)] = 64,
    ):
        self.every_epochs = every_epochs
        self.sample = sample
        self.rate_samples = rate_samples
        self._phases: list[tuple[str, int]] = []

    def on_phase_start(self, trainer: TrainerView) -> None:
        tasks = ", ".join(trainer.phase.tasks)
        name = trainer.phase.name
        label = name if tasks == name else f"{name} ({tasks})"
        self._phases.append((label, trainer.progress.step))

    def on_epoch_end(self, trainer: TrainerView) -> None:
        if self.every_epochs and (trainer.progress.epoch + 1) % self.every_epochs == 0:
            write_plot(trainer, "training", self._curves(trainer))

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        for name, figure in self._all(trainer, report):
            write_plot(trainer, name, figure)

    def _all(self, trainer: TrainerView, report: Report) -> Iterator[tuple[str, Figure]]:
        from neuro.analysis.plots import spiking as spiking_plots
        from neuro.analysis.plots import training as plots

        yield "training", self._curves(trainer)
        for metric, found in report.continual_of.items():
            if metric in trainer.objective.metrics:  # not of the loss
                names = [phase.name for phase in report.phases]
                figure = plots.accuracy_matrix(found.matrix, found.tasks, names, score=metric)
                yield f"{metric}_matrix", figure
        traces = self._gate_traces(trainer)
        if traces:
            yield "gates", spiking_plots.gate_statistics(traces, self._phases)
        if isinstance(trainer.model, Spiking):
            yield from self._firing(trainer, list(trainer.model.thresholds))

    def _curves(self, trainer: TrainerView) -> Figure:
        from neuro.analysis.plots import training as plots

        metrics = (f"train/{name}" for name in trainer.objective.metrics)
        shown = ("train/loss", *metrics, "train/lr", "val/")
        series = {
            name: (values.steps, values.values)
            for name, values in RunRecord(trainer.run_dir).metrics().items()
            if name.startswith(shown) or name.endswith("/weight_change")  # by local rules
        }
        return plots.training_curves(series, self._phases)

    def _gate_traces(self, trainer: TrainerView) -> dict[str, Any]:
        """What the diagnostics logged of the gates, and gamma as it is now."""
        from neuro.analysis.plots.spiking import GateTrace

        if not isinstance(trainer.model, Observable):
            return {}
        logged = RunRecord(trainer.run_dir).metrics()
        traces = {}
        for name, gamma in trainer.model.statistics().items():
            layer, _, what = name.rpartition("/")
            if what != "gamma" or f"diagnostics/{name}" not in logged:
                continue
            mean = logged[f"diagnostics/{name}"]
            missing = (mean.steps, np.full(len(mean.steps), np.nan))
            fast, slow = (
                logged.get(f"diagnostics/{layer}/{branch}_variance", missing)[1]
                for branch in ("fast", "slow")
            )
            traces[layer] = GateTrace(
                mean.steps,
                mean.values,
                logged[f"diagnostics/{name}_open"].values,
                fast,
                slow,
                gamma.cpu().numpy(),
            )
        return traces

    @torch.no_grad()
    def _firing(self, trainer: TrainerView, layers: list[str]) -> Iterator[tuple[str, Figure]]:
        from neuro.analysis.plots import spiking as spiking_plots

        task = trainer.phase.tasks[0]
        batch = first_samples(trainer, "test", self.rate_samples)
        if batch.dt_ms is None:  # both pictures have an axis of time
            return
        output = run(trainer.model, batch, record=[f"{name}/spikes" for name in layers])
        spikes = {name: output.records[f"{name}/spikes"].flatten(2).cpu() for name in layers}
        lengths = None if batch.lengths is None else batch.lengths.cpu()
        rates = {name: mean_activity(s, lengths) for name, s in spikes.items()}
        chosen = min(self.sample, len(batch.targets) - 1)
        length = batch.steps if lengths is None else int(lengths[chosen])
        inputs = batch.sequence()[chosen].cpu()
        shown = {name: s[:length, chosen].numpy() for name, s in spikes.items()}
        label = batch.targets[chosen].tolist()
        counts = bool((inputs == inputs.abs().round()).all())  # of events, not values of frames
        if inputs.ndim == 2 and counts:
            shown = {"inputs": inputs[:length].numpy(), **shown}
        elif inputs.ndim == 4 and counts:
            from neuro.analysis.plots.events import event_frames

            title = f"Events of one sample of task '{task}' (label {label})"
            yield "events", event_frames(inputs[:length].numpy(), batch.dt_ms, title)
        yield (
            "raster",
            spiking_plots.spike_raster(
                shown,
                batch.dt_ms,
                title=f"Spikes of one sample of task '{task}' (label {label})",
            ),
        )
        hz = 1000 / batch.dt_ms
        yield (
            "firing_rates",
            spiking_plots.firing_rates(
                {name: (rate * hz).numpy() for name, rate in rates.items()},
                batch.dt_ms,
                title=f"Firing rates on task '{task}'",
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"phases": [list(phase) for phase in self._phases]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._phases = [(name, step) for name, step in state["phases"]]
