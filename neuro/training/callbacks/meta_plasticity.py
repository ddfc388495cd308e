"""Adapt the rates of plasticity rules while training goes on, by a network that learns from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from neuro.errors import nearest
from neuro.learning.meta_plasticity import Observation, RateController
from neuro.learning.objective import Objective
from neuro.learning.rules.plasticity import PlasticityRule
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class MetaPlasticity(Callback):
    """Multiplies the changes of plasticity rules by rates from `low` to `high`.

    New rates are chosen at each log (`trainer.log`), from the performance (the objective's first
    metric), the loss and the mean weight change logged there (`learning/meta_plasticity.py`).
    `rules`: names of terms; None is all plasticity rules. `window`, `units`, `lr`, `spread`,
    `seed`: of the controller. Logged as `meta_plasticity/<rule>`.
    """

    def __init__(
        self,
        rules: tuple[str, ...] | None = None,
        low: Annotated[float, Gt(0)] = 0.1,
        high: Annotated[float, Interval(gt=0, le=1e3)] = 10.0,
        window: Annotated[int, Interval(ge=2, le=10_000)] = 100,
        units: Annotated[int, Interval(ge=1, le=256)] = 8,
        lr: Annotated[float, Interval(gt=0, le=1)] = 0.02,
        spread: Annotated[float, Interval(gt=0, le=10)] = 0.5,
        seed: Annotated[int, Ge(0)] = 0,
    ):
        if low >= high:
            raise ValueError(f"low, high: got {low:g} and {high:g}; the first must be lower")
        self.rules = rules
        self.low = low
        self.high = high
        self.window = window
        self.units = units
        self.lr = lr
        self.spread = spread
        self.seed = seed
        self._controller: RateController | None = None
        self._weights: dict[str, float] = {}  # of the rules, as configured
        self._rates: list[float] = []  # in use; empty before the first log
        self._saved: dict[str, Any] = {}

    def check(self, setup: Setup) -> Iterator[str]:
        available = _rules(setup.objective)
        for name in self.rules or ():
            if name not in available:
                yield (
                    f"rules: loss has no plasticity rule '{name}'. It has "
                    f"{', '.join(available) or 'none'}.{nearest(name, available)}"
                )
        if not available and not self.rules:
            yield "loss has no plasticity rule whose rate could be adapted; add one, as in stdp."

    def on_fit_start(self, trainer: TrainerView) -> None:
        available = _rules(trainer.objective)
        self._weights = {name: available[name] for name in self.rules or available}
        self._controller = RateController(
            len(self._weights),
            self.low,
            self.high,
            self.window,
            self.units,
            self.lr,
            self.spread,
            self.seed,
        )
        if self._saved:
            self._rates = self._saved["rates"]
            self._controller.load_state(self._saved["controller"])
            self._set(trainer)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if "train/loss" not in metrics:
            return
        changes = [value for name, value in metrics.items() if name.endswith("/weight_change")]
        loss = metrics["train/loss"]
        performance = metrics.get(f"train/{trainer.objective.main_metric}", -loss)
        assert self._controller is not None
        change = sum(changes) / max(len(changes), 1)
        self._rates = self._controller.step(Observation(performance, loss, change))
        self._set(trainer)
        trainer.log(
            {
                f"meta_plasticity/{name}": rate
                for name, rate in zip(self._weights, self._rates, strict=True)
            }
        )

    def _set(self, trainer: TrainerView) -> None:
        for (name, weight), rate in zip(self._weights.items(), self._rates, strict=False):
            trainer.objective.set_weight(name, weight * rate)

    def state_dict(self) -> dict[str, Any]:
        if self._controller is None:
            return self._saved
        return {"rates": self._rates, "controller": self._controller.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state


def _rules(objective: Objective) -> dict[str, float]:
    """The weights of the plasticity rules of an objective by name."""
    terms = objective.named_terms().items()
    return {name: term.weight for name, term in terms if isinstance(term, PlasticityRule)}
