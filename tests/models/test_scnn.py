"""The convolutional network on 2-D events: recurrence, leaky readout, padding, local rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from neuro.config.trainer import Truncation
from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.errors import ExportError
from neuro.hardware.loihi2.floating import run_graph
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.pooling import Pooling
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.sequences.truncation import check_truncation
from neuro.models.running import mean_activity, run
from neuro.models.spiking_cnn import SpikingCNN
from neuro.models.state import tensors_of
from tests.models.test_rsnn import NEURONS as OF_ANY_NETWORK

NEURONS = OF_ANY_NETWORK | {"variance": DualTimescaleNeuron(threshold=0.4)}
SPEC = TaskSpec("t", InputSpec((2, 6, 6)), TargetSpec("class", classes=3), ((12, 1.0),), (0, 1, 2))


def made(kind: str = "plif", **options: Any) -> SpikingCNN:
    torch.manual_seed(0)
    given = {"channels": (3, 4), "strides": (1, 2), "dense_units": 6, "recurrent": True}
    model = SpikingCNN(SPEC, NEURONS[kind], **(given | {"readout_tau_ms": 20.0} | options))
    if options.get("readout", "linear") == "linear":
        model.readout.weight.data.normal_()
    return model


def events(batch: int = 3, steps: int = 12) -> torch.Tensor:
    drawn = torch.rand(batch, steps, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return (drawn < 0.3).float()


@pytest.mark.parametrize("kind", OF_ANY_NETWORK)
def test_parts_equal_the_whole_and_all_parameters_learn(kind: str) -> None:
    model, x = made(kind), events()
    whole = model(x, dt_ms=1.0, record=["dense/spikes"])
    assert whole.records["dense/spikes"].any()
    state, parts = None, []
    for part in x.split([1, 7, 4], dim=1):
        out = model(part, state, dt_ms=1.0)
        state = out.state
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values)
    rest = [leaf.shape for leaf in tensors_of(model.initial_state(3))]
    assert rest == [leaf.shape for leaf in tensors_of(whole.state)]
    whole.values.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_dense_layer_is_recurrent_and_the_readout_leaks() -> None:
    x = events()
    feedforward, recurrent = made(recurrent=False), made()
    plain = feedforward(x, dt_ms=1.0).values
    recurrent.load_state_dict(feedforward.state_dict(), strict=False)
    assert not recurrent(x, dt_ms=1.0).values.allclose(plain)
    recurrent.layers["dense"].recurrent.weight.data.zero_()
    torch.testing.assert_close(recurrent(x, dt_ms=1.0).values, plain)
    scores = made(recurrent=False, readout_tau_ms=None)(x, dt_ms=1.0).values
    decay = torch.exp(torch.tensor(-1 / 20))
    expected = torch.zeros(3, 3)
    for score in scores.unbind(1):
        expected = decay * expected + (1 - decay) * score
    torch.testing.assert_close(plain[:, -1], expected)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_padding_changes_no_result(pooling: str) -> None:
    """Loss, gradients, metrics, scores, features and spike counts of padded sequences."""
    lengths, labels = torch.tensor([12, 5, 9]), torch.tensor([0, 2, 1])
    x = events()
    objective = Objective({"cross_entropy": CrossEntropy()}, pooling=Pooling(kind=pooling))

    def result(padding: int) -> dict[str, torch.Tensor]:
        model = made()
        junk = torch.ones(3, 12 + padding, 2, 6, 6)
        for row, length in enumerate(lengths):
            junk[row, :length] = x[row, :length]
        batch = Batch(junk, labels, 1.0, lengths=lengths)
        out = run(model, batch, record=["conv1/spikes", "features"])
        loss = objective(model, batch, out)
        loss.total.backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        found |= {"loss": loss.total.detach(), "pooled": loss.pooled, **loss.metrics}
        found["rate"] = mean_activity(out.records["conv1/spikes"], lengths)
        found["features"] = out.records["features"]
        return found

    short, long = result(0), result(9)
    for name, value in short.items():
        torch.testing.assert_close(long[name], value, msg=lambda text, n=name: f"{n}: {text}")


def test_local_rules_and_truncation_apply() -> None:
    model = made("variance", readout="discriminant")
    objective = Objective({"hebbian": Hebbian(), "gate_variance": GateVariance()})
    batch = Batch(events(), torch.tensor([0, 2, 1]), 1.0)
    loss = objective(model, batch, run(model, batch, record=objective.records(model)))
    loss.total.backward()
    assert model.layers["conv1"].fast.weight.grad.abs().sum() > 0
    backward = Objective({"cross_entropy": CrossEntropy()})
    assert not list(check_truncation(backward, Truncation(length=4), [SPEC]))


def test_the_layer_graph_gives_the_same_spikes() -> None:
    model, x = made("plif").eval(), events()
    record = ["conv1/spikes", "dense/spikes"]
    with torch.no_grad():
        expected = model(x, dt_ms=1.0, record=record)
    found = run_graph(model.layer_graph(), x, 1.0, record_spikes=True)
    for name in record:
        assert expected.records[name].any()
        assert torch.equal(found.spikes[name.removesuffix("/spikes")], expected.records[name])
    torch.testing.assert_close(found.values, expected.values)


def test_unsupported_neurons_and_inputs_are_refused() -> None:
    with pytest.raises(ExportError, match="layer 'conv1': AdaptiveNeuron cannot be mapped"):
        made("se_adlif").layer_graph()
    with pytest.raises(ValueError, match=r"needs frames of shape \[channels, height, width\]"):
        SpikingCNN(dataclasses.replace(SPEC, inputs=InputSpec((5,))), NEURONS["lif"])
