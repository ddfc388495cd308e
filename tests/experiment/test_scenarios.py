"""Scenarios in experiments: phases, and errors before training."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.errors import ConfigError
from neuro.experiment.assembly import Parts, assemble
from neuro.experiment.experiment import parse_experiment
from tests.test_conf import (
    _data_root,  # noqa: F401
    compose,
)

DIGITS = ("experiment=split_digits", "data.limit_train=60", "tracking=none", "callbacks=[]")


def parts_of(*overrides: str) -> Parts:
    return assemble(parse_experiment(compose(*DIGITS, *overrides)))


def test_each_split_is_a_phase_and_all_are_evaluated() -> None:
    parts = parts_of("phase.split.replay={capacity: 20}")
    splits = tuple(f"split_{number}" for number in range(1, 6))
    assert tuple(phase.name for phase in parts.plan) == splits
    for phase, split in zip(parts.plan, splits, strict=True):
        assert (phase.tasks, phase.evaluate) == ((split,), splits)
        assert (len(phase.loader) > len(phase.own)) == (split != "split_1")
    assert parts.spec.outputs == 10
    joint = parts_of("phase.split.task=joint").plan
    assert [(phase.tasks, phase.evaluate) for phase in joint] == [(("joint",), splits)]
    assert parts_of("scenario=domain_incremental").spec.outputs == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["~scenario"], "no task 'each'.*A scenario, as scenario=cl"),
        (["scenario.splits=3"], "scenario.splits: got 3, into which the 10 classes"),
        (["phase=task1"], "phase.task1.task: .* no task 'fast'.* phase=splits has"),
        (
            ["phase.split.task=joint", "loss=[cross_entropy,si,agem]"],
            "loss.si: SI protects .* learned, and there is one phase, 'split'",
        ),
        (["phase.split.replay={capacity: 3}"], "replay.capacity: 3 samples are kept, fewer than"),
        (["loss=[cross_entropy,derpp]", "loss.derpp.capacity=3"], "loss.derpp: capacity: got 3"),
        (["objective.paradigm=self_supervised"], "scenario: divides data by their classes"),
        (
            [
                "scenario=task_incremental", "hardware=loihi2", "model=lif",
                "hardware.backend=engine",
            ],
            "scenario.kind=task: Loihi2 decides among all outputs",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value).split("{")[0],
)  # fmt: skip
def test_invalid_scenarios_are_refused(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        parts_of(*overrides)
