"""Loaders made of loaders: counts, determinism, and starting in the middle."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import WrappedLoader
from neuro.data.mixture import ConcatLoader, ReplayLoader
from tests.fakes import FakeData, FakeLoader

DATA = FakeData()


def loader(task, size=4):
    return DATA.loader(task, "train", shuffle=True, seed=3, batch_size=size)


def content(batches):
    return [(batch.targets.tolist(), batch.dt_ms, batch.inputs.sum().item()) for batch in batches]


def concat(seed=0):
    return ConcatLoader([loader("fast"), loader("slow", 3)], seed)


def replay(seed=0, samples=6, share=0.4):
    return ReplayLoader(
        loader("slow"),
        [loader("fast", 5), loader("fast", 2)],
        samples=samples,
        share=share,
        seed=seed,
    )


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
    assert content(mixed.batches(1)) == one  # whatever was read before
    assert content(make().batches(2)) != one
    assert content(make(seed=1).batches(1)) != one


def test_processes_share_every_batch_of_the_memory():
    """Kept of 14 samples in batches of 5: 5 and 4, of which two processes have 3 + 2 and 2 + 2."""

    def shown(rank, processes):
        share = DATA.loader(
            "slow", "train", shuffle=True, seed=3, rank=rank, world_size=processes
        )  # fmt: skip
        mixed = ReplayLoader(
            share, [loader("fast", 5)], samples=9, share=0.5, seed=1,
            rank=rank, world_size=processes,
        )  # fmt: skip
        return list(mixed.batches(0))

    whole = shown(0, 1)
    for one, first, second in zip(whole, shown(0, 2), shown(1, 2), strict=True):
        assert torch.equal(torch.cat([first.targets, second.targets]), one.targets)
        assert torch.equal(torch.cat([first.inputs, second.inputs]), one.inputs)
    assert {len(batch.targets) for batch in whole if batch.dt_ms == 1.0} == {5, 4}


def test_a_kept_batch_too_small_to_divide_is_shown_to_every_process():
    mixed = [
        ReplayLoader(
            loader("slow"), [loader("fast", 5)], samples=6, share=0.9, seed=1,
            rank=rank, world_size=2,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for batches in zip(*(each.batches(0) for each in mixed), strict=True):
        assert all(len(batch.targets) > 0 for batch in batches)


@pytest.mark.parametrize("make", [concat, replay])
def test_an_epoch_can_be_entered_anywhere(make):
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
    assert sum(map(len, new)) == 14  # the current task is seen completely


def test_the_memory_is_small_and_stays():
    mixed = replay(samples=6, share=0.9)
    seen = {
        tuple(row.tolist())
        for epoch in range(4)
        for batch in mixed.batches(epoch)
        if batch.dt_ms == 1.0
        for row in batch.inputs.flatten(1)
    }
    first = {tuple(r.tolist()) for b in loader("fast", 5).batches(0) for r in b.inputs.flatten(1)}
    assert 6 <= len(seen) <= 12  # six of each earlier loader, which may share some
    assert seen <= first


def test_a_memory_larger_than_the_task_takes_all_of_it():
    data = torch.arange(3.0).view(3, 1, 1)
    small = FakeLoader(data, torch.arange(3), (1, 1.0), 2)
    mixed = ReplayLoader(loader("slow"), [small], samples=50, share=0.9, seed=0)
    labels = {y for b in mixed.batches(0) if b.inputs.ndim == 3 for y in b.targets.tolist()}
    assert labels == {0, 1, 2}


class Same(WrappedLoader):
    """Changes nothing."""

    def batches(self, epoch=0, start=0):
        return self.loader.batches(epoch, start)


class Remembering(Same):
    """Keeps the losses that it observes."""

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
    "replay": lambda inner: ReplayLoader(inner, [loader("fast")], samples=4, share=0.4, seed=0),
    "wrapped": Same,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_losses_and_states_reach_the_loader_inside(wrap):
    plain = wrap(loader("slow"))
    assert not plain.uses_losses
    assert plain.state_dict() == {}
    plain.observe(torch.tensor([0]), torch.tensor([1.0]), "slow")  # has no effect
    inner, again = Remembering(loader("slow")), Remembering(loader("slow"))
    outer = wrap(inner)
    assert outer.uses_losses
    outer.observe(torch.tensor([3, 5]), torch.tensor([0.5, 2.0]), "slow")
    assert inner.losses == {"slow/3": 0.5, "slow/5": 2.0}
    wrap(again).load_state_dict(outer.state_dict())
    assert again.losses == inner.losses
