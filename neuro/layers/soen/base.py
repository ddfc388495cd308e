"""The contract of a SOEN layer: what arrives as a whole sequence, the states of all nodes out.

A layer says how one step goes (`step`), and may know all steps at once (`whole`); `run` chooses.
What arrives, phi, is the sum over connections, `[T, B, N]`; internal
connections of a layer add `internal @ s[t-1]`. A layer's state is a NamedTuple whose first field is
what other layers see of it; before the first step all is zero.
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

#: of a parameter: one value for all nodes, or one for each
PerNode = float | tuple[float, ...]


class SoenState(NamedTuple):
    """The states `[B, N]` of a layer that needs no others."""

    s: Tensor


class SoenOutput(NamedTuple):
    """What others see after every step `[T, B, N]`, the state after the last, traces by name."""

    s_TBN: Tensor
    state: Any
    traces: dict[str, Tensor]


class How(NamedTuple):
    """Of a pass: its noise, internal connections `[N, N]`, solver, and the traces wanted."""

    noise: LayerNoise
    internal: Tensor | None = None
    solver: Solver = "euler"
    traces: Collection[str] = ()


class SoenLayer(nn.Module, ABC):
    """A layer of `dim` nodes.

    Constructors take `dim` from the network, and, if they want it, `drives`: how many nodes each
    node has a connection to.
    """

    #: given by the program, not in `params`
    supplied = ("dim", "drives")

    #: traces beside `s` that can be recorded
    trace_names: tuple[str, ...] = ("phi",)

    #: `whole` has all steps at once unless these places are noisy; None: there is no `whole`
    at_once_without: tuple[str, ...] | None = None
    #: whether it takes internal connections too
    at_once_with_internal = False

    #: whether the dynamics are physical, in steps of `dt`
    physical = False

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    @property
    def noisy_places(self) -> tuple[str, ...]:
        """Where noise changes something (`noise.PLACES`)."""
        return ("phi", "s")

    def limit(self) -> Tensor | None:
        """The largest state that nodes can have, `[]` or `[N]`; None if there is none."""
        return None

    def rest(self, batch_size: int) -> Any:
        """The state before the first step."""
        return SoenState(self._zeros(batch_size))

    @abstractmethod
    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        """The state after one step, and what can be recorded of it, `[B, N]` each."""

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
        """All steps: at once where the layer can, else one after the other.

        `internal` is `[N, N]`, `[to, from]`.
        """
        how = How(noise, internal, solver, traces)
        stepwise = (
            self.at_once_without is None
            or noise.acts_on(*self.at_once_without)
            or (internal is not None and not self.at_once_with_internal)
        )
        if stepwise:
            return self.in_steps(phi_TBN, state, dt, how)
        out = self.whole(noise.add("phi", phi_TBN), state, dt, how)
        return out._replace(traces={name: out.traces[name] for name in traces})

    def whole(self, phi_TBN: Tensor, state: Any, dt: Tensor, how: How) -> SoenOutput:
        """All steps at once; `phi_TBN` has its noise."""
        raise NotImplementedError

    def in_steps(self, phi_TBN: Tensor, state: Any, dt: Tensor, how: How) -> SoenOutput:
        """One step after the other."""
        found: list[dict[str, Tensor]] = []
        states = []
        for phi_BN in phi_TBN:
            if how.internal is not None:
                phi_BN = phi_BN + F.linear(state[0], how.internal)
            state, step_traces = self.step(phi_BN, state, dt, how.noise)
            states.append(state[0])
            found.append({name: step_traces[name] for name in how.traces})
        recorded = {name: torch.stack([step[name] for step in found]) for name in how.traces}
        return SoenOutput(torch.stack(states), state, recorded)

    def _add_parameters(
        self,
        values: Mapping[str, PerNode],
        learnable: Collection[str],
        positive: Collection[str] = (),
    ) -> None:
        """A NodeParameter for each value, under its name."""
        for name, value in values.items():
            self.add_module(
                name,
                NodeParameter(
                    name, value, self.dim, learnable=name in learnable, positive=name in positive
                ),
            )

    def _zeros(self, batch_size: int) -> Tensor:
        return self._like.new_zeros(batch_size, self.dim)

    @property
    def _like(self) -> Tensor:
        """A tensor whose device and dtype the states share."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor
        return torch.zeros(())


class NodeParameter(nn.Module):
    """A parameter with a value for every node, `[N]`.

    A `positive` one is kept as its logarithm, so that learning cannot change its sign.
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
            raise ValueError(f"{name}: got {len(value)} values for {dim} nodes; give one of each")
        raw = torch.tensor(value, dtype=torch.get_default_dtype()).expand(dim).clone()
        if positive:
            if not bool((raw > 0).all()):
                raise ValueError(f"{name}: got {value}; must be positive")
            raw = raw.log()
        self.positive = positive
        if learnable:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self) -> Tensor:
        return self.raw.exp() if self.positive else self.raw
