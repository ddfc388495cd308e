"""Noise on inputs, weights, module outputs and within a model during training, with schedules."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.step import WeightChange
from neuro.models.base import CoreModel
from neuro.models.capabilities import Noisy
from neuro.training.annealing import Epoch, Period, Ramp, Shape, epochs_done
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.quantisation import matching, unmatched


class NoiseSource(BaseModel):
    """Gaussian noise on one kind of quantity, with a level that changes over epochs (`Ramp`).

    - `where`: `inputs`; `weights`, the parameters that match one of `names`; `outputs` of the
      modules that match one of `names` (`layers.*.synapse`: the currents into neurons); `model`,
      places within a model that has noise of its own (`Noisy.noise_levels`, such as `phi` or
      `bias_current` of a SOEN), whose level in training is set to that of the source
    - `kind`: `noise` is drawn for every element and time step, for weights in every forward pass;
      `perturb` is drawn once per sample and held over its time steps
    - `start`, `end`: standard deviations; with `relative` in units of the root mean square of the
      quantity (a batch of inputs, one parameter, one output). `model` has its own key for this

    `noise` on inputs turns held frames into sequences, at their cost. A module with held frames as
    input is called once for all steps, so that noise on its output is held as well.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    where: Literal["inputs", "weights", "outputs", "model"] = "inputs"
    names: tuple[str, ...] = ()
    kind: Literal["noise", "perturb"] = "noise"
    relative: bool = False
    start: Annotated[float, Ge(0)] = 0.1
    end: Annotated[float, Ge(0)] = 0.0
    shape: Shape = "linear"
    start_epoch: Epoch = 0.0
    end_epoch: Epoch = 1.0
    period_epochs: Period = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> NoiseSource:
        self._ramp.check()
        if (self.where == "inputs") == bool(self.names):
            wanted = "takes no names" if self.names else "needs names: patterns such as 'layers.*'"
            raise ValueError(f"noise on {self.where} {wanted}")
        if self.where == "weights" and self.kind == "perturb":
            raise ValueError("weights are shared by all samples; noise on them is of kind noise")
        if self.where == "model" and self.relative:
            raise ValueError(
                "relative: not for where=model, whose noise has the key model.noise_relative"
            )
        return self

    def places(self, model: CoreModel) -> dict[str, str]:
        """Names that `where: model` allows, each with its entry in the model's noise levels."""
        prefix = f"{self.kind}."
        levels = model.noise_levels if isinstance(model, Noisy) else {}
        return {n.removeprefix(prefix): n for n in levels if n.startswith(prefix)}

    def std(self, trainer: TrainerView) -> float:
        """The standard deviation for the coming update."""
        return self._ramp.at(epochs_done(trainer))

    @property
    def _ramp(self) -> Ramp:
        return Ramp(
            self.start, self.end, self.shape, self.start_epoch, self.end_epoch, self.period_epochs
        )

    def scaled(self, trainer: TrainerView, unit: Tensor, of: Tensor) -> Tensor:
        """Scale noise of unit variance to the current level, relative to `of` if so configured."""
        size = self.std(trainer)
        return unit * size * of.detach().square().mean().sqrt() if self.relative else unit * size


class Noise(Callback):
    """Adds the noise of all `sources` to the forward pass of training, not of evaluation.

    Gradients are taken at the noisy values and update the clean ones. The standard deviation of
    source number n is logged as `train/noise/<n>`.
    """

    def __init__(self, sources: Annotated[tuple[NoiseSource, ...], MinLen(1)]):
        self.sources = sources
        self._samples = 0
        self._sizes: dict[str, float] = {}  # standard deviations of this update
        self._drawn: dict[tuple[int, str], Tensor] = {}  # perturbations of this batch

    def check(self, setup: Setup) -> Iterator[str]:
        model = setup.model
        named = {
            "weights": dict(model.named_parameters()),
            "outputs": {name: m for name, m in model.named_modules() if name},
        }
        taken: dict[str, int] = {}
        for i, source in enumerate(self.sources):
            if source.where == "model":
                yield from self._misfits(model, i, taken)
            elif source.where != "inputs":
                yield from unmatched(f"sources.{i}.names", source.names, named[source.where])

    def _misfits(self, model: CoreModel, number: int, taken: dict[str, int]) -> Iterator[str]:
        """Problems of a source within the model; its levels are added to `taken`."""
        source, key = self.sources[number], f"sources.{number}.names"
        places = source.places(model)
        if not places:
            yield f"{key}: {type(model).__name__} makes no noise of kind {source.kind} of its own."
            return
        yield from unmatched(key, source.names, places)
        for name in matching(source.names, places):
            level = places[name]
            if level in taken:
                yield f"{key}: {level} is set by sources.{taken[level]} already."
            taken[level] = number

    def on_fit_start(self, trainer: TrainerView) -> None:
        for i, source in enumerate(self.sources):
            if source.where == "weights":
                trainer.add_weight_change(self._weights(trainer, source))
            elif source.where == "outputs":
                trainer.add_forward_context(partial(self._around, trainer, i))
            elif source.where == "model":
                trainer.add_forward_context(partial(self._within, trainer, source))

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        self._samples = len(batch.targets)
        self._drawn.clear()
        self._sizes = {f"train/noise/{i}": s.std(trainer) for i, s in enumerate(self.sources)}
        for source in self.sources:
            if source.where == "inputs" and source.std(trainer) > 0:
                batch = self._on_inputs(trainer, source, batch)
        return batch

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if metrics:
            trainer.log(self._sizes)

    @staticmethod
    def _on_inputs(trainer: TrainerView, source: NoiseSource, batch: Batch) -> Batch:
        if not batch.inputs.is_floating_point():
            raise ConfigError("callbacks.noise.sources: inputs are tokens, which take no noise.")
        if source.kind == "perturb":
            unit = torch.randn_like(batch.inputs[:, :1])
            return batch._replace(inputs=batch.inputs + source.scaled(trainer, unit, batch.inputs))
        inputs = batch.sequence()
        noise = source.scaled(trainer, torch.randn_like(inputs), batch.inputs)
        return batch._replace(inputs=inputs + noise, frames=None)

    @staticmethod
    def _weights(trainer: TrainerView, source: NoiseSource) -> WeightChange:
        """The change of weights that a source makes in every forward pass."""
        names = matching(source.names, dict(trainer.model.named_parameters()))

        def noisy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
            if source.std(trainer) == 0:
                return {}
            return {
                name: weights[name]
                + source.scaled(trainer, torch.randn_like(weights[name]), weights[name])
                for name in names
            }

        return noisy

    @staticmethod
    @contextmanager
    def _within(trainer: TrainerView, source: NoiseSource) -> Iterator[None]:
        """Set the model's own noise to the source's level, and restore it after the block."""
        model = trainer.model
        assert isinstance(model, Noisy)
        before, places = model.noise_levels, source.places(model)
        names = [places[name] for name in matching(source.names, places)]
        model.set_noise(dict.fromkeys(names, source.std(trainer)))
        try:
            yield
        finally:
            model.set_noise({name: before[name] for name in names})

    @contextmanager
    def _around(self, trainer: TrainerView, number: int) -> Iterator[None]:
        """Hook the modules of a source while the model runs. ConfigError if none is called."""
        source = self.sources[number]
        if source.std(trainer) == 0:
            yield
            return
        called = False

        def add(name: str, module: nn.Module, inputs: object, output: object) -> Tensor:
            nonlocal called
            called = True
            if not isinstance(output, Tensor):
                raise ConfigError(
                    f"callbacks.noise.sources.{number}.names: '{name}' gives no tensor but "
                    f"{type(output).__name__}; name the synapses or maps within it."
                )
            unit = self._unit(number, name, output)
            return output + source.scaled(trainer, unit, output)

        modules = {
            name: module
            for name, module in trainer.model.named_modules()
            if name and any(fnmatch.fnmatchcase(name, pattern) for pattern in source.names)
        }
        handles = [
            module.register_forward_hook(partial(add, name)) for name, module in modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if not called:
            raise ConfigError(
                f"callbacks.noise.sources.{number}.names: the model calls none of "
                f"{', '.join(modules)} in its forward pass, so there is no output to add noise to."
            )

    def _unit(self, number: int, name: str, output: Tensor) -> Tensor:
        """Noise of unit variance for an output; for `perturb` one draw per sample."""
        if self.sources[number].kind == "noise":
            return torch.randn_like(output)
        folds = len(output) // self._samples  # time steps, folded into the batch in front of it
        if output.ndim not in (2, 4) or folds * self._samples != len(output):
            raise ConfigError(
                f"callbacks.noise.sources.{number}.kind: the output of '{name}' "
                f"{list(output.shape)} is not one row per time step and sample, so no noise can be "
                "held for each sample; choose kind: noise."
            )
        key = number, name
        if key not in self._drawn:
            self._drawn[key] = torch.randn_like(output[: self._samples])
        return self._drawn[key].repeat(folds, *(1,) * (output.ndim - 1))
