"""The callback that checks weights and thresholds against the limits of a chip."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from neuro.hardware.loihi2.quantize import quantize_graph
from neuro.ops.fixed_point import FixedPoint
from neuro.training.callbacks.chip_limits import ChipLimits
from tests.models.test_rsnn import made
from tests.networks import network


class Log:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []


def watched(callback: ChipLimits, model: Any, *steps: int) -> Log:
    log = Log()
    for step in steps:
        trainer = SimpleNamespace(
            model=model, progress=SimpleNamespace(step=step),
            log=lambda values, step=step: log.rows.append((step, values)),
        )  # fmt: skip
        callback.on_step(trainer, {})  # type: ignore[arg-type]
    return log


def test_logged_errors_equal_those_of_a_deployment() -> None:
    model = network("lif")
    ((_, found),) = watched(ChipLimits(), model, 1).rows
    quantized = quantize_graph(model.layer_graph(), 1.0, FixedPoint())
    losses = {s.name: s for s in quantized.synapses}
    units = {"conv1": 16, "conv2": 1, "dense": 1}
    for neurons in quantized.neurons:
        name = neurons.name
        assert found[f"chip/{name}/threshold"] == neurons.vth / units[name]
        assert found[f"chip/{name}/clipped"] == 0
        expected = losses[f"{name}/input"].error
        assert found[f"chip/{name}/rounding_error"] == pytest.approx(expected, rel=1e-5)


def test_checks_are_made_at_the_interval() -> None:
    log = watched(ChipLimits(every_steps=5), network("ltgate"), *range(1, 12))
    assert [step for step, _ in log.rows] == [1, 5, 10]


@pytest.mark.parametrize(
    "options, warning",
    [
        ({"weight_bits": 3}, "conv2: rounding to the chip changes its weights by"),
        ({"threshold_steps": 100_000}, "dense: its threshold is only"),
    ],
)
def test_each_warning_is_given_once(
    options: dict[str, int], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    callback = ChipLimits(every_steps=1, **options)
    with caplog.at_level(logging.WARNING):
        watched(callback, network("ltgate"), 1, 2)
    assert sum(warning in record.message for record in caplog.records) == 1
    again = ChipLimits(every_steps=1, **options)
    again.load_state_dict(callback.state_dict())
    caplog.clear()
    watched(again, network("ltgate"), 3)
    assert not caplog.records


def test_weights_out_of_range(caplog: pytest.LogCaptureFixture) -> None:
    model = network("lif", threshold=0.05)
    with torch.no_grad():
        model.layers["dense"].synapse.weight[0, 0] = 1000.0
    with caplog.at_level(logging.WARNING):
        ((_, found),) = watched(ChipLimits(weight_bits=2), model, 1).rows
    assert found["chip/dense/clipped"] > 0
    assert any("out of the chip's range" in record.message for record in caplog.records)


def test_widths_are_those_of_the_model_unless_given() -> None:
    coarse = network("lif", fixed_point=FixedPoint(3, 6))
    ((_, own),) = watched(ChipLimits(), coarse, 1).rows
    ((_, given),) = watched(ChipLimits(weight_bits=8), coarse, 1).rows
    assert own["chip/dense/rounding_error"] > 5 * given["chip/dense/rounding_error"]
    ((_, wide),) = watched(ChipLimits(input_bits=10), coarse, 1).rows
    # with more input bits, the first layer's threshold is closer to its limit
    assert wide["chip/conv1/threshold"] < own["chip/conv1/threshold"] / 2
    assert wide["chip/dense/threshold"] == own["chip/dense/threshold"]


@pytest.mark.parametrize("kind", ["cuba", "dual"])
def test_recurrent_weights_are_measured_with_the_others(kind: str) -> None:
    model = made(kind)
    ((_, found),) = watched(ChipLimits(), model, 1).rows
    quantized = quantize_graph(model.layer_graph(), 1.0, FixedPoint())
    units = {"hidden1": 16, "hidden2": 1}
    for neurons in quantized.neurons:
        assert found[f"chip/{neurons.name}/threshold"] == neurons.vth / units[neurons.name]
        own = [s.error for s in quantized.synapses if s.name.startswith(neurons.name)]
        assert min(own) <= found[f"chip/{neurons.name}/rounding_error"] <= max(own)
