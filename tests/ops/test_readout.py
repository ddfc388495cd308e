"""The readout of a sequence against torch's linear map: values and gradients, all poolings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.ops.readout import read_out

POOLS = {
    "mean": lambda values: values.sum(0) / len(values),
    "sum": lambda values: values.sum(0),
    "last": lambda values: values[-1],
    "max": lambda values: values.amax(0),
    "all": lambda values: values,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("constant", [False, True])
def test_it_equals_the_linear_map(pool, constant):
    torch.manual_seed(0)
    x = torch.randn(1 if constant else 5, 3, 4, dtype=torch.float64)
    weight = torch.randn(2, 4, dtype=torch.float64)
    found = []
    for function in (read_out, F.linear):
        inputs = x.clone().requires_grad_()
        weights = weight.clone().requires_grad_()
        pooled = POOLS[pool](function(inputs.expand(5, 3, 4), weights))
        pooled.square().sum().backward()
        found.append((pooled, inputs.grad, weights.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_constant_gradient_is_not_expanded_over_time():
    x = torch.randn(7, 2, 3, requires_grad=True)
    seen = []
    intermediate = x * 1.0
    intermediate.register_hook(seen.append)
    (read_out(intermediate, torch.randn(4, 3)).sum(0) / 7).sum().backward()
    assert seen[0].shape == (7, 2, 3) and seen[0].stride(0) == 0


def test_precision_follows_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert read_out(torch.randn(2, 1, 3), torch.randn(4, 3)).dtype == torch.bfloat16
