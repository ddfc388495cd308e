"""Movements of a made robot arm, and the seven motor torques that drive them.

A planar arm of seven links moves between random poses along minimum-jerk paths (Flash and Hogan
1985), `movements` one after the other. At every step the observation is, with noise, the seven
joint angles and the seven angles of the pose that the arm moves to; the target is the torque of
each joint at that step, from the dynamics of the arm:

    torque_i = inertia_i a_i + friction_i w_i + g sum_(k >= i) M_k l_k cos(q_1 + ... + q_k)

with angles q, velocities w, accelerations a, lengths l, and M_k the mass that link k carries (point
masses at the ends of the links). Velocities and accelerations are not observed: a network must
estimate them from the steps so far. Torques are divided by their standard deviation over the
training split, joint by joint, so that a constant prediction has a mean squared error of 1.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Interval

from neuro.config.types import Count, Seed
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows
from neuro.data.sequences.source import SequenceSource
from neuro.data.store import Array

#: sequences of a split
Number = Annotated[int, Interval(ge=1, le=1_000_000)]

JOINTS = 7
LENGTHS_M = np.array([0.30, 0.30, 0.25, 0.25, 0.15, 0.10, 0.08])
MASSES_KG = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.6, 0.4])
#: of each joint alone; coupling between joints is through gravity only
INERTIAS = np.array([1.5, 1.2, 0.8, 0.5, 0.3, 0.15, 0.1])  # kg m^2
FRICTIONS = np.array([2.0, 2.0, 1.5, 1.5, 1.0, 0.5, 0.5])  # N m s / rad
GRAVITY = 9.81  # m / s^2
#: poses are drawn from -RANGE to RANGE rad, joint by joint
RANGE = 1.2


class Arm(SequenceSource):
    """Sequences `[N, T, 14]` with targets `[N, T, 7]`, one task `all`.

    - `train`, `val`, `test`: sequences of each split
    - `steps`: of a sequence, at `rate_hz`
    - `movements`: from pose to pose in a sequence, of equal duration
    - `noise`: standard deviation of what is added to the observed angles, rad
    """

    tasks = ("all",)

    def __init__(
        self,
        *,
        train: Number = 800,
        val: Number = 100,
        test: Number = 200,
        steps: Annotated[int, Interval(ge=2, le=10_000)] = 100,
        rate_hz: Annotated[float, Interval(gt=0, le=1e6)] = 50.0,
        movements: Annotated[int, Interval(ge=1, le=10_000)] = 2,
        noise: Annotated[float, Interval(ge=0, le=1e6)] = 0.01,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 32,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
    ):
        super().__init__(
            batch_size=batch_size,
            in_memory=in_memory,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            transforms=transforms,
            split_seed=split_seed,
            root=root,
        )
        if steps < movements:
            raise ValueError(
                f"movements: got {movements} in {steps} steps; give at most one a step"
            )
        self.samples: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.steps = steps
        self.rate_hz = rate_hz
        self.movements = movements
        self.noise = noise

    def _outputs(self) -> int:
        return JOINTS

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        shaping = {
            "samples": self.samples,
            "steps": self.steps,
            "rate_hz": self.rate_hz,
            "movements": self.movements,
            "noise": self.noise,
            "seed": self.split_seed,
        }
        path = self.root / f"arm-{digest(shaping)}.h5"

        def make() -> None:
            write(path, self._made(), rate_hz=self.rate_hz, generator="arm movements")

        splits = made(path, make)
        return {"all": {split: [all_rows(splits[split])] for split in SPLITS}}

    def _made(self) -> dict[str, Content]:
        rng = np.random.default_rng(self.split_seed)
        drawn = {split: self._draw(rng, number) for split, number in self.samples.items()}
        spread = drawn["train"][1].std((0, 1))
        return {
            split: Content([observed.astype(np.float32)], (torque / spread).astype(np.float32))
            for split, (observed, torque) in drawn.items()
        }

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[Array, Array]:
        """Observations `[number, T, 14]` and torques `[number, T, 7]` in N m."""
        poses = rng.uniform(-RANGE, RANGE, (number, self.movements + 1, JOINTS))
        progress = np.arange(self.steps) * self.movements / self.steps
        movement = progress.astype(np.int64)
        path, speed, acceleration = minimum_jerk(progress - movement)
        duration_s = self.steps / self.rate_hz / self.movements
        goal = poses[:, movement + 1]
        way = goal - poses[:, movement]
        angles = poses[:, movement] + way * path[:, None]
        torque = torques(
            angles,
            way * speed[:, None] / duration_s,
            way * acceleration[:, None] / duration_s**2,
        )
        observed = np.concatenate((angles, goal), -1)
        return observed + rng.normal(0.0, self.noise, observed.shape), torque


def minimum_jerk(time: Array) -> tuple[Array, Array, Array]:
    """Fraction of the way at times 0 to 1 of a movement, and its first and second derivative."""
    t = time
    return (
        t**3 * (10 - 15 * t + 6 * t**2),
        30 * t**2 * (1 - t) ** 2,
        60 * t * (1 - t) * (1 - 2 * t),
    )


def torques(angles: Array, velocities: Array, accelerations: Array) -> Array:
    """The motor torques `[..., 7]` in N m, by the equation above; angles in rad, times in s."""
    carried = np.cumsum(MASSES_KG[::-1])[::-1]  # by each link: its own and all behind it
    moments = carried * LENGTHS_M * np.cos(np.cumsum(angles, -1))
    weight = GRAVITY * np.cumsum(moments[..., ::-1], -1)[..., ::-1]
    result: Array = INERTIAS * accelerations + FRICTIONS * velocities + weight
    return result
