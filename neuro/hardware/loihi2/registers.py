"""Range checks of neuron registers. All of them raise ExportError, which names the register."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError
from neuro.models.graph import Shape
from neuro.ops.fixed_point import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    DECAY_UNITY,
    GAMMA_UNITY,
    THRESHOLD_BITS,
)

Values = NDArray[np.int32]


def check_vth(layer: str, vth: int) -> None:
    """Check the threshold register."""
    _check(layer, "vth", vth, (0, (1 << THRESHOLD_BITS) - 1), "a coarser scale of the weights")


def check_decays(layer: str, shape: Shape, **decays: int | Values) -> None:
    """Check decay registers, given by name: one for all neurons, or one per channel `[C]`."""
    advice = "a shorter time constant or a longer time step"
    for register, value in decays.items():
        if isinstance(value, np.ndarray):
            _check_channels(layer, register, value, shape)
        _check(layer, register, value, (0, DECAY_UNITY - 1), advice)


def check_bias(layer: str, shape: Shape, mantissa: Values | None, exponent: int) -> None:
    """Check the mantissas `[C]` of a bias, if there is one, and their exponent."""
    if mantissa is not None:
        limit = 1 << (BIAS_MANTISSA_BITS - 1)
        advice = "a larger bias_exponent or a smaller bias"
        _check_channels(layer, "bias_mantissa", mantissa, shape)
        _check(layer, "bias_mantissa", mantissa, (-limit, limit - 1), advice)
    _check(layer, "bias_exponent", exponent, (0, (1 << BIAS_EXPONENT_BITS) - 1), "a smaller bias")


def check_gamma(layer: str, shape: Shape, gamma: Values | None) -> None:
    """Check gamma `[C]`, if there is one."""
    if gamma is not None:
        _check_channels(layer, "gamma", gamma, shape)
        _check(layer, "gamma", gamma, (0, GAMMA_UNITY), "a gate between 0 and 1")


def check_choice(layer: str, key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that a value is one of those allowed."""
    if value not in allowed:
        raise ExportError(
            f"layer '{layer}': {key} must be one of {', '.join(allowed)}; got {value!r}."
        )


def check_integers(what: str, value: object) -> None:
    """Check that a number or array is of integer type."""
    dtype = np.asarray(value).dtype
    if not np.issubdtype(dtype, np.integer):
        raise ExportError(f"{what} must be integers; got {dtype}.")


def _check_channels(layer: str, register: str, values: Values, shape: Shape) -> None:
    if values.shape != shape[:1]:
        raise ExportError(
            f"layer '{layer}': {register} must have the shape [{shape[0]}]; got "
            f"{list(values.shape)}."
        )


def _check(
    layer: str, register: str, value: int | Values, allowed: tuple[int, int], advice: str
) -> None:
    check_integers(f"layer '{layer}': {register}", value)
    (low, high), found = allowed, (int(np.min(value)), int(np.max(value)))
    if found[0] < low or found[1] > high:
        worst = found[0] if found[0] < low else found[1]
        raise ExportError(
            f"layer '{layer}': {register} is {worst:,}; its register holds {low:,} to {high:,}. "
            f"Use {advice}."
        )
