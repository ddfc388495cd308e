"""Noise: mean, standard deviation and independence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from neuro.layers.soen.noise import PLACES, QUIET, LayerNoise, NoiseLevels

STD = 0.3
VALUE = 2.0
T, B, N = 40, 50, 30
NODES = tuple(place for place in PLACES if place != "j")


def noise_of(kind, place, std=STD, relative=False):
    levels = NoiseLevels(**{place: std})
    none = NoiseLevels()
    pair = (levels, none) if kind == "noise" else (none, levels)
    torch.manual_seed(0)
    return LayerNoise(*pair, relative)


def assert_spread(values, mean, std):
    """Assert mean and standard deviation of independent Gaussian values, within five deviations."""
    n = values.numel()
    assert float(values.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n))


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("place", NODES)
@pytest.mark.parametrize("relative", [False, True])
def test_noise_is_fresh_for_every_step_sample_and_node(place, relative):
    added = noise_of("noise", place, relative=relative).add(place, torch.full((T, B, N), VALUE))
    added = added - VALUE
    assert_spread(added, 0.0, STD * (VALUE if relative else 1))
    bound = 5 / math.sqrt(T * B * N / 2)
    assert abs(correlation(added[:-1], added[1:])) < bound
    assert abs(correlation(added[:, :-1], added[:, 1:])) < bound
    assert abs(correlation(added[..., :-1], added[..., 1:])) < bound


@pytest.mark.parametrize("place", NODES)
@pytest.mark.parametrize("relative", [False, True])
def test_a_perturbation_is_one_draw_per_sample_and_node(place, relative):
    noise = noise_of("perturb", place, relative=relative)
    added = noise.add(place, torch.full((T, B, N), VALUE)) - VALUE
    assert torch.equal(added, added[:1].expand_as(added))
    assert_spread(added[0], 0.0, STD * (VALUE if relative else 1))
    # constant over calls, because a layer may run step by step
    again = noise.add(place, torch.full((B, N), VALUE)) - VALUE
    assert torch.equal(again, added[0])
    assert not torch.equal(noise_of("noise", place).add(place, added), added)


def test_relative_noise_is_in_proportion_to_what_it_is_added_to():
    x = torch.linspace(-3, 3, 60).expand(2000, 1, 60)
    added = noise_of("noise", "s", relative=True).add("s", x) - x
    torch.testing.assert_close(added.std(0)[0], STD * x[0, 0].abs(), rtol=0.1, atol=1e-6)


def test_noise_on_nodes_is_spread_over_the_samples():
    noise = noise_of("perturb", "bias_current")
    first = noise.add("bias_current", torch.full((N,), 1.7), B)
    assert first.shape == (B, N)
    assert_spread(first, 1.7, STD)
    assert torch.equal(first, noise.add("bias_current", torch.full((N,), 1.7), B))


def test_noise_and_perturbation_add_up():
    both = NoiseLevels(phi=0.3)
    torch.manual_seed(0)
    added = LayerNoise(both, NoiseLevels(phi=0.4), False).add("phi", torch.zeros(T, B, N))
    assert float(added.std()) == pytest.approx(0.5, rel=0.03)
    held = added.mean(0)
    assert float(held.std()) == pytest.approx(math.sqrt(0.16 + 0.09 / T), rel=0.08)


def test_other_tensors_are_not_changed():
    x = torch.ones(T, B, N)
    noise = noise_of("noise", "phi")
    assert noise.acts_on("phi") and noise.acts_on("g", "phi") and not noise.acts_on("g", "s")
    assert noise.add("g", x) is x
    assert QUIET.add("phi", x) is x and not QUIET.acts_on(*PLACES)


# -- connection weights -----------------------------------------------------------------------

K = 5
MASK = torch.tensor([[1.0, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
WEIGHT = MASK * torch.tensor([[0.1, -0.4, 0.8, 9, 9], [9, 0.3, 9, -0.6, 0.2]])


def test_the_noise_of_weights_is_that_of_sampled_weights_in_distribution():
    """Local reparametrisation against sampling a weight matrix for every step and sample."""
    for relative in (False, True):
        s = torch.randn(1, 1, K, generator=torch.Generator().manual_seed(3)).expand(20000, 1, K)
        added = noise_of("noise", "j", relative=relative).through(s, WEIGHT, MASK)
        scale = WEIGHT if relative else MASK
        drawn = STD * torch.randn(20000, 2, K) * scale
        sampled = torch.einsum("tnk,tbk->tbn", drawn, s)
        torch.testing.assert_close(added.std(0), sampled.std(0), rtol=0.04, atol=0)
        assert added.mean(0).abs().max() < 5 * float(added.std()) / math.sqrt(20000)
        assert abs(correlation(added[:, 0, 0], added[:, 0, 1])) < 5 / math.sqrt(20000)
        # equal quantiles of two Gaussians with the same deviation
        points = torch.tensor([0.05, 0.25, 0.75, 0.95])
        torch.testing.assert_close(
            added[:, 0, 0].quantile(points),
            sampled[:, 0, 0].quantile(points),
            rtol=0.08,
            atol=0.01,
        )
        assert abs(correlation(added[:-1, 0, 0], added[1:, 0, 0])) < 5 / math.sqrt(20000)


@pytest.mark.parametrize("relative", [False, True])
def test_a_perturbation_of_weights_is_a_matrix_per_sample(relative):
    noise = noise_of("perturb", "j", relative=relative)
    basis = torch.eye(K)[:, None].expand(K, 3000, K)  # step k selects column k
    offsets = noise.through(basis, WEIGHT, MASK).permute(1, 2, 0)  # [B, N, K]
    assert not offsets[:, MASK == 0].any()
    expected = STD * (WEIGHT.abs() if relative else MASK)
    torch.testing.assert_close(offsets.std(0), expected, rtol=0.08, atol=1e-6)
    s = torch.randn(7, 3000, K)
    torch.testing.assert_close(
        noise.through(s, WEIGHT, MASK),
        torch.einsum("bnk,tbk->tbn", offsets, s),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        noise.through(s[0], WEIGHT, MASK),
        torch.einsum("bnk,bk->bn", offsets, s[0]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gradients_of_relative_noise_reach_the_weights_and_silence_has_none():
    weight = WEIGHT.clone().requires_grad_()
    s = torch.zeros(4, 3, K, requires_grad=True)
    noise_of("noise", "j", relative=True).through(s, weight, MASK).sum().backward()
    assert torch.isfinite(weight.grad).all() and torch.isfinite(s.grad).all()
    s = torch.ones(4, 3, K)
    noise_of("noise", "j", relative=True).through(s, weight, MASK).sum().backward()
    assert weight.grad[MASK > 0].abs().min() > 0
    assert F.linear(s, weight).shape == (4, 3, 2)


@pytest.mark.parametrize("place", PLACES)
def test_levels_are_not_negative(place):
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match=place):
        TypeAdapter(NoiseLevels).validate_python({place: -0.1})
