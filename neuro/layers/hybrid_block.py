"""Residual block of a spiking encoder, a liquid network and a Mamba block, combined in five ways.

With x the normalised input, s its spikes and c their converted values (without an encoder, s = c =
x), L the liquid network with its output projection, and M the Mamba block:

    liquid          y = L(c)
    mamba           y = M(W c)
    sequential      y = M(L(c))
    parallel        y = gate(L(s), M(W c))
    bidirectional   m = M(W c);   l = L(s; time constants * (0.5 + sigmoid(W_tau m)));
                    m' = M(W c; B and C shifted by W_s l);
                    y = (l + attention(l to m') + m' + attention(m' to l)) / 2

and y is added to the input. All are causal: m modulates the liquid network at the same step, which
modulates the second pass of M; the two passes have the same weights and states of their own.
Attention is causal, over a window of steps that the state holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Gt, Interval
from torch import Tensor, nn

from neuro.config.types import STRICT, Count
from neuro.layers.adaptive_gate import AdaptiveGate
from neuro.layers.attention import Reach, Window, WindowAttention, WindowState
from neuro.layers.liquid import CfC, CfCMode, LiquidState
from neuro.layers.ltc import LTC
from neuro.layers.mamba import MambaBlock, MambaState
from neuro.layers.spike_encoder import DEFAULT_CONVERSION, Conversion, EncoderState, SpikeEncoder
from neuro.layers.wiring import FullyConnected, WiringRule
from neuro.ops.cfc import Activation

Integration = Literal["sequential", "parallel", "bidirectional", "liquid", "mamba"]
DEFAULT_WIRING = FullyConnected()


@dataclass(frozen=True)
class Spiking:
    """Settings of the spiking encoder; see `layers/spike_encoder.py`."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    units: Count
    conversion: Conversion = DEFAULT_CONVERSION
    decay: Annotated[float, Interval(ge=0, le=1)] = 0.95
    threshold: Annotated[float, Gt(0)] = 1.0
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.2


class Liquid(ABC):
    """Settings of a liquid network: a component in a config."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    units: int

    @abstractmethod
    def make(self, inputs: int) -> CfC | LTC:
        """Create the network."""


@dataclass(frozen=True)
class ClosedForm(Liquid):
    """A CfC network; see `layers/liquid.py`. A wiring (None: one cell) replaces the backbone."""

    units: Annotated[int, Interval(ge=1, le=1_000_000)]
    mode: CfCMode = "default"
    wiring: WiringRule | None = None
    backbone_units: Count = 128
    backbone_layers: Annotated[int, Interval(ge=0, le=1000)] = 1
    activation: Activation = "lecun_tanh"
    mixed_memory: bool = False

    def __post_init__(self) -> None:
        if self.wiring is not None:
            for name in ("backbone_units", "backbone_layers", "activation"):
                if (value := getattr(self, name)) != getattr(type(self), name):
                    raise ValueError(f"{name}: got {value}, but with a wiring there is no backbone")

    def make(self, inputs: int) -> CfC:
        return CfC(
            inputs,
            self.units,
            self.mode,
            None if self.wiring is None else self.wiring.make(inputs, self.units),
            self.backbone_units,
            self.backbone_layers,
            self.activation,
            self.mixed_memory,
        )


@dataclass(frozen=True)
class TimeConstant(Liquid):
    """An LTC network; see `layers/ltc.py`."""

    units: Annotated[int, Interval(ge=1, le=20_000)]  # a wiring has a number for each pair
    wiring: WiringRule = DEFAULT_WIRING
    unfolds: Count = 6

    def make(self, inputs: int) -> LTC:
        return LTC(self.wiring.make(inputs, self.units), self.unfolds)


@dataclass(frozen=True)
class Mamba:
    """Settings of the Mamba block; see `layers/mamba.py`."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    state_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 16
    conv_steps: Count = 4
    expand: Count = 2


@dataclass(frozen=True)
class Exchange:
    """Settings of the gate (parallel) and of the attention (bidirectional)."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    gate_heads: Count = 4
    temperature: Annotated[float, Gt(0)] = 1.0
    attention_heads: Count = 4
    window: Window = 64


class HybridState(NamedTuple):
    """States of the parts, None for those that a mode does not have.

    `modulated`: of the second pass of the Mamba block. `windows`: of the attention from liquid to
    Mamba and back. `age` `[B]`: how many steps of the windows are filled.
    """

    encoder: EncoderState | None
    liquid: LiquidState | None
    mamba: MambaState | None
    modulated: MambaState | None
    windows: tuple[WindowState, WindowState] | None
    age: Tensor | None


class HybridBlock(nn.Module):
    """Map `[T, B, dim]` to `[T, B, dim]`; `spiking` None is no encoder.

    dropout: of y. Raises ValueError for heads that do not divide `dim`, and small wirings.
    """

    def __init__(
        self,
        dim: int,
        integration: Integration,
        spiking: Spiking | None,
        liquid: Liquid,
        mamba: Mamba,
        exchange: Exchange,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.integration = integration
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        width = dim if spiking is None else spiking.units
        self.encoder = None
        if spiking is not None:
            s = spiking
            self.encoder = SpikeEncoder(dim, s.units, s.conversion, s.decay, s.threshold, s.dropout)
        if integration != "mamba":
            self.liquid = liquid.make(width)
            self.liquid_out = nn.Linear(self.liquid.outputs, dim)
        if integration != "liquid":
            self.mamba = MambaBlock(dim, mamba.state_size, mamba.conv_steps, mamba.expand)
        if integration not in ("liquid", "sequential"):
            self.mamba_in = nn.Linear(width, dim)
        for name, heads, used in (
            ("gate_heads", exchange.gate_heads, integration == "parallel"),
            ("attention_heads", exchange.attention_heads, integration == "bidirectional"),
        ):
            if used and dim % heads:
                raise ValueError(f"exchange.{name}: got {heads}; expected a divisor of dim ({dim})")
        if integration == "parallel":
            self.gate = AdaptiveGate(dim, exchange.gate_heads, exchange.temperature)
        if integration == "bidirectional":
            self.time_scale = nn.Linear(dim, liquid.units)
            self.shift = nn.Linear(dim, 2 * mamba.state_size)
            heads, window = exchange.attention_heads, exchange.window
            self.to_mamba = WindowAttention(dim, dim, heads, window, rotary=False)
            self.to_liquid = WindowAttention(dim, dim, heads, window, rotary=False)

    def initial_state(self, batch_size: int) -> HybridState:
        mode, both = self.integration, self.integration == "bidirectional"
        windows = age = None
        if both:
            windows = (
                self.to_mamba.initial_state(batch_size),
                self.to_liquid.initial_state(batch_size),
            )
            age = torch.zeros(batch_size, dtype=torch.int64, device=self.norm.weight.device)
        return HybridState(
            None if self.encoder is None else self.encoder.initial_state(batch_size),
            None if mode == "mamba" else self.liquid.initial_state(batch_size),
            None if mode == "liquid" else self.mamba.initial_state(batch_size),
            self.mamba.initial_state(batch_size) if both else None,
            windows,
            age,
        )

    def forward(
        self,
        x_TBD: Tensor,
        state: HybridState | None = None,
        times_TB: Tensor | None = None,
        records: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, HybridState]:
        """Outputs `[T, B, dim]` and the next state.

        times_TB: elapsed time before each step, which the liquid network takes into account; None
        is 1. records: gets the encoder's `inputs`, `hidden_spikes` and `spikes`, `[T, B, ...]`.
        """
        if state is None:
            state = self.initial_state(x_TBD.shape[1])
        spikes = values = self.norm(x_TBD)
        if self.encoder is not None:
            encoded = self.encoder(values, state.encoder)
            if records is not None:
                records["inputs"] = values
                records["hidden_spikes"] = encoded.hidden_spikes
                records["spikes"] = encoded.spikes
            spikes, values = encoded.spikes, encoded.values
            state = state._replace(encoder=encoded.state)
        y, state = self._combined(spikes, values, state, times_TB)
        return x_TBD + F.dropout(y, self.dropout, self.training), state

    def _liquid(
        self, x: Tensor, state: HybridState, times: Tensor | None
    ) -> tuple[Tensor, HybridState]:
        y, liquid = self.liquid(x, state.liquid, times)
        return self.liquid_out(y), state._replace(liquid=liquid)

    def _mamba(self, x: Tensor, state: HybridState) -> tuple[Tensor, HybridState]:
        y, mamba = self.mamba(x, state.mamba)
        return y, state._replace(mamba=mamba)

    def _combined(
        self, spikes: Tensor, values: Tensor, state: HybridState, times: Tensor | None
    ) -> tuple[Tensor, HybridState]:
        """y of the module's docstring, and the next state."""
        match self.integration:
            case "liquid":
                return self._liquid(values, state, times)
            case "mamba":
                return self._mamba(self.mamba_in(values), state)
            case "sequential":
                return self._mamba(*self._liquid(values, state, times))
            case "parallel":
                first, state = self._liquid(spikes, state, times)
                second, state = self._mamba(self.mamba_in(values), state)
                return self.gate(first, second), state
            case "bidirectional":
                return self._bidirectional(spikes, values, state, times)

    def _bidirectional(
        self, spikes: Tensor, values: Tensor, state: HybridState, times: Tensor | None
    ) -> tuple[Tensor, HybridState]:
        windows, age = state.windows, state.age
        assert windows is not None and age is not None
        x = self.mamba_in(values)
        m, state = self._mamba(x, state)
        # a time constant that is twice as long is an elapsed time that is half as long
        scaled = 1 / (0.5 + self.time_scale(m).sigmoid())
        times = scaled if times is None else times[..., None] * scaled
        liquid, state = self._liquid(spikes, state, times)
        m, modulated = self.mamba(x, state.modulated, self.shift(liquid))
        # attention has the batch first
        first, second = liquid.transpose(0, 1), m.transpose(0, 1)
        steps = torch.zeros(first.shape[:2], dtype=torch.bool, device=x.device)
        reach = Reach.of(steps, age, self.to_mamba.window)
        from_mamba, kept_mamba = self.to_mamba(first, windows[0], reach, second)
        from_liquid, kept_liquid = self.to_liquid(second, windows[1], reach, first)
        y = (first + from_mamba + second + from_liquid).transpose(0, 1) / 2
        kept = kept_mamba, kept_liquid
        return y, state._replace(modulated=modulated, windows=kept, age=reach.age)
