"""Training in two processes equals training in one, and both have identical weights."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch.multiprocessing import ProcessRaisedException

from neuro.errors import Interrupted
from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.learning.continual.ewc import EWC
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.runtime import processes
from neuro.training.callbacks.ema import EMA
from neuro.training.callbacks.swa import SWA
from neuro.training.callbacks.weight_bounds import WeightBounds
from neuro.training.meter import Meter
from tests.fakes import ADAMW, COSINE, TWO_PHASES, hardware, linear, make_trainer, rows
from tests.networks import network

RULES = {
    "gradient": {},
    "local rule": {"gate": GateVariance, "hebb": Hebbian, "moments": Discriminant},
}


def accumulated(fabric: Fabric, directory: Path, rule: str, micro_batches: int) -> None:
    """A run by gradients or by local rules, with several micro-batches per update."""
    terms = {name: term() for name, term in RULES[rule].items()}
    make_trainer(
        directory / f"rank{fabric.global_rank}",
        network("ltgate"),
        phases=TWO_PHASES,
        terms=terms,
        fabric=fabric,
        accumulate=micro_batches,
        log={"steps": 1},
    ).fit()


@pytest.mark.slow  # two processes are started for each
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("micro_batches", [2, 3])  # of 4, 4, 4 and 2 samples in an epoch
def test_accumulation_is_the_same_in_two_processes(rule, micro_batches, tmp_path):
    alone = Fabric(accelerator="cpu", devices=1)
    accumulated(alone, tmp_path / "one", rule, micro_batches)
    wanted = hardware(devices=2, strategy="ddp")
    make_fabric(wanted).launch(accumulated, tmp_path / "two", rule, micro_batches)
    one, two = (rows(tmp_path / place / "rank0") for place in ("one", "two"))
    assert len(one) == len(two) > 6
    for row, twin in zip(one, two, strict=True):
        assert row == pytest.approx(twin, rel=1e-5, abs=1e-7)


def work(fabric: Fabric, directory: Path) -> dict[str, Any]:
    """A run with a gradient and with moments that are summed; each process saves its weights."""
    model = network("lif", readout="discriminant")
    own = directory / f"rank{fabric.global_rank}"
    terms = {"ce": CrossEntropy(), "moments": Discriminant()}
    trainer = make_trainer(own, model, phases=TWO_PHASES, terms=terms, fabric=fabric)
    report = trainer.fit()
    checkpoint.save(own / "weights.safetensors", model.state_dict())
    return report.metrics


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    alone = work(Fabric(accelerator="cpu", devices=1), tmp_path / "one")
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    together = fabric.launch(work, tmp_path / "two")
    assert together == {name: pytest.approx(value, rel=1e-4) for name, value in alone.items()}
    one, first, second = (
        checkpoint.load(tmp_path / place / "weights.safetensors")
        for place in ("one/rank0", "two/rank0", "two/rank1")
    )
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=5e-5)
    assert not (tmp_path / "two" / "rank1" / "checkpoints").exists()  # one process writes


def averages(fabric: Fabric, directory: Path, state: Any = None) -> None:
    """Callbacks that read or change weights between updates; each process saves its own."""
    own = directory / f"rank{fabric.global_rank}"
    trainer = make_trainer(
        own,
        linear(hidden=5),
        fabric=fabric,
        state=state,
        phases=CARRYING,
        scheduler=COSINE,
        optimizer={**ADAMW, "lr": "auto"},
        terms={"ce": CrossEntropy(), "e": EWC(samples=3)},
        callbacks={
            "bounds": WeightBounds(-0.1, 0.1, ("*weight",)),
            "ema": EMA(),
            "swa": SWA(0.4),
        },
        accumulate=2,
        clip_norm=0.3,
        validation={"steps": 1},
        checkpoint={"steps": 1},
        keep=99,
        log={"steps": 1},
        lr_find={"steps": 10, "burn_in": 2, "min_lr": 1e-3, "max_lr": 0.3, "smoothing": 0.0},
    )
    trainer.saver.directory = directory / "rank0" / "checkpoints"  # one process writes for all
    trainer.fit(state)
    checkpoint.save(own / "weights.safetensors", trainer.model.state_dict())


CARRYING = {
    "one": {"task": "fast", "epochs": 2, "carry": {"weights": "best", "optimizer": True}},
    "two": {"task": "slow", "epochs": 3, "freeze": ["first.*"]},
}


def taken_up(fabric: Fabric, directory: Path) -> None:
    """The run, and again from its own second phase, in the middle of an epoch."""
    averages(fabric, directory / "run")
    fabric.barrier()
    saved = directory / "run" / "rank0" / "checkpoints" / "step-00000007.safetensors"
    averages(fabric, directory / "again", checkpoint.load(saved))


@pytest.mark.slow
def test_averages_anchors_and_searches_are_those_of_one_process(tmp_path):
    taken_up(Fabric(accelerator="cpu", devices=1), tmp_path / "one")
    wanted = hardware(devices=2, strategy="ddp")
    make_fabric(wanted).launch(taken_up, tmp_path / "two")
    one, two = (rows(tmp_path / place / "run" / "rank0") for place in ("one", "two"))
    assert len(one) == len(two) > 8
    for row, twin in zip(one, two, strict=True):
        assert row == pytest.approx(twin, rel=1e-4, abs=1e-5)
    weights = {
        path.parent.relative_to(tmp_path).as_posix(): checkpoint.load(path)
        for path in tmp_path.glob("*/*/*/weights.safetensors")
    }
    assert len(weights) == 6
    for name, value in weights["two/run/rank0"].items():
        for twin in ("two/run/rank1", "two/again/rank0", "two/again/rank1"):
            assert torch.equal(weights[twin][name], value)
        torch.testing.assert_close(weights["one/run/rank0"][name], value, rtol=1e-4, atol=1e-5)


def test_running_means_go_on_with_as_many_processes_or_others():
    meters = [Meter(), Meter()]
    meters[0].add("loss", torch.tensor(1.0), 3)
    meters[1].add("loss", torch.tensor(5.0), 1)
    saved = [meter.state_dict() for meter in meters]
    cpu = torch.device("cpu")
    for rank, own in enumerate((1.0, 5.0)):
        meter = Meter()
        meter.load_state_dict(saved, rank, 2, cpu)
        assert meter.read(lambda value: value) == {"loss": own}
    alone = Meter()
    alone.load_state_dict(saved, 0, 1, cpu)
    assert alone.read(lambda value: value) == {"loss": 2.0}
    for rank, samples in enumerate((4, 0, 0)):
        meter = Meter()
        meter.load_state_dict(saved, rank, 3, cpu)
        assert meter.state_dict()["means"]["loss"][0, 1] == samples


@pytest.mark.parametrize("ends_with", [None, Interrupted("asked to stop")])
def test_a_helper_ends_without_closing_down_python(monkeypatch, ends_with):
    """Threads of its process group may still be at work; the main process returns its result."""
    left = []
    monkeypatch.setattr("os._exit", left.append)
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))  # it gets handlers

    def work(fabric):
        if ends_with is not None:
            raise ends_with
        return 7

    for rank in (0, 1):
        fabric = SimpleNamespace(is_global_zero=rank == 0, global_rank=rank)
        packed = processes._process(fabric, work, None, SimpleQueue(), pickle.dumps(()))
        assert str(pickle.loads(packed)) == str(7 if ends_with is None else ends_with)
        assert left == [0] * rank


def test_an_error_outside_of_the_work_keeps_its_traceback():
    """Fabric may fail before it calls the work."""
    raised = ProcessRaisedException("\n\nTraceback: no such port", 1, 7)
    found = processes._cause(raised, SimpleQueue(), False, 2)
    assert str(found) == "in process 1:\n\nTraceback: no such port"
