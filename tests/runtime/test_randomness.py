"""Capturing and restoring the states of all generators."""

from __future__ import annotations

import random

import numpy as np
import torch

from neuro.io import checkpoint
from neuro.runtime import randomness


def draw():
    return random.random(), float(np.random.normal()), float(torch.randn(()))


def test_generators_go_on_from_a_checkpoint(tmp_path):
    randomness.seed_everything(3)
    draw()
    checkpoint.save(tmp_path / "a.safetensors", randomness.capture())
    expected = [draw() for _ in range(3)]
    randomness.seed_everything(4)
    randomness.restore(checkpoint.load(tmp_path / "a.safetensors"))
    assert [draw() for _ in range(3)] == expected


def test_the_same_seed_gives_the_same_numbers():
    randomness.seed_everything(0)
    first = draw()
    randomness.seed_everything(0)
    assert draw() == first
    randomness.seed_everything(2**40)  # more than NumPy takes
    assert draw() != first
