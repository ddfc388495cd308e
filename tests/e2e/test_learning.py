"""Accuracies that training must reach on real digits, from the command line: `make test-slow`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tests.data.helpers import write_idx
from tests.e2e.helpers import launch_here

QUIET = ("tracking=none", "callbacks.plots=null", "callbacks.diagnostics=null")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def continual(directory: Path, *overrides: str) -> dict[str, float]:
    outcome = launch_here(f"hydra.run.dir={directory}", *QUIET, *overrides)
    assert outcome.code == 0, outcome.err
    return json.loads((directory / "report.json").read_text())["continual"]


def test_ltgate_learns_both_tasks_and_forgets_neither(tmp_path: Path) -> None:
    """Class-incremental, ten outputs, no replay, local rule; mean of three seeds and splits."""
    results = [
        continual(tmp_path / str(seed), f"seed={seed}", f"data.split_seed={seed}")
        for seed in range(3)
    ]
    assert mean(r["acc"] for r in results) >= 0.95
    assert mean(r["forgetting"] for r in results) <= 0.02


def write_digits_28(folder: Path) -> None:
    """scikit-learn's digits at 28x28, as the IDX files of MNIST."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    larger = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear")[:, 0]
    pixels = (larger * 255).round().byte().numpy()
    parts = train_test_split(
        np.arange(len(pixels)), test_size=0.2, stratify=digits.target, random_state=0
    )
    for name, chosen in zip(("train", "t10k"), parts, strict=True):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", pixels[chosen])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", digits.target[chosen])


def test_the_same_config_learns_28x28_digits_from_idx_files(tmp_path: Path) -> None:
    write_digits_28(tmp_path)
    result = continual(tmp_path / "run", "data=temporal_mnist", f"data.images.path={tmp_path}")
    assert result["acc"] >= 0.95
    assert result["forgetting"] <= 0.02


def test_the_discriminant_readout_prevents_forgetting(tmp_path: Path) -> None:
    """Both tasks at 20 ms: a plain readout forgets the first task, the discriminant does not."""
    timing = "data.tasks.fast.timing=slow"
    plain = continual(tmp_path / "plain", "experiment=lif", timing)
    kept = continual(tmp_path / "kept", "experiment=random_features", timing)
    assert plain["forgetting"] > 0.5
    assert kept["forgetting"] < 0.05
    assert kept["acc"] > 0.95
