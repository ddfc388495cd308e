"""Event-driven synapses against convolutions and matrix products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.ops.events import (
    Convolution,
    Events,
    event_currents,
    event_products,
    event_sums,
    event_trace,
    pack_events,
)
from neuro.ops.scan import exponential_trace

STEPS, BATCH = 3, 4
# channels, outputs, populations: below, at and above vector width and word size
WIDTHS = [(3, 5, 1), (16, 32, 2), (64, 16, 1), (70, 40, 3), (33, 96, 1)]
GEOMETRIES = [
    Convolution((5, 7), (3, 3), (1, 1), (1, 1)),
    Convolution((8, 8), (3, 3), (2, 2), (1, 1)),
    Convolution((6, 5), (2, 3), (2, 1), (0, 1)),
    Convolution((7, 7), (3, 3), (3, 2), (0, 0)),
]


def spikes(channels: int, places: int = 1, rate: float = 0.3) -> Tensor:
    torch.manual_seed(0)
    return (torch.rand(STEPS, BATCH, places * channels) < rate).float().requires_grad_()


def packed(activity: Tensor) -> Events:
    events = pack_events(activity)
    assert events is not None
    return events


def dense_sums(x: Tensor, weights: list[Tensor], geometry: Convolution | None) -> list[Tensor]:
    """The definition, for weights [O, C, kernel]."""
    if geometry is None:
        return [x @ weight.flatten(1).T for weight in weights]
    maps = x.flatten(0, 1).unflatten(1, (*geometry.size, -1)).movedim(-1, 1)
    sums = [
        F.conv2d(maps, weight, stride=geometry.stride, padding=geometry.padding)
        for weight in weights
    ]
    return [s.movedim(1, -1).reshape(STEPS, BATCH, -1) for s in sums]


@pytest.mark.parametrize("geometry", [None, *GEOMETRIES])
@pytest.mark.parametrize(("channels", "outputs", "groups"), WIDTHS)
def test_sums_and_their_gradients(
    geometry: Convolution | None, channels: int, outputs: int, groups: int
) -> None:
    x = spikes(channels, 1 if geometry is None else geometry.size[0] * geometry.size[1])
    kernel = (1, 1) if geometry is None else geometry.kernel
    weights = [torch.randn(outputs, channels, *kernel, requires_grad=True) for _ in range(groups)]
    table = torch.stack([w.permute(2, 3, 1, 0).flatten(0, 1) for w in weights], 2)
    found = event_currents(packed(x), table, geometry)
    expected = dense_sums(x, weights, geometry)
    ups = [torch.randn_like(value) for value in expected]
    inputs = [x, *weights]
    torch.testing.assert_close(list(found), expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, ups),
        torch.autograd.grad(expected, inputs, ups),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("geometry", [None, *GEOMETRIES])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (16, 64), (33, 70)])
def test_products_are_the_weight_gradient(
    geometry: Convolution | None, inputs: int, outputs: int
) -> None:
    """The weight gradient for the output gradient `post`, in the use of `event_products`."""
    places, kernel, reached = 1, (1, 1), (1, 1)
    if geometry is not None:
        places, kernel = geometry.size[0] * geometry.size[1], geometry.kernel
        reached = geometry.reached()
    pre = torch.randn(STEPS, BATCH, places * inputs)
    weight = torch.zeros(outputs, inputs, *kernel, requires_grad=True)
    posts = [spikes(outputs, reached[0] * reached[1], rate).detach() for rate in (0.3, 0.6, 1.0)]
    expected = [
        torch.autograd.grad(dense_sums(pre, [weight], geometry), [weight], [post])[0]
        for post in posts
    ]
    values = pre.flatten(0, 1).unflatten(1, (places, inputs))
    words = [packed(p).words for p in posts[:2]]
    found, always = event_products(words, outputs, values, geometry)
    for products, wanted in zip(
        (*found, always[None]), (*expected[:2], expected[2][:1]), strict=True
    ):
        torch.testing.assert_close(
            products.unflatten(1, kernel).movedim(3, 1), wanted, rtol=1e-4, atol=1e-4
        )


def test_a_gradient_that_is_constant_in_time_is_not_expanded() -> None:
    x, weight = spikes(20), torch.randn(10, 20, 1, 1, requires_grad=True)
    table = weight.permute(2, 3, 1, 0).flatten(0, 1)[:, :, None]
    (values,) = event_currents(packed(x), table)
    up = torch.randn(BATCH, 10).expand(STEPS, BATCH, 10)
    found = torch.autograd.grad(values, [x, weight], up)
    expected = torch.autograd.grad(dense_sums(x, [weight], None), [x, weight], up)
    assert found[0].stride(0) == 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_no_activity_and_full_activity() -> None:
    weight = torch.randn(1, 70, 1, 16)
    for rate, expected in ((0.0, torch.zeros(16)), (1.0, weight.sum((0, 1, 2)))):
        x = spikes(70, rate=rate)
        (values,) = event_currents(packed(x), weight)
        torch.testing.assert_close(values, expected.expand_as(values))


@pytest.mark.parametrize("columns", [16, 20, 130])
@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_non_binary_values_are_not_packed(columns: int, value: float) -> None:
    for column in (0, columns - 1):
        x = spikes(columns).detach()
        x[1, 2, column] = value
        assert pack_events(x) is None


def test_bits_equal_the_spikes() -> None:
    x = spikes(130).detach()
    words = packed(x).words.flatten().tolist()
    bits = [[words[3 * r + n // 64] >> (n % 64) & 1 for n in range(130)] for r in range(12)]
    assert bits == x.flatten(0, 1).int().tolist()


@pytest.mark.parametrize("columns", [16, 20, 64, 130])
def test_traces_and_sums_of_packed_spikes(columns: int) -> None:
    x = spikes(columns).detach()
    words, factors = packed(x).words.unflatten(0, x.shape[:2]), torch.rand(STEPS)
    assert torch.equal(event_trace(words, columns, 0.8), exponential_trace(x, decay=0.8))
    part = slice(1, 3)  # of the samples, which lies in pieces
    assert torch.equal(
        event_trace(words[:, part], columns, 0.8), exponential_trace(x[:, part], decay=0.8)
    )
    torch.testing.assert_close(
        event_sums(words, columns, factors), torch.tensordot(factors, x, 1), rtol=1e-5, atol=1e-6
    )


def test_only_float32_outside_autocast_is_packed() -> None:
    x = spikes(20).detach()
    assert pack_events(x.double()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert pack_events(x) is None


def test_mismatching_shapes_are_refused() -> None:
    geometry, values = GEOMETRIES[1], torch.randn(STEPS * BATCH, 64, 3)
    source, target = packed(spikes(20, 64)), packed(spikes(20, 16)).words
    with pytest.raises(ValueError, match="the source has 1280 neurons per sample"):
        event_currents(source, torch.randn(9, 10, 1, 8), geometry)
    with pytest.raises(ValueError, match="the table has 4 taps, its geometry 9"):
        event_currents(source, torch.randn(4, 20, 1, 8), geometry)
    with pytest.raises(
        ValueError, match="the target has 5 words per sample, its geometry 640 neurons"
    ):
        event_products([target], 40, values, geometry)
    with pytest.raises(ValueError, match=r"values must be \[12, 64, V\]"):
        event_products([target], 20, values[1:], geometry)


def test_several_threads_give_the_same() -> None:
    """Sums are bit-identical; products are summed per thread."""
    threads = torch.get_num_threads()
    x = (torch.rand(100, 16, 640) < 0.2).float()
    table, values = torch.randn(1, 640, 1, 64), torch.randn(1600, 1, 64)
    events = packed(x)
    words_TB, factors = events.words.unflatten(0, x.shape[:2]), torch.rand(100)
    try:
        made = []
        for count in (1, 3):
            torch.set_num_threads(count)
            made.append((packed(x).words, *event_currents(events, table)))
            made[-1] += (event_trace(words_TB, 640, 0.8), event_sums(words_TB, 640, factors))
            made[-1] += event_products([events.words], 640, values)
    finally:
        torch.set_num_threads(threads)
    for one, several in zip(made[0][:4], made[1][:4], strict=True):
        assert torch.equal(one, several)
    torch.testing.assert_close(made[0][4:], made[1][4:], rtol=1e-4, atol=1e-4)
