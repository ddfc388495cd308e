"""Batches prefetched by a thread: equal batches and errors, and no remaining threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor

from neuro.data.base import Batch, Loader
from neuro.data.prefetch import Prefetch
from neuro.errors import DataError
from tests.fakes import FakeData, linear, make_trainer, rows, same_state

CPU = torch.device("cpu")


class Counting(Loader):
    """Five batches that hold their number; records creation, thread and closing."""

    samples = 5

    def __init__(self, broken_at=None):
        self.made, self.threads, self.closed = [], set(), 0
        self.broken_at = broken_at

    def __len__(self):
        return 5

    def batches(self, epoch=0, start=0):
        try:
            for number in range(start, 5):
                if number == self.broken_at:
                    raise DataError(f"batch {number} is damaged")
                self.made.append(number)
                self.threads.add(threading.current_thread().name)
                yield Batch(torch.tensor([10 * epoch + number]), torch.tensor([number]), None)
        finally:
            self.closed += 1


@pytest.fixture(autouse=True)
def _no_remaining_threads():
    yield
    assert [t.name for t in threading.enumerate() if t.name == "prefetch"] == []


def shown(batches):
    return [int(batch.inputs) for batch in batches]


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
def test_the_same_batches_in_the_same_order(ahead):
    loader = Counting()
    prefetch = Prefetch(loader, ahead, CPU)
    assert (len(prefetch), prefetch.samples) == (5, 5)
    assert shown(prefetch.batches(3)) == [30, 31, 32, 33, 34]
    assert shown(prefetch.batches(1, 3)) == [13, 14]
    assert shown(prefetch.batches(0, 5)) == []
    assert loader.threads == {"prefetch" if ahead else threading.current_thread().name}
    assert loader.closed == 3


@pytest.mark.parametrize("ahead", [1, 3])
def test_at_most_the_given_number_is_prefetched(ahead):
    loader = Counting()
    batches = Prefetch(loader, ahead, CPU).batches()
    for taken in range(1, 6 - ahead):
        next(batches)
        deadline = time.monotonic() + 10
        while len(loader.made) < taken + ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(loader.made) == taken + ahead
    batches.close()


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_is_raised_at_its_batch(ahead):
    found = []
    loader = Counting(broken_at=2)
    with pytest.raises(DataError, match="batch 2 is damaged"):
        for batch in Prefetch(loader, ahead, CPU).batches():
            found.append(int(batch.inputs))
    assert found == [0, 1]
    assert loader.closed == 1


def test_the_thread_ends_with_an_abandoned_iteration():
    loader = Counting()
    for _batch in Prefetch(loader, 2, CPU).batches():
        break
    assert loader.closed == 1
    iteration = Prefetch(loader, 2, CPU).batches()
    next(iteration)
    del iteration
    assert loader.closed == 2
    with pytest.raises(RuntimeError, match="of the consumer"):
        for _batch in Prefetch(loader, 2, CPU).batches():
            raise RuntimeError("of the consumer")


def test_loaders_that_use_losses_are_read_without_a_thread():
    loader = Counting()
    loader.uses_losses = True
    batches = Prefetch(loader, 3, CPU).batches()
    next(batches)
    assert loader.made == [0]
    batches.close()


def test_batches_for_a_gpu_are_pinned_by_the_thread_of_its_device(monkeypatch):
    devices, pinned = [], []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    device = torch.device("cuda", 1)
    assert shown(Prefetch(Counting(), 2, device).batches()) == [0, 1, 2, 3, 4]
    assert devices == [device]
    assert len(pinned) == 10  # inputs and targets


# -- in training ----------------------------------------------------------------------------------


class Watched(FakeData):
    """Data that record the threads of their batches."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def loader(self, task, split, **options):
        loader, original = super().loader(task, split, **options), None
        original = loader.batches

        def batches(epoch=0, start=0):
            for batch in original(epoch, start):
                self.threads.add((split, threading.current_thread().name))
                yield batch

        loader.batches = batches
        return loader


def test_prefetching_does_not_change_a_run(tmp_path):
    runs = {}
    for ahead in (0, 2, "auto"):
        data = Watched()
        directory = tmp_path / str(ahead)
        trainer = make_trainer(directory, linear(), data=data, accumulate=2, prefetch=ahead)
        trainer.fit()
        name = "prefetch" if ahead == 2 else threading.current_thread().name
        assert {("val", name), ("test", name)} <= data.threads
        assert (("train", "prefetch") in data.threads) == (ahead == 2)  # auto: only on a GPU
        runs[ahead] = rows(directory), trainer.model.state_dict()
    for ahead in (2, "auto"):
        assert runs[ahead][0] == runs[0][0]
        assert same_state(runs[ahead][1], runs[0][1])


def test_a_phase_that_ends_within_an_epoch_leaves_no_thread(tmp_path):
    phases = {"one": {"task": "fast", "steps": 2}}
    make_trainer(tmp_path, linear(), phases=phases, prefetch=3).fit()
