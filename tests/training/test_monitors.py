"""Monitors of a network's states: histograms, trajectories, dead nodes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from neuro.models.capabilities import connection_weights
from neuro.training.callbacks.checks import check_callbacks
from neuro.training.callbacks.diagnostics import Diagnostics
from neuro.training.callbacks.histograms import Histograms, _thinned
from neuro.training.callbacks.trajectories import Trajectories
from tests.fakes import ADAMW, FakeData, linear, make_setup, rows
from tests.networks import network
from tests.soen import CONNECTIONS
from tests.training.test_soen import BACK, ONE, fit, net


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the plots; drawing is tested in tests/analysis."""
    from neuro.analysis.plots import states as state_plots
    from neuro.analysis.plots import style

    calls = {"histograms": [], "trajectories": []}
    monkeypatch.setattr(style, "save", lambda figure, path: path)
    for name, found in calls.items():
        monkeypatch.setattr(state_plots, name, lambda *a, found=found, **k: found.append((a, k)))
    return calls


@pytest.mark.parametrize("every, pictures", [(None, 1), (1, 3), (2, 2)])
def test_histograms_are_drawn_over_the_initial_ones(tmp_path, drawn, every, pictures):
    model = net(connections=[*CONNECTIONS, {**BACK, "type": "sparse", "params": {"density": 0.4}}])
    start = {name: w.detach().clone() for name, w in connection_weights(model).items()}
    fit(tmp_path, model, callbacks={"it": Histograms(every)}, phases=ONE)
    assert len(drawn["histograms"]) == 2 * pictures
    (weights, title, _), (parameters, *_) = (a for a, _ in drawn["histograms"][-2:])
    assert title == "Weights after update 12"
    assert list(weights) == ["J.0_to_1", "J.1_to_2", "J.2_to_1"]
    assert len(parameters) == 8 and "layer2/gamma_minus" in parameters
    for name, spread in weights.items():
        now = connection_weights(model)[name].detach()
        assert np.array_equal(spread.now, now[now != 0].numpy())
        assert np.array_equal(spread.start, start[name][start[name] != 0].numpy())
    offsets = parameters["layer1/phi_offset"]
    assert set(offsets.start.tolist()) == {np.float32(0.23)} != set(offsets.now.tolist())
    assert np.array_equal(offsets.now, model.layers["layer1"].phi_offset().detach().numpy())


def test_histograms_of_some_names_go_to_the_trackers(tmp_path, drawn, monkeypatch):
    logged = []
    monkeypatch.setattr(
        "neuro.tracking.jsonl.JsonlTracker.log_histogram",
        lambda self, name, values, step: logged.append((name, len(values), step)),
    )
    fit(tmp_path, callbacks={"it": Histograms(names=("J.0*", "*/gamma_plus"))}, phases=ONE)
    assert logged == [
        ("weights/J.0_to_1", 216, 12),
        ("parameters/layer1/gamma_plus", 6, 12), ("parameters/layer2/gamma_plus", 4, 12),
    ]  # fmt: skip


def test_large_initial_values_are_saved_as_quantiles():
    values = torch.randn(50_000)
    kept = _thinned(values)
    assert len(kept) == 1000 and kept[0] == values.min() and kept[-1] == values.max()
    at = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(kept.quantile(at), values.quantile(at), atol=0.01, rtol=0.01)


def test_any_model_has_weights_to_draw(tmp_path, drawn):
    fit(tmp_path, network("ltgate", readout="linear"), callbacks={"it": Histograms()}, phases=ONE)
    (weights, *_), (parameters, *_) = (a for a, _ in drawn["histograms"])
    assert "readout.weight" in weights and "conv1/gamma" in parameters
    (problem,) = Histograms(names=("nothing",)).check(make_setup(linear()))
    assert problem == "names: nothing matches 'nothing'. The model has: last.weight."


def test_trajectories_are_those_of_the_chosen_samples(tmp_path, drawn):
    model = net()
    callback = Trajectories(samples=(3, 1), layers=("layer2",), nodes=7, every_epochs=2)
    fit(tmp_path, model, callbacks={"it": callback}, phases=ONE)
    assert len(drawn["trajectories"]) == 2
    (states, labels, nodes), options = drawn["trajectories"][-1]
    assert nodes == 7 and options["title"] == "States after update 12 (validation of 'fast')"
    batch = next(FakeData().loader("fast", "val", batch_size=4).batches())
    assert labels == [f"sample {i} (label {int(batch.targets[i])})" for i in (3, 1)]
    expected = model.eval()(batch.sequence(), dt_ms=1.0).values.detach()
    for i, sample in zip((3, 1), states, strict=True):
        assert list(sample) == ["layer2"]
        torch.testing.assert_close(torch.from_numpy(sample["layer2"]), expected[i])


def test_invalid_trajectories():
    (problem,) = Trajectories(layers=("layer9",)).check(make_setup(net()))
    assert problem.startswith("layers: nothing matches 'layer9'. The model has: layer1, layer2")
    (problem,) = check_callbacks(make_setup(linear(), callbacks={"it": Trajectories()}))
    assert problem.startswith("callbacks.it: Trajectories needs a Layered model, which Linear is")
    (problem,) = Trajectories(samples=(0, 99)).check(make_setup(net()))
    assert problem.startswith("samples: got 99; the validation data of task 'fast' have 6 samples")


def diagnosed(directory, model, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit(
            directory, model, callbacks={"it": Diagnostics(**options)},
            phases={"one": {"task": "fast", "steps": 1}},
            optimizer={**ADAMW, "lr": 1e-9, "weight_decay": 0.0},
        )  # fmt: skip
    return [record.getMessage() for record in caplog.records]


def test_a_healthy_network_is_measured(tmp_path, caplog):
    model = net()
    assert diagnosed(tmp_path, model, caplog) == []
    (row,) = [row for row in rows(tmp_path) if "diagnostics/layer1/activity" in row]
    batch = next(FakeData().loader("fast", "val", batch_size=16).batches())
    s = model(batch.sequence(), dt_ms=1.0, record=("layer1/s",)).records["layer1/s"].detach()
    assert row["diagnostics/layer1/activity"] == pytest.approx(float(s.abs().mean()), rel=1e-4)
    weight = model.connection("layer0", "layer1").weight.detach()
    largest = float(weight.abs().max())
    assert row["diagnostics/layer0_to_layer1/weight_max"] == pytest.approx(largest)
    assert row["diagnostics/layer1/bias_current"] == pytest.approx(1.7)
    assert row["diagnostics/layer1/silent"] == row["diagnostics/layer1/saturated"] == 0
    assert "diagnostics/layer1/rate" not in row


def test_dead_and_saturated_nodes_are_reported(tmp_path, caplog):
    silent = net()
    for name in ("0_to_1", "2_to_1"):
        torch.nn.init.zeros_(silent.named_connections[name].weight)
    torch.nn.init.zeros_(silent.layers["layer1"].phi_offset.raw)
    found = diagnosed(tmp_path / "silent", silent, caplog)
    assert any("layer1: 100% of the nodes are dead (mean state below 0.001)" in f for f in found)
    full = net(dt=2000.0)
    torch.nn.init.constant_(full.layers["layer1"].phi_offset.raw, 0.5)
    for name in ("0_to_1", "2_to_1"):
        torch.nn.init.zeros_(full.named_connections[name].weight)
    found = diagnosed(tmp_path / "full", full, caplog, saturated_above=0.7)
    assert any("layer1: 100% of the nodes are saturated (mean state above 70%" in f for f in found)
    assert not any("dead" in line for line in found)
    one = net()  # dead outputs are reported, hidden nodes may be dead
    for name in ("layer1", "layer2"):
        with torch.no_grad():
            one.layers[name].phi_offset.raw[0] = 0.0
            for target in one.sources[name]:
                one.connection(target, name).weight[0] = 0.0
    found = diagnosed(tmp_path / "one", one, caplog)
    assert any("layer2: 25% of the nodes are dead" in line for line in found)
    assert not any("layer1" in line for line in found)
