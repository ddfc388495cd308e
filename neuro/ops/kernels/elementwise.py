"""Elementwise recurrences: forward step by step, backward for all steps at once.

    x[t] = f(input[t], x[t-1], parameters),   x a tuple of tensors [B, N], f elementwise in B and N

Forward builds no autograd graph and saves the input and the states. With the states known, f at all
steps is one call over [T, B, N]. Its Jacobian in x is a small matrix for each element, computed by
one backward pass per part of x. The gradient of the states then is a linear recurrence backward in
time; one more backward pass gives the gradients of input and parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: f(input, states, parameters) -> new states; all broadcast, with or without a time dimension
Step: TypeAlias = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]


def run_elementwise(
    step: Step, inputs_TBN: Tensor, states: tuple[Tensor, ...], parameters: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run the recurrence of `step`: each part of x after every step, and after the last one.

    inputs_TBN: [T, B, N]. states: initial parts of x, [B, N] each. parameters: tensors that
    broadcast with [T, B, N]. Gradients reach all of them.
    """
    outputs = _Elementwise.apply(step, len(states), inputs_TBN, *states, *parameters)
    return outputs[: len(states)], outputs[len(states) :]


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: Step, parts: int, inputs: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        states, parameters = rest[:parts], rest[parts:]
        traces = tuple(state.new_empty(len(inputs), *state.shape) for state in states)
        for t, now in enumerate(inputs):
            states = step(now, states, parameters)
            for trace, state in zip(traces, states, strict=True):
                trace[t] = state
        ctx.save_for_backward(inputs, *rest, *traces)
        ctx.set_materialize_grads(False)
        ctx.step, ctx.parts = step, parts
        return *traces, *states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = ctx.parts
        inputs, *rest = ctx.saved_tensors
        first, parameters, traces = rest[:parts], rest[parts:-parts], rest[-parts:]
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (inputs, *parameters)]
            before = tuple(
                torch.cat((state[None], trace[:-1])).requires_grad_()
                for state, trace in zip(first, traces, strict=True)
            )
            after = ctx.step(leaves[0], before, tuple(leaves[1:]))
        # f is elementwise, so a backward pass from ones gives dx_part/dx_before for each element.
        jacobian = [
            torch.autograd.grad(
                part, before, torch.ones_like(part), retain_graph=True, materialize_grads=True
            )
            for part in after
        ]
        totals = tuple(torch.zeros_like(trace) for trace in traces)
        for total, grad in zip(totals, grads[:parts], strict=True):
            if grad is not None:
                total += grad
        carries = list(grads[parts:])
        for t in range(len(inputs) - 1, -1, -1):
            for total, carry in zip(totals, carries, strict=True):
                if carry is not None:
                    total[t] += carry
            # dL/dx[t-1] = J[t]^T dL/dx[t], with one small matrix J per element
            carries = [_product(jacobian, totals, t, part) for part in range(parts)]
        found = torch.autograd.grad(after, leaves, totals, allow_unused=True)
        return None, None, found[0], *carries, *found[1:]


def _product(
    jacobian: list[tuple[Tensor, ...]], totals: tuple[Tensor, ...], t: int, part: int
) -> Tensor:
    """Gradient of one part of x before step t, from the gradients of all parts after it."""
    summed = jacobian[0][part][t] * totals[0][t]
    for row, total in zip(jacobian[1:], totals[1:], strict=True):
        summed.addcmul_(row[part][t], total[t])
    return summed
