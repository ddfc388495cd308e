"""Readouts: class scores as a linear map of spikes, so that a chip can hold them.

Whatever a readout learned, `linear()` is a weight matrix and a bias; scores are accumulated over
time by the objective's pooling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ReadoutKind = Literal["linear", "discriminant"]

#: by how much (in log-odds) a class without samples stays below the mean score
_UNSEEN_MARGIN = 10.0


class Readout(nn.Module, ABC):
    """Scores of `outputs` classes from `features` spike channels."""

    #: its buffers in `Plastic.plastic_buffers` (`models/capabilities.py`)
    plastic_buffers: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight `[outputs, features]` and bias `[outputs]`."""

    def forward(self, features: Tensor) -> Tensor:
        """`[..., features]` to `[..., outputs]`."""
        weight, bias = self.linear()
        return F.linear(features, weight.to(features.dtype), bias.to(features.dtype))


class LinearReadout(Readout):
    """Weights that gradients or the delta rule train; they start at zero."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, features))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def linear(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias


class DiscriminantReadout(Readout):
    """Streaming linear discriminant: class means and one covariance from running moments.

    Hayes and Kanan 2020 (deep SLDA). For features x of class c the buffers sum 1, x and x x^T;
    they only add up, so earlier classes are never overwritten and several processes can share
    them. The covariance within classes is shrunk towards a multiple of the identity by the
    oracle-approximating rule (Chen et al. 2010), which leaves nothing to tune. Moments of the
    current phase stand apart from those of earlier ones, so that they can be taken afresh once
    the layers below have settled. All are in double precision: the covariance is a difference of
    large sums, and single precision leaves it indefinite after some thousand batches. The sums of
    products are symmetric and by far the largest part of a checkpoint, which holds half of each.
    """

    #: the buffers that a batch adds to
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
        """What a batch of features `[B, features]` adds to the buffers."""
        x = features.double()
        classes = F.one_hot(labels, len(self.count)).double()
        return {"count": classes.sum(0), "sums": classes.T @ x, "products": x.T @ x}

    def begin(self) -> None:
        """Set the moments of the current phase to nothing."""
        for buffer in (self.count, self.sums, self.products):
            buffer.zero_()

    def settle(self) -> None:
        """Count the current phase among the earlier ones."""
        self.past_count += self.count
        self.past_sums += self.sums
        self.past_products += self.products
        self.begin()

    def linear(self) -> tuple[Tensor, Tensor]:
        buffers = [(buffer, buffer._version) for buffer in self.buffers()]
        if self._solved is None or not _same(self._solved[0], buffers):
            self._solved = buffers, self._solve()
        return self._solved[1]

    @torch.no_grad()
    def _solve(self) -> tuple[Tensor, Tensor]:
        """W = S^-1 mu and b = -mu S^-1 mu / 2: equal priors over the classes seen so far."""
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
        # features that never vary within a class (or one sample each) leave nothing to invert
        floor = 1e-9 * products.diagonal().mean() / samples + torch.finfo(torch.float32).tiny
        covariance = _shrunk(covariance, samples)
        covariance.diagonal().add_(floor)
        solved = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
        weight[seen] = solved
        bias[seen] = -0.5 * (solved * means).sum(1)
        # a class that was never seen scores below the mean of the others, hence below the best
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
    """The symmetric matrix of an upper triangle (x^T x may differ from it in the last bit)."""
    return matrix.triu() + matrix.triu(1).T


def _upper(matrix: Tensor) -> Tensor:
    """Where the upper triangle of a square matrix is."""
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
    """Whether these are the same tensors, unchanged (a moved model has others)."""
    return all(a is b and i == j for (a, i), (b, j) in zip(before, now, strict=True))


def make_readout(kind: ReadoutKind, features: int, outputs: int) -> Readout:
    """A readout by name."""
    return (LinearReadout if kind == "linear" else DiscriminantReadout)(features, outputs)
