"""Convert saved runs and model files of earlier versions, and name the new path of moved keys.

Saved configs and model files must stay readable, and an override of a moved key results in an error
with its new name. No other module refers to old names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_DIGITS: Final = "neuro.data.images.temporal_digits.TemporalDigits"
_MNIST: Final = "neuro.data.images.temporal_mnist.TemporalMnist"

#: classes that have moved
CLASSES: Final = {
    "neuro.data.hdf5.Hdf5Sequences": "neuro.data.sequences.hdf5.Hdf5Sequences",
    "neuro.data.temporal_digits.TemporalDigits": _DIGITS,
    "neuro.data.temporal_mnist.TemporalMnist": _MNIST,
    "neuro.hardware.loihi2.Loihi2": "neuro.hardware.loihi2.target.Loihi2",
    "neuro.models.soen.SOEN": "neuro.models.soen.model.SOEN",
    "neuro.training.callbacks.pruning.Pruning": "neuro.search.pruning.Pruning",
}

#: keys that have moved, with everything below them
KEYS: Final = {
    "model.tau_ms": "model.neuron.tau_ms",
    "model.tau_fast_ms": "model.neuron.tau_fast_ms",
    "model.tau_slow_ms": "model.neuron.tau_slow_ms",
    "model.threshold": "model.neuron.threshold",
    "model.merge": "model.neuron.merge",
    "model.reset": "model.neuron.reset",
    "model.surrogate": "model.neuron.surrogate",
    "model.gate": "model.neuron.gate.kind",
    "model.gamma": "model.neuron.gate.gamma",
    "model.gate_rate": "model.neuron.gate.rate",
    "model.lateral_neurons": "model.consolidation.lateral_neurons",
    "model.growth": "model.consolidation.growth",
    "model.prune_below": "model.consolidation.prune_below",
}
#: keys that have moved in image data; other data have keys of these names, so that saved overrides,
#: which do not say whose they are, keep them
_IMAGE_KEYS: Final = {
    "data.path": "data.images.path",
    "data.test_fraction": "data.images.test_fraction",
}
#: options that are gone and what replaces them: a checkpoint of FSDP has all weights
_REPLACED: Final = {("hardware", "fsdp"): "ddp", ("hardware.strategy", "fsdp"): "ddp"}
#: keys of the top level that are younger than some saved runs, with what those runs did
_ADDED: Final[dict[str, Any]] = {"metric": {}}
#: keys that were numbers and are components now, which have the number as an argument
_NUMBERS: Final = {"model.consolidation": "model.consolidation.share"}

_ANNEAL: Final = "neuro.training.callbacks.anneal.Anneal"
#: image data before they became one class: their sets of images, and the key that these took over
_IMAGES: Final = {
    _DIGITS: ("neuro.data.images.digits.DigitImages", "test_fraction"),
    _MNIST: ("neuro.data.images.mnist.IdxImages", "path"),
}
_LIF: Final = "neuro.layers.lif.LIFNeuron"
#: the spiking models before they became one network: their neurons and consolidation
_SPIKING: Final = {
    "neuro.models.lif.LIFNetwork": (_LIF, None),
    "neuro.models.hlop.HLOP": (_LIF, "neuro.models.consolidation.HLOP"),
    "neuro.models.dsdsnn.DSDSNN": (_LIF, "neuro.models.consolidation.DSDSNN"),
    "neuro.models.ltgate.LTGate": (
        "neuro.layers.dual_timescale.DualTimescaleNeuron",
        "neuro.models.consolidation.Settling",
    ),
}


def moved(key: str, value: Any = None) -> str | None:
    """Today's path of a key that has moved, or None.

    `value` is what the key is set to: some keys have moved only if that is a number.
    """
    if key == "ablation":
        return "hydra.sweeper.only, with sweep=ltgate_ablation,"
    if key in _NUMBERS:
        return _NUMBERS[key] if _is_number(value) else None
    for old, new in (KEYS | _IMAGE_KEYS).items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None


def command_of_today(argument: str) -> str:
    """An argument of the command line, with the group where its option is now.

    Commands in notes and papers contain groups; they keep working.
    """
    if argument == "experiment=ltgate_ablation":
        return "sweep=ltgate_ablation"
    return f"sweep={argument[len('study=') :]}" if argument.startswith("study=") else argument


def override_of_today(override: str) -> str:
    """An override that made a saved run, with today's key."""
    key, equals, value = command_of_today(override).partition("=")
    if key == "ablation":
        return f"name={value}"
    path = key.lstrip("+~")
    signs = key[: len(key) - len(path)]
    new = None if path in _IMAGE_KEYS else moved(path, value)
    return f"{signs}{new or path}{equals}{_REPLACED.get((path, value), value)}"


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a saved run in today's form; a config of today is not changed."""
    today: dict[str, Any] = {**_ADDED, **_with_moved_classes(config)}
    if isinstance(hardware := today.get("hardware"), Mapping) and "strategy" in hardware:
        strategy = hardware["strategy"]
        strategy = _REPLACED.get(("hardware.strategy", strategy), strategy)
        today["hardware"] = {**hardware, "strategy": strategy}
    if isinstance(model := today.get("model"), Mapping):
        today["model"] = model_of_today(model)
    if isinstance(callbacks := today.get("callbacks"), Mapping):
        today["callbacks"] = _callbacks_of_today(callbacks)
    if isinstance(data := today.get("data"), Mapping):
        today["data"] = _data_of_today(data)
    return today


def _callbacks_of_today(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Callbacks by name, with one Anneal for each value that one of three callbacks changed."""
    today: dict[str, Any] = {}
    for name, node in callbacks.items():
        match node.get("_target_") if isinstance(node, Mapping) else None:
            case "neuro.training.callbacks.loss_weights.LossWeights":
                for i, schedule in enumerate(node["schedules"]):
                    rest = {"start": 0.0, "end": 1.0, **schedule}
                    term = rest.pop("term")
                    anneal = {"_target_": _ANNEAL, "target": f"loss.{term}", **rest}
                    today[name if i == 0 else f"{name}_{term}"] = anneal
            case "neuro.training.callbacks.pooling_scale.PoolingScale":
                rest = {"start": 1.0, "end": 4.0, **node}
                today[name] = {**rest, "_target_": _ANNEAL, "target": "objective.scale"}
            case "neuro.training.callbacks.sequence_length.SequenceLength":
                rest = {"start": 20, "end": None, **node}
                kind = "resolution" if rest.pop("scale_dt", False) else "length"
                today[name] = {**rest, "_target_": _ANNEAL, "target": f"sequence.{kind}"}
            case _:
                today[name] = node
    return today


def model_of_today(node: Mapping[str, Any]) -> dict[str, Any]:
    """The model's node of a saved run or a model file in today's form."""
    node = _with_moved_classes(node)
    target = node.get("_target_")
    if target not in _SPIKING:
        return dict(node)
    neuron, consolidation = _SPIKING[target]
    today: dict[str, Any] = {"_target_": "neuro.models.spiking_cnn.SpikingCNN"}
    if target == "neuro.models.ltgate.LTGate":
        today["readout"] = "discriminant"  # was the constructor's default
    today["neuron"] = {"_target_": neuron}
    today["consolidation"] = None if consolidation is None else {"_target_": consolidation}
    for key, value in node.items():
        if key == "_target_":
            continue
        old = f"model.{key}"
        path = moved(old, value) or old
        _put(today, path.removeprefix("model.").split("."), value)
    return today


def _data_of_today(node: Mapping[str, Any]) -> dict[str, Any]:
    """The data's node of a saved run in today's form; classes have today's paths already."""
    if node.get("_target_") not in _IMAGES:
        return dict(node)
    images, key = _IMAGES[node["_target_"]]
    today = {**node, "_target_": "neuro.data.images.temporal.TemporalImages"}
    today["images"] = {"_target_": images}
    if key in today:
        today["images"][key] = today.pop(key)
    return today


def spec_of_today(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a model file in today's form; inputs and targets were described by flat keys."""
    if "input_shape" not in spec:
        return dict(spec)
    today = dict(spec)
    shape, outputs = today.pop("input_shape"), today.pop("outputs")
    kind = today.pop("target")
    symbols = today.pop("symbols", False)
    values = kind in ("value", "value_sequence")
    return {
        **today,
        "inputs": {"shape": shape, "vocabulary": shape[-1] if symbols else None},
        "targets": {
            "kind": kind,
            "shape": [outputs] if values else [],
            "classes": None if values else outputs,
        },
    }


def _with_moved_classes(value: Any) -> Any:
    """A copy of a config's mappings in which `_target_` names classes where they are now."""
    if not isinstance(value, Mapping):
        return value
    copy = {key: _with_moved_classes(below) for key, below in value.items()}
    if copy.get("_target_") in CLASSES:
        copy["_target_"] = CLASSES[copy["_target_"]]
    return copy


def _put(node: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        node = node.setdefault(name, {})
    node[path[-1]] = value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
