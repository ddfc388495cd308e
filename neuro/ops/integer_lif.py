"""The chip's neurons over a whole sequence, exact. `event_sums.py` has what drives them.

Shapes: T steps, B batch, N = any trailing shape (N features, or C channels times space).

Neurons do what Lava's do in fixed point (lava-nc 0.10, `PyLifModelBitAcc`). With a the sum of
synapses at a step, all shifts on magnitudes (rounding toward zero) and decays in units of 1/4096,

    u <- wrap(sgn(u) * ((|u| * (4096 - (du + 1))) >> 12) + (a << 6))
    v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + u + bias)
    s  = 1 if v > (vth << 6) else 0
    v <- v - ((vth << 6) + 1) * s  (reset "subtract")   or   0 where s = 1  (reset "zero")

`wrap` takes 2^24 from what is above 2^23 and adds it to what is at or below -2^23, once, so that
sums beyond 3 * 2^17 leave the 24 bits of u; `saturate` keeps v within +-(2^23 - 1). Lava's arrays
have 32 bits, in which everything wraps.

Dual-timescale neurons have a fast and a slow compartment with sums of their own, du = 4095 (u is
wrap(a << 6)) and no bias. Merge "gate": m = (gamma * v_fast + (256 - gamma) * v_slow) >> 8 in place
of v decides about a spike, which resets both: the subtraction may take one of them below the range
of v, until the next step. Merge "or": each spikes and resets by itself, the neuron emits when
either does.

Nothing here has a gradient. What a straight-through one needs is recorded on request: membranes
before the reset.
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
    u: Tensor  # [B, ...], int32
    v: Tensor  # after the reset


class IntegerLIFOutput(NamedTuple):
    spikes: Tensor  # [T, B, ...], 0 or 1, uint8
    state: IntegerLIFState  # after the last step
    changes: Tensor  # [B, ...], int32: steps after which v was another; the first one counts
    membrane: Tensor | None  # [T, B, ...], v before the reset, int32; None unless recorded


class IntegerDualLIFState(NamedTuple):
    v_fast: Tensor  # [B, ...], int32, after the reset
    v_slow: Tensor


class IntegerDualLIFOutput(NamedTuple):
    spikes: Tensor  # [T, B, ...], 0 or 1, uint8
    state: IntegerDualLIFState  # after the last step
    changes: Tensor  # [B, ...], as for LIF, both compartments together
    fast_membrane: Tensor | None  # [T, B, ...], before the reset, int32; None unless recorded
    slow_membrane: Tensor | None


def integer_lif(
    sums_TBN: Tensor,
    state: IntegerLIFState | None = None,
    *,
    dv: int,
    vth: int,
    du: int = MEMORYLESS,
    bias: Tensor | None = None,
    reset: Reset = "subtract",
    record_membrane: bool = False,
) -> IntegerLIFOutput:
    """Spikes, last state and (on request) membrane of LIF neurons driven by `sums_TBN`.

    sums_TBN: [T, B, ...], integers of 32 bits in any dtype that holds them, floats too. A tensor
        expanded along T (stride 0) is read, not copied.
    state: to start from; None is rest (zeros).
    du, dv: 0 .. 4095, the share of u and v lost per step in units of 1/4096 (du + 1 of u).
    vth: 0 .. 2^17 - 1.
    bias: added to v at every step, a scalar or one value per channel [C] (dimension 2); None is 0.

    The CPU has a compiled kernel; other devices run the reference. ValueError for a register out of
    its range or shapes that do not fit; the values inside tensors are not checked.
    """
    _check(sums_TBN, reset, vth, du=du, dv=dv)
    if sums_TBN.device.type != "cpu":
        return integer_lif_reference(
            sums_TBN, state, dv=dv, vth=vth, du=du, bias=bias, reset=reset,
            record_membrane=record_membrane,
        )  # fmt: skip
    shape = sums_TBN.shape
    u = _state_row("state.u", state and state.u, sums_TBN)
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
        u,
        v,
        spikes,
        membrane,
        changes,
        DECAY_UNITY - (du + 1),
        DECAY_UNITY - dv,
        vth << ACTIVATION_SHIFT,
        reset == "zero",
    )
    return IntegerLIFOutput(
        spikes.view(shape),
        IntegerLIFState(u.view(shape[1:]), v.view(shape[1:])),
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
    """Spikes, last state and (on request) membranes of dual-timescale neurons.

    fast_TBN, slow_TBN: sums of synapses [T, B, ...] of one shape, as in `integer_lif`.
    gamma: weight of the fast compartment in units of 1/256, 0 .. 256, a scalar or one value per
        channel [C] (dimension 2), for merge "gate", which needs it.

    Everything else, and what is checked, as in `integer_lif`.
    """
    _check(fast_TBN, reset, vth, dv_fast=dv_fast, dv_slow=dv_slow)
    check_same("the slow sums", slow_TBN, "the fast sums", fast_TBN.shape, fast_TBN)
    check_choice("merge", merge, get_args(Merge))
    if (gamma is not None) != (merge == "gate"):
        raise ValueError("gamma is given for merge 'gate', and for no other.")
    if fast_TBN.device.type != "cpu":
        return integer_dual_lif_reference(
            fast_TBN, slow_TBN, state, dv_fast=dv_fast, dv_slow=dv_slow, vth=vth, gamma=gamma,
            reset=reset, record_membranes=record_membranes,
        )  # fmt: skip
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
    """The gated membrane m that decides about a spike, of integers that broadcast (int64)."""
    gamma = torch.as_tensor(gamma).long()
    return _shift_right(gamma * fast.long() + (GAMMA_UNITY - gamma) * slow.long(), GAMMA_BITS)


def integer_lif_reference(
    sums_TBN: Tensor,
    state: IntegerLIFState | None = None,
    *,
    dv: int,
    vth: int,
    du: int = MEMORYLESS,
    bias: Tensor | None = None,
    reset: Reset = "subtract",
    record_membrane: bool = False,
) -> IntegerLIFOutput:
    """`integer_lif` step by step in 64 bits: its definition."""
    rest = torch.zeros_like(sums_TBN[0], dtype=torch.int64)
    u, v = (rest, rest) if state is None else (x.long() for x in state)
    offset = rest
    if bias is not None:
        offset = channel_row("bias", bias, sums_TBN, torch.int64).view(rest.shape)
    changes = torch.ones_like(rest)
    spikes, membrane = [], []
    for t, sums in enumerate(_integers(sums_TBN).unbind()):
        before = v
        injected = _low_bits(sums.long() << ACTIVATION_SHIFT, 32)
        decayed = _shift_right(u * (DECAY_UNITY - (du + 1)), DECAY_BITS)
        u = _wrap(_low_bits(decayed + injected, 32))
        decayed = _shift_right(v * (DECAY_UNITY - dv), DECAY_BITS)
        v = _saturate(_low_bits(decayed + u + offset, 32))
        s = v > vth << ACTIVATION_SHIFT
        spikes.append(s)
        membrane.append(v)
        v = _reset(v, s, vth, reset)
        if t > 0:
            changes += v != before
    return IntegerLIFOutput(
        torch.stack(spikes).to(torch.uint8),
        IntegerLIFState(u.int(), v.int()),
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
    rest = torch.zeros_like(fast_TBN[0], dtype=torch.int64)
    v_fast, v_slow = (rest, rest) if state is None else (x.long() for x in state)
    gate = None
    if gamma is not None:
        gate = channel_row("gamma", gamma, fast_TBN, torch.int64).view(rest.shape)
    changes = torch.full_like(rest, 2)
    spikes, membranes = [], []
    for t, sums in enumerate(zip(_integers(fast_TBN), _integers(slow_TBN), strict=True)):
        before = v_fast, v_slow
        u_fast, u_slow = (_wrap(_low_bits(x.long() << ACTIVATION_SHIFT, 32)) for x in sums)
        v_fast = _saturate(_shift_right(v_fast * (DECAY_UNITY - dv_fast), DECAY_BITS) + u_fast)
        v_slow = _saturate(_shift_right(v_slow * (DECAY_UNITY - dv_slow), DECAY_BITS) + u_slow)
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
    """Shifts the magnitude and keeps the sign: rounds toward zero."""
    return x.sign() * (x.abs() >> bits)


def _low_bits(x: Tensor, bits: int) -> Tensor:
    """The signed number that is left in a register of so many bits."""
    half = 1 << (bits - 1)
    return (x + half) % (2 * half) - half


def _wrap(u: Tensor) -> Tensor:
    return u - 2 * STATE_LIMIT * (u > STATE_LIMIT) + 2 * STATE_LIMIT * (u <= -STATE_LIMIT)


def _saturate(v: Tensor) -> Tensor:
    return v.clamp(1 - STATE_LIMIT, STATE_LIMIT - 1)


def _reset(v: Tensor, spikes: Tensor, vth: int, reset: Reset) -> Tensor:
    if reset == "subtract":
        return v - ((vth << ACTIVATION_SHIFT) + 1) * spikes
    return v.masked_fill(spikes, 0)


def _check(sums: Tensor, reset: str, vth: int, **decays: int) -> None:
    if sums.ndim < 2 or sums.numel() == 0 or sums.is_complex() or sums.dtype == torch.bool:
        raise ValueError(
            f"sums must be a sequence of integers [T, B, ...] with at least one element; got "
            f"{sums.dtype} of shape {list(sums.shape)}."
        )
    check_choice("reset", reset, get_args(Reset))
    for name, value in decays.items():
        if not 0 <= value < DECAY_UNITY:
            raise ValueError(f"{name} has {DECAY_BITS} bits, 0 .. {DECAY_UNITY - 1}; got {value}.")
    if not 0 <= vth < 1 << THRESHOLD_BITS:
        raise ValueError(
            f"vth has {THRESHOLD_BITS} bits, 0 .. {(1 << THRESHOLD_BITS) - 1}; got {vth}."
        )


def _integers(sums: Tensor) -> Tensor:
    """Floats that hold integers as integers; a product in float may miss one by its last bit."""
    return sums.detach().round().int() if sums.is_floating_point() else sums.int()


def _integer_rows(sums: Tensor) -> Tensor:
    return _integers(to_rows(sums.detach(), sums.dtype))


def _state_row(name: str, state: Tensor | None, sums: Tensor) -> Tensor:
    """A row [M] that the kernel may write to."""
    return initial_row(name, state, sums, torch.int32).clone()
