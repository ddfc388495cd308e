"""The hybrid model: split sequences, documents, causality, numeric inputs, messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.layers.hybrid_block import ClosedForm, Exchange, Integration, Mamba, Spiking
from neuro.models.hybrid import Hybrid
from neuro.models.image_rows import ImageRows
from tests.language import END, token_spec, tokens

MODES = get_args(Integration)
NUMBERS = TaskSpec("rows", InputSpec((2, 4)), TargetSpec("class", classes=3), ((6, None),))


def hybrid(mode: Integration, spec: TaskSpec | None = None, **options: Any) -> Hybrid:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "spiking": Spiking(8, dropout=0.0),
        "liquid": ClosedForm(10, backbone_units=12),
        "mamba": Mamba(4),
        "exchange": Exchange(2, attention_heads=2, window=5),
        **options,
    }
    return Hybrid(spec or token_spec(), 16, 2, mode, **settings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cuts", [[1] * 20, [3, 8, 2, 7]])
def test_a_sequence_in_parts_equals_the_whole(mode: Integration, cuts: list[int]) -> None:
    model, x = hybrid(mode), tokens()
    x[0, 7] = x[1, 2] = x[2, 10] = END
    whole = model(x, dt_ms=None)
    state, parts = None, []
    for part in x.split(cuts, 1):
        out = model(part, state, dt_ms=None)
        state = out.state
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, whole.state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_token_changes_only_later_scores(mode: Integration) -> None:
    model, x = hybrid(mode), tokens()
    other = x.clone()
    other[:, 9] = other[:, 9] % 10 + 1
    one, two = (model(tokens_, dt_ms=None).values for tokens_ in (x, other))
    assert torch.equal(one[:, :9], two[:, :9])
    assert (one[:, 9] != two[:, 9]).any(-1).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_past_ends_with_a_document(mode: Integration) -> None:
    model, one, other = hybrid(mode), tokens(seed=1), tokens(seed=2)
    one[:, 12] = other[:, 12] = END
    other[:, 13:] = one[:, 13:]
    first, second = (model(x, dt_ms=None).values for x in (one, other))
    assert not torch.allclose(first[:, 12], second[:, 12])
    assert torch.equal(first[:, 13:], second[:, 13:])


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_any_shape_are_inputs(mode: Integration) -> None:
    model, x = hybrid(mode, NUMBERS), torch.randn(2, 6, 2, 4)
    out = model(x, dt_ms=None)
    assert out.values.shape == (2, 6, 3)
    changed = x.clone()
    changed[:, 3, 1, 2] += 1
    other: Tensor = model(changed, dt_ms=None).values
    assert torch.equal(out.values[:, :3], other[:, :3])
    assert not torch.equal(out.values[:, 3:], other[:, 3:])
    out.values.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_images_and_records_are_refused() -> None:
    image = TaskSpec("i", InputSpec((4,)), TargetSpec("image", (1, 4, 4)), ((6, None),))
    with pytest.raises(ValueError, match=r"task 'i' has targets of shape \[1, 4, 4\]"):
        hybrid("mamba", image)
    with pytest.raises(ConfigError, match="Hybrid records no 'spikes'"):
        hybrid("mamba")(tokens(), dt_ms=None, record=["spikes"])


IMAGES = TaskSpec("i", InputSpec((2, 6, 4)), TargetSpec("class", classes=3), ((2, None),))


def test_images_are_sequences_of_rows() -> None:
    model = hybrid("sequential", IMAGES, image_rows=ImageRows(channels=5, kernel=3))
    images = torch.randn(3, 2, 2, 6, 4)
    whole = model(images, dt_ms=None)
    assert whole.values.shape == (3, 2 * 6, 3)
    first = model(images[:, :1], dt_ms=None)
    second = model(images[:, 1:], first.state, dt_ms=None)
    torch.testing.assert_close(torch.cat([first.values, second.values], 1), whole.values)
    changed = images.clone()
    changed[:, 1, :, 4] += 1  # the convolution mixes adjacent rows
    equal = (model(changed, dt_ms=None).values == whole.values).flatten(2).all(-1)[0]
    assert equal.tolist() == [True] * (6 + 3) + [False] * 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NUMBERS, r"image_rows: the data has inputs of shape \[2, 4\] per step; expected images"),
        (
            replace(IMAGES, targets=TargetSpec("class_sequence", classes=3)),
            "image_rows: the data has targets of kind 'class_sequence', one per step",
        ),
    ],
)
def test_inputs_without_rows_are_refused(spec: TaskSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hybrid("sequential", spec, image_rows=ImageRows())
    with pytest.raises(ValueError, match="kernel: got 4; expected an odd number"):
        ImageRows(kernel=4)
