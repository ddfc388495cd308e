"""Histograms of weights and parameters, compared with their initial values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt, MinLen
from torch import Tensor

from neuro.models.base import CoreModel
from neuro.models.capabilities import Observable, connection_weights
from neuro.runs.report import Report
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.plotting import due_after_epoch, write_plot
from neuro.training.callbacks.quantisation import matching, unmatched

#: number of quantiles that are stored of an initial distribution
_QUANTILES = 1000


class Histograms(Callback):
    """Weights of connections and parameters of nodes whose names match one of `names`.

    Weights are those of `connection_weights` without those that are zero (no connection, or
    pruned); parameters are its `statistics` of more than one value: gates, rates, offsets.
    Plots `plots/weights.png` and `plots/parameters.png` show them with their initial distributions;
    trackers that have histograms log them. After the last phase, and every `every_epochs` epochs.
    """

    main_process_only = True

    def __init__(
        self,
        every_epochs: Annotated[int, Gt(0)] | None = None,
        names: Annotated[tuple[str, ...], MinLen(1)] = ("*",),
    ):
        self.every_epochs = every_epochs
        self.names = names
        self._start: dict[str, Tensor] = {}

    def check(self, setup: Setup) -> Iterator[str]:
        named = dict.fromkeys((*connection_weights(setup.model), *_parameters(setup.model)))
        yield from unmatched("names", self.names, named)

    def on_fit_start(self, trainer: TrainerView) -> None:
        if not self._start:
            found = {**self._weights(trainer.model), **self._parameters(trainer.model)}
            self._start = {name: _thinned(values) for name, values in found.items()}

    def on_epoch_end(self, trainer: TrainerView) -> None:
        if due_after_epoch(trainer, self.every_epochs):
            self._show(trainer)

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        self._show(trainer)

    def _show(self, trainer: TrainerView) -> None:
        from neuro.analysis.plots import states as state_plots

        step = trainer.progress.step
        for kind, found in (
            ("weights", self._weights(trainer.model)),
            ("parameters", self._parameters(trainer.model)),
        ):
            for name, values in found.items():
                trainer.log_histogram(f"{kind}/{name}", values.numpy())
            spreads = {
                name: state_plots.Distributions(values.numpy(), self._start[name].numpy())
                for name, values in found.items()
            }
            if spreads:
                title = f"{kind.capitalize()} after update {step}"
                quantity = "weight" if kind == "weights" else "value"
                write_plot(trainer, kind, state_plots.histograms(spreads, title, quantity))

    def _weights(self, model: CoreModel) -> dict[str, Tensor]:
        return {n: w[w != 0] for n, w in self._chosen(connection_weights(model)).items()}

    def _parameters(self, model: CoreModel) -> dict[str, Tensor]:
        return self._chosen(_parameters(model))

    def _chosen(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = matching(self.names, found)
        return {name: found[name].detach().float().flatten().cpu() for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = state["start"]


def _parameters(model: CoreModel) -> dict[str, Tensor]:
    found = model.statistics() if isinstance(model, Observable) else {}
    return {name: value for name, value in found.items() if value.numel() > 1}


def _thinned(values: Tensor) -> Tensor:
    """A copy of the values, or `_QUANTILES` quantiles of more values."""
    if len(values) <= _QUANTILES:
        return values.clone()
    places = torch.linspace(0, len(values) - 1, _QUANTILES).round().long()
    return values.sort().values[places]
