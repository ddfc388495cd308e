"""Model files: round trips, and files of older versions."""

from __future__ import annotations

import json

import pytest
import torch

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.io import tensor_file
from neuro.models import file
from neuro.models.pixels import Pixels

NODE = {"_target_": "neuro.models.pixels.Pixels", "readout": "linear"}


@pytest.mark.parametrize(
    "spec",
    [
        TaskSpec("a", InputSpec((1, 2, 3)), TargetSpec("class", classes=4), ((5, 1.0),), (0, 1)),
        TaskSpec("a", InputSpec((6,), vocabulary=6), TargetSpec("value", (2,)), ((5, None),)),
    ],
)
def test_a_written_model_is_read_again(tmp_path, spec) -> None:
    model, path = Pixels(spec, "linear"), tmp_path / "model.safetensors"
    file.save(path, model, NODE, spec)
    assert file.read(path).spec == spec
    frames = torch.rand(2, 5, 6)
    assert torch.equal(file.load(path)(frames, dt_ms=1.0).values, model(frames, dt_ms=1.0).values)


@pytest.mark.parametrize(
    ("stored", "inputs", "targets"),
    [
        (
            {"input_shape": [1, 2, 3], "target": "class", "outputs": 4, "symbols": False},
            InputSpec((1, 2, 3)),
            TargetSpec("class", classes=4),
        ),
        (
            {"input_shape": [6], "target": "value_sequence", "outputs": 2},
            InputSpec((6,)),
            TargetSpec("value_sequence", (2,)),
        ),
        (
            {"input_shape": [6], "target": "token", "outputs": 6, "symbols": True},
            InputSpec((6,), vocabulary=6),
            TargetSpec("token", classes=6),
        ),
    ],
)
def test_a_file_with_flat_keys_of_its_task(tmp_path, stored, inputs, targets) -> None:
    spec = TaskSpec("a", inputs, targets, ((5, 20.0),), (0, 1), partly_labelled=True)
    content = {
        "model": NODE,
        "spec": {
            "task": "a", "timings": [[5, 20.0]], "classes": [0, 1], "teacher": None,
            "partly_labelled": True, **stored,
        },
    }  # fmt: skip
    path = tmp_path / "model.safetensors"
    weights = Pixels(spec, "linear").state_dict()
    tensor_file.write(path, weights, json.dumps(content), kind="neuro-model-1")
    assert file.read(path).spec == spec
    file.load(path)
