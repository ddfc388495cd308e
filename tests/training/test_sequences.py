"""Chunks and carried states within a whole training: precision, accumulation, faults, resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from neuro.io import checkpoint
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Term, TermOutput
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.training.callbacks.base import Callback
from tests.fakes import ADAMW, SGD, FakeData, make_trainer, rows, same_state, series
from tests.networks import network

PHASES = {"one": {"task": "fast", "epochs": 2}, "two": {"task": "slow", "steps": 5}}
SURROGATE = ("lif", {}, lambda: {"ce": CrossEntropy()}, ADAMW)
LOCAL = (
    "ltgate", {}, lambda: {"v": GateVariance(), "h": Hebbian(), "d": Discriminant()}, SGD,
)  # fmt: skip
CUT = {"tbptt": {"length": 3, "stride": 2}}
ON = {"stateful": {"training": True, "validation": True}}
RANDOM = {"stateful": {"training": True, "take": "random"}}


def fit(
    directory, system=SURROGATE, state=None, fabric=None, callbacks=None, phases=PHASES, **settings
):
    kind, options, terms, optimizer = system
    settings = {"checkpoint": {"steps": 1}, "keep": 99, "log": {"steps": 1}, **settings}
    trainer = make_trainer(
        directory, network(kind, **options), terms=terms(), phases=phases, optimizer=optimizer,
        state=state, fabric=fabric, callbacks=callbacks, **settings,
    )  # fmt: skip
    trainer.fit(state)
    return trainer


@pytest.mark.parametrize(
    ("system", "settings"),
    [(SURROGATE, CUT | ON), (LOCAL, CUT | ON), (SURROGATE, RANDOM | {"accumulate": 2})],
    ids=["surrogate", "local", "random"],
)
def test_resume_from_every_checkpoint(tmp_path, system, settings):
    whole = tmp_path / "whole"
    trained = fit(whole, system, **settings)
    weights, metrics = trained.model.state_dict(), rows(whole)
    names = sorted(path.stem for path in (whole / "checkpoints").glob("step-*"))
    assert len(names) == trained.progress.step
    for name in [*names[1::2], "one-final"]:
        part = tmp_path / name
        shutil.copytree(whole, part)
        state = checkpoint.load(part / "checkpoints" / f"{name}.safetensors")
        again = fit(part, system, state, **settings)
        assert same_state(again.model.state_dict(), weights), name
        assert rows(part) == metrics, name


@pytest.mark.parametrize("settings", [CUT, ON, RANDOM], ids=str)
def test_they_change_what_is_learned(tmp_path, settings):
    plain = fit(tmp_path / "plain").model.state_dict()
    other = fit(tmp_path / "other", **settings).model.state_dict()
    assert not same_state(plain, other)


def test_validation_alone_changes_no_weight(tmp_path):
    plain = fit(tmp_path / "plain", validation={"steps": 1})
    other = fit(
        tmp_path / "other", validation={"steps": 1}, stateful={"validation": True}
    )  # fmt: skip
    assert same_state(plain.model.state_dict(), other.model.state_dict())
    one, two = (series(tmp_path / name, "val/loss") for name in ("plain", "other"))
    assert one != two


class Watch(Callback):
    """Notes with which state each batch starts."""

    def __init__(self):
        self.starts = []

    def on_batch(self, trainer, batch):
        state = trainer.sequences._streams.start(len(batch.targets))
        self.starts.append((trainer.progress.phase_index, trainer.progress.epoch, state is None))
        return batch


def test_epochs_and_phases_begin_at_rest(tmp_path):
    watch = Watch()
    fit(tmp_path, callbacks={"watch": watch}, **ON)
    begun = set()
    for phase, epoch, at_rest in watch.starts:
        assert at_rest == ((phase, epoch) not in begun)
        begun.add((phase, epoch))
    assert len(begun) == 4


class Bad(Term):
    """Cross-entropy that is not a number in the second update."""

    calls = 0

    def forward(self, model, batch, output):
        self.calls += 1
        factor = float("nan") if self.calls == 2 else 1.0
        return TermOutput(factor * output.values.mean())


def test_a_skipped_update_keeps_a_good_state(tmp_path):
    trainer = fit(tmp_path / "good", ("lif", {}, lambda: {"bad": Bad()}, SGD), **ON)
    assert trainer.progress.skipped == 1
    state = checkpoint.load(tmp_path / "good" / "checkpoints" / "step-00000002.safetensors")
    assert state["sequences"][0]
    assert all(torch.isfinite(x).all() for x in state["sequences"][0].values())


def test_bfloat16_carries_states(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    trainer = fit(tmp_path, fabric=fabric, **CUT, **ON)
    assert trainer.progress.skipped == 0
    state = checkpoint.load(tmp_path / "checkpoints" / "step-00000001.safetensors")
    assert state["sequences"][0]["0.u"].shape[0] == 4


def test_a_scaled_loss_overflows_in_some_chunk_and_recovers(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    phases = {"one": {"task": "fast", "epochs": 12}}
    trainer = fit(tmp_path, fabric=fabric, phases=phases, max_skipped=40, **CUT, **ON)
    assert 0 < trainer.progress.skipped < trainer.progress.step
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def work(fabric: Fabric, directory: Path, resumed: str | None = None) -> None:
    """Chunks and carried states on one of several processes, from the start or a checkpoint."""
    own = directory / f"rank{fabric.global_rank}"
    first = directory / "rank0" / "checkpoints"
    state = checkpoint.load(first / f"{resumed}.safetensors") if resumed else None
    data = FakeData(batch_size=7)
    # no validation: the best checkpoint of a run is in a directory that these do not share
    trainer = fit(own, SURROGATE, state, fabric, data=data, validation={}, **CUT, **ON)
    checkpoint.save(own / f"{resumed}-weights.safetensors", trainer.model.state_dict())


@pytest.mark.slow
def test_two_processes_carry_the_states_of_one_and_resume(tmp_path):
    work(Fabric(accelerator="cpu", devices=1), tmp_path / "one")
    for resumed in (None, "step-00000003"):
        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
        fabric.launch(work, tmp_path / "two", resumed)
    one = checkpoint.load(tmp_path / "one" / "rank0" / "None-weights.safetensors")
    two = checkpoint.load(tmp_path / "two" / "rank0" / "None-weights.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    for rank in (0, 1):
        for name in (None, "step-00000003"):
            path = tmp_path / "two" / f"rank{rank}" / f"{name}-weights.safetensors"
            assert same_state(checkpoint.load(path), two), path
