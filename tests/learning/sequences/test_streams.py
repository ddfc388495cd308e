"""Stateful sequences: what the next batch starts from."""

from __future__ import annotations

import pytest
import torch

from neuro.errors import CheckpointError
from neuro.learning.evaluation import evaluate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.sequences.streams import Streams
from neuro.models.state import map_state, named_tensors, tensors_of, with_tensors
from tests.fakes import FakeData
from tests.networks import network


def ended(model, count, seed=0):
    """The state in which a batch of random frames ends."""
    torch.manual_seed(seed)
    return model(torch.rand(count, 5, 1, 6, 6), dt_ms=1.0).state


def equal(one, other):
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_states_have_field_names_and_come_back_by_them():
    model = network("ltgate")
    state = ended(model, 3)
    named = named_tensors(state)
    assert list(named)[:2] == ["0.u_fast", "0.u_slow"]
    again = with_tensors(model.initial_state(1), named)
    assert type(again) is type(state)
    assert type(again[0]) is type(state[0])
    assert equal(again, state)
    del named["0.u_slow"]
    with pytest.raises(CheckpointError, match=r"'0.u_slow' is .*holds nothing"):
        with_tensors(model.initial_state(1), named)
    with pytest.raises(CheckpointError, match=r"'0.u_fast'"):
        with_tensors(model.initial_state(1), {**named, "0.u_fast": torch.zeros(3, 1)})


def test_each_stream_goes_on_and_batches_of_other_sizes_fit():
    model = network("lif")
    streams = Streams(model, "stream")
    assert streams.start(4) is None
    state = ended(model, 4)
    streams.keep(state)
    assert equal(streams.start(4), state)
    assert equal(streams.start(3), map_state(lambda x: x[:3], state))
    larger = streams.start(6)
    assert equal(map_state(lambda x: x[:4], larger), state)
    assert equal(map_state(lambda x: x[4:], larger), model.initial_state(2))
    streams.reset()
    assert streams.start(4) is None


@pytest.mark.parametrize(("take", "chosen"), [("first", 0), ("last", 3), ("random", None)])
def test_one_samples_state_starts_all(take, chosen):
    model = network("lif")
    streams = Streams(model, take)
    state = ended(model, 4)
    found = set()
    for _ in range(30):
        streams.keep(state)
        start = streams.start(2)
        assert all(torch.equal(x[0], x[1]) for x in tensors_of(start))
        first = map_state(lambda x: x[:1], start)
        samples = [map_state(lambda x, i=i: x[i : i + 1], state) for i in range(4)]
        (one,) = [i for i, sample in enumerate(samples) if equal(first, sample)]
        found.add(one)
    assert found == ({0, 1, 2, 3} if chosen is None else {chosen})


def test_a_state_that_is_not_finite_is_forgotten():
    model = network("lif")
    streams = Streams(model, "stream")
    state = ended(model, 2)
    streams.keep(state)
    streams.reset_if_not_finite()
    assert equal(streams.start(2), state)
    streams.keep(map_state(lambda x: x / 0, state))
    streams.reset_if_not_finite()
    assert streams.start(2) is None


@pytest.mark.parametrize("take", ["stream", "first"])
def test_states_of_several_processes_are_taken_back_or_divided_anew(take):
    model = network("lif")
    parts = [Streams(model, take) for _ in range(2)]
    for rank, streams in enumerate(parts):
        streams.keep(ended(model, 2, seed=rank))
    saved = [streams.state_dict() for streams in parts]
    for rank, streams in enumerate(parts):
        again = Streams(model, take)
        again.load_state_dict(saved, rank, 2)
        assert equal(again.start(2), streams.start(2))
    alone = Streams(model, take)
    alone.load_state_dict(saved)
    first, second = (streams.start(2) for streams in parts)
    whole = alone.start(4)
    assert equal(map_state(lambda x: x[:2], whole), first)
    assert equal(map_state(lambda x: x[2:], whole), second if take == "stream" else first)
    alone.load_state_dict([])
    assert alone.start(4) is None


def test_a_validation_goes_on_from_batch_to_batch():
    model, data = network("lif"), FakeData(batch_size=4)
    torch.nn.init.normal_(model.readout.weight)
    objective = Objective({"ce": CrossEntropy()})
    loader = data.loader("fast", "test")
    device = torch.device("cpu")
    rest = evaluate(model, objective, loader, device)
    carried = evaluate(model, objective, loader, device, Streams(model, "stream"))
    assert rest.values()["loss"] != carried.values()["loss"]
    images, labels = loader.inputs, loader.targets
    sequence = images.expand(-1, loader.frames, *images.shape[2:])
    first = model(sequence[:4], dt_ms=1.0)
    second = model(sequence[4:], first.state, dt_ms=1.0)
    values = objective.pool(torch.cat([first.values, second.values]))
    expected = torch.nn.functional.cross_entropy(values, labels)
    assert carried.values()["loss"] == pytest.approx(expected.item())
