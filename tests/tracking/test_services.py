"""Limits of services are checked before training; model files to upload."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from neuro.tracking.base import model_files
from neuro.tracking.csv import CsvTracker
from neuro.tracking.mlflow import MlflowTracker
from neuro.tracking.wandb import WandbTracker


def problems(tracker, project="p", name="n", group=None, tags=()):
    settings = SimpleNamespace(project=project, name=name, group=group, tags=tags)
    return list(tracker.problems(settings))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"project": "a/b"}, "project: got 'a/b'; W&B takes at most 128 characters, without"),
        ({"tags": ["x" * 65]}, "W&B takes tags of 1 to 64 characters"),
        ({"tags": ["ok", ""]}, "tags: got ''; W&B takes tags of 1 to 64 characters"),
        ({"group": "g" * 129}, "group: got 'ggg"),
    ],
)
def test_wandb_refuses_before_training(given, message):
    (problem,) = problems(WandbTracker(), **given)
    assert message in problem
    assert problems(WandbTracker(mode="disabled"), **given) == []


def test_mlflow_refuses_before_training():
    (problem,) = problems(MlflowTracker(), tags=["ok", "a=b"])
    assert problem.startswith("tags: got 'a=b'; MLflow takes 1 to 250")
    assert problems(CsvTracker(), tags=["a=b"]) == []


def test_files_of_the_model(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("best", "last", "previous-last", "task1-final"):
        (folder / f"{name}.safetensors").touch()
    (tmp_path / "model.safetensors").touch()

    def names(which):
        return [path.stem for path in model_files(tmp_path, which)]

    assert names(False) == []
    assert names("best") == ["model", "best"]
    assert names("all") == ["model", "best", "last", "task1-final"]
    (folder / "best.safetensors").unlink()
    assert names("best") == ["model", "last"]
