"""Liquid time-constant networks, LTC (Hasani et al. 2021, AAAI 35, equations 1 to 3).

Membrane potentials v with conductance-based synapses from units and inputs j to unit i:

    c_i dv_i/dt = g_i (e_i - v_i) + sum_j w_ji sigmoid(sigma_ji (x_j - mu_ji)) (E_ji - v_i)

A step of elapsed time `times` is divided into `unfolds` semi-implicit (fused) Euler steps, in which
v_i on the right is that of the next moment, so that any step size is stable:

    v_i <- (c_i v_i + dt (g_i e_i + sum_j a_ji E_ji)) / (c_i + dt (g_i + sum_j a_ji))

with a_ji = w_ji sigmoid(...); no time, as in padding, leaves v as it is. Capacitances, conductances
and weights are kept positive by softplus.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.liquid import LiquidState
from neuro.layers.wiring import Wiring

EPSILON = 1e-8  # added to the denominator, as in the package ncps


class LTC(nn.Module):
    """An LTC network over a sequence: `[T, B, inputs]` to `[T, B, outputs]` of its wiring."""

    recurrent: Tensor
    sensory: Tensor

    def __init__(self, wiring: Wiring, unfolds: int = 6):
        super().__init__()
        self.unfolds = unfolds
        self.outputs = wiring.outputs
        inputs, units = wiring.inputs, wiring.units
        for prefix, shape, polarity in (
            ("", (units, units), wiring.recurrent),
            ("sensory_", (inputs, units), wiring.sensory),
        ):
            for name, low, high in (("w", 0.001, 1.0), ("sigma", 3.0, 8.0), ("mu", 0.3, 0.8)):
                self.register_parameter(prefix + name, _uniform(shape, low, high))
            self.register_parameter(f"{prefix}erev", nn.Parameter(polarity.clone()))
        self.gleak = _uniform((units,), 0.001, 1.0)
        self.vleak = _uniform((units,), -0.2, 0.2)
        self.cm = _uniform((units,), 0.4, 0.6)
        self.input_w = nn.Parameter(torch.ones(inputs))
        self.input_b = nn.Parameter(torch.zeros(inputs))
        self.output_w = nn.Parameter(torch.ones(wiring.outputs))
        self.output_b = nn.Parameter(torch.zeros(wiring.outputs))
        self.register_buffer("recurrent", wiring.recurrent.abs())
        self.register_buffer("sensory", wiring.sensory.abs())

    def initial_state(self, batch_size: int) -> LiquidState:
        """Zeros."""
        return LiquidState(self.cm.new_zeros(batch_size, len(self.cm)), None)

    def forward(
        self, x_TBF: Tensor, state: LiquidState | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, LiquidState]:
        """Outputs and the next state; arguments as of `CfC`."""
        if state is None:
            state = self.initial_state(x_TBF.shape[1])
        if times is not None and times.ndim == 2:
            times = times[..., None]
        v, outputs = state.h, []
        inputs = x_TBF * self.input_w + self.input_b
        capacity, leak = F.softplus(self.cm), F.softplus(self.gleak)
        weight = F.softplus(self.get_parameter("w")) * self.recurrent
        sensory_weight = F.softplus(self.get_parameter("sensory_w")) * self.sensory
        for t, x in enumerate(inputs):
            # inputs are constant during a step
            driven, conductance = self._synapses("sensory_", x, sensory_weight)
            driven = driven + leak * self.vleak
            conductance = conductance + leak
            dt = (1.0 if times is None else times[t]) / self.unfolds
            for _ in range(self.unfolds):
                reversal, total = self._synapses("", v, weight)
                total = conductance + total + EPSILON
                v = (capacity * v + dt * (driven + reversal)) / (capacity + dt * total)
            outputs.append(v[:, : self.outputs])
        y = torch.stack(outputs) * self.output_w + self.output_b
        return y, LiquidState(v, None)

    def _synapses(self, prefix: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over presynaptic `x` `[B, J]` of a E and of a, for each unit `[B, N]`."""
        sigma, mu, erev = (self.get_parameter(prefix + n) for n in ("sigma", "mu", "erev"))
        a = weight * torch.sigmoid(sigma * (x[..., None] - mu))
        return (a * erev).sum(1), a.sum(1)


def _uniform(shape: tuple[int, ...], low: float, high: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(low, high))
