"""data/transforms=[...]: effect on the weights from the command line, and resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.helpers import (
    SINGLE,
    assert_same_run,
    launch_here,
    same_weights,
    train_here,
    weights,
)
from tests.e2e.test_resume import DENSE, interrupt

CHANGED = (*SINGLE, "data/transforms=[shift,noise,time_mask]", "data.transforms.time_mask.max_ms=3")


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_here(tmp_path_factory.mktemp("augmented") / "run", *CHANGED, *DENSE)


def test_a_resumed_run_sees_the_same_samples(augmented: Path) -> None:
    interrupt(Path("run"), 4, *CHANGED, *DENSE)
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    assert_same_run(Path("run"), augmented)


def test_options_and_keys_have_effects(augmented: Path, task1: Path) -> None:
    assert not same_weights(weights(augmented), weights(task1))
    other = train_here(Path("other"), *CHANGED, *DENSE, "data.transforms.noise.std=0.3")
    assert not same_weights(weights(augmented), weights(other))
    off = train_here(
        Path("off"), *CHANGED, "data.transforms.shift=null", "data.transforms.noise=null",
        "data.transforms.time_mask=null",
    )  # fmt: skip
    assert_same_run(off, task1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data/transforms=[shft]", "Did you mean 'shift'?"),
        ("data.transforms.shift.pixel=2", "Did you mean 'pixels'?"),
        ("+data.transforms.shift.pixel=2", "data.transforms.shift.pixel: unknown key"),
        (
            "data.transforms.noise.std=0",
            "data.transforms.noise.std: got 0; input",
        ),
    ],
)
def test_bad_input(override: str, message: str) -> None:
    done = launch_here(*CHANGED, override)
    assert done.code == 2
    assert message in done.err
    assert not Path("outputs").exists()
