"""Event-driven synapses: weights are added spike by spike (CPU, float32).

    out[r, q] = sum over links (p, q, tap) and channels c with a spike at (r, p) of table[tap, c]

Spikes are 0 or 1, so nothing is multiplied and silent neurons cost nothing. Spikes are packed to
bits, which is all that is saved for the gradient of the weights

    d table[tap, c] = sum over spikes (r, p, c) and links (p, q, tap) of g[r, q]

The gradient of the spikes is dense, and computed by a matrix product or transposed convolution.
Shapes: T steps, B samples, R = T * B rows, P and Q places of source and target, C channels,
G populations with O channels each; activity lies channels-last (`layers/layout.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import chunks, launch_events, launch_samples, untraced
from neuro.ops.links import Fan, Links, convolution_links, dense_links
from neuro.ops.plain import are_plain
from neuro.ops.sequence import is_constant

_LANES = 16  # as in kernels/vectors.py, which is not imported here because it loads Numba


class Convolution(NamedTuple):
    """Geometry of a convolution over maps of `size`."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def reached(self) -> tuple[int, int]:
        """Size of the output maps."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        height, width = ((n + 2 * pad - k) // step + 1 for n, k, step, pad in sides)
        return height, width


class Events(NamedTuple):
    """Spikes [T, B, N], which get the gradient, and the same spikes as bits [R, ceil(N / 64)]."""

    spikes: Tensor
    words: Tensor  # int64


def pack_events(activity_TBN: Tensor) -> Events | None:
    """Pack spikes [T, B, N] to bits; None if there are values other than 0 and 1.

    None also for devices and dtypes without event kernels, under autocast, and for plain forms.
    """
    on_cpu = activity_TBN.device.type == "cpu" and activity_TBN.dtype == torch.float32
    if are_plain() or not on_cpu or torch.is_autocast_enabled("cpu"):
        return None
    activity = activity_TBN.detach().contiguous()
    steps, batch, columns = activity.shape
    words = torch.empty(steps * batch, -(-columns // 64), dtype=torch.int64)
    others = torch.zeros(1, dtype=torch.int64)  # set by any thread that finds another value
    launch_events(
        "pack_events",
        steps * batch,
        activity.numel(),
        activity.view(-1),
        words.view(torch.uint64),
        others,
    )
    return None if others else Events(activity_TBN, words)


def event_trace(words: Tensor, columns: int, decay: float) -> Tensor:
    """Traces x[t] = decay x[t-1] + s[t] [T, B, N] of packed spikes [T, B, ceil(N / 64)]."""
    trace = torch.empty(*words.shape[:2], columns)
    arguments = trace, words.contiguous().view(torch.uint64), decay
    launch_samples("events", "event_trace", words.shape[1], trace.numel(), *arguments)
    return trace


def event_sums(words: Tensor, columns: int, factors: Tensor) -> Tensor:
    """Sums over time [B, N] of packed spikes [T, B, ceil(N / 64)] times factors [T]."""
    sums = torch.empty(words.shape[1], columns)
    arguments = sums, words.contiguous().view(torch.uint64), factors
    launch_samples("events", "event_sums", len(sums), len(words) * sums.numel(), *arguments)
    return sums


@untraced
def event_currents(
    events: Events, table: Tensor, geometry: Convolution | None = None
) -> tuple[Tensor, ...]:
    """Synaptic currents [T, B, Q * O] of each of G populations; differentiable.

    events: spikes of the source, N = P * C.
    table: weights [taps, C, G, O]; without `geometry` they are dense, with P = Q = 1 and one tap.

    Raises ValueError if sizes do not match (the kernels do not check bounds).
    """
    links = _links(geometry)
    width = links.sources * table.shape[1]
    if events.spikes.shape[2] != width:
        raise ValueError(
            f"the source has {events.spikes.shape[2]} neurons per sample, its geometry {width}."
        )
    if len(table) != links.taps:
        raise ValueError(f"the table has {len(table)} taps, its geometry {links.taps}.")
    currents: tuple[Tensor, ...] = _EventCurrents.apply(*events, table, geometry)
    return currents


@untraced
def event_products(
    posts: Sequence[Tensor], channels: int, values: Tensor, geometry: Convolution | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of presynaptic values at postsynaptic spikes; no gradient.

    posts: packed spikes of each of G target populations, [R, ceil(N / 64)] with N = Q * O.
    channels: O.
    values: [R, P, V] of the source.

    Returns the sums for every target channel, [G, O, taps, V], and those for a neuron that spikes
    at every step and place, [taps, V]. Raises ValueError as `event_currents` does.
    """
    links, width, groups = _links(geometry), values.shape[2], len(posts)
    for words in posts:
        if words.shape[1] != -(-links.targets * channels // 64):
            raise ValueError(
                f"the target has {words.shape[1]} words per sample, its geometry "
                f"{links.targets * channels} neurons."
            )
        if values.shape[:2] != (len(words), links.sources):
            raise ValueError(
                f"values must be [{len(words)}, {links.sources}, V] to match the events; "
                f"got {list(values.shape)}."
            )
    row = links.taps * width
    table = _launch_products(
        "target_products",
        torch.stack(list(posts)),
        values,
        links.by_target(),
        channels,
        (groups * channels + 1, row + -row % _LANES),
    )
    products = table[:, :row].unflatten(1, (links.taps, width))
    return products[:-1].unflatten(0, (groups, channels)), products[-1]


def source_sums(words: Tensor, channels: int, values: Tensor) -> Tensor:
    """Sum of target values at source spikes, [V, C]: the weight gradient of dense synapses.

    words: packed spikes of the source [R, ceil(C / 64)]; channels: C; values: [R, V] of the target.
    """
    return _source_products(words, channels, values[:, None], dense_links())[0].T


def _source_products(words: Tensor, channels: int, values: Tensor, links: Links) -> Tensor:
    """Sum of postsynaptic values at presynaptic spikes, [taps, C, V].

    words: packed spikes of the source [R, P * C]; values: [R, Q, V] of the target.
    """
    values, width = _padded(values), values.shape[2]
    shape = links.taps * channels, values.shape[2]
    table = _launch_products("source_products", words, values, links.by_source(), channels, shape)
    return table.unflatten(0, (links.taps, channels))[..., :width]


def _launch_products(
    name: str, words: Tensor, values: Tensor, fan: Fan, channels: int, shape: tuple[int, int]
) -> Tensor:
    """Sum over rows by kernel `name`, a table of `shape`: each thread fills one, all are added."""
    rows, elements = len(values), values.numel() + words.numel() * 64
    parts = chunks(rows, elements)  # the same split as that of the launch, so tables match threads
    tables = values.new_zeros(len(parts), shape[0] * shape[1])
    launch_events(
        name,
        rows,
        elements,
        words.view(torch.uint64),
        values.contiguous(),
        *fan,
        channels,
        tables,
        parts[0][1],
    )
    return tables.sum(0).view(shape)


class _EventCurrents(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, words: Tensor, table: Tensor, geometry: Convolution | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(words, table)
        ctx.geometry, ctx.shape = geometry, x.shape
        links, (_, channels, groups, outputs) = _links(geometry), table.shape
        table = _padded(table)
        rows = words.shape[0]
        sums = table.new_empty(groups, rows, links.targets, table.shape[-1])
        launch_events(
            "event_currents",
            rows,
            x.numel() + sums.numel(),
            words.view(torch.uint64),  # few torch operations take uint64, so words are int64
            table.view(-1),
            links.sources,
            *links.by_target(),
            channels,
            sums,
        )
        sums = sums[..., :outputs].reshape(groups, *x.shape[:2], -1)
        return tuple(sums.unbind(0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        words, table = ctx.saved_tensors
        links = _links(ctx.geometry)
        of_x = of_table = None
        values = torch.cat([grad.reshape(len(words), links.targets, -1) for grad in grads], -1)
        if ctx.needs_input_grad[0]:
            # Pooling over time sends the same gradient to every step; then compute a single step.
            held = all(is_constant(grad) for grad in grads)
            of_x = _input_gradient(values[: ctx.shape[1]] if held else values, table, ctx.geometry)
            of_x = of_x.expand(ctx.shape) if held else of_x.view(ctx.shape)
        if ctx.needs_input_grad[2]:
            _, channels, groups, _ = table.shape
            products = _source_products(words, channels, values, links)
            of_table = products.unflatten(-1, (groups, -1))
        return of_x, None, of_table, None


def _input_gradient(values: Tensor, table: Tensor, geometry: Convolution | None) -> Tensor:
    """Gradient of the spikes [R, P * C], from that of the currents [R, Q, G * O]."""
    weight = table.flatten(2)  # [taps, C, G * O]
    if geometry is None:
        return values[:, 0] @ weight[0].T
    size, kernel, stride, padding = geometry
    reached, beyond = geometry.reached(), []
    for places, one, step, pad, end in zip(reached, kernel, stride, padding, size, strict=True):
        # rows or columns that the strided convolution did not reach, with a gradient of zero
        beyond.append(end - ((places - 1) * step - 2 * pad + one))
    maps = F.conv_transpose2d(
        values.unflatten(1, reached).movedim(-1, 1),
        weight.unflatten(0, kernel).movedim((3, 2), (0, 1)),
        stride=stride,
        padding=padding,
        output_padding=beyond,
    )
    return maps.movedim(1, -1).flatten(1)


def _links(geometry: Convolution | None) -> Links:
    return dense_links() if geometry is None else convolution_links(*geometry)


def _padded(values: Tensor) -> Tensor:
    """Pad the last dimension with zeros to a multiple of the lanes; contiguous."""
    missing = -values.shape[-1] % _LANES
    return (F.pad(values, (0, missing)) if missing else values).contiguous()
