"""Closed-form continuous-time networks, CfC (Hasani et al. 2022, Nature Machine Intelligence 4).

The equations are in `ops/cfc.py`. Modes: "default"; "no_gate" adds the two terms instead of
interpolating between them; "pure" is the closed form of a liquid time-constant neuron alone,

    h = A - A exp(-times (|w_tau| + |f|)) f,   f = W z + b.

With a wiring of several layers, each layer is a cell without backbone, whose weights of f1 and f2
are masked; the outputs are the states of its last layer. Mixed memory (Lechner and Hasani 2020,
arXiv 2006.04418) puts an LSTM cell in front, whose output replaces the state before each step.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.wiring import Wiring
from neuro.ops.cfc import Activation, activate, cfc

CfCMode = Literal["default", "no_gate", "pure"]


class LiquidState(NamedTuple):
    """States of the units and of the memory cells, `[B, H]` both; None without memory cells."""

    h: Tensor
    cell: Tensor | None


class CfCCell(nn.Module):
    """One layer of units over a sequence; the backbone has `layers` layers of `hidden` units each.

    mask `[F + H, H]`: which inputs and units reach which; None is all.
    """

    mask: Tensor | None

    def __init__(
        self,
        inputs: int,
        units: int,
        mode: CfCMode = "default",
        hidden: int = 128,
        layers: int = 1,
        activation: Activation = "lecun_tanh",
        mask: Tensor | None = None,
    ):
        super().__init__()
        self.inputs = inputs
        self.mode = mode
        self.activation: Activation = activation
        widths = [inputs + units, *[hidden] * layers]
        self.backbone = nn.ModuleList(
            nn.Linear(before, after) for before, after in pairwise(widths)
        )
        self.ff1 = nn.Linear(widths[-1], units)
        if mode == "pure":
            self.w_tau = nn.Parameter(torch.zeros(units))
            self.A = nn.Parameter(torch.ones(units))
        else:
            self.ff2 = nn.Linear(widths[-1], units)
            self.time_a = nn.Linear(widths[-1], units)
            self.time_b = nn.Linear(widths[-1], units)
        self.register_buffer("mask", None if mask is None else mask.T.clone())
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x_TBF: Tensor, h0_BH: Tensor, times_TBH: Tensor | None) -> Tensor:
        """States `[T, B, H]`."""
        if self.mode == "pure" or len(self.backbone) > 1:
            return self._by_step(x_TBF, h0_BH, times_TBH)
        parts: list[tuple[Tensor, Tensor]] = [
            (self._masked(f.weight), f.bias) for f in (self.ff1, self.ff2)
        ]
        a, b = self.time_a, self.time_b
        if times_TBH is None:
            parts.append((a.weight + b.weight, a.bias + b.bias))
        else:
            parts += [(a.weight, a.bias), (b.weight, b.bias)]
        weights, biases = (torch.cat(part) for part in zip(*parts, strict=True))
        gated = self.mode == "default"
        if not self.backbone:
            drive = F.linear(x_TBF, weights[:, : self.inputs], biases)
            recurrent = weights[:, self.inputs :]
            return cfc(drive, h0_BH, None, recurrent, None, times_TBH, gated=gated)
        first = self.backbone[0]
        assert isinstance(first, nn.Linear)
        drive = F.linear(x_TBF, first.weight[:, : self.inputs], first.bias)
        return cfc(
            drive,
            h0_BH,
            first.weight[:, self.inputs :],
            weights,
            biases,
            times_TBH,
            gated=gated,
            activation=self.activation,
        )

    def _masked(self, weight: Tensor) -> Tensor:
        return weight if self.mask is None else weight * self.mask

    def _by_step(self, x_TBF: Tensor, h: Tensor, times_TBH: Tensor | None) -> Tensor:
        states = []
        for t, x in enumerate(x_TBF):
            z = torch.cat((x, h), 1)
            for linear in self.backbone:
                z = activate(self.activation, linear(z))
            times = 1.0 if times_TBH is None else times_TBH[t]
            f = F.linear(z, self._masked(self.ff1.weight), self.ff1.bias)
            if self.mode == "pure":
                h = self.A - self.A * torch.exp(-times * (self.w_tau.abs() + f.abs())) * f
            else:
                f2 = F.linear(z, self._masked(self.ff2.weight), self.ff2.bias).tanh()
                gate = torch.sigmoid(self.time_a(z) * times + self.time_b(z))
                rest = 1 - gate if self.mode == "default" else 1
                h = f.tanh() * rest + gate * f2
            states.append(h)
        return torch.stack(states)


class MemoryCell(nn.Module):
    """LSTM cell with a forget bias of 1, as in the package ncps."""

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.input_map = nn.Linear(inputs, 4 * units)
        self.recurrent_map = nn.Linear(units, 4 * units, bias=False)
        nn.init.xavier_uniform_(self.input_map.weight)
        nn.init.uniform_(self.input_map.bias, -0.1, 0.1)
        nn.init.orthogonal_(self.recurrent_map.weight)

    def step(self, drive: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step from `drive` = input_map(x): output and cell state."""
        value, write, forget, read = (drive + self.recurrent_map(h)).chunk(4, 1)
        cell = cell * torch.sigmoid(forget + 1) + value.tanh() * write.sigmoid()
        return cell.tanh() * read.sigmoid(), cell


class CfC(nn.Module):
    """A CfC network over a sequence: `[T, B, inputs]` to `[T, B, outputs]`.

    wiring: None is one cell of `units` units, all of them outputs, with a backbone. A wiring
    replaces `units` and the backbone. Raises ValueError for a wiring of other inputs or units.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        mode: CfCMode = "default",
        wiring: Wiring | None = None,
        backbone_units: int = 128,
        backbone_layers: int = 1,
        activation: Activation = "lecun_tanh",
        mixed_memory: bool = False,
    ):
        super().__init__()
        if wiring is None:
            cells = [CfCCell(inputs, units, mode, backbone_units, backbone_layers, activation)]
            self.sizes = [units]
        else:
            if (wiring.inputs, wiring.units) != (inputs, units):
                raise ValueError(
                    f"wiring: got one of {wiring.inputs} inputs and {wiring.units} units; "
                    f"expected {inputs} and {units}"
                )
            cells, before = [], wiring.sensory
            for layer in wiring.layers:
                # within a layer all units are connected (as in ncps)
                units_of = slice(layer.start, layer.stop)
                mask = torch.cat((before[:, units_of].abs(), torch.ones(len(layer), len(layer))))
                cells.append(CfCCell(len(before), len(layer), mode, layers=0, mask=mask))
                before = wiring.recurrent[units_of]
            self.sizes = [len(layer) for layer in wiring.layers]
        self.cells = nn.ModuleList(cells)
        self.memory = MemoryCell(inputs, units) if mixed_memory else None
        self.outputs = self.sizes[-1]

    def initial_state(self, batch_size: int) -> LiquidState:
        """Zeros."""
        h = next(self.parameters()).new_zeros(batch_size, sum(self.sizes))
        return LiquidState(h, None if self.memory is None else h.clone())

    def forward(
        self, x_TBF: Tensor, state: LiquidState | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, LiquidState]:
        """Outputs and the next state.

        times: elapsed time before each step, `[T, B]`, or of each unit `[T, B, H]`; None is 1.
        """
        if state is None:
            state = self.initial_state(x_TBF.shape[1])
        if times is not None:
            times = times[..., None] if times.ndim == 2 else times
            times = times.expand(*x_TBF.shape[:2], sum(self.sizes))
        if self.memory is None:
            y, h = self._through_cells(x_TBF, state.h, times)
            return y, LiquidState(h, state.cell)
        h, cell, outputs = state.h, state.cell, []
        assert cell is not None
        for t, drive in enumerate(self.memory.input_map(x_TBF)):
            now = slice(t, t + 1)
            h, cell = self.memory.step(drive, h, cell)
            y, h = self._through_cells(x_TBF[now], h, None if times is None else times[now])
            outputs.append(y)
        return torch.cat(outputs), LiquidState(h, cell)

    def _through_cells(
        self, x_TBF: Tensor, h_BH: Tensor, times: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of the last layer, and the last states of all: each layer over all steps."""
        last, first = [], 0
        for cell, size, h in zip(self.cells, self.sizes, h_BH.split(self.sizes, 1), strict=True):
            own = None if times is None else times[..., first : first + size]
            x_TBF = cell(x_TBF, h, own)
            last.append(x_TBF[-1])
            first += size
        return x_TBF, torch.cat(last, 1)
