"""Spike-timing-dependent and rate-based plasticity as pairs of pre- and postsynaptic factors.

A rule maps activity `[T, B, ...]` before and behind a synapse to pairs (pre, post) of tensors of
these shapes; the change of the weights is the sum over pairs, steps and samples of post pre^T. A
layer evaluates such sums in the shape of its weights (`layers/synapse.py: correlate`), so that
rules work for dense and convolutional synapses alike.

Traces sum past spikes, x[t] = sum over k >= 1 of exp(-k dt / tau) s[t - k]: all pairs of spikes
interact (all-to-all), two spikes in the same step do not. Sequences begin without past spikes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.ops.scan import exponential_trace


class Factors(NamedTuple):
    """One summand of a change of weights, `post pre^T`; activity before and behind a synapse."""

    pre: Tensor
    post: Tensor


def past_trace(spikes_TB: Tensor, decay: float, window: int | None = None) -> Tensor:
    """x[t] = sum over k = 1 .. window of decay^k s[t - k], shaped like the spikes.

    window: steps; None is all.
    """
    trace = exponential_trace(spikes_TB.contiguous(), decay=decay)
    past = decay * _delayed(trace, 1)
    if window is None or window >= len(spikes_TB):
        return past
    return past - decay ** (window + 1) * _delayed(trace, window + 1)


def stdp(
    pre_TB: Tensor,
    post_TB: Tensor,
    *,
    a_plus: float,
    a_minus: float,
    decay_plus: float,
    decay_minus: float,
    window_plus: int | None = None,
    window_minus: int | None = None,
) -> Iterable[Factors]:
    """Pair-based STDP (Song, Miller and Abbott 2000, equation 1, all pairs).

    A pair with the postsynaptic spike d steps after the presynaptic one changes a weight by
    a_plus decay_plus^d, with the presynaptic spike d steps later by -a_minus decay_minus^d.
    Windows are in steps.
    """
    yield Factors(past_trace(pre_TB, decay_plus, window_plus), a_plus * post_TB)
    yield Factors(-a_minus * pre_TB, past_trace(post_TB, decay_minus, window_minus))


def triplet_stdp(
    pre_TB: Tensor,
    post_TB: Tensor,
    *,
    a2_plus: float,
    a2_minus: float,
    a3_plus: float,
    a3_minus: float,
    decay_plus: float,
    decay_minus: float,
    decay_x: float,
    decay_y: float,
) -> Iterable[Factors]:
    """Triplet STDP (Pfister and Gerstner 2006, equations 3 and 4).

    With traces r1 (decay_plus) and r2 (decay_x) of presynaptic spikes, o1 (decay_minus) and o2
    (decay_y) of postsynaptic ones, a weight changes by r1 (a2_plus + a3_plus o2) at a postsynaptic
    spike, and by -o1 (a2_minus + a3_minus r2) at a presynaptic one.
    """
    o2, r2 = past_trace(post_TB, decay_y), past_trace(pre_TB, decay_x)
    yield Factors(past_trace(pre_TB, decay_plus), post_TB * (a2_plus + a3_plus * o2))
    yield Factors(-pre_TB * (a2_minus + a3_minus * r2), past_trace(post_TB, decay_minus))


def homeostasis(
    pre_TB: Tensor, post_TB: Tensor, *, rate: float, target: float
) -> Iterable[Factors]:
    """Raise the inputs of neurons that fire less than `target` per step, lower those of others.

    A weight changes by rate (target - mean of post) (mean of pre), means over the sequence.
    """
    missing = target - post_TB.mean(0, keepdim=True)
    yield Factors(pre_TB.mean(0, keepdim=True), rate * missing)


def bcm(pre_TB: Tensor, post_TB: Tensor, *, rate: float, threshold: Tensor) -> Iterable[Factors]:
    """The rule of Bienenstock, Cooper and Munro (1982) on mean rates x and y over the sequence.

    A weight changes by rate x y (y - threshold); `threshold` `[C]` belongs to the postsynaptic
    neurons or channels and follows the mean of y^2.
    """
    y = post_TB.mean(0, keepdim=True)
    threshold = threshold.view(-1, *(1,) * (y.ndim - 3))
    yield Factors(pre_TB.mean(0, keepdim=True), rate * y * (y - threshold))


def decay_of(tau: float, dt: float) -> float:
    """Factor that a trace with time constant `tau` keeps in a step of `dt`, in the same unit."""
    return math.exp(-dt / tau)


def _delayed(x: Tensor, steps: int) -> Tensor:
    """`x` shifted by `steps` along the time, with zeros before."""
    return torch.cat((torch.zeros_like(x[:steps]), x[: len(x) - steps]))
