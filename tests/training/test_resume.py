"""A run resumed from any checkpoint gives the numbers of an uninterrupted one."""

from __future__ import annotations

import shutil

import pytest

from neuro.io import checkpoint
from neuro.learning.continual.ewc import EWC
from neuro.learning.continual.lwf import LwF
from neuro.learning.continual.mas import MAS
from neuro.learning.continual.rehearsal import AGEM, DERpp
from neuro.learning.continual.si import SI
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.rules.hlop import HLOPSubspace
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import DeltaRule, Discriminant
from neuro.training.callbacks.calibration import ThresholdCalibration
from neuro.training.callbacks.diagnostics import Diagnostics
from neuro.training.callbacks.weight_bounds import WeightBounds
from tests.fakes import ADAMW, COSINE, SGD, linear, make_trainer, rows, same_state
from tests.networks import network

#: model, its options, the terms and the optimizer that train it
SYSTEMS = {
    "linear": (None, {}, lambda: {"ce": CrossEntropy()}, ADAMW),
    "ewc": (None, {}, lambda: {"ce": CrossEntropy(), "ewc": EWC(samples=3)}, SGD),
    "importances": (
        None,
        {},
        lambda: {
            "ce": CrossEntropy(),
            "si": SI(),
            "mas": MAS(samples=2),
            "lwf": LwF(),
            "ewc": EWC(samples=2, every=2, decay=0.5),
        },
        SGD,
    ),
    "rehearsal": (
        None,
        {},
        lambda: {
            "ce": CrossEntropy(),
            "der": DERpp(capacity=9, samples=3),
            "agem": AGEM(per_phase=5, samples=3),
        },
        ADAMW,
    ),
    "ltgate-local": (
        "ltgate",
        {"share": 0.5},
        lambda: {"v": GateVariance(), "h": Hebbian(), "d": Discriminant()},
        SGD,
    ),
    "ltgate-delta": ("ltgate", {"readout": "linear"}, lambda: {"d": DeltaRule()}, SGD),
    "ltgate-surrogate": (
        "ltgate",
        {"readout": "linear", "gate": "learned"},
        lambda: {"ce": CrossEntropy()},
        ADAMW,
    ),
    "lif": ("lif", {}, lambda: {"ce": CrossEntropy()}, ADAMW),
    "hlop": (
        "hlop",
        {"lateral_neurons": 2},
        lambda: {"ce": CrossEntropy(), "o": HLOPSubspace()},
        SGD,
    ),
    "dsdsnn": ("dsdsnn", {}, lambda: {"ce": CrossEntropy()}, ADAMW),
}
PHASES = {
    "one": {"task": "fast", "epochs": 2, "carry": {"weights": "best", "optimizer": True}},
    "two": {"task": ["fast", "slow"], "steps": 5, "replay": {"samples": 4, "choice": "importance"}},
}


def run(directory, system, state=None):
    kind, options, terms, optimizer = SYSTEMS[system]
    model = linear(hidden=3) if kind is None else network(kind, **options)
    callbacks = {"bounds": WeightBounds(-0.9, 0.9, ("*weight",)), "look": Diagnostics(3, 4)}
    if kind is not None:
        callbacks = {"calibration": ThresholdCalibration(batches=2, rounds=1), **callbacks}
    trainer = make_trainer(
        directory, model, terms=terms(), phases=PHASES, optimizer=optimizer, scheduler=COSINE,
        callbacks=callbacks, state=state, log={"steps": 3}, validation={"steps": 3, "epochs": 1},
        checkpoint={"steps": 2, "epochs": 1}, accumulate=1, keep=99,
    )  # fmt: skip
    report = trainer.fit(state)
    return model.state_dict(), trainer.objective.state_dict(), report, rows(directory)


@pytest.mark.parametrize("system", SYSTEMS)
def test_resume_from_every_checkpoint(tmp_path, system):
    whole = tmp_path / "whole"
    weights, objective, report, metrics = run(whole, system)
    names = sorted(path.stem for path in (whole / "checkpoints").glob("step-*"))
    assert len(names) >= 6  # mid-epoch, at the ends of epochs, at the ends of both phases
    for name in [*names, "one-final", "last"]:
        part = tmp_path / name
        shutil.copytree(whole, part)
        state = checkpoint.load(part / "checkpoints" / f"{name}.safetensors")
        again = run(part, system, state)
        assert same_state(again[0], weights), name
        assert same_state(again[1], objective), name
        assert again[2] == report, name
        assert again[3] == metrics, name
        shutil.rmtree(part)
