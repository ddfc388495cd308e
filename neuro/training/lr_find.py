"""The learning-rate range test: how the loss reacts while the rate rises from update to update.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. The loss is the one
that is reported, so local rules, whose own losses mean nothing, can be searched for as well.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.config.trainer import RateSweep
from neuro.errors import ConfigError, Interrupted
from neuro.runtime import randomness
from neuro.training.saving import asked_to_stop

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.data.base import Batch
    from neuro.training.trainer import Trainer

log = logging.getLogger("neuro")

#: shares of the updates at the beginning and the end that a suggestion never comes from: the
#: running loss has seen too little at first, and at last it explodes
_SKIPPED = 0.1, 0.05


class RateSearch(NamedTuple):
    """What a sweep found: the rates used, the loss at each, its running mean, and a suggestion.

    `suggestion` is the rate at which the running loss falls most steeply over the logarithm of the
    rate; None if it falls by no more than twice what single updates scatter.
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
        """What to tell people."""
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
        """The loss over the rate as a picture."""
        from neuro.analysis.plots import rates as rate_plots
        from neuro.analysis.plots import style

        figure = rate_plots.rate_search(self.rates, self.losses, self.smoothed, self.suggestion)
        return style.save(figure, path)


def sweep(settings: RateSweep, update: Callable[[float], float]) -> RateSearch:
    """Run the sweep: `update` makes one update at a rate and gives its loss, NaN if it failed."""
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
    return RateSearch(
        tuple(rates), tuple(losses), tuple(smoothed), _steepest(rates, losses, smoothed)
    )


def _steepest(rates: list[float], losses: list[float], smoothed: list[float]) -> float | None:
    """The rate at which the running mean falls most over the rate's logarithm, off its edges."""
    first, last = (max(1, round(share * len(rates))) for share in _SKIPPED)
    inner = slice(first, len(rates) - last)
    if len(rates[inner]) < 2:
        return None
    half = len(rates) // 2  # in which rates are too low to do much
    scatter = float(np.std(np.subtract(losses, smoothed)[:half]))
    fall = smoothed[first] - min(smoothed[inner])
    if fall <= max(2 * scatter, 1e-9 * max(map(abs, smoothed))):  # noise, or rounding
        return None
    slopes = np.gradient(smoothed, np.log(rates))[inner]
    return rates[inner][int(slopes.argmin())]


@contextmanager
def everything_kept(trainer: Trainer) -> Iterator[None]:
    """Put back weights, buffers, objective, optimizer, scaler, callbacks, counters and generators.

    Not after an error, with which the run ends: of several processes not all come here then.

    The position in the data needs nothing: the order of an epoch is a function of its number.
    """
    tensors = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimizer = trainer.optimizer.optimizer
    precision = trainer.fabric.strategy.precision
    memory = {p: copy.deepcopy(state) for p, state in optimizer.state.items()}
    kept: Mapping[str, Any] = copy.deepcopy(
        {
            "objective": trainer.objective.state_dict(),
            "rates": [group["lr"] for group in optimizer.param_groups],
            "scaler": precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in trainer.callbacks.items()},
        }
    )
    streams = trainer.sequences.streams
    state = None if streams is None else streams.state
    progress = replace(trainer.progress)
    generators = randomness.capture()
    yield
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(before[name])
    optimizer.zero_grad(set_to_none=True)
    if streams is not None:
        streams.state = state
    optimizer.state.clear()
    optimizer.state.update(memory)
    for group, rate in zip(optimizer.param_groups, kept["rates"], strict=True):
        group["lr"] = rate
    trainer.objective.load_state_dict(kept["objective"])
    precision.load_state_dict(kept["scaler"])
    for name, callback in trainer.callbacks.items():
        callback.load_state_dict(kept["callbacks"][name])
    trainer.progress = progress
    randomness.restore(generators)


def search_rate(trainer: Trainer) -> RateSearch:
    """Sweep the rate over the current phase's batches, and put everything back as it was."""
    groups = (
        group
        for epoch in itertools.count()
        for group in trainer.groups(trainer.phase.loader.batches(epoch))
    )
    with everything_kept(trainer):
        return sweep(trainer.settings.lr_find, lambda rate: _loss_at(trainer, rate, groups))


def found_peaks(trainer: Trainer) -> list[float]:
    """For optimizer.lr=auto: the peak rates that a search finds, of which a phase makes one."""
    phase = trainer.phase
    if phase.name not in trainer.found:
        search = search_rate(trainer)
        if search.suggestion is None:
            raise ConfigError(f"optimizer.lr=auto: {search.lines()[0]} Give a number.")
        trainer.found[phase.name] = search.suggestion
        for line in search.lines() if trainer.is_main else ():
            log.info("%s: %s", phase.name, line)
        trainer.tracker.log({"lr_find/suggestion": search.suggestion}, trainer.progress.step)
        if trainer.is_main:
            name = "lr_find" if len(trainer.plan) == 1 else f"lr_find-{phase.name}"
            path = search.save_plot(trainer.run_dir / "plots" / f"{name}.png")
            trainer.tracker.log_artifact(path, f"plots/{name}")
    trainer.tracker.add_config({"found_lr": dict(trainer.found)})
    return _rates_at(trainer, trainer.found[phase.name])


def _loss_at(trainer: Trainer, rate: float, groups: Iterator[Sequence[Batch]]) -> float:
    """The loss that an update at a rate reports; NaN if it could not be made."""
    if asked_to_stop(trainer):
        raise Interrupted("Interrupted in the search for a learning rate; nothing was trained.")
    rates = _rates_at(trainer, rate)
    for group, own in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = own
    for _ in range(trainer.settings.max_skipped or 1):
        trainer.update(next(groups))
        loss = trainer.meter.read(trainer.sum_over_processes).get("loss")
        if loss is not None:
            return loss
        if not trainer.guard.scaled:  # else the loss was scaled too far, which is lower now
            break
    return math.nan


def _rates_at(trainer: Trainer, lr: float) -> list[float]:
    """The rates of all parameter groups where the optimizer's is `lr`."""
    made = trainer.phase.optimizer.at(lr)(trainer.model.named_parameters())
    return [group["lr"] for group in made.param_groups]
