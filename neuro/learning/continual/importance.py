"""Importances of weights for earlier phases: penalty on changes, and means over single samples.

    penalty = sum_i importance_i (w_i - anchor_i)^2

Importances are sums over the phases, so that memory does not grow with their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.learning.continual.kept import Kept
from neuro.models.base import CoreModel
from neuro.ops.kernels.launch import untraced
from neuro.runtime.distributed import batch_means


@untraced
def penalty(model: CoreModel, importance: Kept, anchor: Kept) -> Tensor:
    """The penalty of the module's docstring, over weights that are trained."""
    total = next(model.parameters()).new_zeros(())
    for name, parameter in trained(model).items():
        if name in importance:
            total = total + (importance[name] * (parameter - anchor[name]) ** 2).sum()
    return total


def trained(model: CoreModel) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def mean_over_samples(
    model: CoreModel,
    batches: Iterable[Batch],
    samples: int,
    scalar_of: Callable[[Batch], Tensor],
    function: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean of a function of the gradient over single samples, by trained parameter.

    - `samples`: how many, the first ones of the batches
    - `scalar_of`: maps a batch of one sample to the scalar whose gradient is taken

    Of several processes it is the mean over the samples of all, the same on each.
    """
    parameters = trained(model)
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    seen = 0
    for single in itertools.islice(_singles(batches), samples if parameters else 0):
        grads = torch.autograd.grad(scalar_of(single), list(parameters.values()), allow_unused=True)
        for total, grad in zip(totals.values(), grads, strict=True):
            if grad is not None:
                total += function(grad)
        seen += 1
    means = [total / max(seen, 1) for total in totals.values()]
    return dict(zip(totals, batch_means(means, seen) if means else means, strict=True))


def _singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    return (batch.rows(slice(i, i + 1)) for batch in batches for i in range(len(batch.targets)))
