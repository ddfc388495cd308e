"""The contract of a model: a whole sequence and an explicit state in, the same out.

State never hides on the module. That one rule serves truncated backpropagation, stateful training,
persistent streams, generation, resume and hardware export alike.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuro.errors import ConfigError, ExportError, nearest
from neuro.models.graph import LayerGraph
from neuro.ops.fixed_point import FixedPoint


class ModelOutput(NamedTuple):
    """What a model returns (a NamedTuple: Lightning Fabric refuses frozen dataclasses).

    `values` is `[B, T, outputs]`. `state` continues the sequence. `records` holds the traces that
    the caller named in `record`, time-major `[T, B, ...]` unless its name says otherwise.
    """

    values: Tensor
    state: Any
    records: dict[str, Tensor]


class Connection(NamedTuple):
    """Synapses from one layer to another, or within a layer; `weight` is `[target, source]`.

    `mask` is 0 where there is no synapse; None: all pairs are connected.
    """

    source: str
    target: str
    weight: Tensor
    mask: Tensor | None = None

    def existing(self) -> Tensor:
        """Whether there is a synapse, `[target, source]`."""
        if self.mask is None:
            return torch.ones_like(self.weight, dtype=torch.bool)
        return self.mask != 0


class CoreModel(nn.Module, ABC):
    """A network over sequences. Constructors take `spec: TaskSpec` from the program."""

    #: constructor arguments that the program supplies and a config may not
    supplied = ("spec",)

    #: widths of the chip's integers that the forward pass computes with; None is float
    fixed_point: FixedPoint | None = None

    @abstractmethod
    def forward(
        self,
        inputs: Tensor,
        state: Any = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        """Run over `inputs` `[B, T, ...]` with the time step of the data, None if it has none.

        `state=None` starts from `initial_state`. Unknown names in `record` raise ConfigError; what
        is not asked for costs nothing.
        """

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step: a (nested) NamedTuple of tensors, zeros where it rests."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def recordable(self) -> tuple[str, ...]:
        """Names that `record` accepts."""
        return ()

    @property
    def phase_flags(self) -> tuple[str, ...]:
        """Names that `set_phase` accepts."""
        return ()

    def set_phase(self, **flags: Any) -> None:
        """Set the switches that a curriculum may change; a model without switches takes none."""
        for name in flags:
            if name not in self.phase_flags:
                allowed = ", ".join(self.phase_flags) or "none"
                raise ConfigError(
                    f"{type(self).__name__} has no phase flag '{name}'. Allowed: {allowed}."
                    + nearest(name, self.phase_flags)
                )
            setattr(self, name, flags[name])

    @property
    def thresholds(self) -> dict[str, Tensor]:
        """Firing thresholds by layer, for calibration; `<layer>/spikes` can be recorded."""
        return {}

    @property
    def kept_by_terms(self) -> dict[str, str]:
        """Running statistics that a term must keep (`Term.keeps`), and what to do without one."""
        return {}

    def connection_weights(self) -> dict[str, Tensor]:
        """Learnable synaptic weights by name: matrices and kernels that are called weights.

        Biases, thresholds and scales of norms, which have one entry per unit, are none.
        """
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
            and parameter.ndim >= 2
            and name.rpartition(".")[2].startswith("weight")
        }

    def activity_records(self) -> dict[str, str]:
        """For each layer the record that is its activity, as in `{"conv1": "conv1/spikes"}`."""
        return {}

    def activity_limits(self) -> dict[str, Tensor]:
        """The largest activity that units of a layer can have, `[]` or `[N]`; spikes: 1 per step.

        Layers without a bound are left out.
        """
        return {name: torch.ones(()) for name in self.activity_records()}

    def connections(self) -> tuple[Connection, ...]:
        """All connections of a model that is made of matrices between named layers."""
        return ()

    @property
    def kept_by_callbacks(self) -> dict[str, str]:
        """What a callback must keep (`Callback.keeps`), and what to do without one."""
        return {}

    @property
    def noise_levels(self) -> dict[str, float]:
        """Standard deviations of noise of the model's own by `noise.<place>`, `perturb.<place>`.

        All that can be set, zeros included; {} for a model that makes no noise.
        """
        return {}

    def set_noise(self, levels: Mapping[str, float]) -> None:
        """Change some of the `noise_levels`."""
        assert not levels, f"{type(self).__name__} makes no noise"

    def project(self) -> None:
        """Bring parameters back within the model's constraints; called after every update."""

    def statistics(self) -> dict[str, Tensor]:
        """Numbers worth watching, by `<layer>/<what>`: gates `[C]`, running variances `[C]`, ..."""
        return {}

    def consolidate(self, batches: Iterable[Any]) -> None:
        """After a phase: keep what later phases need (subspaces, grown structure)."""

    def standalone(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The config node that the model was built from, without references to other files."""
        return dict(node)

    def layer_graph(self) -> LayerGraph:
        """The typed graph that a hardware target maps; ExportError where there is none."""
        raise ExportError(
            f"{type(self).__name__} has no layer graph, so no chip can hold it. Use hardware=auto, "
            "or a spiking model (model=ltgate, lif, hlop or dsdsnn)."
        )
