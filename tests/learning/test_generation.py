"""Sampling from scores, and token-by-token generation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.learning.generation import Sampling, Writer
from neuro.models.language.gru_lm import GRULM

SCORES = torch.tensor([0.0, 2.0, 1.0, -1.0])


def softmax(scores: Tensor) -> Tensor:
    return scores.double().softmax(0)


def test_all_tokens_have_their_probability() -> None:
    torch.testing.assert_close(Sampling().probabilities(SCORES), softmax(SCORES))
    cold = Sampling(temperature=0.5).probabilities(SCORES)
    torch.testing.assert_close(cold, softmax(SCORES * 2))


def test_zero_temperature_gives_the_most_probable_token() -> None:
    assert Sampling(temperature=0.0).probabilities(SCORES).tolist() == [0, 1, 0, 0]


def test_top_k() -> None:
    found = Sampling(top_k=2).probabilities(SCORES)
    torch.testing.assert_close(found[1:3], softmax(SCORES[1:3]))
    assert found[[0, 3]].tolist() == [0, 0]
    assert torch.equal(Sampling(top_k=9).probabilities(SCORES), Sampling().probabilities(SCORES))


@pytest.mark.parametrize(
    ("p", "kept"), [(0.01, [1]), (0.7, [1, 2]), (0.9, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p(p: float, kept: list[int]) -> None:
    """Probabilities are 0.087, 0.644, 0.237 and 0.032."""
    found = Sampling(top_p=p).probabilities(SCORES)
    assert found.nonzero().flatten().tolist() == kept
    torch.testing.assert_close(found[kept], softmax(SCORES[kept]))


def model() -> GRULM:
    torch.manual_seed(0)
    spec = TaskSpec(
        "it", InputSpec((), "int", 7, document_end=6), TargetSpec("token", classes=7), ((4, None),)
    )
    return GRULM(spec).eval()


def written(count: int, *, seed: int = 0, **sampling: float) -> list[int]:
    writer = Writer(model(), Sampling(**sampling), torch.Generator().manual_seed(seed))
    writer.read([6, 1, 2])
    return [writer.write() for _ in range(count)]


def test_generated_tokens_are_fed_back() -> None:
    """Greedy generation equals one forward pass over the whole text."""
    tokens = [6, 1, 2, *written(8, temperature=0.0)]
    values = model()(torch.tensor([tokens]), dt_ms=None).values[0]
    assert tokens[3:] == values[2:-1].argmax(-1).tolist()


def test_the_seed_determines_the_text() -> None:
    assert written(30, seed=1) == written(30, seed=1) != written(30, seed=2)
