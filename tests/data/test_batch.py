"""What can be done with a batch: parts in time, rows, and moving it."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import Batch


@pytest.mark.parametrize("held", [True, False])
def test_a_part_in_time_cuts_what_has_steps(held: bool) -> None:
    labels, teacher = torch.arange(12).view(2, 6), torch.rand(2, 6, 3)
    batch = Batch(torch.rand(2, 1 if held else 6, 4), labels, 1.0, 6 if held else None, teacher)
    part = batch.part(1, 4, per_step=True)
    assert torch.equal(part.teacher, teacher[:, 1:4])
    assert torch.equal(part.targets, labels[:, 1:4])
    assert torch.equal(part.sequence(), batch.sequence()[:, 1:4])
    assert batch.part(1, 4, per_step=False).targets is labels


def test_rows_and_changes_of_all_tensors() -> None:
    batch = Batch(torch.rand(5, 2, 3), torch.arange(5), 1.0, None, torch.rand(5, 2, 4))
    for chosen in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        few = batch.rows(chosen)
        assert few.targets.tolist() == [1, 2]
        assert torch.equal(few.inputs, batch.inputs[1:3])
        assert torch.equal(few.teacher, batch.teacher[1:3])
    moved = batch.map(lambda tensor: tensor.to("meta"))
    assert {t.device.type for t in (moved.inputs, moved.targets, moved.teacher)} == {"meta"}
    assert batch._replace(teacher=None).map(torch.clone).teacher is None
