"""Recorded single-token steps equal ordinary ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neuro.learning.stepping import FIRST_STEPS, Stepper
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.language.gru_lm import GRULM
from neuro.models.language.transformer_lm import TransformerLM
from neuro.models.state import parts_of
from tests.language import VOCABULARY, memory_lm, token_spec

MODELS: dict[str, Callable[[], CoreModel]] = {
    "memory_lm": memory_lm,
    "gru_lm": lambda: GRULM(token_spec(), dim=16),
    "transformer_lm": lambda: TransformerLM(token_spec(), dim=16, layers=2, heads=2, window=8),
}


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_recorded_steps_equal_ordinary_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across ends of documents and spans, after weights change, for two sequences."""
    monkeypatch.setattr("neuro.learning.stepping.FIRST_STEPS", 3)
    model = MODELS[name]().eval()
    stepper = Stepper(model)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    ordinary = recorded = model.initial_state(2)
    tokens = torch.randint(VOCABULARY, (24, 2, 1), generator=torch.Generator().manual_seed(1))
    for step, token in enumerate(tokens):
        if step == 18:
            for parameter in model.parameters():
                parameter.mul_(0.9)
        values, recorded = stepper(token, recorded)
        ordinary_output = model(token, ordinary, dt_ms=None)
        ordinary = ordinary_output.state
        torch.testing.assert_close(values, ordinary_output.values)
        for a, b in zip(parts_of(recorded), parts_of(ordinary), strict=True):
            torch.testing.assert_close(a, b)
    assert len(calls) < 24 + 14  # the other steps are replayed


class Unknown(torch.nn.Module):
    """A model whose step case is unknown and whose operations depend on the token."""

    def step_case(self, state: Tensor) -> None:
        return None

    def forward(self, token: Tensor, state: Tensor, *, dt_ms: float | None) -> ModelOutput:
        return ModelOutput(token * 2.0 if token.item() > 4 else token - 1.0, state, {})


def test_steps_of_unknown_cases_are_not_recorded() -> None:
    stepper = Stepper(Unknown())  # type: ignore[arg-type]
    for _ in range(2 * FIRST_STEPS):
        assert stepper(torch.tensor([[5]]), torch.zeros(1))[0].item() == 10
    assert stepper(torch.tensor([[3]]), torch.zeros(1))[0].item() == 2
