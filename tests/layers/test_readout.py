"""The streaming discriminant against scikit-learn's, and the accumulation of its moments."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from neuro.layers.readout import DiscriminantReadout, LinearReadout, make_readout


def samples(classes=(0, 1, 2), each=20, features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat(each)
    means = 2 * torch.randn(9, features, generator=generator)
    mix = torch.randn(features, features, generator=generator)
    return means[y] + torch.randn(len(y), features, generator=generator) @ mix, y


def learn(readout, x, y, size=7):
    for i in range(0, len(y), size):
        for name, value in readout.moments(x[i : i + size], y[i : i + size]).items():
            getattr(readout, name).add_(value)


def fitted(x, y, outputs=3):
    readout = DiscriminantReadout(x.shape[1], outputs)
    learn(readout, x, y)
    return readout


def shrinkage(x, y):
    """Equation 23 of Chen et al. 2010 on class-centred data, in plain numpy."""
    x, y = x.double().numpy(), y.numpy()
    centred = np.concatenate([x[y == c] - x[y == c].mean(0) for c in np.unique(y)])
    n, p = centred.shape
    s = centred.T @ centred / (n - len(np.unique(y)))
    numerator = (1 - 2 / p) * np.trace(s @ s) + np.trace(s) ** 2
    return min(1.0, numerator / ((n + 1 - 2 / p) * (np.trace(s @ s) - np.trace(s) ** 2 / p)))


@pytest.mark.parametrize("each", [4, 50])
def test_the_same_as_scikit_learn_with_the_same_shrinkage(each):
    x, y = samples(each=each)
    weight, bias = fitted(x, y).linear()
    classes, n = 3, len(y)
    lda = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage(x, y), priors=[1 / 3] * 3)
    lda.fit(x.double().numpy(), y.numpy())
    # scikit-learn divides the scatter by n, we by n - classes: one factor on all scores
    factor = (n - classes) / n
    np.testing.assert_allclose(weight.numpy(), lda.coef_ * factor, rtol=1e-5)
    intercept = (lda.intercept_ - np.log(1 / 3)) * factor
    np.testing.assert_allclose(bias.numpy(), intercept, rtol=1e-5)
    new, _ = samples(seed=1)
    decisions = (new @ weight.T + bias).argmax(1)
    assert decisions.tolist() == lda.predict(new.double().numpy()).tolist()


def test_moments_do_not_depend_on_batches_and_order():
    x, y = samples()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    one, other = DiscriminantReadout(5, 3), DiscriminantReadout(5, 3)
    learn(one, x, y, size=len(y))
    learn(other, x[order], y[order], size=1)
    for a, b in zip(one.linear(), other.linear(), strict=True):
        torch.testing.assert_close(a, b)


def test_unseen_classes_are_never_predicted():
    x, y = samples(classes=(0, 2))
    readout = fitted(x, y, outputs=5)
    decisions = (100 * torch.randn(500, 5)) @ readout.linear()[0].T + readout.linear()[1]
    assert set(decisions.argmax(1).tolist()) <= {0, 2}
    assert torch.isfinite(decisions).all()


def test_before_any_sample_all_scores_are_zero():
    assert not DiscriminantReadout(4, 3)(torch.randn(2, 4)).any()


def test_later_classes_hardly_change_decisions_between_earlier_ones():
    x, y = samples(each=200)
    readout = fitted(x, y, outputs=5)
    before = (x @ readout.linear()[0].T + readout.linear()[1])[:, :3].argmax(1)
    readout.settle()
    learn(readout, *samples(classes=(3, 4), each=200))
    after = (x @ readout.linear()[0].T + readout.linear()[1])[:, :3].argmax(1)
    assert (before == after).float().mean() > 0.97
    assert torch.equal(readout.past_count, torch.tensor([200.0, 200, 200, 0, 0]).double())


def test_begin_resets_the_current_phase_and_settle_keeps_it():
    x, y = samples()
    readout = fitted(x, y)
    kept = [t.clone() for t in readout.linear()]
    readout.settle()
    assert not readout.count.any() and not readout.products.any()
    assert all(torch.equal(a, b) for a, b in zip(readout.linear(), kept, strict=True))
    learn(readout, torch.randn(30, 5), torch.zeros(30, dtype=torch.long))
    assert not torch.equal(readout.linear()[0], kept[0])
    readout.begin()
    assert torch.equal(readout.linear()[0], kept[0])


def test_the_solution_is_cached_until_a_moment_changes(monkeypatch):
    readout = fitted(*samples())
    solved = []
    solve = readout._solve
    monkeypatch.setattr(readout, "_solve", lambda: solved.append(1) or solve())
    first = readout.linear()
    assert readout.linear() is first and len(solved) == 1
    readout.count.add_(1)
    assert readout.linear() is not first and len(solved) == 2
    other = fitted(*samples(seed=2))
    readout.load_state_dict(other.state_dict())
    assert torch.equal(readout.linear()[0], other.linear()[0])


def test_replaced_buffers_invalidate_the_cached_solution():
    """`model.to(device)` replaces tensors, and their version counters start again."""
    readout = fitted(*samples())
    readout.linear()
    versions = [buffer._version for buffer in readout.buffers()]
    for name, buffer in list(readout.named_buffers()):
        fresh = torch.zeros_like(buffer)
        while fresh._version < buffer._version:
            fresh.add_(0)
        setattr(readout, name, fresh)
    assert [buffer._version for buffer in readout.buffers()] == versions
    assert not readout.linear()[0].any()
    assert fitted(*samples())._solved is None
    assert torch.equal(copy.deepcopy(readout).linear()[0], readout.linear()[0])


@pytest.mark.parametrize(
    "x",
    [
        torch.eye(3),  # one sample of each class
        torch.eye(3).repeat(4, 1),  # no variance within a class
        torch.zeros(6, 3),  # no spikes
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]).repeat(3, 1) * 1e-3,
    ],
)
def test_features_without_variance_give_finite_scores(x):
    y = torch.arange(3).repeat(len(x) // 3)
    scores = fitted(x, y)(x)
    assert torch.isfinite(scores).all()
    if x[:3].unique(dim=0).shape[0] == 3:
        assert scores.argmax(1).tolist() == y.tolist()


def test_many_batches_of_nearly_constant_features():
    """The covariance is a difference of large sums, indefinite in single precision."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(3, 20, generator=generator)
    readout = DiscriminantReadout(20, 3)
    for _ in range(1500):
        y = torch.randint(0, 3, (32,), generator=generator)
        x = means[y]
        x[:, :2] += torch.randn(32, 2, generator=generator)
        learn(readout, x, y, size=32)
    scores = readout(means)
    assert torch.isfinite(scores).all()
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_saved_moments_are_bit_identical_at_half_the_size():
    readout = fitted(*samples())
    readout.settle()
    learn(readout, *samples(seed=1))
    state = readout.state_dict()
    assert state["products"].numel() == 5 * 6 // 2
    other = DiscriminantReadout(5, 3)
    other.load_state_dict(state)
    for name, buffer in readout.named_buffers():
        assert torch.equal(getattr(other, name), buffer)
    with pytest.raises(RuntimeError, match="Missing key.*products"):
        other.load_state_dict({k: v for k, v in state.items() if k != "products"})


def test_a_linear_readout_starts_at_zero_and_learns():
    readout = make_readout("linear", 3, 2)
    assert isinstance(readout, LinearReadout)
    x = torch.randn(4, 6, 3)
    assert not readout(x).any()
    readout(x).sum().backward()
    torch.testing.assert_close(readout.weight.grad, x.sum((0, 1)).expand(2, 3))
    assert isinstance(make_readout("discriminant", 3, 2), DiscriminantReadout)


def test_a_discriminant_beyond_memory_is_refused():
    with pytest.raises(ValueError, match=r"1,000,000 x 1,000,000 features: .* GiB.*readout=linear"):
        DiscriminantReadout(1_000_000, 10)
