"""Losses on outputs and layers' states: values by hand, gradients, applicable models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.errors import ConfigError
from neuro.learning.losses.decay import PostSampleDecay
from neuro.learning.losses.states import AverageStateMagnitude, ExpHighState, GetOffTheGround
from tests.fakes import FakeData, linear
from tests.learning.terms import Rings, loss_on, rings_batch, run_term
from tests.networks import network

SPEC = FakeData().spec("fast")
POOLED = torch.tensor([[0.0, 0.004, -0.005], [0.02, -0.5, 0.009]], dtype=torch.double)
STEPS = torch.tensor([[[0.5, -1.5], [2.0, 1.1]], [[0.0, 3.0], [-1.2, 0.9]]], dtype=torch.double)


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.1}, {"min_penalty_offset": 2.0}, {"max_penalty_offset": 3.0}],
)
def test_outputs_near_zero_by_hand(options):
    given = {"threshold": 0.01, "min_penalty_offset": 0.5, "max_penalty_offset": 10.0, **options}
    least, most = given["min_penalty_offset"], given["max_penalty_offset"]
    costs = [
        most - (most - least) * abs(s) / given["threshold"] if abs(s) < given["threshold"] else 0
        for s in POOLED.flatten().tolist()
    ]
    found = loss_on(GetOffTheGround(**options), POOLED, None).item()
    assert found == pytest.approx(np.mean(costs))


def test_outputs_near_zero_have_a_gradient_even_if_dead():
    values = POOLED.clone().requires_grad_()
    loss_on(GetOffTheGround(), values, None).backward()
    slope = -9.5 / 0.01 / 6
    expected = torch.tensor([[slope, slope, -slope], [0, 0, slope]], dtype=torch.double)
    torch.testing.assert_close(values.grad, expected)
    with pytest.raises(ValueError, match=r"max_penalty_offset: got 0\.1; expected at least"):
        GetOffTheGround(max_penalty_offset=0.1)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.2}, {"scale": 2.0}, {"factor": 3.0}])
def test_high_states_by_hand(options):
    given = {"threshold": 1.0, "scale": 1.0, "factor": 1.0, **options}
    excess = np.maximum(0, np.abs(STEPS.numpy()) - given["threshold"])
    expected = given["factor"] * np.mean(np.exp(given["scale"] * excess) - 1)
    term = ExpHighState(**options)
    found = loss_on(term, POOLED, None, steps=STEPS).item()  # pooled outputs do not count
    assert found == pytest.approx(expected)
    steps = STEPS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss_on(term, POOLED, None, steps=s), steps)


@pytest.mark.parametrize(
    "options",
    [{}, {"target_magnitude": 0.1}, {"loss_type": "abs"}, {"layer_ids": ("layer2",)},
     {"layer_ids": (1,)}],
)  # fmt: skip
def test_state_magnitudes_by_hand(options):
    model, batch = Rings(), rings_batch()
    term = AverageStateMagnitude(**options)
    both = ("layer1/s", "layer2/s")
    states = model(batch.inputs, dt_ms=1.0, record=both).records
    chosen = {"layer2": both[1:], 1: both[:1]}[options["layer_ids"][0]] if "layer_ids" in options \
        else both  # fmt: skip
    away = [states[n].detach().abs().mean().item() - options.get("target_magnitude", 0.5)
            for n in chosen]  # fmt: skip
    costs = np.abs(away) if options.get("loss_type") == "abs" else np.square(away)
    assert term.records(model) == chosen
    assert run_term(term, model, batch).item() == pytest.approx(costs.mean())


def test_the_gradient_of_state_magnitudes_by_finite_differences():
    assert_gradient(AverageStateMagnitude(), Rings(), rings_batch())


def assert_gradient(term, model, batch, tolerance=1e-6):
    run_term(term, model, batch).backward()
    for parameter in model.parameters():
        if parameter.grad is None:  # the loss does not depend on it
            continue
        for i in (0, parameter.numel() - 1):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    ends.append(run_term(term, model, batch).item())
                    parameter.view(-1)[i] -= step
            slope = (ends[0] - ends[1]) / 2e-6
            assert parameter.grad.view(-1)[i].item() == pytest.approx(slope, abs=tolerance)
    assert model.weight_ring.grad.abs().sum() > 0


def test_layers_that_do_not_exist_and_models_without_states():
    with pytest.raises(ConfigError) as caught:
        AverageStateMagnitude(layer_ids=("layer3", 9)).records(Rings())
    assert caught.value.problems == [
        "layer_ids: Rings has no layer 'layer3'. Its layers: layer1, layer2. "
        "Did you mean 'layer2'?",
        "layer_ids: Rings has no layer 'layer9'. Its layers: layer1, layer2. "
        "Did you mean 'layer2'?",
    ]
    with pytest.raises(ConfigError, match="layers' activity, which Linear does not make"):
        AverageStateMagnitude().records(linear())


def test_a_spiking_layers_magnitude_is_its_rate():
    model = network("lif")
    batch = next(FakeData().loader("fast", "train").batches())
    term = AverageStateMagnitude(layer_ids=("dense",), target_magnitude=0.2, loss_type="abs")
    spikes = model(batch.sequence(), dt_ms=1.0, record=("dense/spikes",)).records["dense/spikes"]
    expected = abs(spikes.mean().item() - 0.2)
    assert run_term(term, model, batch).item() == pytest.approx(expected)


# -- after the sample -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7])
def test_activity_after_the_sample_by_hand(steps):
    model, batch = Rings(leak=0.5), rings_batch()
    s = model(batch.inputs, dt_ms=1.0).state.ring
    ring, out = model.weight_ring, model.weight_out
    for _ in range(steps):
        g = torch.tanh(s @ ring.T)
        s = 0.5 * s + g
    expected = torch.cat([g, s @ out.T], 1).abs().mean()  # layer2 has no g: its states are used
    term = PostSampleDecay(steps=steps)
    assert run_term(term, model, batch).item() == pytest.approx(expected.item())
    assert_gradient(term, model, batch)


def test_held_frames_and_spiking_networks_are_continued_too():
    model = network("lif")
    batch = next(FakeData().loader("fast", "train").batches())
    assert batch.frames == 6
    loss = run_term(PostSampleDecay(steps=3), model, batch)
    output = model(batch.sequence(), dt_ms=1.0)
    silence = torch.zeros(len(batch.inputs), 3, *batch.inputs.shape[2:])
    names = list(model.activity_records().values())
    records = model(silence, output.state, dt_ms=1.0, record=names).records
    expected = torch.cat([records[name][-1].flatten(1) for name in names], 1).mean()
    assert loss.item() == pytest.approx(expected.item())
    with pytest.raises(ConfigError, match="PostSampleDecay needs records of layers' activity"):
        PostSampleDecay().check(linear(), SPEC)
