"""The Loihi 2 target: checks, accuracies, agreement, and report contents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neuro.config.build import build
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.data.ragged.timescales import Timescales
from neuro.errors import ConfigError, ExportError
from neuro.hardware.base import Target
from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.quantize import quantize_graph
from neuro.hardware.loihi2.target import Loihi2
from neuro.hardware.loihi2.trial import Networks, Trial
from neuro.hardware.nir.interchange import read_integers, read_nir
from neuro.layers.lif import LIFNeuron
from neuro.learning.metrics import Accuracy, Perplexity
from neuro.learning.objective import Objective
from neuro.models.capabilities import unmet
from neuro.models.rsnn import RSNN
from neuro.models.spiking_cnn import SpikingCNN
from neuro.ops.fixed_point import FixedPoint
from tests.fakes import FakeData, linear
from tests.hardware.loihi2.test_floating import frames, trained
from tests.models.test_rsnn import NEURONS
from tests.networks import MODELS, network

DATA = FakeData()
TASKS = {task: DATA.spec(task) for task in DATA.tasks}
SAMPLES = {task: DATA.loader(task, "test").samples for task in DATA.tasks}


METRICS = {"accuracy": Accuracy(), "perplexity": Perplexity()}
OBJECTIVE = Objective({}, metrics=METRICS)


def decode(values: torch.Tensor) -> torch.Tensor:
    return values.mean(1).argmax(1)


def report_of(target: Loihi2, model: SpikingCNN) -> Any:
    loaders = {task: DATA.loader(task, "test", batch_size=3) for task in DATA.tasks}
    return target.evaluate(model, loaders, OBJECTIVE, {})


@pytest.mark.parametrize("kind", MODELS)
def test_every_spiking_model_fits(kind: str) -> None:
    Loihi2(backend="engine").check(network(kind), TASKS, SAMPLES)


def test_a_model_without_a_graph() -> None:
    (problem,) = unmet(linear(), Loihi2(backend="engine").requires, "hardware: Loihi2")
    assert problem == "hardware: Loihi2 needs a Deployable model, which Linear is not."


def test_a_network_that_does_not_fit() -> None:
    model = network("lif", dense_units=200_000, readout_layers=("conv1",))
    with pytest.raises(ExportError, match=r"layer 'dense': the network needs .* cores.*chips="):
        Loihi2(backend="engine").check(model, TASKS, SAMPLES)
    Loihi2(backend="engine", chips=4).check(model, TASKS, SAMPLES)


@pytest.mark.parametrize(
    "samples, message",
    [
        (9, "hardware.samples: got 9 for task 'fast', which has 8 test samples"),
        ({"fast": 2, "slow": 100}, "got 100 for task 'slow', which has 8"),
        ({"fst": 2}, "no task 'fst' is evaluated. Tasks: fast, slow. Did you mean 'fast'?"),
    ],
)
def test_more_samples_than_available(samples: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Loihi2(samples=samples).check(network("lif"), TASKS, SAMPLES)
    assert message in str(caught.value)


def test_the_chip_backend_is_refused() -> None:
    node = {"_target_": "neuro.hardware.loihi2.target.Loihi2", "backend": "chip"}
    with pytest.raises(ConfigError, match="hardware.backend: got 'chip'; a run on a Loihi 2 chip"):
        build(node, Target, "hardware")
    with pytest.raises(AssertionError, match="chip"):
        Loihi2(backend="chip")  # type: ignore[arg-type]


def test_widths_must_equal_those_of_fixed_point_training() -> None:
    model = network("lif", fixed_point=FixedPoint(weight_bits=6, input_bits=5))
    with pytest.raises(ConfigError) as caught:
        Loihi2("engine", weight_bits=8, input_bits=6).check(model, TASKS, SAMPLES)
    assert "hardware.weight_bits: got 8, but the model is trained with" in str(caught.value)
    assert "hardware.input_bits: got 6" in str(caught.value)
    Loihi2("engine", weight_bits=6).check(model, TASKS, SAMPLES)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("held", [False, True])
def test_fixed_point_training_equals_the_engine(kind: str, bits: int, held: bool) -> None:
    """The forward pass of training and the engine agree in every spike."""
    model = trained(network(kind, readout="linear", fixed_point=FixedPoint(bits, 5)))
    record = [f"{name}/spikes" for name in model.named_layers()]
    x = frames(held)
    output = model(x, dt_ms=2.0, record=record)
    assert model.fixed_point is not None
    integer = quantize_graph(model.layer_graph(), 2.0, model.fixed_point).network
    ran = engine.run(integer, integer.encode(x.numpy()), record_spikes=True)
    for name, spikes in ran.spikes.items():
        assert spikes.any()
        assert torch.equal(torch.from_numpy(spikes), output.records[f"{name}/spikes"].bool())
    values = torch.from_numpy(engine.values(integer.readout, ran.readout))
    torch.testing.assert_close(values.float(), output.values)


@pytest.mark.parametrize("coding", ["spikes", "counts"])
def test_fixed_point_training_on_events(coding: Any) -> None:
    """Spikes and counts are not scaled like frames within +-2, in training and on the engine."""
    spec = dataclasses.replace(TASKS["fast"], inputs=InputSpec((1, 6, 6), coding=coding))
    fixed = FixedPoint(8, 5)
    torch.manual_seed(0)
    model = trained(SpikingCNN(spec, LIFNeuron(), (3,), (1,), 4, fixed_point=fixed))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2 if coding == "spikes" else 20, (3, 9, 1, 6, 6), generator=generator)
    output = model(x.float(), dt_ms=2.0, record=["conv1/spikes", "dense/spikes"])
    integer = quantize_graph(model.layer_graph(), 2.0, fixed).network
    ran = engine.run(integer, integer.encode(x.numpy()), record_spikes=True)
    for name, spikes in ran.spikes.items():
        assert 0.01 < spikes.mean() < 0.99
        assert torch.equal(torch.from_numpy(spikes), output.records[f"{name}/spikes"].bool())


def test_fixed_point_changes_the_network_and_gives_all_weights_gradients() -> None:
    x = frames(held=False)
    outputs = []
    for fixed_point in (None, FixedPoint(4, 6)):
        model = trained(network("lif", readout="linear", fixed_point=fixed_point))
        values = model(x, dt_ms=2.0).values
        values.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        outputs.append(values.detach())
    assert not torch.allclose(*outputs)


def test_the_report_on_the_engine() -> None:
    model = trained(network("ltgate", readout="linear"))
    report = report_of(Loihi2(backend="engine"), model)
    details = json.loads(json.dumps(report.details, allow_nan=False))
    assert report.backend == "Loihi 2 arithmetic, simulated: bit-exact integer engine"
    assert details["chip"] is False
    assert details["time_steps_ms"] == [1.0, 20.0]
    assert details["reconfigured_between_tasks"] is True
    assert details["input"] == {"coding": "graded spikes", "bits": 6, "integer_of_1": 16}
    for task in DATA.tasks:
        found = details["accuracies"][task]
        assert list(found) == ["model", "rounded", "engine"]
        assert report.scores[task]["accuracy"] == found["engine"]
        assert report.scores[task]["perplexity"] == report.metrics[f"{task}/perplexity"] >= 1
        assert details["scores_by_way"][task]["engine"] == report.scores[task]
        right = [
            int((decode(model(b.sequence(), dt_ms=b.dt_ms).values) == b.targets).sum())
            for b in DATA.loader(task, "test").batches()
        ]
        assert found["model"] == pytest.approx(sum(right) / SAMPLES[task])
        agreement = details["agreement"][task]["engine_with_model"]
        assert list(agreement["spikes"]) == ["conv1", "conv2", "dense"]
        assert all(share > 0.8 for share in agreement["spikes"].values())
        assert details["lava"][task] is None
        counts = {layer["name"]: layer for layer in details["counts"][task]}
        assert list(counts) == ["conv1", "conv2", "dense", "readout"]
        assert counts["conv1"]["neurons"] == 3 * 36
        assert counts["conv1"]["steps"] == TASKS[task].frames
        operations = details["neurobench"][task]["SynapticOperations"]
        assert operations["Effective_MACs"] == counts["conv1"]["synaptic_macs"] > 0
        assert details["neurobench"][task]["ClassificationAccuracy"] == found["engine"]
        low, high = details["estimate"][task]["energy_uj"]
        assert 0 < low < high
    assert details["mapping"]["cores"] == report.metrics["cores"] == 4
    assert set(report.metrics) == set(Loihi2().metric_names(DATA.tasks, tuple(METRICS)))
    energies = [details["estimate"][task]["energy_uj"] for task in DATA.tasks]
    assert report.metrics["energy_uj_high"] == pytest.approx((energies[0][1] + energies[1][1]) / 2)
    assert {s["name"] for s in details["quantisation"]["synapses"]} >= {"conv1/fast", "dense/slow"}
    assert set(details["quantisation"]["neurons"]) == {"1 ms", "20 ms"}


def test_targets_are_one_class_per_sequence() -> None:
    values = dataclasses.replace(TASKS["fast"], targets=TargetSpec("value", (2,)))
    with pytest.raises(ConfigError, match="one class per sequence; task 'fast' has targets of"):
        Loihi2(backend="engine").check(network("lif"), {"fast": values}, {"fast": 8})


def test_scores_equal_those_of_the_report() -> None:
    model = trained(network("lif", readout="linear"))
    loaders = {task: DATA.loader(task, "test", batch_size=5) for task in DATA.tasks}
    target = Loihi2(backend="engine")
    found = report_of(target, model)
    scores = target.scores(model, loaders, OBJECTIVE)
    assert scores == {task: pytest.approx(row) for task, row in found.scores.items()}


def test_figures_and_files(tmp_path: Path) -> None:
    model = trained(network("ltgate", readout="linear"))
    report = report_of(Loihi2(backend="engine"), model)
    assert set(report.figures) == {"cores", "membranes", "hardware_accuracy"}
    for draw in report.figures.values():
        assert draw().axes
    assert set(report.files) == {
        f"network-{step}ms.{suffix}" for step in ("1", "20") for suffix in ("nir", "safetensors")
    }
    for name, write in report.files.items():
        write(tmp_path / name)
    graph = read_nir(tmp_path / "network-20ms.nir")
    assert list(graph.nodes) == list(model.layer_graph().nodes)
    assert read_integers(tmp_path / "network-20ms.safetensors").dt_ms == 20.0


def test_agreement_decreases_with_fewer_bits() -> None:
    model = trained(network("ltgate", readout="linear"))
    shares = []
    for bits in (8, 3):
        report = report_of(Loihi2(backend="engine", weight_bits=bits), model)
        assert report.details["quantisation"]["weight_bits"] == bits
        shares.append(report.details["agreement"]["fast"]["engine_with_model"]["spikes"]["dense"])
    assert shares[0] > shares[1]
    coarse = report_of(Loihi2(backend="engine", input_bits=3), model).details
    assert coarse["input"] == {"coding": "graded spikes", "bits": 3, "integer_of_1": 2}


@pytest.mark.timeout(200)
def test_lava_runs_the_first_samples_and_equals_the_engine() -> None:
    model = trained(network("ltgate", readout="linear"))
    report = report_of(Loihi2(samples={"fast": 2, "slow": 4}), model)
    assert "lava-nc 0.10.0" in report.backend
    for task, samples in {"fast": 2, "slow": 4}.items():
        lava = report.details["lava"][task]
        assert lava["equals_engine"] is True
        assert lava["first_difference"] is None
        assert lava["samples"] == report.details["samples"][task]["lava"] == samples
        assert lava["steps"] >= samples * TASKS[task].frames
        agreement = report.details["agreement"][task]["lava_with_engine"]
        assert agreement == {"predictions": 1.0, "spikes": dict.fromkeys(agreement["spikes"], 1.0)}


@pytest.mark.timeout(200)
def test_a_mismatch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report the first step, layer and neuron at which Lava differs from the engine."""
    model = trained(network("lif", readout="linear"))
    networks = Networks(model.layer_graph(), FixedPoint())
    trial = Trial(model, networks, DATA.loader("slow", "test"), OBJECTIVE)
    honest = engine.run

    def tampered(*args: Any, **kwargs: Any) -> Any:
        output = honest(*args, **kwargs)
        if output.spikes:
            output.spikes["conv2"][1, 0, 2, 1, 0] ^= True
        return output

    monkeypatch.setattr(engine, "run", tampered)
    trial.run_lava(1)
    assert trial.difference is not None
    assert "step 1, layer 'conv2', sample 0, neuron [2, 1, 0]" in trial.difference
    assert trial.lava_report is not None and trial.lava_report["equals_engine"] is False


def recurrent_case(kind: str = "cuba", **options: Any) -> tuple[RSNN, Timescales, TaskSpec]:
    """A recurrent network and random spikes in sequences of different lengths."""
    data = Timescales(
        kinds=("match",), channels=4, train=2, val=2, test=6, dt_ms=4.0, delay_ms=(10.0, 60.0)
    )
    spec = data.spec("match")
    torch.manual_seed(0)
    model = RSNN(spec, NEURONS[kind], hidden=(10, 6), **options)
    model.readout.weight.data.normal_()
    return model.eval(), data, spec


@pytest.mark.parametrize(
    ("kind", "options"),
    [("lif", {}), ("cuba", {"delays_ms": 12.0, "delay_kind": "synaptic"}), ("dual", {})],
    ids=["lif", "cuba with delays", "dual"],
)
def test_recurrent_networks_on_spikes_of_different_lengths(
    kind: str, options: dict[str, Any]
) -> None:
    model, data, spec = recurrent_case(kind, **options)
    assert spec.padded
    target = Loihi2(backend="engine")
    target.check(model, {"match": spec}, {"match": 6})
    loaders = {"match": data.loader("match", "test", batch_size=4)}
    report = target.evaluate(model, loaders, OBJECTIVE, {})
    details = json.loads(json.dumps(report.details, allow_nan=False))
    assert details["input"] == {"coding": "spikes", "bits": 2, "integer_of_1": 1}
    counts = {layer["name"]: layer for layer in details["counts"]["match"]}
    batches = list(loaders["match"].batches())
    lengths = torch.cat([b.lengths for b in batches if b.lengths is not None]).float()
    assert counts["hidden1"]["steps"] == pytest.approx(float(lengths.mean()))
    assert counts["hidden1"]["steps"] < max(b.inputs.shape[1] for b in batches)
    spikes = sum(float(b.inputs.sum()) for b in batches)
    assert counts["hidden1"]["inputs"] == pytest.approx(spikes / 6)
    operations = details["neurobench"]["match"]["SynapticOperations"]
    assert operations["Effective_MACs"] == 0 < operations["Effective_ACs"]
    assert counts["hidden2"]["synaptic_acs"] > 6 * counts["hidden2"]["inputs"] > 0
    assert details["estimate"]["match"]["events"]["messages"] > 0
    for draw in report.figures.values():
        assert draw().axes


def test_padding_does_not_change_the_report() -> None:
    """Agreement, scores and counts for two batches, and for one batch padded to one length."""
    model, data, _ = recurrent_case("lif", readout_tau_ms=30.0)
    found = [
        Loihi2(backend="engine").evaluate(
            model, {"match": data.loader("match", "test", batch_size=size)}, OBJECTIVE, {}
        )
        for size in (1, 6)
    ]
    alone, padded = (report.details for report in found)
    for key in ("accuracies", "agreement", "counts", "neurobench"):
        assert alone[key] == padded[key]


def test_adaptive_neurons_are_refused_before_training() -> None:
    model, _, spec = recurrent_case("se_adlif")
    with pytest.raises(ExportError, match="'hidden1': AdaptiveNeuron cannot be mapped to the chip"):
        Loihi2(backend="engine").check(model, {"match": spec}, {"match": 6})


@pytest.mark.timeout(200)
def test_lava_equals_the_engine_on_recurrent_networks() -> None:
    """Also during padding, where spikes continue, and across samples of one stream."""
    model, data, _ = recurrent_case("cuba", delays_ms=8.0)
    loaders = {"match": data.loader("match", "test", batch_size=4)}
    report = Loihi2(samples=2).evaluate(model, loaders, OBJECTIVE, {})
    lava = report.details["lava"]["match"]
    assert lava["equals_engine"] is True and lava["samples"] == 2


def test_a_width_of_inputs_that_are_spikes_is_refused() -> None:
    model, _, spec = recurrent_case("lif")
    with pytest.raises(ConfigError) as caught:
        Loihi2(input_bits=5, samples=7).check(model, {"match": spec}, {"match": 6})
    assert "hardware.input_bits: got 5; inputs of task 'match' are spikes" in str(caught.value)
    assert "hardware.samples: got 7 for task 'match'" in str(caught.value)


def test_membranes_at_the_limit_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Slow currents with a low threshold leave the 24 bits; fast ones do not."""
    shares = []
    for tau_ms in (2.0, 400.0):
        model, data, _ = recurrent_case("cuba")
        for layer in model.layers.values():
            for parameter in layer.bounded.values():
                parameter.low, parameter.high = tau_ms, tau_ms
            layer.threshold.fill_(0.05)
        loaders = {"match": data.loader("match", "test", batch_size=4)}
        caplog.clear()
        details = Loihi2(backend="engine").evaluate(model, loaders, OBJECTIVE, {}).details
        shares.append(details["membranes_at_limit"]["match"]["hidden1"])
        warned = any("at the limit of 24 bits" in record.message for record in caplog.records)
        assert warned == (max(details["membranes_at_limit"]["match"].values()) > 0.01)
    assert shares[0] == 0 < 0.01 < shares[1]
