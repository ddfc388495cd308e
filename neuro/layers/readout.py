"""Readouts: class scores as a linear map of spikes, which a chip can store.

`linear()` returns the weight matrix and the bias for each way of learning them. The objective's
pooling accumulates the scores over time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ReadoutKind = Literal["linear", "discriminant"]

#: margin in log-odds by which a class without samples stays below the mean score
_UNSEEN_MARGIN = 10.0


class Readout(nn.Module, ABC):
    """Scores of `outputs` classes from `features` spike channels."""

    #: buffers that terms update, and how to add one; see `Plastic` in `models/capabilities.py`
    plastic_buffers: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def linear(self) -> tuple[Tensor, Tensor]:
        """Return the weight `[outputs, features]` and the bias `[outputs]`."""

    def forward(self, features: Tensor) -> Tensor:
        """Map features `[..., features]` to scores `[..., outputs]`."""
        weight, bias = self.linear()
        return F.linear(features, weight.to(features.dtype), bias.to(features.dtype))


class LinearReadout(Readout):
    """Weights trained by gradients or the delta rule, initialised to zero."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, features))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def linear(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias


class DiscriminantReadout(Readout):
    """Streaming linear discriminant analysis: class means and one covariance from running moments.

    Hayes and Kanan 2020 (deep SLDA). For features x of class c the buffers accumulate 1, x and
    x x^T. They are sums, so earlier classes are never overwritten, and sums of several processes
    can be added. The within-class covariance is shrunk towards a multiple of the identity by the
    oracle-approximating rule (Chen et al. 2010), which has no hyperparameter. The moments of the
    current phase are separate from those of earlier phases, so that they can be computed again
    when the layers below have stopped changing.

    Buffers have double precision: the covariance is a difference of large sums, and in single
    precision is no longer positive definite after some thousand batches. The sums of products are
    symmetric and by far the largest part of a checkpoint, so only their upper triangles are saved.
    """

    #: buffers that a batch adds to
    MOMENTS: ClassVar = ("count", "sums", "products")

    plastic_buffers: ClassVar[dict[str, str]] = dict.fromkeys(
        MOMENTS,
        "add the term discriminant (readout=discriminant does), or choose readout=linear",
    )

    count: Tensor
    sums: Tensor
    products: Tensor
    past_count: Tensor
    past_sums: Tensor
    past_products: Tensor

    def __init__(self, features: int, outputs: int):
        super().__init__()
        needed = 2 * 8 * features**2
        if needed > (available := psutil.virtual_memory().available):
            raise ValueError(
                f"readout=discriminant keeps two matrices of {features:,} x {features:,} features: "
                f"{needed / 2**30:.1f} GiB, of which this machine has {available / 2**30:.1f}. "
                "Use fewer features (readout_layers, readout_grid) or readout=linear"
            )
        for prefix in ("", "past_"):
            self.register_buffer(f"{prefix}count", torch.zeros(outputs, dtype=torch.float64))
            self.register_buffer(
                f"{prefix}sums", torch.zeros(outputs, features, dtype=torch.float64)
            )
            self.register_buffer(
                f"{prefix}products", torch.zeros(features, features, dtype=torch.float64)
            )
        self._solved: tuple[list[tuple[Tensor, int]], tuple[Tensor, Tensor]] | None = None

    def moments(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Contribution of a batch to the buffers, for features `[B, F]` and labels `[B]`."""
        x = features.double()
        classes = F.one_hot(labels, len(self.count)).double()
        return {"count": classes.sum(0), "sums": classes.T @ x, "products": x.T @ x}

    def begin(self) -> None:
        """Reset the moments of the current phase."""
        for buffer in (self.count, self.sums, self.products):
            buffer.zero_()

    def settle(self) -> None:
        """Add the moments of the current phase to those of earlier phases, and reset them."""
        self.past_count += self.count
        self.past_sums += self.sums
        self.past_products += self.products
        self.begin()

    def linear(self) -> tuple[Tensor, Tensor]:
        # The solution is cached until a buffer changes, which increments its version counter.
        buffers = [(buffer, buffer._version) for buffer in self.buffers()]
        if self._solved is None or not _same(self._solved[0], buffers):
            self._solved = buffers, self._solve()
        return self._solved[1]

    @torch.no_grad()
    def _solve(self) -> tuple[Tensor, Tensor]:
        """W = mu S^-1 and b = -mu S^-1 mu / 2, for equal priors of the classes seen so far."""
        count = self.count + self.past_count
        seen = count > 0
        weight = torch.zeros_like(self.sums)
        bias = torch.zeros_like(count)
        if not seen.any():
            return weight.float(), bias.float()
        counts = count[seen]
        means = (self.sums + self.past_sums)[seen] / counts[:, None]
        samples = counts.sum()
        products = _mirrored(self.products + self.past_products)
        covariance = (products - (means.T * counts) @ means) / (samples - seen.sum()).clamp_min(1)
        # Features that do not vary within classes (or one sample per class) give a singular matrix.
        floor = 1e-9 * products.diagonal().mean() / samples + torch.finfo(torch.float32).tiny
        covariance = _shrunk(covariance, samples)
        covariance.diagonal().add_(floor)
        solved = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
        weight[seen] = solved
        bias[seen] = -0.5 * (solved * means).sum(1)
        # A class without samples scores below the mean of the others, so it is never predicted.
        weight[~seen] = solved.mean(0)
        bias[~seen] = bias[seen].mean() - _UNSEEN_MARGIN
        return weight.float(), bias.float()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._save_to_state_dict(destination, prefix, *args)
        for name in _SYMMETRIC:
            full = destination[prefix + name]
            destination[prefix + name] = full[_upper(full)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict = dict(state_dict)
        for name in _SYMMETRIC:
            half = state_dict.get(prefix + name)
            if half is not None:
                full = torch.zeros_like(getattr(self, name), device=half.device)
                full[_upper(full)] = half
                state_dict[prefix + name] = _mirrored(full)
        super()._load_from_state_dict(state_dict, prefix, *args)


_SYMMETRIC = ("products", "past_products")


def _mirrored(matrix: Tensor) -> Tensor:
    """Symmetric matrix of an upper triangle; x^T x may be asymmetric in the last bit."""
    return matrix.triu() + matrix.triu(1).T


def _upper(matrix: Tensor) -> Tensor:
    """Mask of the upper triangle of a square matrix."""
    return torch.ones_like(matrix, dtype=torch.bool).triu()


def _shrunk(covariance: Tensor, samples: Tensor) -> Tensor:
    """Oracle-approximating shrinkage (Chen, Wiesel, Eldar and Hero 2010, eq. 23)."""
    width = len(covariance)
    trace = covariance.diagonal().sum()
    square = covariance.square().sum()
    numerator = (1 - 2 / width) * square + trace.square()
    denominator = (samples + 1 - 2 / width) * (square - trace.square() / width)
    weight = (numerator / denominator.clamp_min(1e-300)).clamp(max=1.0)
    shrunk = (1 - weight) * covariance
    shrunk.diagonal().add_(weight * trace / width)
    return shrunk


def _same(before: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    """True if these are the same tensors in the same versions; moving a model replaces tensors."""
    return all(a is b and i == j for (a, i), (b, j) in zip(before, now, strict=True))


def make_readout(kind: ReadoutKind, features: int, outputs: int) -> Readout:
    """Create a readout by name, from `features` spike channels to `outputs` classes."""
    return (LinearReadout if kind == "linear" else DiscriminantReadout)(features, outputs)
