"""Operations on a batch: parts in time, selected rows, moving to a device."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec


@pytest.mark.parametrize("held", [True, False])
def test_a_part_in_time_cuts_tensors_with_steps(held: bool) -> None:
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


def test_optional_fields_follow_rows_and_parts() -> None:
    ids, lengths = torch.tensor([7, 8, 9]), torch.tensor([2, 4, 6])
    batch = Batch(
        torch.randint(9, (3, 6)), torch.arange(3), None, lengths=lengths, task="a", ids=ids,
        weights=torch.tensor([1.0, 2.0, 3.0]),
    )  # fmt: skip
    few = batch.rows([2, 0])
    assert (few.ids.tolist(), few.weights.tolist()) == ([9, 7], [3.0, 1.0])
    assert (few.lengths.tolist(), few.task, few.dt_ms) == ([6, 2], "a", None)
    part = batch.part(3, 6, per_step=False)
    assert part.lengths.tolist() == [0, 1, 3]
    assert torch.equal(part.inputs, batch.inputs[:, 3:6])
    assert (part.ids is ids, part.task) == (True, "a")


def test_a_spec_describes_its_timings_and_the_width_of_the_readout() -> None:
    inputs = InputSpec((), "int", vocabulary=50)
    timed = TaskSpec("t", inputs, TargetSpec("value", (3,)), ((4, 0.5), (2, 20.0)))
    assert timed.described_timings == "4 x 0.5 ms or 2 x 20 ms"
    assert (timed.has_time_step, timed.outputs, timed.frames) == (True, 3, 4)
    tokens = TaskSpec("t", inputs, TargetSpec("token", classes=50), ((256, None),))
    assert (tokens.described_timings, tokens.has_time_step) == ("256 steps", False)
    assert (tokens.outputs, tokens.inputs.is_symbolic) == (50, True)
