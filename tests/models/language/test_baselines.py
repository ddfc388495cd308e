"""transformer_lm and gru_lm: state, documents, causality; attention against its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.layers.attention import Reach, WindowAttention
from neuro.models.language.base import LanguageModel
from neuro.models.language.gru_lm import GRULM
from neuro.models.language.transformer_lm import TransformerLM
from tests.language import END, token_spec, tokens

MODELS: dict[str, Callable[..., LanguageModel]] = {
    "transformer_lm": lambda **o: TransformerLM(
        token_spec(), **{"dim": 16, "layers": 2, "heads": 2, "window": 6, **o}
    ),
    "gru_lm": lambda **o: GRULM(token_spec(), **{"dim": 12, "layers": 2, **o}),
}


def model_of(name: str, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = MODELS[name](**options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8 if name == "transformer_lm" else 2)
    return model


def run(model: LanguageModel, x: Tensor, **options: Any) -> Any:
    return model(x, dt_ms=None, **options)


@pytest.mark.parametrize("name", MODELS)
class TestContract:
    @pytest.mark.parametrize("cuts", [[1] * 20, [3, 8, 2, 7]])
    def test_a_sequence_in_parts_equals_the_whole(self, name: str, cuts: list[int]) -> None:
        model = model_of(name)
        x = tokens()
        x[0, 7] = x[1, 2] = END
        whole = run(model, x)
        state, parts = None, []
        for part in x.split(cuts, 1):
            out = run(model, part, state=state)
            state = out.state
            parts.append(out.values)
        torch.testing.assert_close(torch.cat(parts, 1), whole.values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, whole.state, rtol=1e-4, atol=1e-5)

    def test_a_token_changes_only_later_scores(self, name: str) -> None:
        model, x = model_of(name), tokens()
        other = x.clone()
        other[:, 9] = other[:, 9] % 10 + 1
        one, two = run(model, x).values, run(model, other).values
        assert torch.equal(one[:, :9], two[:, :9])
        assert (one[:, 9] != two[:, 9]).any(-1).all()

    def test_the_past_ends_with_a_document(self, name: str) -> None:
        model = model_of(name)
        one, other = tokens(seed=1), tokens(seed=2)
        one[:, 12] = other[:, 12] = END
        other[:, 13:] = one[:, 13:]
        first, second = run(model, one).values, run(model, other).values
        assert not torch.allclose(first[:, 12], second[:, 12])
        assert torch.equal(first[:, 13:], second[:, 13:])

    def test_options_have_an_effect(self, name: str) -> None:
        x = tokens()
        base = run(model_of(name), x).values
        own = {"transformer_lm": ("layers", "heads", "window"), "gru_lm": ("layers",)}[name]
        for options in ({"tied": True}, {"dropout": 0.5}, *({key: 1} for key in own)):
            changed = {"window": 3} if "window" in options else options
            assert not torch.equal(run(model_of(name, **changed), x).values, base), options

    def test_every_parameter_has_a_gradient(self, name: str) -> None:
        model = model_of(name)
        run(model, tokens()).values.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def test_tasks_that_do_not_fit(self, name: str) -> None:
        cls = type(model_of(name))
        numbers = TaskSpec("a", InputSpec((3,)), TargetSpec("value", (2,)), ((5, None),))
        with pytest.raises(ValueError, match=r"needs tokens.*'a' has numbers"):
            cls(numbers)
        classes = TaskSpec(
            "b", InputSpec((), "int", 5), TargetSpec("class", classes=2), ((5, 1.0),)
        )
        with pytest.raises(ValueError, match="scores the next token at every step; task 'b'"):
            cls(classes)


def test_attention_across_documents() -> None:
    one, other = tokens(seed=1), tokens(seed=2)
    one[:, 12] = other[:, 12] = END
    other[:, 13:] = one[:, 13:]
    model = model_of("transformer_lm", across_documents=True)
    first, second = run(model, one).values, run(model, other).values
    assert not torch.allclose(first[:, 13], second[:, 13])


@pytest.mark.parametrize("rotary", [False, True])
def test_window_attention_is_its_definition(rotary: bool) -> None:
    """Token by token, over more than one block, with a document that begins in the middle."""
    torch.manual_seed(0)
    window, steps = 5, 150
    layer = WindowAttention(6, 8, 2, window, rotary=rotary)
    torch.nn.init.normal_(layer.project.weight)
    x = torch.randn(1, steps, 6)
    starts = torch.zeros(1, steps, dtype=torch.bool)
    starts[0, 70] = True
    reach = Reach.of(starts, torch.zeros(1, dtype=torch.int64), window)
    y, _ = layer(x, layer.initial_state(1), reach)
    q, k, v = (part.unflatten(-1, (2, 4)) for part in layer.project(x[0]).chunk(3, -1))
    if rotary:
        q, k = rotated(q), rotated(k)
    for t in (0, 3, 40, 69, 70, 72, 149):
        first = max(t - window + 1, 70 if t >= 70 else 0)
        scores = torch.einsum("hd,shd->hs", q[t], k[first : t + 1]) / 2
        found = torch.einsum("hs,shd->hd", scores.softmax(-1), v[first : t + 1])
        expected = F.linear(found.flatten(), layer.out.weight)
        torch.testing.assert_close(y[0, t], expected, rtol=1e-4, atol=1e-5)


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding by complex numbers: the pair (i, i + w / 2) turns by t 10000^(-2i / w)."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None, None] * 10000.0 ** (-torch.arange(half) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones(()), angles)
    return torch.cat((z.real, z.imag), -1)
