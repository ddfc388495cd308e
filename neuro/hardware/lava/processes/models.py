"""CPU models of the processes of `process.py`, bit-accurate with Lava's fixed-point models.

Imports are absolute because Lava executes this file outside of its package to find models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import PyDelayDenseModelBitAcc
from lava.proc.lif.models import PyLifResetModelBitAcc
from numpy.typing import NDArray

from neuro.hardware.lava.processes.process import (
    ClearedDelayDense,
    DualCompartmentLIF,
    LeakyAccumulator,
    LIFSubtract,
    Recorder,
    RecurrentLIF,
)
from neuro.hardware.loihi2.integer import (
    ACTIVATION_SHIFT,
    DECAY_BITS,
    DECAY_UNITY,
    GAMMA_BITS,
    GAMMA_UNITY,
    STATE_LIMIT,
)


@implements(proc=LIFSubtract, protocol=LoihiProtocol)
class PyLIFSubtractModelFixed(PyLifResetModelBitAcc):
    """Lava's bit-accurate LIF with another reset; resources and tags are inherited."""

    implements_process = None  # Lava does not allow to replace the parent's value

    def reset_voltage(self, spike_vector: NDArray[np.bool_]) -> None:
        """Subtract the smallest v that fires, after which v is at least 0."""
        self.v[spike_vector] -= self.effective_vth + 1


@implements(proc=RecurrentLIF, protocol=LoihiProtocol)
class PyRecurrentLIFModelFixed(PyLifResetModelBitAcc):
    """Lava's bit-accurate LIF, whose arithmetic also takes decays for each neuron."""

    implements_process = None  # as above

    a_recurrent: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    du: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=12)
    dv: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=12)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.reset = proc_params["reset"]
        self.own_input: NDArray[np.int32] | int = 0

    def run_spk(self) -> None:
        own_input = self.a_recurrent.recv()
        self.own_input = 0 if _is_start(self) else own_input
        super().run_spk()

    def subthr_dynamics(self, activation_in: NDArray[np.int32]) -> None:
        """Integrate the inputs from other populations and from this one."""
        super().subthr_dynamics(activation_in + self.own_input)

    def reset_voltage(self, spike_vector: NDArray[np.bool_]) -> None:
        """Reset v of neurons that have fired, as in the other models here."""
        cost = self.effective_vth + 1
        self.v[spike_vector] = self.v[spike_vector] - cost if self.reset == "subtract" else 0


@implements(proc=ClearedDelayDense, protocol=LoihiProtocol)
class PyClearedDelayDenseModelBitAcc(PyDelayDenseModelBitAcc):
    """Lava's bit-accurate synapses with delays, which drop waiting sums."""

    implements_process = None  # as above

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.reset_interval = proc_params["reset_interval"]
        self.reset_offset = proc_params["reset_offset"] % self.reset_interval

    def calc_act(self, s_in: NDArray[Any]) -> NDArray[np.int32]:
        """Sums by delay `[outputs, delays]`; called between sending and adding sums."""
        if _is_start(self):
            self.a_buff[:] = 0
        return super().calc_act(s_in)


@implements(proc=DualCompartmentLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDualCompartmentLIFModelFixed(PyLoihiProcessModel):
    """Dual-timescale neurons with 24-bit states; products are computed in 64 bits."""

    a_fast: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    a_slow: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    a_fast_recurrent: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    a_slow_recurrent: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    v_fast: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    v_slow: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    dv_fast: int = LavaPyType(int, np.uint16, precision=12)
    dv_slow: int = LavaPyType(int, np.uint16, precision=12)
    vth: int = LavaPyType(int, np.int32, precision=17)
    gamma: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=9)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.merge = proc_params["merge"]
        self.reset = proc_params["reset"]
        self.reset_interval = proc_params["reset_interval"]
        self.reset_offset = proc_params["reset_offset"] % self.reset_interval

    def run_spk(self) -> None:
        a_fast, a_slow = self.a_fast.recv(), self.a_slow.recv()
        own_fast, own_slow = self.a_fast_recurrent.recv(), self.a_slow_recurrent.recv()
        if _is_start(self):
            self.v_fast[:] = 0
            self.v_slow[:] = 0
        else:
            a_fast, a_slow = a_fast + own_fast, a_slow + own_slow
        self.v_fast[:] = _integrate(self.v_fast, a_fast, self.dv_fast)
        self.v_slow[:] = _integrate(self.v_slow, a_slow, self.dv_slow)

        effective_vth = self.vth << ACTIVATION_SHIFT  # aligned with v, as synaptic sums are
        if self.merge == "gate":
            # 9 + 24 bits; gamma + (256 - gamma) = 2^8, so the shift leaves a weighted mean
            merged = self.gamma * self.v_fast + (GAMMA_UNITY - self.gamma) * self.v_slow
            spikes = _shift_right(merged, GAMMA_BITS) > effective_vth
            fast_spikes = slow_spikes = spikes
        else:
            fast_spikes, slow_spikes = self.v_fast > effective_vth, self.v_slow > effective_vth
            spikes = fast_spikes | slow_spikes
        for v, fired in ((self.v_fast, fast_spikes), (self.v_slow, slow_spikes)):
            v[fired] = v[fired] - (effective_vth + 1) if self.reset == "subtract" else 0
        self.s_out.send(spikes)


@implements(proc=LeakyAccumulator, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLeakyAccumulatorModelFixed(PyLoihiProcessModel):
    """Leaky integrators with a 24-bit state."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=16)
    v_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    dv: int = LavaPyType(int, np.uint16, precision=12)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.reset_interval = proc_params["reset_interval"]
        self.reset_offset = proc_params["reset_offset"] % self.reset_interval

    def run_spk(self) -> None:
        a_in = self.a_in.recv()
        if _is_start(self):
            self.v[:] = 0
        self.v[:] = _leak_and_add(self.v, a_in << ACTIVATION_SHIFT, self.dv)
        self.v_out.send(self.v)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorderModel(PyLoihiProcessModel):
    """Writes to a memory-mapped file, opened in the operating system process of the model."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.rows = np.lib.format.open_memmap(proc_params["path"], mode="r+")

    def run_spk(self) -> None:
        self.rows[self.time_step - 1] = self.a_in.recv()


def _integrate(v: NDArray[np.int32], a_in: NDArray[np.int32], dv: int) -> NDArray[np.int64]:
    """Membrane potential of a compartment without current memory (du = 4095), as in Lava's LIF.

    Lava's wrap subtracts or adds 2^24 once, in 32 bits: equal to the hardware's for sums up to
    3 * 2^17 in magnitude, and to that of Lava's LIF for all sums.
    """
    current = a_in << ACTIVATION_SHIFT
    current = np.where(current > STATE_LIMIT, current - 2 * STATE_LIMIT, current)
    current = np.where(current <= -STATE_LIMIT, current + 2 * STATE_LIMIT, current)
    return _leak_and_add(v, current, dv)


def _leak_and_add(v: NDArray[np.int32], current: NDArray[np.int32], dv: int) -> NDArray[np.int64]:
    """Saturate(decay(v) + current)."""
    decayed = _shift_right(v.astype(np.int64) * (DECAY_UNITY - dv), DECAY_BITS)
    return np.clip(decayed + current, -STATE_LIMIT + 1, STATE_LIMIT - 1)


def _is_start(model: Any) -> bool:
    """Whether this is the first step of a sample, at which states are cleared."""
    return bool(model.time_step % model.reset_interval == model.reset_offset)


def _shift_right(x: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Shift the magnitude and keep the sign, which rounds toward zero."""
    return np.sign(x) * (np.abs(x) >> bits)
