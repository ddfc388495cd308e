"""Equal results for micro-batches or processes with uneven labels and for the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from neuro.data.store import NO_LABEL
from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.losses.margins import Gap
from neuro.learning.terms import Term, TermOutput
from tests.fakes import SGD, TIMINGS, FakeData, hardware, linear, make_trainer, rows

STEPS = TIMINGS["fast"][0]

#: labelled samples in each four, in stored order
UNEVEN = (1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)


class Size(Term):
    """Mean squared output over all samples."""

    def forward(self, model, batch, output):
        return TermOutput(output.values.square().mean())


def uneven(batch_size: int, per_step: bool) -> FakeData:
    """Sequences with few labels; with `per_step`, labels at the first steps of each."""
    data = FakeData(batch_size)
    inputs, labels = data.splits["fast", "train"]
    if per_step:
        lengths = torch.tensor([STEPS, 1, 2, 1, STEPS, STEPS, 1] * 2)
        known = torch.arange(STEPS) < lengths[:, None]
        targets = torch.where(known, labels[:, None], NO_LABEL)
        for split in ("val", "test"):
            images, classes = data.splits["fast", split]
            data.splits["fast", split] = images, classes[:, None].expand(-1, STEPS)
    else:
        targets = torch.where(torch.tensor(UNEVEN) == 1, labels, NO_LABEL)
    data.splits["fast", "train"] = inputs, targets
    return data


CASES = {
    "unlabelled samples": ({"ce": CrossEntropy}, False),
    "padding": ({"ce": CrossEntropy}, True),
    "several terms": ({"ce": CrossEntropy, "gap": Gap, "size": Size}, False),
    "several terms, padding": ({"ce": CrossEntropy, "size": Size}, True),
}


def train(fabric: Fabric, directory: Path, case: str, batch_size: int, accumulate: int) -> None:
    """Two epochs, a log and a checkpoint of the weights at the end."""
    terms, per_step = CASES[case]
    own = directory / f"rank{fabric.global_rank}"
    trainer = make_trainer(
        own, linear(), data=uneven(batch_size, per_step), fabric=fabric,
        terms={name: term() for name, term in terms.items()}, optimizer={**SGD, "momentum": 0.5},
        mapping="seq2seq" if per_step else "seq2static", accumulate=accumulate, log={"steps": 1},
    )  # fmt: skip
    trainer.fit()
    checkpoint.save(own / "weights.safetensors", trainer.model.state_dict())


def assert_alike(one: Path, other: Path) -> None:
    weights, twin = (
        checkpoint.load(path / "rank0" / "weights.safetensors") for path in (one, other)
    )
    torch.testing.assert_close(weights, twin, rtol=1e-5, atol=1e-7)
    logs = [[row for row in rows(path / "rank0") if "train/loss" in row] for path in (one, other)]
    assert len(logs[0]) == len(logs[1]) == 4
    for row, same in zip(*logs, strict=True):
        assert row == pytest.approx(same, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [4, 3, 2, 1])
def test_micro_batches_equal_one_batch(case, batch_size, tmp_path):
    alone = Fabric(accelerator="cpu", devices=1)
    train(alone, tmp_path / "whole", case, 12, 1)
    train(alone, tmp_path / "parts", case, batch_size, 12 // batch_size)
    assert_alike(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow  # two processes are started for each
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("batch_size", "accumulate"), [(12, 1), (4, 3)])
def test_two_processes_equal_one(case, batch_size, accumulate, tmp_path):
    train(Fabric(accelerator="cpu", devices=1), tmp_path / "whole", case, 12, 1)
    make_fabric(hardware(devices=2, strategy="ddp")).launch(
        train, tmp_path / "two", case, batch_size, accumulate
    )
    assert_alike(tmp_path / "whole", tmp_path / "two")


def test_an_update_of_unlabelled_samples_changes_nothing(tmp_path):
    data = FakeData()
    inputs, labels = data.splits["fast", "train"]
    data.splits["fast", "train"] = inputs, torch.full_like(labels, NO_LABEL)
    model = linear()
    before = model.last.weight.clone()
    trainer = make_trainer(tmp_path, model, data=data, log={"steps": 1})
    trainer.fit()
    assert torch.equal(model.last.weight, before)
    assert not any("train/loss" in row or "train/accuracy" in row for row in rows(tmp_path))
