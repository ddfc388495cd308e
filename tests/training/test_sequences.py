"""Chunks and carried states in training runs: precision, accumulation, faults, resume."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from neuro.data.base import Loader
from neuro.errors import ConfigError
from neuro.io import checkpoint
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.learning.terms import Term, TermOutput
from neuro.models.state import tensors_of
from neuro.training.callbacks.base import Callback
from neuro.training.sequences import check_streams
from neuro.training.trainer import Trainer
from tests.fakes import (
    ADAMW,
    SGD,
    FakeData,
    make_settings,
    make_trainer,
    rows,
    same_state,
    series,
)
from tests.networks import network

PHASES = {"one": {"task": "fast", "epochs": 2}, "two": {"task": "slow", "steps": 5}}
CARRYING = {"one": {**PHASES["one"], "carry": {"state": True}}, "two": PHASES["two"]}
SURROGATE = ("lif", {}, lambda: {"ce": CrossEntropy()}, ADAMW)
LOCAL = (
    "ltgate", {}, lambda: {"v": GateVariance(), "h": Hebbian(), "d": Discriminant()}, SGD,
)  # fmt: skip
CUT = {"tbptt": {"length": 3, "stride": 2}}
ON = {"stateful": {"training": True, "validation": True}}
NEVER = {"stateful": {"training": True, "test": True, "reset": "never"}}
DOCUMENT = {"stateful": {"training": True, "reset": "document"}}
RANDOM = {"stateful": {"training": True, "take": "random"}}


class Documents(FakeData):
    """Every second sequence of a batch begins a document."""

    def spec(self, task):
        return replace(super().spec(task), documents=True)

    def loader(self, task, split, **options):
        return DocumentLoader(super().loader(task, split, **options))


class DocumentLoader(Loader):
    def __init__(self, loader):
        self.loader = loader
        self.samples = loader.samples

    def __len__(self):
        return len(self.loader)

    def batches(self, epoch=0, start=0):
        for number, batch in enumerate(self.loader.batches(epoch, start), start):
            rows = torch.arange(len(batch.targets))
            yield batch._replace(starts=(rows + number) % 2 == 0)


def fit(
    directory, system=SURROGATE, state=None, fabric=None, callbacks=None, phases=PHASES, **settings
):
    kind, options, terms, optimizer = system
    if settings.get("stateful", {}).get("reset") == "document":
        settings["data"] = Documents()
    settings = {"checkpoint": {"steps": 1}, "keep": 99, "log": {"steps": 1}, **settings}
    trainer = make_trainer(
        directory, network(kind, **options), terms=terms(), phases=phases, optimizer=optimizer,
        state=state, fabric=fabric, callbacks=callbacks, **settings,
    )  # fmt: skip
    trainer.fit(state)
    return trainer


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        (SURROGATE, CUT | ON),
        (LOCAL, CUT | ON),
        (SURROGATE, RANDOM | {"accumulate": 2}),
        (SURROGATE, NEVER | {"phases": CARRYING, "validation": {"steps": 1}}),
        (SURROGATE, CUT | DOCUMENT | {"phases": CARRYING}),
    ],
    ids=["surrogate", "local", "random", "never", "document"],
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


def test_each_setting_changes_training(tmp_path):
    learned = []
    never = NEVER["stateful"]
    for number, settings in enumerate(
        ({}, CUT, ON, RANDOM, {"stateful": never}, NEVER | {"phases": CARRYING}, DOCUMENT)
    ):
        learned.append(fit(tmp_path / str(number), **settings).model.state_dict())
        assert not any(same_state(learned[-1], other) for other in learned[:-1])


@pytest.mark.parametrize(
    "training",
    [{}, {"training": True, "reset": "never"}, {"training": True, "take": "random"}],
    ids=["off", "never", "random"],
)
def test_validations_and_tests_have_separate_streams(tmp_path, training):
    """They do not change the streams of training, and each changes its own metrics only."""
    runs = {}
    for name, splits in {"plain": (), "val": ("validation",), "test": ("test",)}.items():
        stateful = {**training, **dict.fromkeys(splits, True)}
        trainer = fit(tmp_path / name, validation={"steps": 1}, stateful=stateful)
        runs[name] = (
            trainer.model.state_dict(),
            series(tmp_path / name, "val/loss"),
            series(tmp_path / name, "test/fast/loss"),
        )
    weights, validated, tested = runs["plain"]
    assert same_state(runs["val"][0], weights) and same_state(runs["test"][0], weights)
    assert runs["val"][1] != validated and runs["val"][2] == tested
    assert runs["test"][1] == validated and runs["test"][2] != tested


class StateRecorder(Callback):
    """Record the initial state of each batch."""

    def __init__(self):
        self.starts = []

    def on_batch(self, trainer, batch):
        new = trainer.sequences.streams.start(batch) is None
        self.starts.append((trainer.progress.phase_index, trainer.progress.epoch, new))
        return batch


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ON, {(0, 0), (0, 1), (1, 0), (1, 1)}),
        (NEVER, {(0, 0), (1, 0)}),
        (NEVER | {"phases": CARRYING}, {(0, 0)}),
    ],
    ids=["epoch", "never", "carried"],
)
def test_when_streams_begin(tmp_path, settings, expected):
    """Only the first batches of these epochs start from the initial state."""
    watch = StateRecorder()
    fit(tmp_path, callbacks={"watch": watch}, **settings)
    assert {(phase, epoch) for phase, epoch, _ in watch.starts} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    new = [(phase, epoch) for phase, epoch, is_new in watch.starts if is_new]
    assert set(new) == expected and len(new) == len(expected)


def test_documents_begin_as_marked_in_the_data(tmp_path):
    """In every second sequence of a batch, in all epochs."""

    class Starts(Callback):
        seen = 0

        def on_batch(self, trainer, batch):
            state = trainer.sequences.streams.start(batch)
            if state is not None:
                self.seen += 1
                for tensor in tensors_of(state):
                    assert (tensor.flatten(1).any(1) != batch.starts).all()
            return batch

    starts = Starts()
    trainer = fit(tmp_path, callbacks={"starts": starts}, **DOCUMENT)
    assert starts.seen == trainer.progress.step - len(PHASES)


def test_another_number_of_streams_is_refused(tmp_path):
    fit(tmp_path, **NEVER)
    state = checkpoint.load(tmp_path / "checkpoints" / "step-00000003.safetensors")
    message = r"data\.batch_size: got 2, but the checkpoint holds the states of 4 streams"
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "other", state=state, data=FakeData(batch_size=2), **NEVER)


def test_the_learning_rate_search_does_not_change_streams(tmp_path, monkeypatch):
    found = []

    def search(trainer, phase):
        before = trainer.sequences.state_dict()
        trainer._find_lr()
        found.append((before, trainer.sequences.state_dict()))
        return trainer.peaks

    monkeypatch.setattr(Trainer, "_auto_rates", search)
    searching = {"lr_find": {"steps": 10, "burn_in": 0}}
    system = (*SURROGATE[:3], {**ADAMW, "lr": "auto"})
    fit(tmp_path, system, phases=CARRYING, **NEVER, **searching)
    (first, again), (carried, same) = found
    assert first == again == {}
    assert carried and same_state(carried, same)


@pytest.mark.parametrize(
    ("stateful", "phases", "message"),
    [
        ({}, CARRYING, "phase.one.carry.state: no state is kept from batch to batch; set"),
        (ON["stateful"], CARRYING, "phase.one.carry.state: trainer.stateful.reset=epoch leaves no"),
        (DOCUMENT["stateful"], PHASES, "trainer.stateful.reset: document needs batches that mark"),
        (NEVER["stateful"], CARRYING, None),
    ],
    ids=["off", "epoch", "document", "fits"],
)
def test_states_that_cannot_be_carried_are_reported(tmp_path, stateful, phases, message):
    trainer = make_trainer(tmp_path, network("lif"), phases=phases, stateful=stateful)
    problems = [*check_streams(trainer.settings.stateful, trainer.plan, trainer.data)]
    assert not problems if message is None else problems[0].startswith(message)
    fits = [*check_streams(trainer.settings.stateful, trainer.plan, Documents())]
    assert not any("document needs" in problem for problem in fits)


@pytest.mark.parametrize("test", [True, False])
def test_tests_on_streams_need_documents_too(tmp_path, test):
    class First(Documents):
        def spec(self, task):
            return replace(super().spec(task), documents=task == "fast")

    phases = {"one": {**PHASES["one"], "evaluate": ["fast", "slow"]}}
    stateful = {**DOCUMENT["stateful"], "test": test}
    trainer = make_trainer(tmp_path, network("lif"), phases=phases, stateful=stateful)
    problems = [*check_streams(trainer.settings.stateful, trainer.plan, First())]
    assert len(problems) == test and all("of task 'slow' (First)" in text for text in problems)


def test_a_reset_without_streams_is_refused():
    with pytest.raises(ValueError, match=r"reset=never is for streams that live on .* training: t"):
        make_settings(stateful={"reset": "never"})


class Bad(Term):
    """Cross-entropy that is NaN in the second update."""

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
    assert state["sequences"][0]["0.v"].shape[0] == 4


def test_a_scaled_loss_overflows_in_some_chunk_and_recovers(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    phases = {"one": {"task": "fast", "epochs": 12}}
    trainer = fit(tmp_path, fabric=fabric, phases=phases, max_skipped=40, **CUT, **ON)
    assert 0 < trainer.progress.skipped < trainer.progress.step
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def work(fabric: Fabric, directory: Path, resumed: str | None = None) -> None:
    """Train with chunks and carried states on one of several processes, anew or resumed."""
    own = directory / f"rank{fabric.global_rank}"
    first = directory / "rank0" / "checkpoints"
    state = checkpoint.load(first / f"{resumed}.safetensors") if resumed else None
    data = FakeData(batch_size=7)
    # no validation: the processes have no common directory for the best checkpoint
    trainer = fit(own, SURROGATE, state, fabric, data=data, validation={}, **CUT, **ON)
    checkpoint.save(own / f"{resumed}-weights.safetensors", trainer.model.state_dict())


@pytest.mark.slow
def test_two_processes_equal_one_with_carried_states_and_resume(tmp_path):
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
