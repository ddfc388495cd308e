"""The spiking encoder: each conversion against its definition, state, causality, gradients."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from neuro.layers.spike_encoder import Conversion, ConversionKind, SpikeEncoder
from neuro.models.state import finite

KINDS = get_args(ConversionKind)
WINDOW, TAU = 4, 5.0


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder(kind: ConversionKind, window: int = WINDOW) -> SpikeEncoder:
    """An encoder without dropout in which about half of the neurons fire."""
    module = SpikeEncoder(6, 8, Conversion(kind, window, TAU), dropout=0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4)
    return module


def test_rate_is_the_mean_of_the_last_steps() -> None:
    out = encoder("rate")(torch.randn(12, 2, 6))
    assert 0.05 < out.spikes.mean() < 0.95
    for t in range(12):
        recent = out.spikes[max(0, t - WINDOW + 1) : t + 1].sum(0) / WINDOW
        torch.testing.assert_close(out.values[t], recent)


def test_temporal_is_an_exponential_filter() -> None:
    out = encoder("temporal")(torch.randn(12, 2, 6))
    trace, decay = torch.zeros(2, 8), math.exp(-1 / TAU)
    for spikes, values in zip(out.spikes, out.values, strict=True):
        trace = decay * trace + (1 - decay) * spikes
        torch.testing.assert_close(values, trace)


def test_potential_reaches_the_threshold_where_a_neuron_fires() -> None:
    out = encoder("potential")(torch.randn(12, 2, 6))
    assert torch.equal(out.values >= 1.0, out.spikes > 0)
    assert out.state.memory is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, WINDOW])
def test_one_step_at_a_time_equals_the_sequence(kind: ConversionKind, window: int) -> None:
    module, x = encoder(kind, window), torch.randn(12, 2, 6)
    whole, state, values = module(x), module.initial_state(2), []
    for step in x.split(1):
        out = module(step, state)
        state = out.state
        values.append(out.values)
    torch.testing.assert_close(torch.cat(values), whole.values, rtol=1e-5, atol=1e-6)
    assert finite(state).all()
    for ours, theirs in zip(state, whole.state, strict=True):
        assert ours is None or ours.shape[0] == 2
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_is_causal_and_differentiable(kind: ConversionKind) -> None:
    module, x = encoder(kind), torch.randn(12, 2, 6, requires_grad=True)
    changed = x.detach().clone()
    changed[5] += 1
    before, after = module(x).values, module(changed).values
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5:], after[5:])
    (gradient,) = torch.autograd.grad(before[7].sum(), x)
    assert gradient[3].abs().max() > 0
    assert not gradient[8:].any()


def test_dropout_acts_in_training_only() -> None:
    module, x = SpikeEncoder(6, 8, dropout=0.5), 9 * torch.randn(12, 2, 6)
    assert not torch.equal(module(x).values, module(x).values)
    module.eval()
    assert torch.equal(module(x).values, module(x).values)
