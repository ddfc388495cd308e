"""Generated memory tasks: positions and values of labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.data.store import NO_LABEL
from neuro.data.tokens.memory_tasks import MemoryTasks
from neuro.errors import ConfigError
from tests.data.tokens.helpers import streams_of


def stream_of(source: MemoryTasks, task: str) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = streams_of(source.loader(task, "train", shuffle=True, batch_size=1))
    return inputs[0].numpy(), targets[0].numpy()


@pytest.mark.parametrize("distance", [32, 128])
@pytest.mark.parametrize("kind", ["recall", "recall_across"])
def test_recall_labels_the_value_set_at_the_distance(kind: str, distance: int) -> None:
    source = MemoryTasks(distances=(32, 128))
    symbols = source.symbols
    inputs, targets = stream_of(source, f"{kind}_{distance}")
    (labelled,) = np.nonzero(targets != NO_LABEL)
    assert len(labelled) > 100
    for place in labelled:
        assert inputs[place - 1] == symbols.get
        assert inputs[place - 1 - distance] == symbols.set
        assert inputs[place] == inputs[place - distance]
        assert targets[place] == inputs[place - distance + 1]
        between = inputs[place - distance : place]
        assert int((between == symbols.document_end).sum()) == (kind == "recall_across")
    assert int((inputs == symbols.get).sum()) - len(labelled) <= 1


def test_other_labels_are_added_in_training_only() -> None:
    source = MemoryTasks(distances=(32,), other_labels=0.25)
    inputs, targets = stream_of(source, "recall")
    plain = MemoryTasks(distances=(32,))
    same, queries = stream_of(plain, "recall")
    assert np.array_equal(same, inputs)
    assert (targets == queries)[queries != NO_LABEL].all()
    (added,) = np.nonzero(targets != queries)
    assert 0.23 < len(added) / (queries == NO_LABEL).sum() < 0.27
    assert (targets[added] == inputs[added + 1]).all()
    tests = [streams_of(s.loader("recall", "test"))[1] for s in (source, plain)]
    assert torch.equal(*tests)


def test_copying_repeats_earlier_tokens() -> None:
    source = MemoryTasks(distances=(40,), items=5)
    inputs, targets = stream_of(source, "copy_40")
    (labelled,) = np.nonzero(targets != NO_LABEL)
    assert (inputs[labelled] == source.symbols.get).all()
    assert (targets[labelled] == inputs[labelled - 40]).all()
    assert (np.diff(labelled) == 1).mean() > 0.7


def test_induction_continues_earlier_pairs() -> None:
    source = MemoryTasks(distances=(40,), items=5)
    inputs, targets = stream_of(source, "induction_40")
    (labelled,) = np.nonzero(targets != NO_LABEL)
    labelled = labelled[labelled + 1 < len(inputs)]
    assert (targets[labelled] == inputs[labelled + 1]).all()
    assert (targets[labelled] == inputs[labelled - 39]).all()
    assert (inputs[labelled] == inputs[labelled - 40]).all()
    assert (targets[targets != NO_LABEL] < source.symbols.values).all()


def test_kinds_and_distances_are_tasks_and_all_combines_them() -> None:
    source = MemoryTasks(kinds=("copy", "recall"), distances=(64, 32))
    assert source.tasks == (
        "copy_32", "copy_64", "recall_32", "recall_64", "copy", "recall", "all",
    )  # fmt: skip
    specs = [source.spec(task) for task in source.tasks]
    assert {spec.inputs for spec in specs} == {specs[0].inputs}
    assert specs[0].inputs.document_end == specs[0].outputs - 1
    inputs, _ = stream_of(source, "all")
    ends = np.flatnonzero(inputs == source.symbols.document_end)
    assert set(np.diff(ends)) == {32 + 5, 64 + 5, 32 + 13, 64 + 13}
    with pytest.raises(ConfigError, match="no task 'recal'.*Did you mean 'recall'"):
        source.spec("recal")


def test_values_are_random_in_every_document_and_epoch() -> None:
    source = MemoryTasks()
    loader = source.loader("all", "train", shuffle=True, seed=1)
    first, second = (streams_of(loader, epochs=1)[0] for _ in range(2))
    assert torch.equal(first, second)
    other = [next(iter(loader.batches(epoch))).inputs for epoch in (0, 1)]
    assert not torch.equal(*other)
    assert not torch.equal(other[0][0], other[0][1])
    assert torch.equal(other[0][:, 0], torch.full((16,), source.symbols.document_end))
    _, targets = stream_of(MemoryTasks(train=400), "recall")
    answers = targets[targets != NO_LABEL]
    assert np.bincount(answers, minlength=16).min() > 0.7 * len(answers) / 16


def test_evaluation_is_the_same_in_all_epochs_and_differs_between_splits() -> None:
    source = MemoryTasks(val=8, test=8)
    val = source.loader("all", "val")
    assert torch.equal(next(val.batches(0)).inputs, next(val.batches(3)).inputs)
    assert not torch.equal(
        next(val.batches()).inputs, next(source.loader("all", "test").batches()).inputs
    )
    assert len(val) == 8
    other = MemoryTasks(val=8, split_seed=1).loader("all", "val")
    assert not torch.equal(next(val.batches()).inputs, next(other.batches()).inputs)


def test_positions_and_processes() -> None:
    source = MemoryTasks(streams=3)
    whole = list(source.loader("all", "train", shuffle=True, seed=2).batches(1))
    rest = list(source.loader("all", "train", shuffle=True, seed=2).batches(1, 5))
    parts = [
        list(source.loader("all", "train", shuffle=True, seed=2, rank=r, world_size=2).batches(1))
        for r in (0, 1)
    ]
    for one, other, *shares in zip(whole[5:], rest, parts[0][5:], parts[1][5:], strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, torch.cat([share.targets for share in shares]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"items": 8, "keys": 4}, "items: got 8, but there are 4 keys"),
        ({"items": 8, "values": 4}, "items: got 8, but there are 4 values"),
        ({"distances": (12, 90)}, "distances: got 12, but 4 pairs"),
        ({"train": 10**6}, "train: got 1000000 batches of 256 tokens"),
        ({"test": 1, "distances": (512,)}, "test: got 1 batches of 256 tokens.*give at least 3"),
    ],
)
def test_invalid_options_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryTasks(**changed)
