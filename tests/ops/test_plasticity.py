"""Plasticity rules on small spike trains, and against a published pairing experiment."""

from __future__ import annotations

import math

import pytest
import torch

from neuro.ops.plasticity import bcm, decay_of, homeostasis, past_trace, stdp, triplet_stdp

PAIRS = {"a_plus": 0.005, "a_minus": 0.00525, "decay_plus": decay_of(20, 1)}
PAIRS["decay_minus"] = decay_of(10, 1)


def train(steps, *spikes):
    """One neuron's spikes, `[T, 1, 1]`."""
    result = torch.zeros(steps, 1, 1, dtype=torch.float64)
    result[list(spikes)] = 1
    return result


def change(factors):
    return sum((post.flatten(1).T @ pre.flatten(1)).item() for pre, post in factors)


@pytest.mark.parametrize("delay", [1, 2, 7, 30])
def test_a_pair_changes_the_weight_by_the_window(delay):
    first, second = train(100, 10), train(100, 10 + delay)
    strengthened = change(stdp(first, second, **PAIRS))
    weakened = change(stdp(second, first, **PAIRS))
    assert strengthened == pytest.approx(0.005 * math.exp(-delay / 20))
    assert weakened == pytest.approx(-0.00525 * math.exp(-delay / 10))


def test_spikes_of_the_same_step_do_not_interact():
    both = train(50, 10)
    assert change(stdp(both, both, **PAIRS)) == 0


def test_pairs_beyond_the_window_do_not_count():
    windows = {"window_plus": 30, "window_minus": 15}
    for delay, counts in ((30, True), (31, False)):
        found = change(stdp(train(99, 5), train(99, 5 + delay), **PAIRS, **windows))
        assert (abs(found) > 1e-12) == counts
    for delay, counts in ((15, True), (16, False)):
        found = change(stdp(train(99, 5 + delay), train(99, 5), **PAIRS, **windows))
        assert (abs(found) > 1e-12) == counts


def test_all_pairs_add_up():
    pre, post = (3, 9, 20), (5, 9, 30)
    expected = sum(
        0.005 * math.exp((i - j) / 20) if j > i else -0.00525 * math.exp((j - i) / 10)
        for i in pre
        for j in post
        if i != j
    )
    assert change(stdp(train(40, *pre), train(40, *post), **PAIRS)) == pytest.approx(expected)


def test_the_window_excludes_the_present_step():
    spikes = (torch.rand(30, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    found = past_trace(spikes, 0.7, window=4)
    for t in range(30):
        expected = sum(0.7**k * spikes[t - k] for k in range(1, min(4, t) + 1))
        torch.testing.assert_close(found[t], torch.as_tensor(expected).expand(2, 3).double())


def triplets(pre, post, a2p, a2m, a3p, a3m, tp, tm, tx, ty):
    """Equations 3 and 4 of Pfister and Gerstner 2006, spike by spike."""

    def past(spikes, t, tau):
        return sum(math.exp((s - t) / tau) for s in spikes if s < t)

    up = sum(past(pre, t, tp) * (a2p + a3p * past(post, t, ty)) for t in post)
    return up - sum(past(post, t, tm) * (a2m + a3m * past(pre, t, tx)) for t in pre)


def triplet_arguments(a2p, a2m, a3p, a3m, tp, tm, tx, ty):
    return {
        "a2_plus": a2p, "a2_minus": a2m, "a3_plus": a3p, "a3_minus": a3m,
        "decay_plus": decay_of(tp, 1), "decay_minus": decay_of(tm, 1),
        "decay_x": decay_of(tx, 1), "decay_y": decay_of(ty, 1),
    }  # fmt: skip


def test_triplets_equal_the_equations_spike_by_spike():
    rng = torch.Generator().manual_seed(1)
    pre, post = (torch.randperm(90, generator=rng)[:12].sort()[0].tolist() for _ in range(2))
    given = (0.01, 0.02, 0.03, 0.04, 16.8, 33.7, 101.0, 125.0)
    found = change(triplet_stdp(train(90, *pre), train(90, *post), **triplet_arguments(*given)))
    assert found == pytest.approx(triplets(pre, post, *given))


#: Sjöström, Turrigiano and Nelson (2001), as listed by Pfister and Gerstner (2006): change of the
#: weight after 60 pairings at a frequency, with its standard error; post 10 ms after pre, or before
PAIRINGS = {
    (0.1, 10): (-0.04, 0.05), (10, 10): (0.14, 0.10), (20, 10): (0.29, 0.14),
    (40, 10): (0.53, 0.11), (50, 10): (0.56, 0.26),
    (0.1, -10): (-0.29, 0.08), (10, -10): (-0.41, 0.11), (20, -10): (-0.34, 0.10),
    (40, -10): (0.56, 0.32), (50, -10): (0.75, 0.19),
}  # fmt: skip
#: their minimal all-to-all model of these data
MINIMAL = (0.0, 7.1e-3, 6.5e-3, 0.0, 16.8, 33.7, 101.0, 114.0)


@pytest.mark.parametrize("frequency, delay", PAIRINGS)
def test_triplets_reproduce_the_pairing_experiment(frequency, delay):
    period = min(round(1000 / frequency), 2000)  # ms; traces have decayed after 2 s
    first = [100 + i * period for i in range(60)]
    pre = train(60 * period + 200, *first)
    post = train(60 * period + 200, *(t + delay for t in first))
    found = change(triplet_stdp(pre, post, **triplet_arguments(*MINIMAL)))
    measured, error = PAIRINGS[frequency, delay]
    assert abs(found - measured) < 1.5 * error


def test_homeostasis_raises_the_inputs_of_silent_neurons():
    pre = torch.zeros(10, 1, 2, dtype=torch.float64)
    pre[::2, 0, 0] = 1  # the second input has no spikes
    post = torch.zeros(10, 1, 3, dtype=torch.float64)
    post[0, 0, 1] = 1  # at the target
    post[:, 0, 2] = 1
    ((x, y),) = homeostasis(pre, post, rate=2.0, target=0.1)
    expected = [[0.1, 0.0], [0.0, 0.0], [-0.9, 0.0]]  # 2 x 0.5 x (target - rate)
    torch.testing.assert_close((y[0].T @ x[0]).tolist(), expected)


def test_bcm_weakens_below_its_threshold_and_strengthens_above():
    post = torch.zeros(10, 1, 3, dtype=torch.float64)
    post[0, 0, 1] = 1
    post[:8, 0, 2] = 1
    threshold = torch.tensor([0.4, 0.4, 0.4], dtype=torch.float64)
    ((x, y),) = bcm(torch.ones(10, 1, 1, dtype=torch.float64), post, rate=1.0, threshold=threshold)
    torch.testing.assert_close((y[0].T @ x[0])[:, 0].tolist(), [0.0, -0.03, 0.32])
