"""The multilayer perceptron, written out."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.models.mlp import MLP

SPEC = TaskSpec("t", InputSpec((1, 2, 3)), TargetSpec("class", classes=4), ((5, 1.0),))


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_layers_are_applied_to_each_frame(hidden: tuple[int, ...]) -> None:
    model = MLP(SPEC, hidden)
    x = torch.randn(3, 5, 1, 2, 3)
    expected = x.flatten(2)
    weights = list(model.parameters())
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        expected = expected @ weight.T + bias
        if weight is not weights[-2]:
            expected = expected.clamp_min(0)
    torch.testing.assert_close(model(x, dt_ms=1.0).values, expected)
    assert [len(bias) for bias in weights[1::2]] == [*hidden, 4]
    with pytest.raises(ConfigError, match="MLP records no 'x'"):
        model(x, dt_ms=1.0, record=("x",))
