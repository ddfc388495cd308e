"""Spiking neurons with up to two variables, feed-forward or recurrent, over a whole sequence.

Shapes: T steps, B batch, N neurons. v is the membrane potential, w the second variable.

    w[t] = w_leak w[t-1] + w_from_v v[t-1] + w_from_s s[t-1] (+ x_w[t] + R_w s[t-1])
    v[t] = v_leak v[t-1] + v_from_w w*                       (+ x_v[t] + R_v s[t-1])
    s[t] = 1 if read_v v[t] + read_w w[t] >= theta else 0
    v[t] = v[t] - theta s[t]  (reset "subtract")   or   0 where s[t] = 1  (reset "zero")

with w* = w[t] (`symplectic`) or w[t-1] (forward Euler). x are input currents, R recurrent weights.
The constructors of `Dynamics` set the coefficients of the neurons of the literature; a coefficient
is one number, or one per neuron `[N]` that can be learned. Currents are given as increments of the
variable that they drive: a factor such as 1 - exp(-dt / tau) belongs to the weights.

As in `lif`, the reset is a constant for the gradient. All other paths of s[t-1] have their gradient
(the surrogate's): recurrent weights and adaptation.

Two forms: kernels for float32 on the CPU (`kernels/neurons.py` with recurrence, without it
`feedforward.py` and `feedforward_gradient.py`), and step by step, the definition. Saved for
backward are the inputs; with recurrence the input sums, the spikes, and the spikes as bits.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.events import source_sums
from neuro.ops.kernels.launch import chunks, launch_samples
from neuro.ops.lif import Reset, reset_membrane
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import (
    check_choice,
    check_same,
    check_sequence,
    compute_dtype,
    empty_gradient,
    gradient_row,
    is_constant,
    to_rows,
)
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate, spike

#: variables that input currents drive
Into = Literal["v", "w", "both"]
Coefficient = float | Tensor

_LANES = 16  # as in kernels/vectors.py, which is not imported here because it loads Numba
_FLAGS = {"v": 1, "w": 2, "both": 3}


class Dynamics(NamedTuple):
    """Coefficients of the equations above; the constructors are named after the neurons.

    `resets_w`: spikes reset w as they do v.
    """

    v_leak: Coefficient
    v_from_w: Coefficient = 0.0
    w_leak: Coefficient = 0.0
    w_from_v: Coefficient = 0.0
    w_from_s: Coefficient = 0.0
    read_v: Coefficient = 1.0
    read_w: Coefficient = 0.0
    into: Into = "v"
    symplectic: bool = True
    resets_w: bool = False

    @classmethod
    def leaky(cls, decay: Coefficient) -> Dynamics:
        """LIF neurons; with a learned decay, PLIF (Fang et al. 2021, ICCV)."""
        return cls(decay)

    @classmethod
    def current_based(cls, decay_current: Coefficient, decay: Coefficient) -> Dynamics:
        """CuBa LIF: w is the synaptic current, w[t] = decay_current w[t-1] + x, added to v."""
        return cls(decay, v_from_w=1.0, w_leak=decay_current, into="w")

    @classmethod
    def adaptive_threshold(
        cls, decay: Coefficient, decay_threshold: Coefficient, strength: Coefficient
    ) -> Dynamics:
        """ALIF (Bellec et al. 2018, NeurIPS): the threshold is theta + strength w[t].

        w[t] = decay_threshold w[t-1] + (1 - decay_threshold) s[t-1].
        """
        return cls(decay, w_leak=decay_threshold, w_from_s=1 - decay_threshold, read_w=-strength)

    @classmethod
    def adaptive(
        cls,
        decay: Coefficient,
        decay_adaptation: Coefficient,
        from_v: Coefficient,
        from_s: Coefficient,
        *,
        symplectic: bool,
    ) -> Dynamics:
        """AdLIF (Bittar and Garner 2022, Front. Neurosci. 16); SE-adLIF if `symplectic`.

        v[t] = decay v[t-1] + x - (1 - decay) w*, and w, the adaptation current, relaxes to
        from_v v + from_s s: w[t] = d w[t-1] + (1 - d) (from_v v[t-1] + from_s s[t-1]) with
        d = decay_adaptation. The symplectic Euler step uses the new w for v and is stable where
        forward Euler is not (Baronig et al. 2024, arXiv 2408.07517).
        """
        rest = 1 - decay_adaptation
        return cls(
            decay,
            v_from_w=decay - 1,
            w_leak=decay_adaptation,
            w_from_v=rest * from_v,
            w_from_s=rest * from_s,
            symplectic=symplectic,
        )

    @classmethod
    def dual(cls, decay_fast: Coefficient, decay_slow: Coefficient, gamma: Coefficient) -> Dynamics:
        """The neurons of `dual_lif` with merge "gate": v is the fast compartment, w the slow."""
        return cls(
            decay_fast,
            w_leak=decay_slow,
            read_v=gamma,
            read_w=1 - gamma,
            into="both",
            resets_w=True,
        )

    @property
    def learned(self) -> int:
        """Which groups of coefficients have gradients, as bits: of v, of w, of the spike."""
        groups = self[:2], self[2:5], self[5:7]
        needed = [any(isinstance(c, Tensor) and c.requires_grad for c in g) for g in groups]
        return sum(1 << i for i, group in enumerate(needed) if group)

    def stacked(self, units: int, like: Tensor) -> Tensor:
        """The coefficients as rows `[7, N]`."""
        rows = [
            c.to(like).expand(units) if isinstance(c, Tensor) else like.new_full((units,), c)
            for c in self[:7]
        ]
        return torch.stack(rows)


class NeuronState(NamedTuple):
    """v and w after the reset, and the spikes of the last step, `[B, N]` each."""

    v: Tensor
    w: Tensor
    s: Tensor


class NeuronOutput(NamedTuple):
    """Spikes, the state after the last step, and recorded traces."""

    spikes_TBN: Tensor  # 0 or 1, in the dtype of the current
    state: NeuronState
    membrane_TBN: Tensor | None  # v before the reset; None unless recorded


@has_plain_form
def neurons(
    current_TBN: Tensor,
    state: NeuronState | None = None,
    *,
    dynamics: Dynamics,
    threshold: float | Tensor,
    recurrent_MN: Tensor | None = None,
    slow_current_TBN: Tensor | None = None,
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_membrane: bool = False,
) -> NeuronOutput:
    """Simulate neurons driven by `current_TBN`.

    current_TBN: [T, B, N], the current into v or w (`dynamics.into`; v for "both"). A tensor that
        is expanded along T (stride 0) is not copied without recurrence.
    slow_current_TBN: the current into w if `dynamics.into` is "both".
    state: None is zeros.
    threshold: theta > 0, a scalar or one value per neuron [N]; without gradient. Values inside a
        tensor are not checked, because reading them would stall a GPU.
    recurrent_MN: weights from s[t-1], [target, source]; M = N, or 2 N for "both", into v first.

    Raises ValueError for wrong shapes or devices, and values out of range.
    """
    currents = _checked(current_TBN, slow_current_TBN, dynamics, threshold, reset)
    (steps, batch, units), dtype = current_TBN.shape, compute_dtype(current_TBN.dtype)
    if recurrent_MN is not None:
        shape = torch.Size((len(currents) * units, units))
        check_same("recurrent", recurrent_MN, "the input", shape, current_TBN)
    if state is not None:
        for name, value in state._asdict().items():
            check_same(f"state.{name}", value, "the input", current_TBN.shape[1:], current_TBN)
    zeros = current_TBN.new_zeros(batch, units, dtype=dtype)
    start = NeuronState(zeros, zeros, zeros) if state is None else state
    start = NeuronState(*(x.to(dtype) for x in start))
    theta = torch.as_tensor(threshold, dtype=dtype, device=current_TBN.device).expand(units)
    coefficients = dynamics.stacked(units, zeros)
    flags = dynamics.into, dynamics.symplectic, dynamics.resets_w, reset == "zero"
    weights = None if recurrent_MN is None else recurrent_MN.to(dtype)
    if dtype == torch.float32 and current_TBN.device.type == "cpu":
        rows = [to_rows(x, dtype).view(-1, batch, units) for x in currents]
        slow = rows[1] if len(rows) > 1 else None
        spikes, v, w, membrane = _Neurons.apply(
            rows[0],
            slow,
            coefficients,
            weights,
            *(x.contiguous() for x in start),
            theta.contiguous(),
            steps,
            *(flags, dynamics.learned, surrogate, record_membrane),
        )
    else:
        spikes, v, w, membrane = _stepwise(
            [x.to(dtype) for x in currents],
            *(start, coefficients, theta, weights, flags, surrogate),
        )
    return NeuronOutput(
        spikes.to(current_TBN.dtype),
        NeuronState(v, w, spikes[-1].clone()),  # a view would keep all steps in memory
        membrane if record_membrane else None,
    )


def _checked(
    current: Tensor,
    slow_current: Tensor | None,
    dynamics: Dynamics,
    threshold: float | Tensor,
    reset: str,
) -> list[Tensor]:
    """Check the arguments of `neurons`; the input currents, one or two."""
    check_sequence("current", current)
    if current.ndim != 3:
        raise ValueError(f"current must be [T, B, N]; got {list(current.shape)}.")
    check_choice("reset", reset, get_args(Reset))
    if (slow_current is not None) != (dynamics.into == "both"):
        raise ValueError(
            f"slow_current is for dynamics with into='both', which need it; got {dynamics.into!r}."
        )
    if isinstance(threshold, Tensor):
        if torch.is_grad_enabled() and threshold.requires_grad:
            raise ValueError("threshold has no gradient here; detach it.")
        if threshold.shape not in ((), current.shape[2:]):
            raise ValueError(
                f"threshold must be a scalar or have shape [{current.shape[2]}]; got "
                f"{list(threshold.shape)}."
            )
    elif not threshold > 0:
        raise ValueError(f"threshold must be above 0; got {threshold}.")
    for name, value in dynamics._asdict().items():
        if isinstance(value, Tensor) and value.shape not in ((), current.shape[2:]):
            raise ValueError(
                f"dynamics.{name} must be a number or have shape [{current.shape[2]}]; got "
                f"{list(value.shape)}."
            )
    if slow_current is None:
        return [current]
    check_same("slow_current", slow_current, "the input", current.shape, current)
    return [current, slow_current]


class _Neurons(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_slow: Tensor | None,
        coefficients: Tensor,
        weights: Tensor | None,
        v0: Tensor,
        w0: Tensor,
        s0: Tensor,
        theta: Tensor,
        steps: int,
        flags: tuple[Into, bool, bool, bool],
        learned: int,
        surrogate: Surrogate,
        record: bool,
    ) -> tuple[Tensor | None, ...]:
        into, symplectic, resets_w, zero = flags
        batch, units = v0.shape
        groups = 1 if x_slow is None else 2
        recurrent = weights is not None
        keep = recurrent and any(ctx.needs_input_grad)
        empty = x.new_empty(1, 1, 1)  # kernels always take arrays, or each None would be compiled
        spikes = x.new_empty(steps, batch, units)
        v, w = v0.clone(), w0.clone()
        membrane = torch.empty_like(spikes) if record else empty
        in_v, in_w = _placed(into, x, x_slow, empty)
        rest = _FLAGS[into], record, symplectic, zero, resets_w
        if weights is None:
            launch_samples(
                *("feedforward", "forward", batch, spikes.numel(), in_v, in_w),
                *(_with_threshold(coefficients, theta), v, w, s0, spikes, membrane, *rest),
            )
        else:
            words = torch.empty((steps, batch, -(-units // 64)), dtype=torch.int64)
            sums = x.new_empty(groups, *(spikes.shape if keep else (1, 1, 1)))
            launch_samples(
                *("neurons", "forward", batch, spikes.numel(), in_v, in_w, coefficients, theta),
                *(_table(weights, groups), v, w, s0, spikes, words.view(torch.uint64), sums),
                *(membrane, keep, *rest),
            )
        ctx.set_materialize_grads(False)  # None, not zeros of size T, for outputs without gradient
        initial = coefficients, v0, w0, s0, theta
        if weights is None:
            inputs = (x,) if x_slow is None else (x, x_slow)
            ctx.save_for_backward(*inputs, *initial, None, None, None)
        else:
            ctx.save_for_backward(*sums, *initial, weights, spikes, words)
        ctx.steps = steps
        ctx.constants = flags, learned, surrogate
        ctx.lengths = [len(x)] if x_slow is None else [len(x), len(x_slow)]
        return spikes, v, w, membrane if record else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_spikes: Tensor | None,
        grad_v: Tensor | None,
        grad_w: Tensor | None,
        grad_membrane: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        *inputs, coefficients, v0, w0, s0, theta, weights, spikes, words = ctx.saved_tensors
        (into, symplectic, resets_w, zero), learned, surrogate = ctx.constants
        batch, units = v0.shape
        empty = v0.new_empty(1, 1, 1)
        grads = [empty_gradient(v0.new_empty(n, batch, units)) for n in ctx.lengths]
        carries = gradient_row(grad_v, v0), gradient_row(grad_w, w0), torch.zeros_like(s0)
        elements = ctx.steps * batch * units
        parts = chunks(batch, elements, line=1)
        found = v0.new_zeros(len(parts), *coefficients.shape)

        def in_place(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
            return _placed(into, tensors[0], tensors[1] if len(tensors) > 1 else None, empty)

        # the recurrent weights' gradient needs that of every step, also for a constant input
        written = [
            grad if weights is None or len(grad) == ctx.steps else torch.empty_like(spikes)
            for grad in grads
        ]
        of_outputs = _rows_of(grad_spikes, v0), _rows_of(grad_membrane, v0)
        results = *carries, *in_place(written), found
        rest = grad_membrane is not None, symplectic, zero, resets_w
        derivative = surrogate.code, surrogate.slope
        of_weights = None
        if weights is None:
            launch_samples(
                *("feedforward_gradient", "backward", batch, elements, *in_place(inputs)),
                *(_with_threshold(coefficients, theta), v0, w0, s0, *of_outputs, *results),
                *(_FLAGS[into], learned, *rest, *derivative, ctx.steps, parts[0][1]),
            )
        else:
            launch_samples(
                *("neurons", "backward", batch, elements, *in_place(inputs), coefficients, theta),
                *(_panels(weights), v0, w0, s0, spikes, *of_outputs, *results),
                *(_FLAGS[into], learned, *rest, *derivative, parts[0][1]),
            )
        if weights is not None and ctx.needs_input_grad[3]:
            rows = [grad.flatten(0, 1) for grad in written]
            of_weights = torch.cat([source_sums(words.flatten(0, 1), units, g) for g in rows])
        of_x = [
            g if len(grad) == len(g) else g.sum(0, keepdim=True)
            for g, grad in zip(written, grads, strict=True)
        ]
        of_coefficients = found.sum(0) if ctx.needs_input_grad[2] else None
        slow = of_x[1] if len(of_x) > 1 else None
        return of_x[0], slow, of_coefficients, of_weights, *carries, *(None,) * 6


def _placed(into: Into, first: Tensor, second: Tensor | None, empty: Tensor) -> tuple[Any, Any]:
    """Tensors of the inputs into v and w; `empty` for one that does not exist."""
    if second is not None:
        return first, second
    return (empty, first) if into == "w" else (first, empty)


def _rows_of(grad: Tensor | None, like: Tensor) -> Tensor:
    """An incoming gradient [T, B, N], or [1, B, N] if it is constant in time."""
    if grad is None:
        return like.new_zeros(1, *like.shape)
    return (grad[:1] if is_constant(grad) else grad).contiguous()


def _with_threshold(coefficients: Tensor, theta: Tensor) -> Tensor:
    """The rows [8, N] of the kernels without recurrence."""
    return torch.cat((coefficients, theta[None]))


def _table(weights_MN: Tensor, groups: int) -> Tensor:
    """Recurrent weights by source, with rows padded to whole lanes for each group, flat."""
    units = weights_MN.shape[1]
    by_source = weights_MN.T.unflatten(1, (groups, units))
    return F.pad(by_source, (0, -units % _LANES)).reshape(-1)


def _panels(weights_MN: Tensor) -> Tensor:
    """Recurrent weights [M, N] in panels of 16 columns `[N / 16, M, 16]`, flat."""
    padded = F.pad(weights_MN, (0, -weights_MN.shape[1] % _LANES))
    return padded.unflatten(1, (-1, _LANES)).transpose(0, 1).reshape(-1)


def neurons_reference(
    current_TBN: Tensor,
    state: NeuronState | None = None,
    *,
    dynamics: Dynamics,
    threshold: float | Tensor,
    recurrent_MN: Tensor | None = None,
    slow_current_TBN: Tensor | None = None,
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_membrane: bool = False,
) -> NeuronOutput:
    """`neurons` step by step, differentiated by autograd: its definition."""
    currents = _checked(current_TBN, slow_current_TBN, dynamics, threshold, reset)
    dtype, units = compute_dtype(current_TBN.dtype), current_TBN.shape[2]
    zeros = current_TBN.new_zeros(current_TBN.shape[1:], dtype=dtype)
    start = NeuronState(zeros, zeros, zeros) if state is None else state
    flags = dynamics.into, dynamics.symplectic, dynamics.resets_w, reset == "zero"
    spikes, v, w, membrane = _stepwise(
        [x.to(dtype) for x in currents],
        start,
        dynamics.stacked(units, zeros),
        torch.as_tensor(threshold, dtype=dtype),
        recurrent_MN,
        flags,
        surrogate,
    )
    last = NeuronState(v, w, spikes[-1])
    return NeuronOutput(spikes.to(current_TBN.dtype), last, membrane if record_membrane else None)


def _stepwise(
    currents: list[Tensor],
    start: NeuronState,
    coefficients: Tensor,
    theta: Tensor,
    weights: Tensor | None,
    flags: tuple[Into, bool, bool, bool],
    surrogate: Surrogate,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes, the last v and w, and v before the reset, of all steps."""
    into, symplectic, resets_w, zero = flags
    reset: Reset = "zero" if zero else "subtract"
    v_leak, v_from_w, w_leak, w_from_v, w_from_s, read_v, read_w = coefficients
    v, w, s = start
    spikes, membrane = [], []
    for step in zip(*currents, strict=True):
        if weights is not None:
            sent = F.linear(s, weights).split(s.shape[1], 1)
            step = tuple(x + r for x, r in zip(step, sent, strict=True))
        in_v = step[0] if into != "w" else 0
        in_w = step[-1] if into != "v" else 0
        new_w = w_leak * w + w_from_v * v + w_from_s * s + in_w
        v = v_leak * v + v_from_w * (new_w if symplectic else w) + in_v
        s = spike(read_v * v + read_w * new_w - theta, surrogate)
        spikes.append(s)
        membrane.append(v)
        v = reset_membrane(v, s.detach(), theta, reset)
        w = reset_membrane(new_w, s.detach(), theta, reset) if resets_w else new_w
    return torch.stack(spikes), v, w, torch.stack(membrane)
