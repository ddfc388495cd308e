"""Training for weights of few levels: rounded in the forward pass, and measured rounded.

For any model, weight by weight. (Spiking networks can compute in the integers of Loihi 2 to the
last bit: `model.fixed_point`.)
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

from neuro.learning.losses.weights import GravityQuantization
from neuro.models.base import CoreModel
from neuro.ops.codebook import codebook, levels_of, nearest_level, straight_through
from neuro.training.annealing import Epoch, epochs_done
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class Quantisation(Callback):
    """Rounds the parameters that match one of `parameters` to a codebook, gradients straight on.

    The codebook has `levels` values, or 2^`bits` + 1, evenly from `minimum` to `maximum`, and
    always a zero, as that of `GravityQuantization`. With `train` the forward pass of training uses
    the rounded weights from `start_epoch` of each phase on, while the optimizer moves the real
    ones, which are what is saved, validated and tested. Beside these, validations and tests are
    repeated with rounded weights and logged as `val_quantised/...` and
    `test_quantised/<task>/...`; with `train` false that is all.
    """

    validates = "val_quantised"

    def __init__(
        self,
        parameters: tuple[str, ...] = ("*weight",),
        bits: Annotated[int, Interval(ge=1, le=16)] | None = 4,
        levels: Annotated[int, Interval(ge=2, le=65536)] | None = None,
        minimum: float = -1.0,
        maximum: float = 1.0,
        train: bool = True,
        start_epoch: Epoch = 0.0,
    ):
        if (bits is None) == (levels is None):
            raise ValueError("give either bits or levels, and null for the other")
        self.parameters = parameters
        self.codebook = codebook(levels or levels_of(bits or 0), minimum, maximum)
        self.train = train
        self.start_epoch = start_epoch

    def check(self, setup: Setup) -> Iterator[str]:
        yield from unmatched("parameters", self.parameters, dict(setup.model.named_parameters()))

    def notes(self, setup: Setup) -> Iterator[str]:
        for name, term in setup.objective.named_terms().items():
            if isinstance(term, GravityQuantization) and not torch.equal(
                term.levels.cpu(), self.codebook
            ):
                yield (
                    f"rounds to {_range(self.codebook)}, but loss.{name} draws weights to "
                    f"{_range(term.levels)}; give both the same levels and range."
                )

    def reports(self, setup: Setup) -> Iterator[str]:
        for task in setup.plan[-1].evaluate:
            yield from (f"test_quantised/{task}/{name}" for name in setup.settings.measures)

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._names = matching(self.parameters, dict(trainer.model.named_parameters()))

        def rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
            if epochs_done(trainer) < self.start_epoch:
                return {}
            return {name: straight_through(weights[name], self.codebook) for name in self._names}

        if self.train:
            trainer.add_weight_change(rounded)

    def validate(self, trainer: TrainerView) -> Mapping[str, float]:
        with trainer.swap_weights(self._rounded(trainer.model)):
            return trainer.validate(self.validates)

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        with trainer.swap_weights(self._rounded(trainer.model)):
            rows = trainer.measure(trainer.phase.evaluate, "test")
        found = {f"test_quantised/{t}/{n}": v for t, row in rows.items() for n, v in row.items()}
        trainer.add_to_report(found)

    @torch.no_grad()
    def _rounded(self, model: CoreModel) -> dict[str, Tensor]:
        named = dict(model.named_parameters())
        return {name: nearest_level(named[name], self.codebook) for name in self._names}


def _range(levels: Tensor) -> str:
    return f"{len(levels)} levels from {levels[0]:g} to {levels[-1]:g}"


def matching(patterns: Sequence[str], named: Mapping[str, Any]) -> list[str]:
    """The names that one of the patterns fits, in the model's order."""
    return [n for n in named if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]


def unmatched(key: str, patterns: Sequence[str], named: Mapping[str, Any]) -> Iterator[str]:
    """A problem for each pattern that fits no name."""
    for pattern in patterns:
        if not matching((pattern,), named):
            yield f"{key}: nothing matches '{pattern}'. The model has: {', '.join(named)}."
