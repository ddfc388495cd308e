"""Rounding of the constants of neurons to the chip's registers, and the errors that it causes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neuro.errors import ExportError
from neuro.hardware.loihi2.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    Decay,
    Integers,
)
from neuro.models.graph import Array, TimeConstant
from neuro.ops.fixed_point import DECAY_UNITY, decay_register


@dataclass(frozen=True)
class SynapseLoss:
    """Quantization errors of the weights of one synapse node."""

    name: str
    range: tuple[float, float]  # smallest and largest weight
    step: float  # the real value of weight 1
    integers: tuple[int, int]  # smallest and largest
    clipped: int  # number of weights beyond the largest integer
    error: float  # ||w - rounded w|| / ||w||


@dataclass(frozen=True)
class NeuronLoss:
    """Quantization errors of the constants of one layer; its threshold is exact.

    `decays`: factors kept per step by the registers, each the smallest and the largest if they
    differ between neurons.
    """

    name: str
    threshold: float
    vth: int
    decays: tuple[float | tuple[float, float], ...]
    decay_error: float  # largest deviation from exp(-dt / tau)
    gamma_error: float  # largest deviation of gamma
    bias_error: float  # largest deviation of a bias, as a fraction of the threshold


def decay_registers(tau_ms: TimeConstant, dt_ms: float) -> Decay:
    """Decay registers of one time constant, or of one per channel."""
    if isinstance(tau_ms, np.ndarray):
        return np.array([decay_register(float(tau), dt_ms) for tau in tau_ms], np.int32)
    return decay_register(tau_ms, dt_ms)


def time_constants_ms(dv: Decay, dt_ms: float) -> TimeConstant:
    """The time constants of decay registers."""
    if isinstance(dv, np.ndarray):
        return np.array([time_constant_ms(int(register), dt_ms) for register in dv], np.float32)
    return time_constant_ms(dv, dt_ms)


def time_constant_ms(dv: int, dt_ms: float) -> float:
    """Time constant of a decay register; inf for 0, which does not decay."""
    return math.inf if dv == 0 else -dt_ms / math.log1p(-dv / DECAY_UNITY)


def bias_registers(name: str, bias: Array | None, vth: int) -> tuple[Integers | None, int, float]:
    """Mantissas, exponent and error (a fraction of the threshold) of biases in units of v.

    ExportError for a bias out of range; `name` is that of the layer.
    """
    if bias is None:
        return None, 0, 0.0
    # the smallest exponent for which the largest bias fits the mantissa: the finest resolution
    largest = (1 << (BIAS_MANTISSA_BITS - 1)) - 1
    exponent = max(0, math.ceil(math.log2(max(float(np.abs(bias).max()), 1.0) / largest)))
    if exponent >= 1 << BIAS_EXPONENT_BITS:
        most = largest << ((1 << BIAS_EXPONENT_BITS) - 1)
        raise ExportError(
            f"layer '{name}': a bias of {np.abs(bias).max():.0f} is larger than the {most} "
            "that 13 bits of mantissa and 3 of exponent hold. Make biases smaller compared "
            "with the threshold."
        )
    mantissa = np.rint(bias / (1 << exponent)).astype(np.int32)
    error = float(np.abs((mantissa << exponent) - bias).max()) / (vth << 6)
    return mantissa, exponent, error
