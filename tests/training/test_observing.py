"""Loaders that select samples by their losses: observed losses, and resume."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch, WrappedLoader
from neuro.errors import Interrupted
from neuro.io import checkpoint
from neuro.training import trainer as trainer_module
from tests.fakes import FakeData, linear, make_trainer, same_state, series

SAMPLES = 14


class WorstFirst(WrappedLoader):
    """Epochs in descending order of the previous epoch's losses, in batches of 4."""

    def __init__(self, loader):
        super().__init__(loader)
        self.uses_losses = True
        self.losses = torch.zeros(SAMPLES)
        self.ranked = torch.zeros(SAMPLES)  # the losses before the epoch
        self.epoch = -1
        self.observed = []

    def batches(self, epoch=0, start=0):
        if epoch != self.epoch:
            self.epoch, self.ranked = epoch, self.losses.clone()
        order = self.ranked.argsort(descending=True, stable=True)
        for ids in order.split(4)[start:]:
            inner = self.loader
            targets = inner.targets[ids]
            yield Batch(inner.inputs[ids], targets, inner.dt_ms, inner.frames, task="fast", ids=ids)

    def observe(self, ids, losses, task):
        self.observed.append((task, ids.tolist(), losses.tolist()))
        self.losses[ids] = losses

    def state_dict(self):
        return {"losses": self.losses, "ranked": self.ranked, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.losses, self.ranked = state["losses"].clone(), state["ranked"].clone()
        self.epoch = state["epoch"]


class Ranked(FakeData):
    def loader(self, task, split, **options):
        loader = super().loader(task, split, **options)
        return WorstFirst(loader) if split == "train" and options.get("shuffle") else loader


def test_a_loader_observes_the_loss_of_each_sample(tmp_path):
    trainer = make_trainer(tmp_path, linear(), data=Ranked(), accumulate=2)
    loader, model = trainer.phase.loader, trainer.model
    first = list(loader.batches(0))[:2]
    with torch.no_grad():
        expected = [
            F.cross_entropy(
                model(b.sequence(), dt_ms=1.0).values.mean(1), b.targets, reduction="none"
            )
            for b in first
        ]
    trainer.fit()
    for (task, ids, losses), batch, loss in zip(loader.observed, first, expected, strict=False):
        assert (task, ids) == ("fast", batch.ids.tolist())
        assert losses == pytest.approx(loss.tolist(), rel=1e-4)
    assert len(loader.observed) == 2 * len(loader)
    seen = [ids for _, ids, _ in loader.observed[len(loader) :]]
    ranked = loader.ranked.argsort(descending=True, stable=True)
    assert [i for ids in seen for i in ids] == ranked.tolist()


def test_other_loaders_get_no_losses(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, linear())
    monkeypatch.setattr(trainer, "_observe", None)
    trainer.fit()
    assert checkpoint.load(tmp_path / "checkpoints" / "last.safetensors")["loaders"] == {}


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_a_resumed_run_goes_on_with_the_same_order(tmp_path, stop_after):
    phases = {"one": {"task": "fast", "epochs": 3}}
    whole = make_trainer(tmp_path / "whole", linear(), data=Ranked(), phases=phases)
    whole.fit()
    calls = iter(range(100))
    first = make_trainer(
        tmp_path / "parts", linear(), data=Ranked(), phases=phases,
        interrupted=lambda: next(calls) == stop_after - 1,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        first.fit()
    state = checkpoint.load(tmp_path / "parts" / "checkpoints" / "last.safetensors")
    resumed = make_trainer(tmp_path / "parts", linear(), data=Ranked(), phases=phases, state=state)
    resumed.fit(state)
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
    assert series(tmp_path / "whole", "train/loss") == series(tmp_path / "parts", "train/loss")
    assert torch.equal(whole.phase.loader.losses, resumed.phase.loader.losses)


def test_samples_of_all_processes_are_observed_in_their_order(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, linear(), data=Ranked())
    other = ("fast", torch.tensor([9]), torch.tensor([0.5]))
    monkeypatch.setattr(trainer_module, "gathered", lambda own: [own, other])
    trainer.fit()
    assert trainer.phase.loader.observed[1::2] == [("fast", [9], [0.5])] * 8


def test_losses_that_are_not_finite_are_left_out(tmp_path):
    data = Ranked()
    data.splits["fast", "train"][0][3] = float("inf")
    trainer = make_trainer(tmp_path, linear(), data=data, max_skipped=None)
    trainer.fit()
    assert all(3 not in ids for _, ids, _ in trainer.phase.loader.observed)
