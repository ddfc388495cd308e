"""Movements of the simulated arm: dynamics, observations, and reuse of the file."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.data.sequences.arm import (
    GRAVITY,
    JOINTS,
    LENGTHS_M,
    MASSES_KG,
    Arm,
    minimum_jerk,
    torques,
)
from tests.data.helpers import whole


def potential_energy(angles):
    heights = np.cumsum(LENGTHS_M * np.sin(np.cumsum(angles, -1)), -1)
    return GRAVITY * (MASSES_KG * heights).sum(-1)


def test_torques_at_rest_are_the_gradient_of_the_potential_energy():
    angles = np.random.default_rng(0).uniform(-1, 1, JOINTS)
    step = 1e-6 * np.eye(JOINTS)
    gradient = (potential_energy(angles + step) - potential_energy(angles - step)) / 2e-6
    at_rest = torques(angles, np.zeros(JOINTS), np.zeros(JOINTS))
    np.testing.assert_allclose(at_rest, gradient, rtol=1e-6)


def test_minimum_jerk_begins_and_ends_at_rest():
    path, speed, acceleration = minimum_jerk(np.array([0.0, 1.0]))
    np.testing.assert_allclose(path, [0, 1])
    np.testing.assert_allclose([speed, acceleration], 0, atol=1e-12)
    time = np.linspace(0, 1, 10001)
    path, speed, acceleration = minimum_jerk(time)
    np.testing.assert_allclose(np.gradient(path, time)[1:-1], speed[1:-1], atol=1e-6)
    np.testing.assert_allclose(np.gradient(speed, time)[1:-1], acceleration[1:-1], atol=1e-5)


def arm(tmp_path, **changes):
    source = Arm(train=40, val=5, test=6, steps=20, root=str(tmp_path), **changes)
    source.prepare()
    return source


def test_the_goal_is_reached_and_torques_are_scaled(tmp_path):
    source = arm(tmp_path, noise=0.0, movements=2)
    spec = source.spec("all")
    assert (spec.inputs.shape, spec.targets.kind) == ((14,), "value_sequence")
    assert spec.targets.shape == (7,) and spec.timings == ((20, 20.0),)
    inputs, targets = whole(source.loader("all", "train"))
    assert inputs.shape == (40, 20, 14) and targets.shape == (40, 20, 7)
    angles, goal = inputs[..., :7], inputs[..., 7:]
    assert (goal[:, 0] == goal[:, 9]).all() and (goal[:, 9] != goal[:, 10]).any()
    np.testing.assert_allclose(
        angles[:, 10], goal[:, 9], atol=1e-6
    )  # the start of the next movement
    np.testing.assert_allclose(targets.std((0, 1), correction=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "key, value",
    [("noise", 0.5), ("movements", 3), ("split_seed", 1), ("rate_hz", 25.0)],
)
def test_every_key_changes_the_movements(tmp_path, key, value):
    one, other = (
        whole(arm(tmp_path, **changes).loader("all", "test")) for changes in ({}, {key: value})
    )
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    assert len(list(tmp_path.glob("arm-*.h5"))) == 2
    arm(tmp_path)  # reused
    assert len(list(tmp_path.glob("arm-*.h5"))) == 2


def test_more_movements_than_steps_are_refused():
    with pytest.raises(ValueError, match="movements: got 30 in 20 steps"):
        Arm(steps=20, movements=30)
