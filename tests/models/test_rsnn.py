"""The recurrent spiking network: contract, neurons, delays, padding, local rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from neuro.config.trainer import Truncation
from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError, ExportError
from neuro.layers.adaptive import (
    AdaptiveNeuron,
    AdaptiveThresholdNeuron,
    CurrentBasedNeuron,
    LearnedLIFNeuron,
)
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.layers.lif import LIFNeuron
from neuro.layers.spiking import Neuron
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.pooling import Pooling
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.learning.sequences.truncation import check_truncation
from neuro.models.rsnn import RSNN
from neuro.models.running import mean_activity, run
from neuro.models.spiking_cnn import SpikingCNN
from neuro.models.state import misshapen_state, tensors_of
from neuro.ops.fixed_point import FixedPoint

SPEC = TaskSpec("t", InputSpec((5,)), TargetSpec("class", classes=3), ((12, 1.0),), (0, 1, 2))
NEURONS: dict[str, Neuron] = {
    "lif": LIFNeuron(threshold=0.4),
    "plif": LearnedLIFNeuron(threshold=0.4),
    "cuba": CurrentBasedNeuron(threshold=0.6),
    "alif": AdaptiveThresholdNeuron(threshold=0.4),
    "adlif": AdaptiveNeuron(threshold=0.05, scale=1.0, symplectic=False),
    "se_adlif": AdaptiveNeuron(threshold=0.05, scale=1.0),
    "dual": DualTimescaleNeuron(threshold=0.4, gate=Gating("learned")),
}


def made(kind: str = "se_adlif", **options: Any) -> RSNN:
    torch.manual_seed(0)
    model = RSNN(SPEC, NEURONS[kind], **({"hidden": (8, 6)} | options))
    if options.get("readout", "linear") == "linear":
        model.readout.weight.data.normal_()
    return model


def inputs(batch: int = 3, steps: int = 12) -> torch.Tensor:
    return torch.rand(batch, steps, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("recurrent", "delay_kind"), [(False, "drawn"), (True, "axonal"), (False, "synaptic")]
)
@pytest.mark.parametrize("kind", NEURONS)
def test_parts_equal_the_whole_and_all_parameters_learn(
    kind: str, recurrent: bool, delay_kind: str
) -> None:
    model, x = made(kind, recurrent=recurrent, delays_ms=3.0, delay_kind=delay_kind), inputs()
    record = ["hidden1/spikes"]
    whole = model(x, dt_ms=1.0, record=record)
    assert 0.02 < whole.records["hidden1/spikes"].mean() < 0.9
    state, parts = None, []
    for part in x.split([1, 7, 4], dim=1):
        out = model(part, state, dt_ms=1.0)
        state = out.state
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values)
    torch.testing.assert_close(state, whole.state)
    assert not list(misshapen_state(model))
    rest = [leaf.shape for leaf in tensors_of(model.initial_state(3))]
    assert rest == [leaf.shape for leaf in tensors_of(whole.state)]
    whole.values.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("kind", NEURONS)
def test_traces_are_those_of_the_neurons(kind: str) -> None:
    model, x = made(kind), inputs()
    names = [name for name in model.recordable if name.startswith("hidden1/")]
    records = model(x, dt_ms=1.0, record=names).records
    assert records["hidden1/rate"].shape == (3, 8)
    torch.testing.assert_close(records["hidden1/rate"], records["hidden1/spikes"].mean(0))
    if kind == "dual":  # recomputed from the total currents
        v = 0.5 * records["hidden1/fast_membrane"] + 0.5 * records["hidden1/slow_membrane"]
        assert torch.equal(
            (v >= model.layers["hidden1"].threshold).float(), records["hidden1/spikes"]
        )


@pytest.mark.parametrize("neuron", [n for n in NEURONS if n not in ("lif", "dual")])
def test_neurons_fit_the_convolutional_network(neuron: str) -> None:
    spec = dataclasses.replace(SPEC, inputs=InputSpec((1, 6, 6)))
    model = SpikingCNN(spec, NEURONS[neuron], channels=(3,), strides=(2,), dense_units=4)
    model.readout.weight.data.normal_()
    x = torch.rand(2, 12, 1, 6, 6)
    out = model(x, dt_ms=1.0, record=["conv1/spikes"])
    assert out.records["conv1/spikes"].shape == (12, 2, 3, 3, 3)
    out.values.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="fixed_point: .* has no integer form"):
        SpikingCNN(spec, NEURONS[neuron], fixed_point=FixedPoint())


def test_parameters_stay_within_their_ranges() -> None:
    layer = made("se_adlif").layers["hidden1"]
    for bounded in layer.bounded.values():
        if isinstance(bounded.raw, torch.nn.Parameter):
            bounded.raw.data.fill_(1e4)
    values = layer.values()
    assert values["tau_ms"].max() == 25.0
    assert values["from_s"].max() == 2.0
    constant = LearnedLIFNeuron(tau_ms=(20.0, 20.0))
    model = RSNN(SPEC, constant, hidden=(4,))
    assert not [name for name, _ in model.named_parameters() if "raw" in name]
    assert torch.equal(model.layers["hidden1"].values()["tau_ms"], torch.full((4,), 20.0))


def test_fixed_parameters_do_not_learn() -> None:
    model = RSNN(SPEC, AdaptiveNeuron(learned=False), hidden=(4,))
    assert not [name for name, _ in model.named_parameters() if "raw" in name]


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "sum", "rms"])
@pytest.mark.parametrize(("tau_ms", "delay_kind"), [(None, "synaptic"), (20.0, "axonal")])
def test_padding_changes_no_result(pooling: str, tau_ms: float | None, delay_kind: str) -> None:
    """Loss, gradients, metrics, scores, features and spike counts of padded sequences."""
    lengths, labels = torch.tensor([12, 5, 9]), torch.tensor([0, 2, 1])
    x = inputs()
    objective = Objective({"cross_entropy": CrossEntropy()}, pooling=Pooling(kind=pooling))

    def result(padding: int) -> dict[str, torch.Tensor]:
        model = made("se_adlif", readout_tau_ms=tau_ms, delays_ms=2.0, delay_kind=delay_kind)
        junk = torch.full((3, 12 + padding, 5), 7.0)
        for row, length in enumerate(lengths):
            junk[row, :length] = x[row, :length]
        batch = Batch(junk, labels, 1.0, lengths=lengths)
        out = run(model, batch, record=["hidden1/spikes", "features"])
        loss = objective(model, batch, out)
        loss.total.backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        found |= {"loss": loss.total.detach(), "pooled": loss.pooled, **loss.metrics}
        found["rate"] = mean_activity(out.records["hidden1/spikes"], lengths)
        found["features"] = out.records["features"]
        return found

    short, long = result(0), result(9)
    for name, value in short.items():
        torch.testing.assert_close(long[name], value, msg=lambda text, n=name: f"{n}: {text}")


def test_features_of_a_padded_sequence_are_those_of_the_sequence_alone() -> None:
    model, x = made("lif", readout="discriminant"), inputs()
    lengths = torch.tensor([12, 5, 9])
    batch = Batch(x, torch.tensor([0, 2, 1]), 1.0, lengths=lengths)
    together = run(model, batch, record=["features"]).records["features"]
    alone = model(x[1:2, :5], dt_ms=1.0, record=["features"]).records["features"]
    torch.testing.assert_close(together[1:2], alone)
    Discriminant().consolidate(model, [batch], lambda values, lengths: values)
    sums = model.readout.past_sums[2].float()
    torch.testing.assert_close(sums, alone[0])


@pytest.mark.parametrize("delay_kind", ["axonal", "synaptic"])
def test_learned_delays_in_a_network(delay_kind: str) -> None:
    options = {"delays_ms": 4.0, "delay_kind": delay_kind}
    model, x = made("dual", **options), inputs()
    assert model.delay_width == 2.0
    trained = model(x, dt_ms=1.0, record=["hidden2/inputs", "hidden1/spikes"])
    assert trained.records["hidden2/inputs"].shape == (12, 3, 8)
    model.set_delay_width(0.5)
    assert not torch.equal(model(x, dt_ms=1.0).values, trained.values)
    widths = {name: v for name, v in model.state_dict().items() if name.endswith(".width")}
    assert widths and all(v == 0.5 for v in widths.values())
    evaluated = model.eval()(x, dt_ms=1.0).values
    model.set_delay_width(2.0)
    assert torch.equal(model(x, dt_ms=1.0).values, evaluated)  # whole steps
    assert made("dual").delay_width is None and made("dual", delays_ms=4.0).delay_width is None
    if delay_kind == "axonal":
        assert model.statistics()["hidden2/delay_ms"].shape == (8,)
        assert set(model.spiking_connections()) == {
            f"hidden{i}/{b}" for i in (1, 2) for b in ("fast", "slow")
        }
    else:
        assert model.layers["hidden1"].fast.position.raw.shape == (8 * 5,)
        with pytest.raises(ConfigError, match="local rules have no form for delays of each syn"):
            Hebbian().check(model, SPEC)


def test_dropout_removes_spikes_in_training_alone() -> None:
    model, x = made("lif", dropout=0.5, recurrent=False), inputs()
    record = ["hidden1/spikes", "hidden2/inputs"]
    records = model(x, dt_ms=1.0, record=record).records
    spikes, seen = records["hidden1/spikes"], records["hidden2/inputs"]
    assert spikes.any() and set(seen.unique().tolist()) == {0.0, 2.0}
    assert not seen[spikes == 0].any() and (seen[spikes == 1] == 0).any()
    assert not model(x, dt_ms=1.0).values.equal(model(x, dt_ms=1.0).values)
    records = model.eval()(x, dt_ms=1.0, record=record).records
    assert torch.equal(records["hidden2/inputs"], records["hidden1/spikes"])


def test_local_rules_and_truncation_refuse_padding_before_training() -> None:
    padded = dataclasses.replace(SPEC, padded=True)
    model = made("dual")
    for term in (Hebbian(), GateVariance()):
        term.check(model, SPEC)
        with pytest.raises(ConfigError, match="need sequences of one length; those of task 't'"):
            term.check(model, padded)
    objective = Objective({"cross_entropy": CrossEntropy()})
    settings = Truncation(length=4)
    assert not list(check_truncation(objective, settings, [SPEC]))
    (problem,) = check_truncation(objective, settings, [SPEC, padded])
    assert "sequences of different lengths cannot be pooled in chunks" in problem


def test_local_rule_learns_from_recurrent_layers() -> None:
    torch.manual_seed(0)
    neuron = DualTimescaleNeuron(threshold=0.4)
    model = RSNN(SPEC, neuron, hidden=(8,), readout="discriminant")
    objective = Objective({"hebbian": Hebbian(), "gate_variance": GateVariance()})
    batch = Batch(inputs(), torch.tensor([0, 2, 1]), 1.0)
    loss = objective(model, batch, run(model, batch, record=objective.records(model)))
    loss.total.backward()
    assert model.layers["hidden1"].fast.weight.grad.abs().sum() > 0
    assert "layers.hidden1.gate.fast_variance" in loss.updates


def test_invalid_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match="delays_ms: got 12; sequences of task 't' take 12 ms"):
        made(delays_ms=12.0, delay_kind="synaptic")
    with pytest.raises(ValueError, match="delay_kind: got axonal; give the longest delay"):
        made(delay_kind="axonal")
    two = dataclasses.replace(SPEC, timings=((12, 1.0), (12, 2.0)))
    with pytest.raises(ValueError, match="delay_kind: got synaptic; task 't' has several time st"):
        RSNN(two, NEURONS["lif"], delays_ms=4.0, delay_kind="synaptic")
    with pytest.raises(ValueError, match="merge: recurrent neurons need merge=gate; got merge=or"):
        RSNN(SPEC, DualTimescaleNeuron(merge="or"))
    with pytest.raises(ValueError, match=r"tau_ms: got \[20.0, 5.0\]; give the lowest and the h"):
        LearnedLIFNeuron(tau_ms=(20.0, 5.0))
    with pytest.raises(ValueError, match=r"tau_ms: got \[0.0, 5.0\].* above 0"):
        LearnedLIFNeuron(tau_ms=(0.0, 5.0))
    with pytest.raises(ExportError, match="'hidden1': AdaptiveNeuron cannot .* no adaptation"):
        made("se_adlif").layer_graph()
    with pytest.raises(ExportError, match="AdaptiveThresholdNeuron .*/neuron=cuba, plif, lif"):
        made("alif", recurrent=False).layer_graph()
