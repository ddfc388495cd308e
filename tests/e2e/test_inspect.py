"""The commands that `data inspect` prints run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from neuro.__main__ import main
from neuro.data.uses import USES
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from tests.data.helpers import write_hdf5
from tests.e2e.helpers import ROOT, train_here
from tests.test_conf import compose

RNG = np.random.default_rng(0)
VALUES = RNG.random((30, 6, 3), np.float32)
FILES = {
    "class": (VALUES, np.arange(30) % 3),
    "class_sequence": (VALUES, np.arange(180).reshape(30, 6) % 3),
    "value": (VALUES, RNG.random((30, 2))),
    "value_sequence": (VALUES, RNG.random((30, 6, 2))),
    "unlabelled": (VALUES, None),
    "symbols": (np.arange(180).reshape(30, 6) % 4, None),
    "frames": (RNG.random((30, 6, 1, 8, 8), np.float32), np.arange(30) % 3),
}


def commands(path: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The overrides of each command that `inspect` prints."""
    assert main(["data", "inspect", str(path)]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return [shlex.split(line)[2:] for line in printed if line.startswith("python launch.py")]


@pytest.mark.parametrize("kind", FILES)
def test_every_command_makes_an_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data, labels = FILES[kind]
    content = {"data": data} if labels is None else {"data": data, "labels": labels}
    path = write_hdf5(tmp_path / "own.h5", {"": content})
    found = commands(path, capsys)
    assert found
    for command in found:
        experiment = parse_experiment(compose(*command, "tracking=none"))
        if "teacher=RUN" not in command:
            assert assemble(experiment).plan


def test_a_command_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one unchanged; the one for distillation with the first one's run as teacher."""
    data, labels = FILES["value_sequence"]
    path = write_hdf5(tmp_path / "own.h5", {"": {"data": data, "labels": labels}})
    first, *others = commands(path, capsys)
    quick = ("tracking=none", "phase.main.epochs=1", "callbacks=[constraints]")
    teacher = train_here(tmp_path / "teacher", *first, *quick)
    (follow,) = (command for command in others if "teacher=RUN" in command)
    follow = [f"teacher={teacher}" if word == "teacher=RUN" else word for word in follow]
    train_here(tmp_path / "student", *follow, *quick)


def test_every_loss_of_the_table_is_an_option() -> None:
    options = {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")}
    assert {loss for use in USES for loss in use.losses} <= options
