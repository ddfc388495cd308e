"""Interface of SOEN layers: maps an input sequence phi and a state to the states of all nodes.

A layer defines a single step (`step`) and may have a faster form for all steps (`run_fused`); `run`
selects one. The input phi `[T, B, N]` is the sum over incoming connections; internal connections of
a layer add `internal @ s[t-1]`. The state of a layer is a NamedTuple whose first field is its
output to other layers; the initial state is zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.soen.noise import LayerNoise
from neuro.ops.dendrite import Solver

#: value of a parameter: one for all nodes, or one for each node
PerNode = float | tuple[float, ...]


class SoenState(NamedTuple):
    """State of a layer with one variable per node, `[B, N]`."""

    s: Tensor


class SoenOutput(NamedTuple):
    """Outputs after every step `[T, B, N]`, the state after the last, and traces by name."""

    s_TBN: Tensor
    state: Any
    traces: dict[str, Tensor]


class PassOptions(NamedTuple):
    """Options of a forward pass; `internal` connections are `[N, N]`, `[to, from]`."""

    noise: LayerNoise
    internal: Tensor | None = None
    solver: Solver = "euler"
    traces: Collection[str] = ()


class SoenLayer(nn.Module, ABC):
    """A layer of `dim` nodes.

    The network passes `dim` to the constructor, and `drives`, the number of nodes that each node
    has a connection to, if the constructor has that parameter.
    """

    #: constructor arguments that the program supplies, which `params` cannot set
    supplied = ("dim", "drives")

    #: traces other than `s` that can be recorded
    trace_names: tuple[str, ...] = ("phi",)

    #: noise sites whose noise rules out `run_fused`; None if there is no `run_fused`
    fused_without_noise_on: tuple[str, ...] | None = None
    #: True if `run_fused` supports internal connections
    fused_with_internal = False

    #: True if the dynamics are physical, with the time step `dt`
    physical = False

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    @property
    def noisy_places(self) -> tuple[str, ...]:
        """Noise sites (of `noise.PLACES`) that have an effect in this layer."""
        return ("phi", "s")

    def limit(self) -> Tensor | None:
        """The largest possible state of the nodes, `[]` or `[N]`; None if unbounded."""
        return None

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step, zeros."""
        return SoenState(self._zeros(batch_size))

    @abstractmethod
    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        """Advance by one step: the new state, and all traces, `[B, N]` each."""

    def run(
        self,
        phi_TBN: Tensor,
        state: Any,
        dt: Tensor,
        *,
        noise: LayerNoise,
        internal: Tensor | None = None,
        solver: Solver = "euler",
        traces: Collection[str] = (),
    ) -> SoenOutput:
        """Run all steps, fused if the layer supports that for these options.

        phi_TBN: input `[T, B, N]`. dt: time step, a scalar. internal: connections within the layer,
        `[N, N]`, `[to, from]`. solver: of dendrites. traces: names to record, of `trace_names`.
        """
        options = PassOptions(noise, internal, solver, traces)
        stepwise = (
            self.fused_without_noise_on is None
            or noise.acts_on(*self.fused_without_noise_on)
            or (internal is not None and not self.fused_with_internal)
        )
        if stepwise:
            return self.run_stepwise(phi_TBN, state, dt, options)
        out = self.run_fused(noise.add("phi", phi_TBN), state, dt, options)
        return out._replace(traces={name: out.traces[name] for name in traces})

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        """Run all steps in one call; noise on phi is already part of `phi_TBN`."""
        raise NotImplementedError

    def run_stepwise(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        """Run all steps one by one."""
        found: list[dict[str, Tensor]] = []
        states = []
        for phi_BN in phi_TBN:
            if options.internal is not None:
                phi_BN = phi_BN + F.linear(state[0], options.internal)
            state, step_traces = self.step(phi_BN, state, dt, options.noise)
            states.append(state[0])
            found.append({name: step_traces[name] for name in options.traces})
        recorded = {name: torch.stack([step[name] for step in found]) for name in options.traces}
        return SoenOutput(torch.stack(states), state, recorded)

    def _add_parameters(
        self,
        values: Mapping[str, PerNode],
        learnable: Collection[str],
        positive: Collection[str] = (),
    ) -> None:
        """Add a NodeParameter submodule for each value."""
        for name, value in values.items():
            self.add_module(
                name,
                NodeParameter(
                    name, value, self.dim, learnable=name in learnable, positive=name in positive
                ),
            )

    def _zeros(self, batch_size: int) -> Tensor:
        """A zero state `[B, N]` with the device and dtype of the layer's tensors, if it has any."""
        tensors = (*self.parameters(), *self.buffers(), torch.zeros(()))
        return tensors[0].new_zeros(batch_size, self.dim)


class NodeParameter(nn.Module):
    """A parameter with a value for every node, `[N]`.

    A `positive` parameter is stored as its logarithm, so that training cannot change its sign. A
    parameter that is not `learnable` is a buffer. ValueError for a wrong number or sign of values.
    """

    def __init__(
        self,
        name: str,
        value: PerNode,
        dim: int,
        *,
        learnable: bool,
        positive: bool = False,
    ):
        super().__init__()
        if isinstance(value, tuple) and len(value) != dim:
            raise ValueError(f"{name}: got {len(value)} values for {dim} nodes; give one for each")
        raw = torch.tensor(value, dtype=torch.get_default_dtype()).expand(dim).clone()
        if positive:
            if not bool((raw > 0).all()):
                raise ValueError(f"{name}: got {value}; must be positive")
            raw = raw.log()
        self.positive = positive
        # parameter and buffer have the same name, so that saved weights fit both
        if learnable:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self) -> Tensor:
        return self.raw.exp() if self.positive else self.raw
