"""Scenarios: tasks formed from the classes of another task, for any source."""

from __future__ import annotations

import pytest
import torch

from neuro.config.scenario import ScenarioSettings
from neuro.config.values import parse_values
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.data.scenario import ScenarioData
from neuro.errors import ConfigError
from tests.fakes import FakeData, FakeLoader

CLASSES = 6


class SixClasses(FakeData):
    """A task of six classes, 7 training samples of each; inputs hold the label."""

    def __init__(self, batch_size: int = 4, classes: int = CLASSES):
        super().__init__(batch_size)
        self.classes = classes

    tasks = ("all",)

    def spec(self, task):
        targets = TargetSpec("class", classes=self.classes)
        return TaskSpec(task, InputSpec((1,)), targets, ((3, 1.0),), tuple(range(self.classes)))

    def loader(self, task, split, **options):
        labels = torch.arange(self.classes).repeat({"train": 7, "val": 2, "test": 3}[split])
        inputs = labels.float()[:, None, None].expand(-1, 3, 1).contiguous()
        size = options.pop("batch_size", None) or self.batch_size
        return FakeLoader(inputs, labels, (None, 1.0), size, **options)


def scenario(kind="class", splits=3, data=None, **settings):
    parsed = parse_values({"kind": kind, "splits": splits, **settings}, ScenarioSettings)
    made = ScenarioData(data or SixClasses(), parsed)
    made.prepare()
    return made


def train(data, task="split_2", **options):
    return data.loader(task, "train", shuffle=True, seed=3, **options)


def test_splits_are_tasks_with_their_classes() -> None:
    data = scenario()
    assert data.tasks == ("split_1", "split_2", "split_3", "joint")
    assert data.splits == {"split_1": (0, 1), "split_2": (2, 3), "split_3": (4, 5)}
    spec = data.spec("split_2")
    assert (spec.task, spec.classes, spec.outputs) == ("split_2", (2, 3), 6)
    loader = train(data)
    batches = list(loader.batches(1))
    assert (loader.samples, len(loader)) == (14, 4)
    assert [len(batch.targets) for batch in batches] == [4, 4, 4, 2]
    assert sorted(torch.cat([b.targets for b in batches]).tolist()) == [2] * 7 + [3] * 7
    for batch in batches:
        assert batch.task == "split_2" and batch.choices is None
        assert torch.equal(batch.inputs[:, 0, 0].long(), batch.targets)
    assert scenario(splits=[[5, 0], [1]]).splits == {"split_1": (5, 0), "split_2": (1,)}
    assert len(train(data, "joint").loader) and train(data, "joint").samples == 42


def test_the_order_is_a_function_of_seed_and_epoch_from_any_batch() -> None:
    loader = train(scenario())
    whole = [batch.ids.tolist() for batch in loader.batches(2)]
    assert [batch.ids.tolist() for batch in train(scenario()).batches(2, 2)] == whole[2:]
    assert [batch.ids.tolist() for batch in loader.batches(1)] != whole


def test_processes_divide_every_batch() -> None:
    whole = list(train(scenario(), batch_size=5).batches())
    shares = [list(train(scenario(), batch_size=5, rank=r, world_size=2).batches()) for r in (0, 1)]
    for batch, one, two in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([one.ids, two.ids]), batch.ids)
    # 14 samples in batches of 13: the last one would have one sample for two processes
    (one,), (two,) = (
        list(train(scenario(), batch_size=13, rank=r, world_size=2).batches()) for r in (0, 1)
    )
    assert (len(one.targets), len(two.targets)) == (7, 7)
    with pytest.raises(ConfigError, match="data.batch_size: got 1 for 2 processes"):
        train(scenario(), batch_size=1, world_size=2)


def test_domains_share_outputs_and_tasks_have_choices() -> None:
    domains = scenario("domain")
    assert (domains.spec("split_2").outputs, domains.spec("split_2").classes) == (2, (0, 1))
    for batch in train(domains).batches():
        assert torch.equal(batch.targets, batch.inputs[:, 0, 0].long() - 2)
    for batch in train(scenario("task"), "joint").batches():
        assert batch.choices.sum(1).tolist() == [2] * len(batch.targets)
        assert batch.choices.gather(1, batch.targets[:, None]).all()
        assert batch.choices.gather(
            1, batch.targets[:, None] ^ 1
        ).all()  # the pair of classes of its split


def test_the_order_of_classes_can_be_drawn() -> None:
    drawn = scenario(order_seed=1).splits
    assert sorted(label for split in drawn.values() for label in split) == list(range(6))
    assert drawn == scenario(order_seed=1).splits != scenario().splits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"splits": 4},
            "splits: got 4, .* 6 classes .* Give 2 or 3 or 6, or",
        ),
        ({"splits": [[0, 7], [1]]}, "scenario.splits: task 'all' of the data has no class 7"),
        ({"splits": [[0, 1], [1]]}, "scenario.splits: class 1 is given twice"),
        ({"splits": [[0, 1], [2]], "kind": "domain"}, "got splits of 2, 1 classes"),
        ({"splits": [[0, 1], [2]], "order_seed": 1}, "scenario.order_seed: draws"),
        ({"task": "al"}, r"scenario.task: the data has no task 'al'. Its tasks: all.*'all'"),
    ],
)
def test_invalid_splits_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        scenario(**settings)


def test_only_classes_of_samples_can_be_divided() -> None:
    class Values(SixClasses):
        def spec(self, task):
            return TaskSpec(task, InputSpec((1,)), TargetSpec("value", (2,)), ((3, 1.0),))

    with pytest.raises(ConfigError, match="targets of kind 'value'; only data with one class"):
        scenario(data=Values())


def test_phases_are_expanded_to_splits() -> None:
    settings = ScenarioSettings(splits=2)
    phases = settings.expanded(
        {"learn": {"task": "each", "epochs": 2}, "last": {"task": "joint", "evaluate": ["joint"]}}
    )
    both = ["split_1", "split_2"]
    assert phases == {
        "learn_1": {"task": "split_1", "epochs": 2, "evaluate": both},
        "learn_2": {"task": "split_2", "epochs": 2, "evaluate": both},
        "last": {"task": "joint", "evaluate": ["joint"]},
    }


def test_problems_have_the_names_of_the_config() -> None:
    settings = ScenarioSettings(splits=2)
    found = [
        "phase.split_1.epochs: got 0",
        "phase.split_2: give either epochs or steps.",
        "phase.split_3.task: another phase",
        "optimizer.lr: got -1",
    ]
    written = list(settings.as_written(found, {"split": {}, "later": {}}))
    assert written == [
        "phase.split.epochs: got 0",
        "phase.split: give either epochs or steps.",
        *found[2:],
    ]


def test_transforms_may_repeat_held_frames_in_training() -> None:
    """A transform in time repeats held frames; batches are counted without transforms."""

    class Repeated(SixClasses):
        def loader(self, task, split, shuffle=False, **options):
            made = super().loader(task, split, shuffle=shuffle, **options)
            if shuffle:
                return made
            made.inputs, made.frames = made.inputs[:, :1], 3
            return made

    data = scenario(data=Repeated())
    assert sum(len(batch.targets) for batch in train(data).batches()) == 14
