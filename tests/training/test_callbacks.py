"""Callbacks on small runs: effect of each parameter, and resume."""

from __future__ import annotations

import logging

import pytest
import torch

from neuro.data.base import Batch
from neuro.learning.rules.ltgate import GateVariance
from neuro.learning.rules.readout import Discriminant
from neuro.training.callbacks.calibration import ThresholdCalibration
from neuro.training.callbacks.checks import check_callbacks
from neuro.training.callbacks.chip_limits import ChipLimits
from neuro.training.callbacks.constraints import Constraints
from neuro.training.callbacks.diagnostics import Diagnostics
from neuro.training.callbacks.plots import Plots
from neuro.training.callbacks.weight_bounds import WeightBounds
from tests.fakes import ADAMW, FakeData, linear, make_setup, make_trainer, rows, series
from tests.networks import network

SHORT = {"one": {"task": "fast", "steps": 1}}


def fit(directory, model, callback, phases=SHORT, **options):
    trainer = make_trainer(directory, model, callbacks={"it": callback}, phases=phases, **options)
    trainer.fit()
    return trainer


# -- calibration ------------------------------------------------------------------------------


def rates(model, batch_size=14, held=None):
    """Mean spikes per step of each layer on the training data."""
    batch = next(FakeData().loader("fast", "train", batch_size=batch_size).batches())
    frames, dt_ms = held or (batch.frames, batch.dt_ms)
    names = [f"{name}/spikes" for name in model.thresholds]
    x = batch._replace(frames=frames).sequence()
    records = model(x, dt_ms=dt_ms, record=names).records
    return torch.stack([records[name].mean() for name in names])


@pytest.mark.parametrize("kind", ["ltgate", "lif"])
def test_calibration_brings_every_layer_to_the_target(tmp_path, kind):
    model = network(kind, channels=(6, 8), dense_units=40)
    before = rates(model)
    callback = ThresholdCalibration(target=0.2, tolerance=0.02, rounds=5)
    fit(tmp_path, model, callback, data=FakeData(batch_size=14))
    assert (before - 0.2).abs().max() > 0.05
    assert (rates(model) - 0.2).abs().max() < 0.035  # with few neurons, rates change in steps


def calibrated(directory, **options):
    model = network("lif", channels=(6, 8), dense_units=40)
    settings = {"target": 0.2, "tolerance": 0.02, "rounds": 3, **options}
    # a learning rate of 0 isolates the effect of the calibration
    fit(directory, model, ThresholdCalibration(**settings), optimizer={**ADAMW, "lr": 1e-9})
    return torch.stack(list(model.thresholds.values()))


@pytest.mark.parametrize(
    "option, value",
    [("target", 0.4), ("tolerance", 0.3), ("samples", 20), ("batches", 1), ("rounds", 1),
     ("maximum", 0.4), ("minimum", 0.9)],
)  # fmt: skip
def test_every_parameter_of_the_calibration_has_an_effect(tmp_path, option, value):
    base = {"batches": 2, "samples": 7}
    one = calibrated(tmp_path / "a", **base)
    assert not torch.equal(one, calibrated(tmp_path / "b", **{**base, option: value}))


def test_thresholds_do_not_depend_on_the_size_of_a_batch(tmp_path):
    """The measured samples do not depend on the division into micro-batches."""
    found = []
    for size in (12, 4, 3):
        model = network("lif", channels=(6, 8), dense_units=40)
        make_trainer(
            tmp_path / str(size), model, callbacks={"c": ThresholdCalibration(samples=6)},
            optimizer={**ADAMW, "lr": 1e-9}, data=FakeData(batch_size=size),
        ).fit()  # fmt: skip
        found.append(torch.stack(list(model.thresholds.values())))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_thresholds_stay_within_their_bounds_and_a_missed_target_is_reported(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = calibrated(tmp_path, target=0.9, minimum=0.25, maximum=0.5)
    assert found.min() >= 0.25 and found.max() <= 0.5
    assert "layer dense fires in" in caplog.text
    assert "(target 0.900 +- 0.020, thresholds within [0.25, 0.5])" in caplog.text


def test_the_reported_rates_are_those_of_the_final_thresholds(tmp_path, caplog):
    model = network("lif", channels=(6, 8), dense_units=40)
    callback = ThresholdCalibration(target=0.6, tolerance=0.01, batches=1, rounds=1)
    with caplog.at_level(logging.INFO):
        fit(tmp_path, model, callback, data=FakeData(batch_size=14))
    line = next(r.getMessage() for r in caplog.records if "Calibrated" in r.getMessage())
    reported = [float(part.split("rate ")[1].rstrip(")")) for part in line.split(", ")]
    assert reported == pytest.approx(rates(model).tolist(), abs=0.006)


def test_all_timings_calibrates_for_the_mean_over_the_tasks(tmp_path):
    phases = {"one": {"task": "fast", "steps": 1}, "two": {"task": "slow", "steps": 1}}
    found = {}
    for all_timings in (False, True):
        model = network("lif", channels=(6, 8), dense_units=40)
        callback = ThresholdCalibration(rounds=5, all_timings=all_timings)
        make_trainer(
            tmp_path / str(all_timings), model, phases=phases, callbacks={"c": callback},
            optimizer={**ADAMW, "lr": 1e-9}, data=FakeData(batch_size=14),
        ).fit()  # fmt: skip
        fast, slow = rates(model), rates(model, held=(4, 20.0))
        found[all_timings] = (fast - 0.2).abs().max(), ((fast + slow) / 2 - 0.2).abs().max()
    assert found[False][0] < 0.04
    assert found[True][1] < 0.04
    assert found[True][0] > found[False][0]


def test_calibration_is_skipped_for_loaded_weights(tmp_path):
    model = network("lif")
    before = {k: v.clone() for k, v in model.thresholds.items()}
    fit(tmp_path, model, ThresholdCalibration(), pretrained=True)
    assert all(torch.equal(model.thresholds[k], before[k]) for k in before)


def test_calibration_runs_before_the_first_phase_only(tmp_path):
    class Count(ThresholdCalibration):
        calls = 0

        def _calibrate(self, trainer, thresholds):
            Count.calls += 1
            return super()._calibrate(trainer, thresholds)

    phases = {"one": {"task": "fast", "steps": 1}, "two": {"task": "slow", "steps": 1}}
    fit(tmp_path, network("lif"), Count(), phases)
    assert Count.calls == 1


@pytest.mark.parametrize(
    "callback, capability",
    [
        (ThresholdCalibration(), "Spiking"),
        (ChipLimits(), "Deployable"),
        (Constraints(), "Constrained"),
    ],
)
def test_callbacks_need_capabilities_of_the_model(callback, capability):
    (problem,) = check_callbacks(make_setup(linear(), callbacks={"it": callback}))
    assert problem == (
        f"callbacks.it: {type(callback).__name__} needs a {capability} model, which Linear is not. "
        "Leave it out of the list of callbacks."
    )


def test_bounds_on_no_parameter_are_refused():
    (problem,) = WeightBounds(parameters=("lst.*",)).check(make_setup(linear()))
    assert problem == "parameters: nothing matches 'lst.*'. The model has: last.weight, last.bias."


def test_reversed_bounds_are_refused():
    with pytest.raises(ValueError, match=r"minimum \(2\) must be below maximum \(1\)"):
        ThresholdCalibration(minimum=2, maximum=1)
    with pytest.raises(ValueError, match="must be below"):
        WeightBounds(minimum=1.0, maximum=1.0)


# -- weight bounds ----------------------------------------------------------------------------


def test_bounds_hold_after_every_update_for_the_named_parameters(tmp_path):
    model = network("lif", readout="linear")
    seen = []

    class Check(WeightBounds):
        def on_step(self, trainer, metrics):
            super().on_step(trainer, metrics)
            for name, parameter in trainer.model.named_parameters():
                values = parameter.detach()
                seen.append((name.split(".")[0], float(values.min()), float(values.max())))

    phases = {"one": {"task": "fast", "steps": 3}}
    fit(tmp_path, model, Check(-0.05, 0.1), phases, optimizer={**ADAMW, "lr": 0.5})
    bounded = [bounds for group, *bounds in seen if group == "layers"]
    assert min(low for low, _ in bounded) == pytest.approx(-0.05)
    assert max(high for _, high in bounded) == pytest.approx(0.1)
    assert max(high for group, _, high in seen if group == "readout") > 0.1


def test_other_parameters_can_be_named(tmp_path):
    model = network("lif", readout="linear")
    phases = {"one": {"task": "fast", "steps": 3}}
    bounds = WeightBounds(-0.01, 0.01, ("readout.bias", "readout.w*"))
    fit(tmp_path, model, bounds, phases, optimizer={**ADAMW, "lr": 0.5})
    assert float(model.readout.weight.detach().abs().max()) == pytest.approx(0.01)
    assert model.layers["conv1"].synapse.weight.abs().max() > 0.01


# -- diagnostics ------------------------------------------------------------------------------


def diagnosed(directory, model, caplog, steps=1, terms=None, **options):
    caplog.clear()
    phases = {"one": {"task": "fast", "steps": steps}}
    with caplog.at_level(logging.WARNING):
        fit(directory, model, Diagnostics(**options), phases, terms=terms,
            optimizer={**ADAMW, "lr": 1e-9, "weight_decay": 0.0})  # fmt: skip
    return [record.getMessage() for record in caplog.records]


def test_a_healthy_network_gives_numbers_and_no_warning(tmp_path, caplog):
    model = network("ltgate", gate="learned", readout="linear", channels=(6, 8), dense_units=40)
    assert diagnosed(tmp_path, model, caplog, error_limit=0.1) == []
    row = next(row for row in rows(tmp_path) if "diagnostics/dense/rate" in row)
    spikes = model(
        FakeData().splits["fast", "val"][0].expand(-1, 6, -1, -1, -1), dt_ms=1.0,
        record=("dense/spikes",),
    ).records["dense/spikes"]  # fmt: skip
    assert row["diagnostics/dense/rate"] == pytest.approx(float(spikes.detach().mean()))
    assert row["diagnostics/dense/silent"] == pytest.approx(
        float((spikes.mean((0, 1)) == 0).float().mean())
    )
    assert row["diagnostics/conv1/gamma"] == pytest.approx(0.5)
    assert row["diagnostics/conv1/gamma_open"] in (0.0, 1.0)
    weight = model.layers["conv1"].fast.weight.detach()
    assert row["diagnostics/conv1/fast/weight_max"] == pytest.approx(float(weight.abs().max()))
    assert 0 < row["diagnostics/conv1/fast/quantisation_error"] < 0.01


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda m: m.thresholds["conv2"].fill_(99.0), {}, "conv2: silent .0.0000 spikes per step"),
        (lambda m: m.layers["conv1"].synapse.weight.data.fill_(0.9), {}, "conv1: saturated"),
        (
            lambda m: m.layers["dense"].synapse.weight.data[0].fill_(1.5),
            {},
            "dense/synapse: weights reach 1.50, beyond 1; callbacks.weight_bounds",
        ),
        (
            lambda m: m.layers["dense"].synapse.weight.data[0, 0].fill_(0.9),
            {"bits": 2},
            "dense/synapse: 2 bits change the weights by",
        ),
    ],
)
def test_each_warning(tmp_path, caplog, change, options, message):
    model = network("lif", readout="linear")
    defaults = {"error_limit": 1.0, "weight_limit": 1.0, "silent_below": 0.0001}
    if "bits" in options:
        defaults["error_limit"] = 0.5
    assert diagnosed(tmp_path / "before", model, caplog, **defaults) == []
    change(model)
    found = diagnosed(tmp_path / "after", model, caplog, **{**defaults, **options})
    assert any(message.replace(".0.0000", "(0.0000") in line for line in found)


def test_stuck_gates_are_reported_by_their_average(tmp_path, caplog):
    """gamma is 1 throughout; its average starts at 0.5 and exceeds 0.95 after 5 measurements."""
    model = network("ltgate", gate="fixed", gamma=1.0)
    terms = {"d": Discriminant()}
    options = {"every_steps": 1, "gate_momentum": 0.6, "error_limit": 1.0, "weight_limit": 9.0}
    found = diagnosed(tmp_path, model, caplog, steps=8, terms=terms, **options)
    stuck = [line for line in found if "stuck" in line]
    assert stuck[0] == "update 5: conv1: 100% of the gates are stuck open or shut."
    assert len(stuck) == 3  # once for each layer, although the condition persists
    assert [v for _, v in series(tmp_path, "diagnostics/conv1/gamma_stuck")] == [0] * 4 + [1] * 4
    options["gate_threshold"] = 0.99
    later = diagnosed(tmp_path / "b", model, caplog, steps=8, terms=terms, **options)
    assert next(line for line in later if "stuck" in line).startswith("update 8")


def test_a_warning_is_given_once_though_its_number_changes(tmp_path, caplog):
    class Grow(Diagnostics):
        def on_step(self, trainer, metrics):
            trainer.model.layers["dense"].synapse.weight.data.mul_(2.0)
            super().on_step(trainer, metrics)

    phases = {"one": {"task": "fast", "steps": 4}}
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, network("lif"), Grow(every_steps=1, error_limit=1.0), phases)
    assert sum("dense/synapse: weights reach" in r.getMessage() for r in caplog.records) == 1
    values = [v for _, v in series(tmp_path, "diagnostics/dense/synapse/weight_max")]
    assert values == sorted(values) and values[-1] > 4 * values[0]


def test_intervals_and_samples_of_the_diagnostics(tmp_path):
    phases = {"one": {"task": "fast", "steps": 7}}
    for samples in (1, 4):
        callback = Diagnostics(every_steps=3, samples=samples)
        fit(tmp_path / str(samples), network("lif"), callback, phases)
        assert [s for s, _ in series(tmp_path / str(samples), "diagnostics/dense/rate")] == [
            1,
            3,
            6,
        ]
    one = series(tmp_path / "1", "diagnostics/conv1/rate")
    assert one != series(tmp_path / "4", "diagnostics/conv1/rate")


def test_diagnostics_save_their_averages_and_warnings():
    callback, other = Diagnostics(), Diagnostics()
    statistics = {"conv1/gamma": torch.ones(3)}
    dict(callback._gate_statistics(statistics))
    callback._warned.append("conv1/gamma_stuck")
    other.load_state_dict(callback.state_dict())
    assert dict(other._gate_statistics(statistics)) == dict(callback._gate_statistics(statistics))
    assert other._warned == ["conv1/gamma_stuck"]


def test_variances_are_logged_beside_their_gates(tmp_path):
    model = network("ltgate")
    terms = {"v": GateVariance(), "d": Discriminant()}
    fit(tmp_path, model, Diagnostics(), terms=terms)
    (value,) = [v for _, v in series(tmp_path, "diagnostics/conv2/fast_variance")]
    assert value == pytest.approx(float(model.layers["conv2"].gate.fast_variance.mean()))


def test_a_model_without_layers_has_no_activity_to_diagnose(tmp_path):
    """Weight range and quantisation error are logged nevertheless, also for the readout."""
    fit(tmp_path, linear(), Diagnostics())
    names = {n for row in rows(tmp_path) for n in row if n.startswith("diagnostics")}
    assert names == {f"diagnostics/last/{what}" for what in ("weight_max", "quantisation_error")}


def test_the_readout_is_bounded_too(tmp_path):
    """All weights are bounded by default; a model without any is reported."""
    model = linear()
    fit(tmp_path, model, WeightBounds(-0.01, 0.01))
    assert float(model.last.weight.detach().abs().max()) == pytest.approx(0.01)
    assert not list(WeightBounds().notes(make_setup(model)))
    model.last.weight = torch.nn.Parameter(torch.zeros(3))
    (note,) = WeightBounds().notes(make_setup(model))
    assert note == "has nothing to bound: Linear has no matrices or kernels."


# -- plots ------------------------------------------------------------------------------------

TWO = {"one": {"task": "fast", "steps": 2}, "two": {"task": "slow", "steps": 2}}


@pytest.fixture
def drawn(monkeypatch):
    """Record calls of plots instead of drawing, which is tested in tests/analysis."""
    from neuro.analysis.plots import spiking as spiking_plots
    from neuro.analysis.plots import style
    from neuro.analysis.plots import training as plots

    calls = []

    def save(figure, path):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        calls.append(path.stem)
        return path

    monkeypatch.setattr(style, "save", save)
    for module, names in (
        (plots, ("training_curves", "accuracy_matrix")),
        (spiking_plots, ("gate_statistics", "spike_raster", "firing_rates")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *a, name=name, **k: (name, a, k))
    return calls


def test_all_plots_of_a_curriculum(tmp_path, drawn):
    callbacks = {"look": Diagnostics(every_steps=1), "plots": Plots()}
    terms = {"v": GateVariance(), "d": Discriminant()}
    make_trainer(tmp_path, network("ltgate"), phases=TWO, callbacks=callbacks, terms=terms).fit()
    assert drawn == ["training", "accuracy_matrix", "gates", "raster", "firing_rates"]
    assert len(list((tmp_path / "plots").glob("*.png"))) == 5


def test_2d_events_are_drawn(tmp_path, drawn, monkeypatch):
    from neuro.analysis.plots import events

    seen = []
    monkeypatch.setattr(events, "event_frames", lambda x, dt, title: seen.append((x, dt, title)))
    fit(tmp_path / "values", network("lif"), Plots(), TWO)
    assert not seen
    sequence = Batch.sequence
    monkeypatch.setattr(Batch, "sequence", lambda batch: (sequence(batch) > 0.5).float())
    fit(tmp_path / "events", network("lif"), Plots(), TWO)
    ((shown, dt_ms, title),) = seen
    assert shown.shape[1:] == (1, 6, 6) and dt_ms == 20.0 and "task 'slow'" in title


def test_plots_without_data_are_skipped(tmp_path, drawn):
    fit(tmp_path, linear(), Plots())
    assert drawn == ["training"]


def test_curves_every_n_epochs(tmp_path, drawn):
    phases = {"one": {"task": "fast", "epochs": 5}}
    fit(tmp_path, linear(), Plots(every_epochs=2), phases)
    assert drawn == ["training"] * 3  # after epochs 2 and 4, and at the end


@pytest.mark.parametrize("options, shape, label", [
    ({"sample": 0, "rate_samples": 8}, 8, 2), ({"sample": 3, "rate_samples": 5}, 5, 3),
    ({"sample": 99, "rate_samples": 2}, 2, 3),
])  # fmt: skip
def test_the_sample_and_the_number_of_samples(tmp_path, drawn, monkeypatch, options, shape, label):
    from neuro.analysis.plots import spiking as spiking_plots

    seen = {}
    monkeypatch.setattr(
        spiking_plots, "spike_raster", lambda s, dt, title: seen.update(title=title, dt=dt)
    )
    trainer = make_trainer(
        tmp_path, network("lif"), phases=TWO, callbacks={"plots": Plots(**options)}
    )
    trainer.model.register_forward_hook(lambda m, args, out: seen.update(size=len(args[0])))
    trainer.fit()
    assert seen["size"] == shape
    assert seen["title"].endswith(f"of task 'slow' (label {label})")
    assert seen["dt"] == 20.0


def test_plots_are_written_to_files(tmp_path):
    pytest.importorskip("matplotlib")
    callbacks = {"look": Diagnostics(every_steps=1), "plots": Plots()}
    make_trainer(
        tmp_path, network("ltgate"), phases=TWO, callbacks=callbacks,
        terms={"v": GateVariance(), "d": Discriminant()},
    ).fit()  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "plots").glob("*.png"))


def test_phases_of_the_curves_are_saved():
    plots, other = Plots(), Plots()
    plots._phases = [("one", 0), ("two", 8)]
    other.load_state_dict({"phases": [["one", 0], ["two", 8]]})
    assert other._phases == plots._phases
    assert plots.state_dict() == {"phases": [["one", 0], ["two", 8]]}
