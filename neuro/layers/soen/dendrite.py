"""Superconducting dendrites: a SQUID that charges a leaky storage loop.

    phi  = input + phi_offset
    s[t] = s[t-1] + dt (gamma_plus g(phi, i_b - s[t-1]) - gamma_minus s[t-1])

in dimensionless time (`units`); g is one of the source functions of `ops/sources.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, cast

from annotated_types import Gt
from torch import Tensor

from neuro.layers.soen.base import (
    NodeParameter,
    PassOptions,
    PerNode,
    SoenLayer,
    SoenOutput,
    SoenState,
)
from neuro.layers.soen.maps import Map
from neuro.layers.soen.noise import QUIET, LayerNoise
from neuro.layers.soen.units import GAMMA_PLUS
from neuro.ops.dendrite import Trace, dendrite, dendrite_step
from neuro.ops.sources import SourceKind, depends_on_state, source_function

#: SQUID current in I_c below which the voltage is zero for every flux. A state reduces the SQUID
#: current, so it is limited to bias_current minus this.
CLOSED = 1.0
BIAS_CURRENT = 1.7  #: default of `bias_current`, in I_c

DendriteParameter = Literal["phi_offset", "bias_current", "gamma_plus", "gamma_minus"]


class Dendrite(SoenLayer):
    """A layer of single dendrites.

    source: kind of source function (`ops/sources.py`).
    phi_offset: flux offset, in Phi_0.
    bias_current: in I_c; None is 1.7. Only for sources that depend on the SQUID current.
    gamma_plus: charging rate; None is 0.006582 / fan_out, because the transformers to all nodes
        that a dendrite drives share its storage loop.
    gamma_minus: leak rate.
    fan_out: number of driven nodes for `gamma_plus`; None is that of the network's connections, and
        at least 1.
    learnable: names of trained parameters; None is all.

    ValueError for parameters that exclude each other or that the source does not have.
    """

    phi_offset: NodeParameter
    bias_current: NodeParameter
    gamma_plus: NodeParameter
    gamma_minus: NodeParameter

    trace_names = ("phi", "g")
    physical = True
    fused_without_noise_on = ("g", "s", "bias_current")
    fused_with_internal = True

    def __init__(
        self,
        dim: int,
        drives: tuple[int, ...],
        source: SourceKind = "table",
        phi_offset: PerNode = 0.23,
        bias_current: PerNode | None = None,
        gamma_plus: PerNode | None = None,
        gamma_minus: PerNode = 1e-3,
        fan_out: Annotated[int, Gt(0)] | None = None,
        learnable: tuple[DendriteParameter, ...] | None = None,
    ):
        super().__init__(dim)
        if gamma_plus is not None and fan_out is not None:
            raise ValueError("gamma_plus, fan_out: give one of them")
        self.source: SourceKind = source
        bias = _bias(source, bias_current, learnable or ())
        if gamma_plus is None:
            gamma_plus = tuple(GAMMA_PLUS / (fan_out or max(n, 1)) for n in drives)
        values: dict[str, PerNode] = {
            "phi_offset": phi_offset,
            "bias_current": bias,
            "gamma_plus": gamma_plus,
            "gamma_minus": gamma_minus,
        }
        # a bias current without effect would get no gradient, so it is not trained by default
        every = [x for x in values if depends_on_state(source) or x != "bias_current"]
        learned = every if learnable is None else learnable
        self._add_parameters(values, learned, positive=("gamma_plus", "gamma_minus"))

    @property
    def noisy_places(self) -> tuple[str, ...]:
        return noisy_places(self.source)

    def limit(self) -> Tensor | None:
        return self.bias_current() - CLOSED if depends_on_state(self.source) else None

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        bias = self.bias_current()
        rate = self.gamma_plus()
        s, phi, g = dendrite_step(
            noise.add("phi", phi_BN),
            state.s,
            dt=dt,
            gamma_plus=rate,
            gamma_minus=self.gamma_minus(),
            phi_offset=self.phi_offset(),
            bias_current=noise.add("bias_current", bias, len(phi_BN)),
            source=self.source,
        )
        if noise.acts_on("g"):
            # the step is linear in g, so noise on g can be added to its result
            noisy = noise.add("g", g)
            s, g = s + dt * rate * (noisy - g), noisy
        return SoenState(noise.add("s", s)), {"phi": phi, "g": g}

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        out = dendrite(
            phi_TBN,
            state.s,
            dt=dt,
            gamma_plus=self.gamma_plus(),
            gamma_minus=self.gamma_minus(),
            phi_offset=self.phi_offset(),
            bias_current=self.bias_current(),
            source=self.source,
            internal_NN=options.internal,
            solver=options.solver,
            record=cast("tuple[Trace, ...]", tuple(options.traces)),
        )
        found = {"phi": out.phi_TBN, "g": out.g_TBN}
        recorded = {name: trace for name, trace in found.items() if trace is not None}
        return SoenOutput(out.s_TBN, SoenState(out.s_BN), recorded)


class SquidReadout(Map):
    """A SQUID without storage loop: s = g(phi + phi_offset, i_b).

    `bias_current` None is 1.7; only for sources that depend on the SQUID current.
    """

    phi_offset: NodeParameter
    bias_current: NodeParameter

    def __init__(
        self,
        dim: int,
        source: SourceKind = "table",
        phi_offset: PerNode = 0.23,
        bias_current: PerNode | None = None,
        learnable: tuple[Literal["phi_offset", "bias_current"], ...] = ("phi_offset",),
    ):
        super().__init__(dim)
        self.source: SourceKind = source
        bias = _bias(source, bias_current, learnable)
        values: dict[str, PerNode] = {"phi_offset": phi_offset, "bias_current": bias}
        self._add_parameters(values, learnable)

    @property
    def noisy_places(self) -> tuple[str, ...]:
        return noisy_places(self.source)

    def transform(self, phi: Tensor) -> Tensor:
        return self.noisy(phi, QUIET)

    def noisy(self, phi: Tensor, noise: LayerNoise) -> Tensor:
        bias = noise.add("bias_current", self.bias_current().expand_as(phi))
        current = bias if depends_on_state(self.source) else None
        return noise.add("g", source_function(self.source, phi + self.phi_offset(), current))


def _bias(kind: SourceKind, given: PerNode | None, learnable: Collection[str]) -> PerNode:
    """The bias current, or its default. ValueError if it is set for a source without one."""
    if not depends_on_state(kind) and (given is not None or "bias_current" in learnable):
        key = "learnable" if given is None else "bias_current"
        raise ValueError(f"{key}: a source of kind {kind} has no bias_current; remove it")
    return BIAS_CURRENT if given is None else given


def noisy_places(kind: SourceKind) -> tuple[str, ...]:
    """Noise sites of a layer with a source function; the bias only if the source depends on it."""
    return ("phi", "g", "s", *(("bias_current",) if depends_on_state(kind) else ()))
