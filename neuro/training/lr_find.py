"""Learning-rate range test: the loss while the learning rate increases from update to update.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. The loss is the
reported one, because values of the pseudo-losses of local rules have no meaning.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.config.trainer import LRFindSettings
from neuro.errors import Interrupted
from neuro.models.base import CoreModel
from neuro.runtime import randomness
from neuro.training.optimizers import OptimizerFactory
from neuro.training.state import TrainState

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.data.base import Batch

#: fractions of the updates at the beginning and the end that cannot be suggested: the running mean
#: has few values at first, and diverges at the end
_SKIPPED = 0.1, 0.05


class LRFindResult(NamedTuple):
    """Result of a range test: learning rates, the loss at each, its running mean, and a suggestion.

    `suggestion` is the rate with the steepest decrease of the running mean over the logarithm of
    the rate; None if it decreases by no more than twice the standard deviation of single losses.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None

    @property
    def conservative(self) -> tuple[float, float] | None:
        """From a tenth of the suggestion to the suggestion."""
        return None if self.suggestion is None else (self.suggestion / 10, self.suggestion)

    @property
    def aggressive(self) -> tuple[float, float] | None:
        """From the suggestion to twice as much."""
        return None if self.suggestion is None else (self.suggestion, 2 * self.suggestion)

    def lines(self) -> list[str]:
        """The result as lines of text."""
        if not self.rates:
            return [
                "The loss was not finite from the first update on; there is no rate to suggest."
            ]
        span = f"{self.rates[0]:.3g} to {self.rates[-1]:.3g} in {len(self.rates)} updates"
        if self.conservative is None or self.aggressive is None:
            return [f"The loss did not fall from {span}; there is no rate to suggest."]
        return [
            f"suggested learning rate: {self.suggestion:.3g}   (swept {span})",
            "  conservative: {:.3g} to {:.3g}".format(*self.conservative),
            "  aggressive:   {:.3g} to {:.3g}".format(*self.aggressive),
        ]

    def save_plot(self, path: Path) -> Path:
        """Plot the loss over the learning rate."""
        from neuro.analysis.plots import rates as rate_plots
        from neuro.analysis.plots import style

        figure = rate_plots.range_test(self.rates, self.losses, self.smoothed, self.suggestion)
        return style.save(figure, path)


def range_test(settings: LRFindSettings, update: Callable[[float], float]) -> LRFindResult:
    """Run the test; `update` makes one update at a rate and returns its loss, NaN if it failed."""
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    running = 0.0
    for _ in range(settings.burn_in):
        update(settings.min_lr)
    for rate in settings.rates():
        loss = update(rate)
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        running = settings.smoothing * running + (1 - settings.smoothing) * loss
        smoothed.append(running / (1 - settings.smoothing ** len(losses)))
        judged = len(rates) > _SKIPPED[0] * settings.steps
        if judged and smoothed[-1] > settings.stop_factor * min(smoothed):
            break
    return LRFindResult(
        tuple(rates), tuple(losses), tuple(smoothed), _steepest(rates, losses, smoothed)
    )


def _steepest(rates: list[float], losses: list[float], smoothed: list[float]) -> float | None:
    """The rate with the steepest decrease of the running mean, without the edges; None if noise."""
    first, last = (max(1, round(share * len(rates))) for share in _SKIPPED)
    inner = slice(first, len(rates) - last)
    if len(rates[inner]) < 2:
        return None
    half = len(rates) // 2  # where low rates hardly change the loss: its scatter is noise
    scatter = float(np.std(np.subtract(losses, smoothed)[:half]))
    fall = smoothed[first] - min(smoothed[inner])
    if fall <= max(2 * scatter, 1e-9 * max(map(abs, smoothed))):  # noise, or rounding
        return None
    slopes = np.gradient(smoothed, np.log(rates))[inner]
    return rates[inner][int(slopes.argmin())]


def find_lr(
    state: TrainState,
    update: Callable[[Sequence[Batch]], float | None],
    groups: Iterator[Sequence[Batch]],
    interrupted: Callable[[], bool],
    attempts: int,
) -> LRFindResult:
    """Run the range test at the start of a phase, and restore the state of training.

    `update` makes an update from the next of `groups` and returns its loss, None if it was skipped.
    A skipped update is repeated up to `attempts` times, since under 16-bit precision each failure
    lowers the scale of the loss.
    """

    def loss_at(lr: float) -> float:
        if interrupted():
            raise Interrupted("Interrupted in the search for a learning rate; nothing was trained.")
        assert state.optimizer is not None
        rates = rates_at(lr, state.phase.optimizer, state.model)
        for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        losses = (update(next(groups)) for _ in range(attempts))
        return next((loss for loss in losses if loss is not None), math.nan)

    with _restored(state):
        return range_test(state.settings.lr_find, loss_at)


def rates_at(lr: float, optimizer: OptimizerFactory, model: CoreModel) -> list[float]:
    """The rates of all parameter groups if the optimizer's rate is `lr`."""
    made = optimizer.at(lr)(model.named_parameters())
    return [group["lr"] for group in made.param_groups]


@contextmanager
def _restored(state: TrainState) -> Iterator[None]:
    """Restore weights, buffers, objective, optimizer, scaler, callbacks, counters and generators.

    Not after an error, which ends the run: not all processes may reach this point then. The
    position in the data needs no restoring: the order of an epoch is a function of its number.
    """
    optimizer, precision = state.optimizer, state.fabric.strategy.precision
    assert optimizer is not None
    tensors = {**dict(state.model.named_parameters()), **dict(state.model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    memory = {p: copy.deepcopy(values) for p, values in optimizer.state.items()}
    kept: Mapping[str, Any] = copy.deepcopy(
        {
            "objective": state.objective.state_dict(),
            "rates": [group["lr"] for group in optimizer.param_groups],
            "scaler": precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in state.callbacks.items()},
        }
    )
    streams = state.sequences.streams
    carried = None if streams is None else streams.state
    progress = replace(state.progress)
    generators = randomness.capture()
    yield
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(before[name])
    optimizer.zero_grad(set_to_none=True)
    if streams is not None:
        streams.state = carried
    optimizer.state.clear()
    optimizer.state.update(memory)
    for group, rate in zip(optimizer.param_groups, kept["rates"], strict=True):
        group["lr"] = rate
    state.objective.load_state_dict(kept["objective"])
    precision.load_state_dict(kept["scaler"])
    for name, callback in state.callbacks.items():
        callback.load_state_dict(kept["callbacks"][name])
    state.progress = progress
    randomness.restore(generators)
