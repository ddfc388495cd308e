"""Loihi 2's LIF neurons over a whole sequence, in exact integer arithmetic.

Shapes: T steps, B batch, N = any trailing shape (N features, or C channels times space). The
synaptic sums that drive the neurons are computed in `integer_synapses.py`.

Arithmetic is Lava's in fixed point (lava-nc 0.10, `PyLifModelBitAcc`). With a the synaptic sum, i
the current (u in Lava), v the membrane potential, shifts of magnitudes (rounding toward zero) and
decays in units of 1/4096,

    i <- wrap(sgn(i) * ((|i| * (4096 - (du + 1))) >> 12) + (a << 6))
    v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + i + bias)
    s  = 1 if v > (vth << 6) else 0
    v <- v - ((vth << 6) + 1) * s  (reset "subtract")   or   0 where s = 1  (reset "zero")

`wrap` subtracts 2^24 from values above 2^23 and adds it to values at or below -2^23, once only, so
sums beyond 3 * 2^17 leave the 24 bits of i. `saturate` limits v to +-(2^23 - 1). Lava's arrays have
32 bits, in which all other operations wrap.

Dual-timescale neurons have a fast and a slow compartment, each with its own sums, du = 4095 (so i
is wrap(a << 6)) and no bias. Under merge "gate", m = (gamma * v_fast + (256 - gamma) * v_slow) >> 8
is compared with the threshold in place of v, and a spike resets both compartments; reset "subtract"
may take one of them below the range of v until the next step. Under merge "or" each compartment
spikes and resets separately, and the neuron spikes if either does.

There are no gradients; membrane potentials before the reset, which a straight-through gradient
needs, can be recorded.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from neuro.ops.dual_lif import Merge
from neuro.ops.fixed_point import (
    ACTIVATION_SHIFT,
    DECAY_BITS,
    DECAY_UNITY,
    GAMMA_BITS,
    GAMMA_UNITY,
    MEMORYLESS,
    STATE_LIMIT,
    THRESHOLD_BITS,
)
from neuro.ops.kernels.launch import launch_integers
from neuro.ops.lif import Reset
from neuro.ops.sequence import channel_row, check_choice, check_same, initial_row, to_rows


class IntegerLIFState(NamedTuple):
    """Current and membrane potential (after the reset), `[B, ...]`, int32."""

    i: Tensor
    v: Tensor


class IntegerLIFOutput(NamedTuple):
    """Spikes, last state, counts of state changes, and the recorded membrane potential."""

    spikes: Tensor  # [T, B, ...], 0 or 1, uint8
    state: IntegerLIFState  # after the last step
    changes: Tensor  # [B, ...], int32: steps that changed v; the first step always counts
    membrane: Tensor | None  # [T, B, ...], v before the reset, int32; None unless recorded


class IntegerDualLIFState(NamedTuple):
    """Membrane potentials (after the reset), `[B, ...]`, int32."""

    v_fast: Tensor
    v_slow: Tensor


class IntegerDualLIFOutput(NamedTuple):
    """Spikes, last state, counts of state changes, and the recorded membrane potentials."""

    spikes: Tensor  # [T, B, ...], 0 or 1, uint8
    state: IntegerDualLIFState  # after the last step
    changes: Tensor  # [B, ...], int32: as for LIF, summed over both compartments
    fast_membrane: Tensor | None  # [T, B, ...], before the reset, int32; None unless recorded
    slow_membrane: Tensor | None


def integer_lif(
    sums_TBN: Tensor,
    state: IntegerLIFState | None = None,
    *,
    dv: int | Tensor,
    vth: int,
    du: int | Tensor = MEMORYLESS,
    bias: Tensor | None = None,
    reset: Reset = "subtract",
    record_membrane: bool = False,
) -> IntegerLIFOutput:
    """Simulate LIF neurons driven by the synaptic sums `sums_TBN`.

    sums_TBN: [T, B, ...], 32-bit integers in any integer or float dtype. A tensor expanded along T
        (stride 0) is not copied.
    state: initial state; None is zeros.
    du, dv: 0 .. 4095; per step, the current loses du + 1 and the membrane potential dv parts in
        4096. One value, or one per channel [C] (dimension 2).
    vth: threshold register, 0 .. 2^17 - 1.
    bias: added to v at every step, a scalar or one value per channel [C] (dimension 2); None is 0.
    record_membrane: return the membrane potential before the reset.

    The CPU runs a compiled kernel, other devices the reference. Raises ValueError for registers out
    of range and shapes that do not match; values inside tensors are not checked.
    """
    _check(sums_TBN, reset, vth, du=du, dv=dv)
    if sums_TBN.device.type != "cpu":
        return integer_lif_reference(
            sums_TBN,
            state,
            dv=dv,
            vth=vth,
            du=du,
            bias=bias,
            reset=reset,
            record_membrane=record_membrane,
        )
    shape = sums_TBN.shape
    i = _state_row("state.i", state and state.i, sums_TBN)
    v = _state_row("state.v", state and state.v, sums_TBN)
    spikes = torch.empty(shape[0], v.numel(), dtype=torch.uint8)
    membrane = torch.empty(spikes.shape, dtype=torch.int32) if record_membrane else None
    changes = torch.zeros_like(v)
    launch_integers(
        "integer_lif",
        v.numel(),
        spikes.numel(),
        _integer_rows(sums_TBN),
        None if bias is None else channel_row("bias", bias, sums_TBN, torch.int32),
        *(
            _kept_row(name, x, offset, sums_TBN)
            for name, x, offset in (("du", du, 1), ("dv", dv, 0))
        ),
        i,
        v,
        spikes,
        membrane,
        changes,
        0 if isinstance(du, Tensor) else DECAY_UNITY - (du + 1),
        0 if isinstance(dv, Tensor) else DECAY_UNITY - dv,
        vth << ACTIVATION_SHIFT,
        reset == "zero",
    )
    return IntegerLIFOutput(
        spikes.view(shape),
        IntegerLIFState(i.view(shape[1:]), v.view(shape[1:])),
        changes.view(shape[1:]),
        None if membrane is None else membrane.view(shape),
    )


def integer_dual_lif(
    fast_TBN: Tensor,
    slow_TBN: Tensor,
    state: IntegerDualLIFState | None = None,
    *,
    dv_fast: int,
    dv_slow: int,
    vth: int,
    gamma: Tensor | None = None,
    merge: Merge = "gate",
    reset: Reset = "subtract",
    record_membranes: bool = False,
) -> IntegerDualLIFOutput:
    """Simulate dual-timescale neurons driven by two synaptic sums.

    fast_TBN, slow_TBN: synaptic sums [T, B, ...] of one shape, as in `integer_lif`.
    gamma: weight of the fast compartment in units of 1/256, 0 .. 256, a scalar or one value per
        channel [C] (dimension 2); required by merge "gate" and not allowed for "or".

    Other arguments and errors are those of `integer_lif`.
    """
    _check(fast_TBN, reset, vth, dv_fast=dv_fast, dv_slow=dv_slow)
    check_same("the slow sums", slow_TBN, "the fast sums", fast_TBN.shape, fast_TBN)
    check_choice("merge", merge, get_args(Merge))
    if (gamma is not None) != (merge == "gate"):
        raise ValueError("merge 'gate' needs gamma, merge 'or' takes none.")
    if fast_TBN.device.type != "cpu":
        return integer_dual_lif_reference(
            fast_TBN,
            slow_TBN,
            state,
            dv_fast=dv_fast,
            dv_slow=dv_slow,
            vth=vth,
            gamma=gamma,
            reset=reset,
            record_membranes=record_membranes,
        )
    shape = fast_TBN.shape
    v_fast = _state_row("state.v_fast", state and state.v_fast, fast_TBN)
    v_slow = _state_row("state.v_slow", state and state.v_slow, fast_TBN)
    spikes = torch.empty(shape[0], v_fast.numel(), dtype=torch.uint8)
    fast_membrane, slow_membrane = (
        torch.empty(spikes.shape, dtype=torch.int32) if record_membranes else None for _ in range(2)
    )
    changes = torch.zeros_like(v_fast)
    launch_integers(
        "integer_dual_lif",
        v_fast.numel(),
        spikes.numel(),
        _integer_rows(fast_TBN),
        _integer_rows(slow_TBN),
        None if gamma is None else channel_row("gamma", gamma, fast_TBN, torch.int32),
        v_fast,
        v_slow,
        spikes,
        fast_membrane,
        slow_membrane,
        changes,
        DECAY_UNITY - dv_fast,
        DECAY_UNITY - dv_slow,
        vth << ACTIVATION_SHIFT,
        reset == "zero",
    )
    return IntegerDualLIFOutput(
        spikes.view(shape),
        IntegerDualLIFState(v_fast.view(shape[1:]), v_slow.view(shape[1:])),
        changes.view(shape[1:]),
        None if fast_membrane is None else fast_membrane.view(shape),
        None if slow_membrane is None else slow_membrane.view(shape),
    )


def merge_membranes(fast: Tensor, slow: Tensor, gamma: Tensor | int) -> Tensor:
    """Gated membrane potential m of integers that broadcast, int64."""
    gamma = torch.as_tensor(gamma).long()
    return _shift_right(gamma * fast.long() + (GAMMA_UNITY - gamma) * slow.long(), GAMMA_BITS)


def integer_lif_reference(
    sums_TBN: Tensor,
    state: IntegerLIFState | None = None,
    *,
    dv: int | Tensor,
    vth: int,
    du: int | Tensor = MEMORYLESS,
    bias: Tensor | None = None,
    reset: Reset = "subtract",
    record_membrane: bool = False,
) -> IntegerLIFOutput:
    """`integer_lif` step by step in 64 bits: its definition."""
    zeros = torch.zeros_like(sums_TBN[0], dtype=torch.int64)
    i, v = (zeros, zeros) if state is None else (x.long() for x in state)
    offset = zeros
    if bias is not None:
        offset = channel_row("bias", bias, sums_TBN, torch.int64).view(zeros.shape)
    kept_i, kept_v = (
        torch.as_tensor(DECAY_UNITY - offset)
        - channel_row(name, torch.as_tensor(x), sums_TBN, torch.int64).view(zeros.shape)
        for name, x, offset in (("du", du, 1), ("dv", dv, 0))
    )
    changes = torch.ones_like(zeros)
    spikes, membrane = [], []
    for t, sums in enumerate(_integers(sums_TBN).unbind()):
        before = v
        injected = _low_bits(sums.long() << ACTIVATION_SHIFT, 32)
        decayed = _shift_right(i * kept_i, DECAY_BITS)
        i = _wrap(_low_bits(decayed + injected, 32))
        decayed = _shift_right(v * kept_v, DECAY_BITS)
        v = _saturate(_low_bits(decayed + i + offset, 32))
        s = v > vth << ACTIVATION_SHIFT
        spikes.append(s)
        membrane.append(v)
        v = _reset(v, s, vth, reset)
        if t > 0:
            changes += v != before
    return IntegerLIFOutput(
        torch.stack(spikes).to(torch.uint8),
        IntegerLIFState(i.int(), v.int()),
        changes.int(),
        torch.stack(membrane).int() if record_membrane else None,
    )


def integer_dual_lif_reference(
    fast_TBN: Tensor,
    slow_TBN: Tensor,
    state: IntegerDualLIFState | None = None,
    *,
    dv_fast: int,
    dv_slow: int,
    vth: int,
    gamma: Tensor | None = None,
    merge: Merge = "gate",
    reset: Reset = "subtract",
    record_membranes: bool = False,
) -> IntegerDualLIFOutput:
    """`integer_dual_lif` step by step in 64 bits: its definition."""
    zeros = torch.zeros_like(fast_TBN[0], dtype=torch.int64)
    v_fast, v_slow = (zeros, zeros) if state is None else (x.long() for x in state)
    gate = None
    if gamma is not None:
        gate = channel_row("gamma", gamma, fast_TBN, torch.int64).view(zeros.shape)
    changes = torch.full_like(zeros, 2)
    spikes, membranes = [], []
    for t, sums in enumerate(zip(_integers(fast_TBN), _integers(slow_TBN), strict=True)):
        before = v_fast, v_slow
        i_fast, i_slow = (_wrap(_low_bits(x.long() << ACTIVATION_SHIFT, 32)) for x in sums)
        v_fast = _saturate(_shift_right(v_fast * (DECAY_UNITY - dv_fast), DECAY_BITS) + i_fast)
        v_slow = _saturate(_shift_right(v_slow * (DECAY_UNITY - dv_slow), DECAY_BITS) + i_slow)
        if gate is not None:
            s = merge_membranes(v_fast, v_slow, gate) > vth << ACTIVATION_SHIFT
            s_fast = s_slow = s
        else:
            s_fast, s_slow = (v > vth << ACTIVATION_SHIFT for v in (v_fast, v_slow))
            s = s_fast | s_slow
        spikes.append(s)
        membranes.append(torch.stack((v_fast, v_slow)))
        v_fast, v_slow = _reset(v_fast, s_fast, vth, reset), _reset(v_slow, s_slow, vth, reset)
        if t > 0:
            changes += (v_fast != before[0]).long() + (v_slow != before[1]).long()
    fast_membrane, slow_membrane = torch.stack(membranes, dim=1).int()
    return IntegerDualLIFOutput(
        torch.stack(spikes).to(torch.uint8),
        IntegerDualLIFState(v_fast.int(), v_slow.int()),
        changes.int(),
        fast_membrane if record_membranes else None,
        slow_membrane if record_membranes else None,
    )


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift the magnitude and keep the sign, which rounds toward zero."""
    return x.sign() * (x.abs() >> bits)


def _low_bits(x: Tensor, bits: int) -> Tensor:
    """The signed value of the lowest `bits` bits."""
    half = 1 << (bits - 1)
    return (x + half) % (2 * half) - half


def _wrap(i: Tensor) -> Tensor:
    """Lava's wrap at 24 bits, which adds or subtracts 2^24 once."""
    return i - 2 * STATE_LIMIT * (i > STATE_LIMIT) + 2 * STATE_LIMIT * (i <= -STATE_LIMIT)


def _saturate(v: Tensor) -> Tensor:
    return v.clamp(1 - STATE_LIMIT, STATE_LIMIT - 1)


def _reset(v: Tensor, spikes: Tensor, vth: int, reset: Reset) -> Tensor:
    if reset == "subtract":
        return v - ((vth << ACTIVATION_SHIFT) + 1) * spikes
    return v.masked_fill(spikes, 0)


def _check(sums: Tensor, reset: str, vth: int, **decays: int | Tensor) -> None:
    if sums.ndim < 2 or sums.numel() == 0 or sums.is_complex() or sums.dtype == torch.bool:
        raise ValueError(
            f"sums must be a sequence of integers [T, B, ...] with at least one element; got "
            f"{sums.dtype} of shape {list(sums.shape)}."
        )
    check_choice("reset", reset, get_args(Reset))
    for name, value in decays.items():
        if not isinstance(value, Tensor) and not 0 <= value < DECAY_UNITY:
            raise ValueError(f"{name} has {DECAY_BITS} bits, 0 .. {DECAY_UNITY - 1}; got {value}.")
    if not 0 <= vth < 1 << THRESHOLD_BITS:
        raise ValueError(
            f"vth has {THRESHOLD_BITS} bits, 0 .. {(1 << THRESHOLD_BITS) - 1}; got {vth}."
        )


def _integers(sums: Tensor) -> Tensor:
    """Sums as int32. Floats are rounded: a float product may miss an integer by its last bit."""
    return sums.detach().round().int() if sums.is_floating_point() else sums.int()


def _integer_rows(sums: Tensor) -> Tensor:
    return _integers(to_rows(sums.detach(), sums.dtype))


def _kept_row(name: str, decay: int | Tensor, offset: int, sums: Tensor) -> Tensor | None:
    """Parts in 4096 kept per step by each feature, [M]; None if all have the same."""
    if not isinstance(decay, Tensor):
        return None
    return DECAY_UNITY - offset - channel_row(name, decay, sums, torch.int32)


def _state_row(name: str, state: Tensor | None, sums: Tensor) -> Tensor:
    """A copy of the state as a row [M], which the kernel updates in place."""
    return initial_row(name, state, sums, torch.int32).clone()
