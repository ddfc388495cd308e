"""Losses on gaps between scores: values by hand, gradients, missing labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuro.data.base import TargetSpec
from neuro.data.store import NO_LABEL
from neuro.errors import ConfigError
from neuro.learning.losses.margins import Gap, RichMargin, TopGap
from tests.fakes import FakeData, linear
from tests.learning.terms import loss_on

SCORES = torch.tensor(
    [[0.9, 0.2, 0.1], [0.50, 0.46, 0.1], [0.1, 0.3, 0.7], [0.2, 0.8, 0.6]], dtype=torch.double
)
TARGETS = torch.tensor(
    [0, 0, 1, 1]
)  # correct with a large gap, correct with a small gap, wrong, correct
OPTIONS = {
    TopGap: [{}, {"separation_threshold": 0.3}, {"factor": 2.0}],
    Gap: [{}, {"margin": 0.25}],
    RichMargin: [
        {}, {"margin": 0.9}, {"consistency": 0.0}, {"consistency": 3.0, "noise": 0.3},
        {"entropy": 0.5}, {"within": 0.0}, {"between": 2.0},
    ],
}  # fmt: skip
CASES = [(term, options) for term, several in OPTIONS.items() for options in several]


def softmax(y):
    e = np.exp(y - y.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(term, y, targets, *, separation_threshold=0.1, factor=1.0, margin=None, consistency=0.3,
            noise=0.05, entropy=-0.1, within=0.2, between=0.1, drawn=None):  # fmt: skip
    """The losses from their formulas, sample by sample."""
    if term is TopGap:
        costs = []
        for row, t in zip(y, targets, strict=True):
            second, first = np.sort(row)[-2:]
            lacking = max(0, separation_threshold - (first - second)) / separation_threshold
            costs.append(1.0 if row.argmax() != t else lacking)
        return factor * np.mean(costs)
    if term is Gap:
        margin = 1.0 if margin is None else margin
        return np.mean(
            [sum(max(0, row[c] - row[t] + margin) for c in range(len(row)) if c != t)
             for row, t in zip(y, targets, strict=True)]
        )  # fmt: skip
    margin = 0.5 if margin is None else margin
    gaps = np.array([row[t] - np.delete(row, t).max() for row, t in zip(y, targets, strict=True)])
    total = np.mean(1 / (1 + np.exp(gaps)) * np.maximum(0, margin - gaps) ** 2)
    p, q = softmax(y), softmax(y * (1 + noise * drawn))
    total += consistency * np.mean((p * np.log(p / q)).sum(1))
    total += entropy * np.mean(-(p * np.log(p)).sum(1))
    e = y / np.linalg.norm(y, axis=1, keepdims=True)
    m = {c: e[targets == c].mean(0) for c in set(targets.tolist())}
    m = {c: v / np.linalg.norm(v) for c, v in m.items()}
    total += within * np.mean([1 - e[i] @ m[t] for i, t in enumerate(targets.tolist())])
    pairs = [max(0, m[a] @ m[b]) for a in m for b in m if a < b]
    return total + between * (np.mean(pairs) if pairs else 0)


@pytest.mark.parametrize(("term", "options"), CASES)
def test_by_hand(term, options):
    torch.manual_seed(5)
    found = loss_on(term(**options), SCORES, TARGETS)
    torch.manual_seed(5)
    drawn = torch.randn_like(SCORES).numpy()
    expected = by_hand(term, SCORES.numpy(), TARGETS.numpy(), drawn=drawn, **options)
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("term", OPTIONS)
def test_gradients_by_finite_differences(term):
    scores = SCORES.clone().requires_grad_()

    def loss(y):
        torch.manual_seed(5)  # the same noise each time
        return loss_on(term(), y, TARGETS)

    assert torch.autograd.gradcheck(loss, scores)


def test_the_top_gap_has_no_gradient_where_a_decision_is_wrong_or_clear():
    scores = SCORES.clone().requires_grad_()
    loss_on(TopGap(), scores, TARGETS).backward()
    expected = torch.zeros_like(SCORES)
    expected[1] = torch.tensor([-10.0, 10.0, 0.0]) / 4  # the correct one with a small gap
    torch.testing.assert_close(scores.grad, expected)


@pytest.mark.parametrize("term", OPTIONS)
def test_steps_and_samples_without_a_label_are_left_out(term):
    options = (
        {"consistency": 0.0} if term is RichMargin else {}
    )  # its noise is drawn for all samples
    targets = torch.tensor([[0, NO_LABEL], [1, 1]])
    found = loss_on(term(**options), SCORES.view(2, 2, 3), targets)
    chosen = [0, 2, 3]
    assert found == pytest.approx(
        float(loss_on(term(**options), SCORES[chosen], targets.flatten()[chosen]))
    )
    nothing = loss_on(term(**options), SCORES, torch.full((4,), NO_LABEL))
    assert nothing == 0


def test_one_class_in_a_batch_has_no_distance_to_others():
    same = torch.zeros(4, dtype=torch.long)
    alone, much = (loss_on(RichMargin(consistency=0.0, between=b), SCORES, same) for b in (0.1, 9))
    assert alone == much


def test_negative_cosines_between_classes_have_no_loss():
    scores = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=torch.double)
    targets = torch.tensor([0, 1, 2])
    some, none = (loss_on(RichMargin(consistency=0.0, between=b), scores, targets) for b in (3, 0))
    cosine = 1 / np.sqrt(2 * 5)  # of classes 1 and 2; class 0 has negative cosines to both
    assert (some - none).item() == pytest.approx(3 * cosine / 3)


@pytest.mark.parametrize("term", OPTIONS)
def test_margin_losses_need_classes(term):
    spec = FakeData().spec("fast")
    term().check(linear(), spec)
    with pytest.raises(ConfigError, match="compares classes; task 'fast' has 1"):
        term().check(linear(), dataclasses.replace(spec, targets=TargetSpec("class", classes=1)))
    assert term.targets == ("class", "class_sequence", "class_map")
