"""Saved configs and model files of earlier versions are converted to the current form."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from neuro.config.renamed import CLASSES, KEYS, config_of_today, moved, override_of_today
from neuro.data.base import DataSource
from neuro.models.base import CoreModel
from neuro.models.spiking_cnn import SpikingCNN
from neuro.training.callbacks.anneal import Anneal
from tests.components import check

SHARED: dict[str, Any] = {
    "channels": [4], "strides": [1], "dense_units": 8, "threshold": 0.4, "reset": "zero",
    "surrogate": {"kind": "atan", "slope": 3.0}, "readout": "linear", "readout_layers": "all",
    "readout_grid": 2, "fixed_point": None,
}  # fmt: skip
OLD: dict[str, dict[str, Any]] = {
    "neuro.models.lif.LIFNetwork": {"tau_ms": 9.0},
    "neuro.models.hlop.HLOP": {"tau_ms": 9.0, "lateral_neurons": 3},
    "neuro.models.dsdsnn.DSDSNN": {"tau_ms": 9.0, "growth": 0.25, "prune_below": 0.2},
    "neuro.models.ltgate.LTGate": {
        "tau_fast_ms": 4.0, "tau_slow_ms": 90.0, "merge": "or", "gate": "fixed", "gamma": 0.3,
        "gate_rate": 0.01, "consolidation": 0.5,
    },
}  # fmt: skip


def leaves(node: Any) -> list[str]:
    """The values of a node, without classes, as texts."""
    if not isinstance(node, dict):
        return [str(node)]
    return sorted(leaf for key in node if key != "_target_" for leaf in leaves(node[key]))


@pytest.mark.parametrize("target", OLD)
def test_spiking_models_are_converted_to_one_class(target: str) -> None:
    old = {"_target_": target, **SHARED, **OLD[target]}
    before = copy.deepcopy(old)
    today = config_of_today({"seed": 1, "model": old})["model"]
    assert old == before
    assert check(today, CoreModel, "model") == []
    assert today["_target_"] == f"{SpikingCNN.__module__}.{SpikingCNN.__qualname__}"
    kept = leaves({key: value for key, value in today.items() if key != "consolidation"})
    kept += [] if today["consolidation"] is None else leaves(today["consolidation"])
    assert sorted(kept) == leaves(old)
    assert config_of_today({"model": today})["model"] == today


def test_the_former_default_readout_of_ltgate() -> None:
    today = config_of_today({"model": {"_target_": "neuro.models.ltgate.LTGate"}})["model"]
    assert today["readout"] == "discriminant"
    assert check(today, CoreModel, "model") == []


IMAGES = {
    "neuro.data.images.temporal_digits.TemporalDigits": {"test_fraction": 0.3},
    "neuro.data.images.temporal_mnist.TemporalMnist": {"path": "a"},
    "neuro.data.temporal_mnist.TemporalMnist": {"path": "a"},  # name in the oldest runs
}


@pytest.mark.parametrize("target", IMAGES)
def test_image_data_are_converted_to_one_class(target: str) -> None:
    old = {"_target_": target, "coding": "poisson", "limit_val": 3, **IMAGES[target]}
    before = copy.deepcopy(old)
    today = config_of_today({"data": old})["data"]
    assert old == before
    assert check(today, DataSource, "data") == []
    assert today["_target_"] == "neuro.data.images.temporal.TemporalImages"
    assert leaves(today) == leaves(old)
    assert config_of_today({"data": today})["data"] == today
    hdf5 = {"_target_": "neuro.data.sequences.hdf5.Hdf5Sequences", "path": "b.h5"}
    assert config_of_today({"data": hdf5})["data"] == hdf5


def test_keys_of_image_data_are_reported_for_image_data_only() -> None:
    assert moved("data.path") == "data.images.path"
    assert override_of_today("data.path=a.h5") == "data.path=a.h5"  # may be a key of an HDF5 file


def test_classes_that_have_moved() -> None:
    for old, new in CLASSES.items():
        config = {"x": {"y": {"_target_": old, "a": [1]}}, "z": 3}
        today = config_of_today(config)
        assert today["x"] == {"y": {"_target_": new, "a": [1]}}
        assert today["z"] == 3


def test_keys_added_after_a_run() -> None:
    assert config_of_today({"seed": 1}) == {"seed": 1, "metric": {}}
    assert config_of_today({"metric": {"a": 1}}) == {"metric": {"a": 1}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.tau_ms=5", "model.neuron.tau_ms=5"),
        ("+model.surrogate.slope=2", "+model.neuron.surrogate.slope=2"),
        ("~model.gate", "~model.neuron.gate.kind"),
        ("model.consolidation=0.5", "model.consolidation.share=0.5"),
        ("model.consolidation=null", "model.consolidation=null"),
        ("model.consolidation.share=0.5", "model.consolidation.share=0.5"),
        ("model.neuron.tau_ms=5", "model.neuron.tau_ms=5"),
        ("model=ltgate", "model=ltgate"),
        ("hardware=fsdp", "hardware=ddp"),
        ("hardware.strategy=fsdp", "hardware.strategy=ddp"),
        ("study=systems", "sweep=systems"),
        ("experiment=ltgate_ablation", "sweep=ltgate_ablation"),
        ("experiment=ltgate", "experiment=ltgate"),
        ("ablation=no_slow", "name=no_slow"),
    ],
)
def test_overrides(old: str, new: str) -> None:
    assert override_of_today(old) == new


def test_fsdp_was_replaced() -> None:
    saved = {"hardware": {"strategy": "fsdp", "devices": 2}}
    assert config_of_today(saved)["hardware"] == {"strategy": "ddp", "devices": 2}


def test_moved_keys_are_removed() -> None:
    for old, new in KEYS.items():
        assert moved(old) == new
        assert moved(f"{old}.x") == f"{new}.x"
        assert moved(new) is None
    assert moved("model.tau") is None


def test_three_kinds_of_schedules_are_converted_to_anneal():
    base = "neuro.training.callbacks"
    today = config_of_today(
        {
            "callbacks": {
                "loss_weights": {
                    "_target_": f"{base}.loss_weights.LossWeights",
                    "schedules": [{"term": "a", "end": 0.1}, {"term": "b", "shape": "cosine"}],
                },
                "pooling_scale": {"_target_": f"{base}.pooling_scale.PoolingScale", "end": 7.0},
                "sequence_length": {
                    "_target_": f"{base}.sequence_length.SequenceLength",
                    "start": 4, "scale_dt": True,
                },
                "progress": None,
            }
        }
    )["callbacks"]  # fmt: skip
    assert {name: node and node.pop("_target_") for name, node in today.items()} == {
        **dict.fromkeys(
            ("loss_weights", "loss_weights_b", "pooling_scale", "sequence_length"),
            f"{base}.anneal.Anneal",
        ),
        "progress": None,
    }
    assert today["loss_weights"] == {"target": "loss.a", "start": 0.0, "end": 0.1}
    assert today["loss_weights_b"] == {
        "target": "loss.b", "start": 0.0, "end": 1.0, "shape": "cosine",
    }  # fmt: skip
    assert today["pooling_scale"] == {"target": "objective.scale", "start": 1.0, "end": 7.0}
    assert today["sequence_length"] == {"target": "sequence.resolution", "start": 4, "end": None}
    for node in filter(None, today.values()):
        Anneal(**node)
