"""Lava processes: ports, registers and parameters; their implementations are in `models.py`.

Populations have Lava's shapes: a map is [x, y, channels], with x its rows and y its columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.proc.dense.process import DelayDense
from lava.proc.lif.process import LIFReset
from numpy.typing import NDArray


class LIFSubtract(LIFReset):
    """Lava's `LIFReset` with a reset that subtracts (vth << 6) + 1 from v."""


class RecurrentLIF(LIFReset):
    """Lava's `LIFReset` with decays for each neuron, either reset, and an input from itself.

    `a_recurrent` receives spikes of the population by way of synapses; where states are cleared,
    those on the way are dropped. It may be left unconnected. `du` and `dv` broadcast to `shape`,
    which Lava's LIF has one of for the population.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        du: NDArray[np.int32] | int,
        dv: NDArray[np.int32] | int,
        reset: Literal["subtract", "zero"],
        **options: Any,
    ):
        super().__init__(shape=shape, **options)
        self.proc_params["reset"] = reset
        self.a_recurrent = InPort(shape=shape)
        self.du = Var(shape=shape, init=np.broadcast_to(du, shape))
        self.dv = Var(shape=shape, init=np.broadcast_to(dv, shape))


class ClearedDelayDense(DelayDense):
    """Lava's `DelayDense` that drops waiting sums where a sample of its source begins.

    That is where the time step modulo `reset_interval` is `reset_offset`.
    """


class DualCompartmentLIF(AbstractProcess):
    """Neurons with a fast and a slow compartment, each with its own synapses and decay.

    At each step both compartments compute, with shifts of magnitudes and `wrap` and `saturate` of
    Lava's LIF,

        v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + wrap(a << 6))

    Merge "gate" compares (gamma * v_fast + (256 - gamma) * v_slow) >> 8 with vth << 6, and a spike
    resets both compartments. Under merge "or" each compartment spikes and resets separately, and
    the neuron spikes if either does. States are cleared where the time step modulo `reset_interval`
    is `reset_offset`, as in Lava's `LIFReset`. The inputs `a_fast_recurrent` and `a_slow_recurrent`
    are those of `RecurrentLIF`, added to a.

    `shape` is that of the population; `gamma` broadcasts to it and is unused by merge "or".
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        dv_fast: int,
        dv_slow: int,
        vth: int,
        gamma: NDArray[np.int32] | int,
        merge: Literal["gate", "or"],
        reset: Literal["subtract", "zero"],
        reset_interval: int,
        reset_offset: int,
        name: str | None = None,
    ):
        super().__init__(
            merge=merge,
            reset=reset,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
            name=name,
        )
        self.a_fast = InPort(shape=shape)
        self.a_slow = InPort(shape=shape)
        self.a_fast_recurrent = InPort(shape=shape)
        self.a_slow_recurrent = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.v_fast = Var(shape=shape, init=0)
        self.v_slow = Var(shape=shape, init=0)
        self.dv_fast = Var(shape=(1,), init=dv_fast)
        self.dv_slow = Var(shape=(1,), init=dv_slow)
        self.vth = Var(shape=(1,), init=vth)
        self.gamma = Var(shape=shape, init=gamma)


class LeakyAccumulator(AbstractProcess):
    """Integrators without spikes, v <- saturate(decay(v) + (a << 6)), that send v at every step.

    Decay and clearing of v are those of `DualCompartmentLIF`, without the wrap of the input.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        dv: int,
        reset_interval: int,
        reset_offset: int,
        name: str | None = None,
    ):
        super().__init__(reset_interval=reset_interval, reset_offset=reset_offset, name=name)
        self.a_in = InPort(shape=shape)
        self.v_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)
        self.dv = Var(shape=(1,), init=dv)


class Recorder(AbstractProcess):
    """Writes its input at each step to a row of the .npy file at `path`, `[steps, *shape]`.

    Lava's own sink keeps the data in its process and transfers it number by number, about 25 us
    each, which for the spikes of a whole network takes longer than the run.
    """

    def __init__(self, *, shape: tuple[int, ...], path: Path, name: str | None = None):
        super().__init__(path=path, name=name)
        self.a_in = InPort(shape=shape)
