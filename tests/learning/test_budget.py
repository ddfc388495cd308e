"""The penalty on memories near their capacity."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.losses.budget import MemoryBudget
from neuro.learning.terms import check_term
from neuro.models.base import ModelOutput
from tests.fakes import linear
from tests.language import memory_lm, token_spec, tokens


@pytest.mark.parametrize("threshold, expected", [(0.9, 0.02), (0.5, 0.18)])
def test_the_mean_excess_over_the_threshold(threshold: float, expected: float) -> None:
    model = memory_lm()
    x = tokens()
    records = {
        "pm/budget_use": torch.tensor([[1.0, 0.9, 0.2]]),
        "em/budget_use": torch.tensor([0.4, 0.2]),
    }
    batch, output = Batch(x, x, None), ModelOutput(torch.zeros(3, 20, 11), None, records)
    loss = MemoryBudget(threshold=threshold)(model, batch, output).loss
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_strengths_have_a_gradient() -> None:
    model = memory_lm()
    term = MemoryBudget(threshold=0.0)
    check_term(term, model, token_spec())
    x = tokens()
    output = model(x, dt_ms=None, record=term.records(model))
    term(model, Batch(x, x, None), output).loss.backward()
    bias = model.procedural_memory.neuromodulator.out.bias
    assert bias is not None and bias.grad is not None and bias.grad.any()


def test_a_model_without_memories() -> None:
    with pytest.raises(ConfigError, match=r"limits memories.*Use model=memory_lm"):
        MemoryBudget().records(linear())
