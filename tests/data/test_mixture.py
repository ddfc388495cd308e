"""Composed loaders: counts, determinism, and starting in the middle of an epoch."""

from __future__ import annotations

import itertools

import pytest
import torch

from neuro.data.base import WrappedLoader
from neuro.data.mixture import ConcatLoader
from neuro.data.replay import Choice, Earlier, LossRecorder, ReplayLoader
from tests.fakes import FakeData, FakeLoader

DATA = FakeData()


def loader(task, size=4):
    return DATA.loader(task, "train", shuffle=True, seed=3, batch_size=size)


def content(batches):
    return [(batch.targets.tolist(), batch.dt_ms, batch.inputs.sum().item()) for batch in batches]


def concat(seed=0):
    return ConcatLoader([loader("fast"), loader("slow", 3)], seed)


def replay(seed=0, samples=6, share=0.4):
    return replaying(
        loader("slow"),
        [loader("fast", 5), loader("fast", 2)],
        samples=samples,
        share=share,
        seed=seed,
    )


def replaying(current, earlier, samples=50, batch_size=5, kind="uniform", capacity=None, **options):
    """A loader that replays samples of earlier loaders, without observed losses."""
    choice = Choice(kind, samples, capacity)
    phases = [Earlier(before, {}) for before in earlier]
    return ReplayLoader(current, phases, choice, batch_size=batch_size, **options)


def test_concat_holds_every_batch_once():
    both = concat()
    assert len(both) == 4 + 5
    assert both.samples == 28
    batches = content(both.batches(2))
    own = content(loader("fast").batches(2)) + content(loader("slow", 3).batches(2))
    assert sorted(batches, key=str) == sorted(own, key=str)
    assert {dt for _, dt, _ in batches} == {1.0, 20.0}


@pytest.mark.parametrize("make", [concat, replay])
def test_the_order_is_a_function_of_seed_and_epoch(make):
    one = content(make().batches(1))
    assert content(make().batches(1)) == one
    mixed = make()
    content(mixed.batches(0))
    assert content(mixed.batches(1)) == one  # independent of earlier epochs
    assert content(make().batches(2)) != one
    assert content(make(seed=1).batches(1)) != one


def test_processes_share_every_batch_of_the_memory():
    """Of the 9 samples that are kept, 5 are drawn: two processes have 3 and 2."""

    def shown(rank, processes):
        share = DATA.loader(
            "slow", "train", shuffle=True, seed=3, rank=rank, world_size=processes
        )  # fmt: skip
        mixed = replaying(
            share, [loader("fast", 5)], samples=9, share=0.5, seed=1,
            rank=rank, world_size=processes,
        )  # fmt: skip
        return list(mixed.batches(0))

    whole = shown(0, 1)
    for one, first, second in zip(whole, shown(0, 2), shown(1, 2), strict=True):
        assert torch.equal(torch.cat([first.targets, second.targets]), one.targets)
        assert torch.equal(torch.cat([first.inputs, second.inputs]), one.inputs)
    assert {len(batch.targets) for batch in whole if batch.dt_ms == 1.0} == {5}


def test_a_memory_batch_too_small_to_divide_is_given_to_every_process():
    mixed = [
        replaying(
            loader("slow"), [loader("fast", 5)], samples=1, share=0.9, seed=1,
            rank=rank, world_size=2,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for batches in zip(*(each.batches(0) for each in mixed), strict=True):
        assert all(len(batch.targets) > 0 for batch in batches)


@pytest.mark.parametrize("make", [concat, replay])
def test_an_epoch_can_start_at_any_batch(make):
    whole = content(make().batches(1))
    assert len(whole) == len(make())
    for start in range(len(whole) + 1):
        assert content(make().batches(1, start)) == whole[start:]


@pytest.mark.parametrize("share, replayed", [(0.5, 4), (0.2, 1), (0.8, 16), (0.01, 1)])
def test_the_share_of_replay(share, replayed):
    mixed = replay(share=share)
    assert len(mixed) == 4 + replayed
    old = [labels for labels, dt, _ in content(mixed.batches(0)) if dt == 1.0]
    assert len(old) == replayed
    new = [labels for labels, dt, _ in content(mixed.batches(0)) if dt == 20.0]
    assert sum(map(len, new)) == 14  # all samples of the current task


def test_the_memory_is_small_and_constant():
    mixed = replay(samples=6, share=0.9)
    seen = {
        tuple(row.tolist())
        for epoch in range(4)
        for batch in mixed.batches(epoch)
        if batch.dt_ms == 1.0
        for row in batch.inputs.flatten(1)
    }
    first = {tuple(r.tolist()) for b in loader("fast", 5).batches(0) for r in b.inputs.flatten(1)}
    assert 6 <= len(seen) <= 12  # six samples of each earlier loader, some of them shared
    assert seen <= first


def test_a_memory_larger_than_the_task_keeps_all_samples():
    data = torch.arange(3.0).view(3, 1, 1)
    small = FakeLoader(data, torch.arange(3), (1, 1.0), 2)
    mixed = replaying(loader("slow"), [small], samples=50, share=0.9, seed=0)
    labels = {y for b in mixed.batches(0) if b.inputs.ndim == 3 for y in b.targets.tolist()}
    assert labels == {0, 1, 2}


class Identity(WrappedLoader):
    """Pass all batches through."""

    def batches(self, epoch=0, start=0):
        return self.loader.batches(epoch, start)


class LossRecordingLoader(Identity):
    """Record the observed losses."""

    def __init__(self, loader):
        super().__init__(loader)
        self.uses_losses = True
        self.losses = {}

    def observe(self, ids, losses, task):
        names = [f"{task}/{i}" for i in ids.tolist()]
        self.losses |= dict(zip(names, losses.tolist(), strict=True))

    def state_dict(self):
        return {"losses": dict(self.losses)}

    def load_state_dict(self, state):
        self.losses = dict(state["losses"])


WRAPPERS = {
    "concat": lambda inner: ConcatLoader([loader("fast"), inner], 0),
    "replay": lambda inner: replaying(inner, [loader("fast")], samples=4, share=0.4, seed=0),
    "wrapped": Identity,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_losses_and_states_are_passed_to_the_inner_loader(wrap):
    plain = wrap(loader("slow"))
    assert not plain.uses_losses
    assert plain.state_dict() == {}
    plain.observe(torch.tensor([0]), torch.tensor([1.0]), "slow")  # has no effect
    inner, again = LossRecordingLoader(loader("slow")), LossRecordingLoader(loader("slow"))
    outer = wrap(inner)
    assert outer.uses_losses
    outer.observe(torch.tensor([3, 5]), torch.tensor([0.5, 2.0]), "slow")
    assert inner.losses == {"slow/3": 0.5, "slow/5": 2.0}
    wrap(again).load_state_dict(outer.state_dict())
    assert again.losses == inner.losses


def labelled(*labels):
    """A loader of samples with given labels and ids 0, 1, ..."""
    inputs = torch.arange(float(len(labels))).view(-1, 1, 1)
    return FakeLoader(inputs, torch.tensor(labels), (None, 1.0), 4)


def kept(kind, *earlier, samples=50, capacity=None, seed=0):
    """The inputs and labels in a memory of several loaders."""
    phases = [one if isinstance(one, Earlier) else Earlier(one, {}) for one in earlier]
    batches = list(Choice(kind, samples, capacity).of(phases, seed))
    return [int(x) for b in batches for x in b.inputs], [int(y) for b in batches for y in b.targets]


UNEVEN = [0] * 12 + [1] * 4 + [2] * 3


def test_a_capacity_is_divided_among_phases_or_classes():
    one, two = labelled(*UNEVEN), labelled(*[5] * 10)
    assert kept("uniform", one, two, capacity=7)[1] == [0, 0, 0, 0, 5, 5, 5]
    assert kept("uniform", one, two, samples=2)[1] == [0, 0, 5, 5]
    labels = kept("balanced", one, two, capacity=10)[1]
    assert [labels.count(label) for label in (0, 1, 2, 5)] == [3, 3, 2, 2]
    assert sorted(kept("balanced", one, samples=3)[1]) == [0, 1, 2]


def test_a_reservoir_is_uniform_over_all_phases():
    one, two = labelled(*[0] * 30), labelled(*[1] * 10)
    drawn = [kept("reservoir", one, two, capacity=8, seed=seed)[1] for seed in range(50)]
    labels = list(itertools.chain(*drawn))
    assert len(labels) == 400
    assert 60 < sum(labels) < 140  # a quarter, within 4 standard deviations
    assert kept("reservoir", one, two, capacity=8) == kept("reservoir", one, two, capacity=8)


def test_important_samples_are_preferred():
    recorder = LossRecorder(labelled(*[0] * 20), ["fast"])
    recorder.observe(torch.arange(20), torch.tensor([0.01] * 15 + [5.0] * 5), None)
    recorder.observe(torch.arange(20), torch.full((20,), 99.0), "other")  # of another phase
    phase = Earlier(recorder.loader, recorder.losses)
    drawn = [kept("importance", phase, samples=5, seed=seed)[0] for seed in range(20)]
    inputs = list(itertools.chain(*drawn))
    assert len(inputs) == 100
    assert sum(x >= 15 for x in inputs) > 80
    again = LossRecorder(labelled(*[0] * 20), ["fast"])
    losses = again.losses
    again.load_state_dict(recorder.state_dict())
    assert losses == pytest.approx(recorder.losses)


def test_each_batch_of_the_memory_is_sampled_from_all_phases():
    mixed = replaying(
        loader("slow"), [labelled(*[0] * 9), labelled(*[1] * 9)], samples=9, share=0.8, seed=0
    )
    drawn = [tuple(b.targets.tolist()) for b in mixed.batches(0) if b.inputs.ndim == 3]
    assert len(drawn) == 16 and {len(labels) for labels in drawn} == {5}
    assert sum({0, 1} == set(labels) for labels in drawn) > 8
