"""Losses that keep a network near criticality, where activity neither dies out nor explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from neuro.config.types import Positive
from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.learning.losses.states import activity_of
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Connected, Connection

NotNegative = Annotated[float, Ge(0)]

#: differences and activities below this count as zero
_TINY = 1e-30


class Branching(Term):
    """Penalty on the deviation of layers' branching ratios from `target_sigma`.

    For each sample and each layer that has both incoming and outgoing connections J, sums over its
    nodes n of means over time:

        sigma = sum_n |s_n| sum_k |J_kn|  /  sum_n |phi_n|,    phi_n = sum over sources of J s

    With `use_log_loss` the loss is factor * mean of log(sigma / target)^2, the quotient clamped to
    `clamp_min`..`clamp_max`, else factor * mean of (sigma - target)^2.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        target_sigma: Positive = 1.0,
        use_log_loss: bool = True,
        clamp_min: Positive = 0.1,
        clamp_max: Positive = 10.0,
        factor: NotNegative = 1.0,
    ):
        super().__init__(weight)
        _check_clamp(clamp_min, clamp_max)
        self.target_sigma = target_sigma
        self.use_log_loss = use_log_loss
        self.clamp_min = clamp_min
        self.clamp_max = clamp_max
        self.factor = factor

    def records(self, model: CoreModel) -> tuple[str, ...]:
        if not self._inner(model):
            raise ConfigError(
                f"{type(self).__name__} needs layers with matrices of synapses to and from them; "
                f"{type(model).__name__} has none. Use model=soen with three layers or more."
            )
        layers = dict.fromkeys(name for c in _connections(model) for name in c[:2])
        return tuple(self._record(model, layer) for layer in layers)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        connections = _connections(model)
        states = {
            layer: output.records[self._record(model, layer)]
            for layer in {name for c in connections for name in c[:2]}
        }
        ratios = torch.stack([_ratio(layer, connections, states) for layer in self._inner(model)])
        if not self.use_log_loss:
            return TermOutput(self.factor * (ratios - self.target_sigma).square().mean())
        quotient = (ratios / self.target_sigma).clamp(self.clamp_min, self.clamp_max)
        return TermOutput(self.factor * quotient.log().square().mean())

    def _inner(self, model: CoreModel) -> list[str]:
        """The layers that both receive and pass on."""
        connections = _connections(model)
        targets = dict.fromkeys(c.target for c in connections)
        return [layer for layer in targets if any(c.source == layer for c in connections)]

    def _record(self, model: CoreModel, layer: str) -> str:
        """The record of a layer's states; inputs, which are no layer's activity, have one too."""
        return activity_of(self, model).get(layer, f"{layer}/s")


def _connections(model: CoreModel) -> tuple[Connection, ...]:
    return model.connections() if isinstance(model, Connected) else ()


def _ratio(layer: str, connections: Sequence[Connection], states: Mapping[str, Tensor]) -> Tensor:
    """sigma of one layer, `[B]`; `states` are `[T, B, N]` by layer."""
    outgoing = [c.weight.abs().sum(0) for c in connections if c.source == layer]
    passed_on = states[layer].abs().mean(0) @ torch.stack(outgoing).sum(0)
    flux = [states[c.source] @ c.weight.T for c in connections if c.target == layer]
    received = torch.stack(flux).sum(0).abs().mean(0).sum(1)
    return passed_on / received.clamp_min(_TINY)


class LocalExpansion(Term):
    """Penalty on the deviation of the local expansion rate from `target_value`.

    The model runs twice from rest: on the inputs, and on inputs with Gaussian noise of the standard
    deviation `perturbation_scale` added to all steps, or to the first one alone
    (`perturbed`: the network's own expansion, without what keeps coming in). With d_t the distance
    of all layers' states at step t and r_t = d_{t+1} / d_t, clamped to `clamp_min`..`clamp_max`,
    the loss is the mean over steps and samples of (log r - log target)^2, or (r - target)^2
    without `use_log_loss`. Steps at which the runs are still or again equal are left out.

    With `detach_clean` the run on the inputs is taken as fixed; the gradient is then of the order
    1 / `perturbation_scale`; use trainer.clip_norm. Without it the loss has its own gradient.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        target_value: Positive = 1.0,
        perturbation_scale: Positive = 1e-5,
        perturbed: Literal["all", "first"] = "all",
        use_log_loss: bool = True,
        detach_clean: bool = True,
        clamp_min: Positive = 0.01,
        clamp_max: Positive = 100.0,
    ):
        super().__init__(weight)
        _check_clamp(clamp_min, clamp_max)
        self.target_value = target_value
        self.perturbation_scale = perturbation_scale
        self.perturbed = perturbed
        self.use_log_loss = use_log_loss
        self.detach_clean = detach_clean
        self.clamp_min = clamp_min
        self.clamp_max = clamp_max

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if any(name.endswith("/spikes") for name in activity_of(self, model).values()):
            raise ConfigError(
                f"{type(self).__name__} follows small differences of states; the spikes of "
                f"{type(model).__name__} are all or nothing. Use model=soen."
            )

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        # the same random numbers in both runs: what a layer's noise does is no expansion
        devices = [batch.inputs.device] if batch.inputs.device.type == "cuda" else []
        changed = self._perturbed(batch)
        graph = torch.is_grad_enabled() and not self.detach_clean
        with torch.random.fork_rng(devices), torch.set_grad_enabled(graph):
            clean = self._states(model, batch, batch.sequence())
        away = self._states(model, batch, changed)
        d_TB = torch.linalg.vector_norm(away - clean, dim=2)
        before, after = d_TB[:-1], d_TB[1:]
        seen = (before > _TINY) & (after > _TINY)
        ratio = torch.where(seen, after, self.target_value) / torch.where(seen, before, 1.0)
        ratio = ratio.clamp(self.clamp_min, self.clamp_max)
        if self.use_log_loss:
            costs = (ratio.log() - math.log(self.target_value)).square()
        else:
            costs = (ratio - self.target_value).square()
        return TermOutput(torch.where(seen, costs, 0.0).sum() / seen.sum().clamp_min(1))

    def _perturbed(self, batch: Batch) -> Tensor:
        """The inputs over all steps with noise, `[B, T, ...]`."""
        if self.perturbed == "all":
            noise = self.perturbation_scale * torch.randn_like(batch.inputs)
            return batch._replace(inputs=batch.inputs + noise).sequence()
        inputs = batch.sequence().clone()
        inputs[:, 0] += self.perturbation_scale * torch.randn_like(inputs[:, 0])
        return inputs

    def _states(self, model: CoreModel, batch: Batch, inputs: Tensor) -> Tensor:
        """The states of all layers side by side, `[T, B, nodes]`."""
        names = tuple(activity_of(self, model).values())
        records = model(inputs, dt_ms=batch.dt_ms, record=names).records
        return torch.cat([records[name].flatten(2) for name in names], 2)


def _check_clamp(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"clamp_min ({low}) must be below clamp_max ({high})")
