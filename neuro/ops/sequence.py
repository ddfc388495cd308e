"""Conversion of sequences and parameters to the layout of the kernels, with checks of arguments.

Callers have time-major sequences [T, B, ...]; kernels take rows [T, M], where M is the number of
elements of one step. A sequence that is constant in time (expanded, stride 0 along T) becomes a
single row [1, M] that the kernel reads at every step, so no memory of size T is allocated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of states and arithmetic: float64 for float64, float32 for all narrower floats."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_sequence(name: str, sequence: Tensor) -> None:
    """Check for a floating-point tensor [T, B, ...] that is not empty. ValueError otherwise."""
    if sequence.ndim < 2 or not sequence.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point sequence [T, B, ...]; "
            f"got {sequence.dtype} of shape {list(sequence.shape)}."
        )
    if sequence.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {list(sequence.shape)}.")


def check_same(name: str, tensor: Tensor, other_name: str, shape: torch.Size, like: Tensor) -> None:
    """Check the shape of a tensor and that it is on the device of `like`. ValueError otherwise.

    `other_name` says, in messages, what the shape and the device come from.
    """
    if tensor.shape != shape:
        raise ValueError(
            f"{name} must have shape {list(shape)} to fit {other_name}; got {list(tensor.shape)}."
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device} but {other_name} is on {like.device}.")


def check_decay(name: str, decay: float) -> float:
    """Check a decay factor exp(-dt / tau), and return it as a float. ValueError outside [0, 1]."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"{name} is the factor kept per step and lies in [0, 1]; got {decay}.")
    return float(decay)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that `value` is one of `choices`. ValueError otherwise."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def to_rows(sequence: Tensor, dtype: torch.dtype) -> Tensor:
    """[T, B, ...] as contiguous rows [T, M], or [1, M] when constant in time; differentiable."""
    if is_constant(sequence):
        sequence = _OneStep.apply(sequence)
    # reshape, to and contiguous copy nothing if the sequence is contiguous and has this dtype
    return sequence.reshape(sequence.shape[0], -1).to(dtype).contiguous()


def initial_row(name: str, state: Tensor | None, sequence: Tensor, dtype: torch.dtype) -> Tensor:
    """An initial state [B, ...] as one row [M]; None is zeros."""
    if state is None:
        return sequence.new_zeros(sequence[0].numel(), dtype=dtype)
    check_same(name, state, "the input", sequence.shape[1:], sequence)
    return state.reshape(-1).to(dtype).contiguous()


def channel_row(name: str, value: float | Tensor, sequence: Tensor, dtype: torch.dtype) -> Tensor:
    """A scalar, or a value per channel [C] (dimension 2 of [T, B, C, ...]), as one row [M]."""
    step_shape = sequence.shape[1:]
    if not isinstance(value, Tensor):
        return sequence.new_full((step_shape.numel(),), float(value), dtype=dtype)
    if value.device != sequence.device:
        raise ValueError(f"{name} is on {value.device} but the input is on {sequence.device}.")
    if value.ndim == 1 and sequence.ndim > 2 and value.shape[0] == sequence.shape[2]:
        value = value.view(-1, *(1,) * (sequence.ndim - 3))  # [C, 1, ...] broadcasts over space
    elif value.ndim != 0:
        channels = f" or have shape [{sequence.shape[2]}]" if sequence.ndim > 2 else ""
        raise ValueError(
            f"{name} must be a scalar{channels} for an input of shape {list(sequence.shape)}; "
            f"got {list(value.shape)}."
        )
    return value.to(dtype).expand(step_shape).reshape(-1).contiguous()


def gradient_rows(grad: Tensor | None, like: Tensor) -> Tensor:
    """An incoming gradient [T, M] as contiguous rows, or as [1, M] if it is constant in time.

    A sum or mean over time sends the same gradient to every step, as an expanded tensor. None (the
    output was not used) gives one row of zeros.
    """
    if grad is None:
        return like.new_zeros(1, like.shape[-1])
    return (grad[:1] if is_constant(grad) else grad).contiguous()


def gradient_row(grad: Tensor | None, like: Tensor) -> Tensor:
    """An incoming gradient of a state [M], copied, because the kernel updates it in place."""
    if grad is None:
        return torch.zeros_like(like)
    return grad.clone(memory_format=torch.contiguous_format)


def empty_gradient(rows: Tensor) -> Tensor:
    """Memory for a gradient: empty for [T, M], which is written; zeros for [1, M], a sum over T."""
    return torch.zeros_like(rows) if rows.shape[0] == 1 else torch.empty_like(rows)


def is_constant(sequence: Tensor) -> bool:
    """True if a sequence is one step, expanded along time."""
    return sequence.shape[0] > 1 and sequence.stride(0) == 0  # the stride of one step means nothing


def hold(step: Tensor, steps: int) -> Tensor:
    """Repeat a step [B, ...] as an expanded sequence [T, B, ...]."""
    held: Tensor = _Hold.apply(step, steps)
    return held


class _Hold(torch.autograd.Function):
    """`expand` with a backward pass that multiplies a constant gradient instead of adding it up."""

    @staticmethod
    def forward(ctx: Any, step: Tensor, steps: int) -> Tensor:
        return step.expand(steps, *step.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[0] * len(grad) if is_constant(grad) else grad.sum(0), None


class _OneStep(torch.autograd.Function):
    """The single step [1, ...] of an expanded sequence.

    Kernels return its gradient summed over time. Backward divides it evenly over the steps, as an
    expanded tensor; the sum in the backward pass of `expand` restores it. Indexing would allocate
    zeros for the whole sequence instead.
    """

    @staticmethod
    def forward(ctx: Any, sequence: Tensor) -> Tensor:
        ctx.steps = sequence.shape[0]
        return sequence[:1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        spread: Tensor = grad / ctx.steps
        return spread.expand(ctx.steps, *spread.shape[1:])
