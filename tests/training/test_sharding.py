"""Weights divided among processes by FSDP train as whole ones do, to within a sum's order."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.learning.continual.ewc import EWC
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.calibration import ThresholdCalibration
from neuro.training.callbacks.early_stopping import EarlyStopping
from neuro.training.callbacks.ema import EMA
from neuro.training.callbacks.swa import SWA
from neuro.training.callbacks.weight_bounds import WeightBounds
from neuro.training.sharding import undividable
from neuro.training.trainer import Trainer
from tests.fakes import ADAMW, COSINE, TWO_PHASES, linear, make_trainer, rows, same_state
from tests.networks import network

#: two processes wait for each other at every update: on a busy machine they take minutes
pytestmark = pytest.mark.timeout(900)

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {},
    "AdamW": {"groups": {"*bias": {"lr": 0.1}}},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Lion": {},
    "Muon": {},
}
MUON = {"_target_": "neuro.training.optimizers.Muon", "lr": 0.01}
CARRYING = {
    "one": {"task": "fast", "epochs": 2, "carry": {"weights": "best", "optimizer": True}},
    "two": {"task": "slow", "epochs": 3, "freeze": ["first.*"]},
}
#: where a run is taken up again: in the second phase, in the middle of an epoch
MIDDLE = "step-00000007"


def averages(fabric: Fabric, directory: Path, state: Any = None) -> Trainer:
    """Gradients, with all that looks at weights or changes them between updates and phases."""
    bounds, terms = (
        WeightBounds(-0.1, 0.1, ("*weight",)),
        {"ce": CrossEntropy(), "e": EWC(samples=3)},
    )
    return make_trainer(
        directory, linear(hidden=5), fabric=fabric, phases=CARRYING, optimizer=ADAMW,
        scheduler=COSINE, terms=terms, callbacks={"bounds": bounds, "ema": EMA(), "swa": SWA(0.4)},
        accumulate=2, clip_norm=0.3, validation={"steps": 1}, checkpoint={"steps": 1}, keep=99,
        log={"steps": 1}, state=state,
    )  # fmt: skip


def local_rule(fabric: Fabric, directory: Path) -> Trainer:
    """The local rule, whose statistics are buffers, with calibrated thresholds."""
    terms = {"gate": GateVariance(), "hebb": Hebbian(), "moments": Discriminant()}
    return make_trainer(
        directory, network("ltgate"), phases=TWO_PHASES, terms=terms, fabric=fabric,
        callbacks={"calibration": ThresholdCalibration(batches=2, rounds=1)}, log={"steps": 1},
    )  # fmt: skip


def surrogate(fabric: Fabric, directory: Path) -> Trainer:
    """Gradients through spikes, in chunks of time; a phase ends with its best weights."""
    return make_trainer(
        directory, network("ltgate", gate="learned", readout="linear"), fabric=fabric,
        phases=TWO_PHASES, optimizer=ADAMW, clip_value=0.05, tbptt={"length": 3},
        callbacks={"stopping": EarlyStopping()}, log={"steps": 1},
    )  # fmt: skip


def searching(fabric: Fabric, directory: Path) -> Trainer:
    """A rate that is searched for, after which everything is put back."""
    return make_trainer(
        directory, linear(hidden=5), fabric=fabric, optimizer={**ADAMW, "lr": "auto"},
        lr_find={"steps": 10, "burn_in": 2, "max_lr": 0.3, "min_lr": 0.001, "smoothing": 0.0},
        log={"steps": 1},
    )  # fmt: skip


def optimizing(name: str) -> Callable[[Fabric, Path], Trainer]:
    """Weights of one row, of which the second process has nothing, but for Muon."""

    def make(fabric: Fabric, directory: Path) -> Trainer:
        chosen = {"_target_": f"neuro.training.optimizers.{name}", "lr": 0.01, **OPTIMIZERS[name]}
        model = linear(hidden=5 if name == "Muon" else 1)
        return make_trainer(directory, model, fabric=fabric, optimizer=chosen, log={"steps": 1})

    return make


def frozen_at_first(fabric: Fabric, directory: Path) -> Trainer:
    """A phase in which nothing learns goes before."""
    phases = {"one": {**TWO_PHASES["one"], "freeze": ["*"]}, "two": TWO_PHASES["two"]}
    return make_trainer(directory, linear(hidden=5), fabric=fabric, phases=phases, log={"steps": 1})


class Kept(Callback):
    """Holds on to weights as they are, and to arrays that share their memory."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        weight = trainer.model.get_parameter("last.weight").detach()
        self.kept += [weight, weight.numpy()]
        assert all(value.shape == weight.shape and (value == value).all() for value in self.kept)


def kept_by_others(fabric: Fabric, directory: Path) -> Trainer:
    """What someone else has of gathered weights stays what it is when they are divided."""
    return make_trainer(
        directory, linear(hidden=5), fabric=fabric, callbacks={"kept": Kept()}, log={"steps": 1}
    )


RUNS: dict[str, Callable[[Fabric, Path], Trainer]] = {
    "frozen at first": frozen_at_first,
    "kept by others": kept_by_others,
    "averages": averages,
    "local rule": local_rule,
    "surrogate": surrogate,
    "searching": searching,
    **{name: optimizing(name) for name in OPTIMIZERS},
}


class Held(Callback):
    """Counts what a process holds between two updates."""

    weights_in_steps = False

    def __init__(self) -> None:
        self.bytes = 0
        self.shares: list[float] = []  # of the model, read through its own parameters

    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        self.bytes = max(self.bytes, bytes_of_tensors())
        self.shares.append(
            float(trainer.model.get_parameter("first.weight").isnan().float().mean())
        )


def bytes_of_tensors() -> int:
    """The memory of all tensors that are alive."""
    gc.collect()
    memory: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names in torch warn when they are looked at
        for found in gc.get_objects():
            kind = type(found)  # asking a dead proxy what it is an instance of is an error
            if issubclass(kind, Tensor) and not issubclass(kind, DTensor):
                storage = found.untyped_storage()
                memory[storage.data_ptr()] = storage.nbytes()
    return sum(memory.values())


def held(fabric: Fabric, directory: Path) -> Held:
    """What is held between the updates of a wide network with two moments of every weight."""
    counted, before = Held(), bytes_of_tensors()
    make_trainer(
        directory, linear(hidden=20_000), fabric=fabric, optimizer={**ADAMW, "lr": 1e-3},
        callbacks={"counted": counted},
    ).fit()  # fmt: skip
    counted.bytes -= before
    return counted


class Told(NamedTuple):
    """What only the processes themselves can tell."""

    bytes: int
    nan: list[float]


def everything(fabric: Fabric, directory: Path, other: Path) -> Told:
    """All runs, one after the other in the same processes.

    One of them is then taken up from its own middle, and from that of `other`'s run.
    """
    mine = directory / f"rank{fabric.global_rank}"
    for name, make in RUNS.items():
        finish(fabric, directory, make(fabric, mine / name), name)
    for name, source in (("again", directory), ("of other", other)):
        fabric.barrier()
        shutil.copytree(source / "rank0" / "averages", mine / name)
        state = checkpoint.load(mine / name / "checkpoints" / f"{MIDDLE}.safetensors")
        finish(fabric, directory, averages(fabric, mine / name, state), name, state)
    counted = held(fabric, mine / "held")
    return Told(counted.bytes, counted.shares)


def finish(fabric: Fabric, directory: Path, trainer: Trainer, name: str, state: Any = None) -> None:
    """Train, with the checkpoints of the main process for all, and keep what became of it."""
    trainer.checkpoints = directory / "rank0" / name / "checkpoints"
    trainer.fit(state)
    path = directory / f"rank{fabric.global_rank}" / f"{name}.safetensors"
    checkpoint.save(path, trainer.model.state_dict())


class Places(NamedTuple):
    """Directories of the runs of one process and of two, and what these tell."""

    one: Path
    two: Path
    alone: Told
    together: Told


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("sharding")
    one, two = folder / "one", folder / "two"
    wanted = {"devices": 2, "device": "cpu", "strategy": "fsdp", "precision": "32-true"}
    fabric = Fabric(accelerator="cpu", devices=1)
    alone = everything(fabric, one, one)
    together = make_fabric(wanted).launch(everything, two, one)
    shutil.copytree(two / "rank0" / "averages", one / "rank0" / "of two")
    state = checkpoint.load(one / "rank0" / "of two" / "checkpoints" / f"{MIDDLE}.safetensors")
    trainer = averages(fabric, one / "rank0" / "of two", state)
    finish(fabric, one, trainer, "of two", state)
    return Places(one, two, alone, together)


def weights(place: Path, name: str, rank: int = 0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint.load(place / f"rank{rank}" / f"{name}.safetensors")
    return found


def assert_close(place: Path, name: str, other: Path, twin: str, tolerance: float) -> None:
    first, second = (rows(p / "rank0" / n) for p, n in ((place, name), (other, twin)))
    assert len(first) == len(second) > 4
    for row, same in zip(first, second, strict=True):
        assert row == pytest.approx(same, rel=tolerance, abs=tolerance)
    found = weights(other, twin)
    for key, value in weights(place, name).items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_losses_and_weights_are_those_of_one_process(name: str, places: Places) -> None:
    """Muon's iteration is one of bfloat16, whose roundings differ where matrices are divided."""
    tolerance = 1e-2 if name == "Muon" else 1e-4 if name == "searching" else 1e-5
    assert_close(places.one, name, places.two, name, tolerance)
    assert same_state(weights(places.two, name), weights(places.two, name, rank=1))


def test_checkpoints_are_those_of_one_process(places: Places) -> None:
    """Whole tensors by name: weights, averages, momenta."""
    names = sorted(p.name for p in (places.one / "rank0/averages/checkpoints").iterdir())
    assert names == sorted(p.name for p in (places.two / "rank0/averages/checkpoints").iterdir())
    assert not (places.two / "rank1/averages/checkpoints").exists()
    for name in ("one-best", "one-final", MIDDLE, "ema", "swa", "last"):
        one, two = (
            checkpoint.load(place / "rank0/averages/checkpoints" / f"{name}.safetensors")
            for place in (places.one, places.two)
        )
        assert one.keys() == two.keys()
        for part in {"model", "optimizer", "callbacks"} & one.keys():
            first, second = flat(one[part]), flat(two[part])
            assert first.keys() == second.keys()
            for key, value in first.items():
                assert type(value) is type(second[key])
                torch.testing.assert_close(
                    torch.as_tensor(second[key]), torch.as_tensor(value), rtol=1e-5, atol=1e-6
                )


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Numbers and tensors of nested mappings and lists by their paths."""
    if isinstance(node, Mapping):
        children: Any = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return {path: node} if isinstance(node, (Tensor, float, int)) else {}
    return {k: v for key, child in children for k, v in flat(child, f"{path}/{key}").items()}


def test_resume_gives_the_run_that_was_never_stopped(places: Places) -> None:
    assert rows(places.two / "rank0" / "again") == rows(places.two / "rank0" / "averages")
    assert same_state(weights(places.two, "again"), weights(places.two, "averages"))


def test_runs_change_between_whole_and_divided_weights(places: Places) -> None:
    assert_close(places.two, "of other", places.one, "averages", 1e-5)
    assert_close(places.one, "of two", places.two, "averages", 1e-5)


def test_a_process_holds_half_between_updates(places: Places) -> None:
    """Weights and both moments, 820004 numbers each; the model's own read as NaN meanwhile."""
    assert places.alone.bytes > 3 * 4 * 820_004
    assert places.together.bytes < 0.51 * places.alone.bytes
    assert set(places.together.nan) == {1.0} and set(places.alone.nan) == {0.0}


def test_weights_that_cannot_be_divided_are_told(tmp_path: Path) -> None:
    model = linear()
    plan = make_trainer(tmp_path, model, optimizer=MUON).plan
    assert undividable(model, plan, 2) == []
    (found,) = undividable(model, plan, 5)
    assert "cannot divide 'last.weight', a matrix of 4 rows that Muon takes as a whole" in found
    assert "among 5 processes. Use hardware.strategy=ddp, or optimizer.adamw=[last.w" in found
    model.gain = nn.Parameter(torch.ones(()))
    model.shift = nn.Parameter(torch.ones(1, dtype=torch.float64))
    first, second = undividable(model, plan, 2)
    assert first.startswith("hardware.strategy: fsdp divides weights along their first dimension")
    assert "'gain' has none. Use hardware.strategy=ddp" in first
    assert "the model has torch.float32 and torch.float64" in second
