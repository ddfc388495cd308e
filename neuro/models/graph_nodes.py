"""Nodes of a layer graph: inputs, synapses, neurons and readouts.

Parameters are float32 arrays, and are checked on construction. Maps are `[C, H, W]` and are
flattened in that order. Time constants are in milliseconds, independent of the data's time step;
inf means no leak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from neuro.data.base import InputCoding
from neuro.errors import ExportError
from neuro.ops.dual_lif import Merge
from neuro.ops.lif import Reset

Array = NDArray[np.float32]
Shape = tuple[int, ...]
#: one for all neurons, or one per channel `[C]`
TimeConstant = float | Array


def convolved(
    shape: Shape, weight: Shape, stride: tuple[int, int], padding: tuple[int, int]
) -> Shape:
    """Shape of the output map of a kernel `[O, I, kh, kw]` for an input map `[I, H, W]`."""
    height, width = (
        (size + 2 * pad - kernel) // step + 1
        for size, pad, kernel, step in zip(shape[1:], padding, weight[2:], stride, strict=True)
    )
    return weight[0], height, width


@dataclass(frozen=True, eq=False)
class LayerNode:
    """A layer with one output and named input `ports`, all of the same shape."""

    ports: ClassVar[tuple[str, ...]] = ("input",)

    @property
    def input_shape(self) -> Shape:
        """Shape at every input port, without time and batch."""
        raise NotImplementedError

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, without time and batch."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class InputNode(LayerNode):
    """Input of the network; `coding` says what its values are, see `InputSpec`."""

    ports: ClassVar[tuple[str, ...]] = ()

    shape: Shape
    coding: InputCoding = "real"

    def __post_init__(self) -> None:
        _check_choice("coding", self.coding, get_args(InputCoding))

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Conv2dNode(LayerNode):
    """A cross-correlation; `weight` is `[O, I, kh, kw]`, `bias` `[O]`, added at every step.

    ExportError for weights, stride or padding that do not fit the input.
    """

    shape: Shape  # of the input, [I, H, W]
    weight: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    bias: Array | None = None

    def __post_init__(self) -> None:
        _check_arrays("a convolution", weight=self.weight, bias=self.bias)
        if min(self.stride) < 1 or min(self.padding) < 0:
            raise ExportError(
                "a convolution has a stride of at least 1 and a padding of at least 0; got "
                f"{list(self.stride)} and {list(self.padding)}."
            )
        if len(self.shape) != 3 or self.weight.ndim != 4 or self.weight.shape[1] != self.shape[0]:
            raise ExportError(
                f"a convolution of {list(self.shape)} needs a weight [outputs, "
                f"{self.shape[0]}, height, width]; got {list(self.weight.shape)}."
            )
        _check_bias(self.bias, self.weight)
        if min(self.output_shape) < 1:
            raise ExportError(
                f"a kernel of {list(self.weight.shape[2:])} does not fit into "
                f"{list(self.shape)} with padding {list(self.padding)}."
            )

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return convolved(self.shape, self.weight.shape, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class DenseNode(LayerNode):
    """A linear map; `weight` is `[O, I]`, `bias` `[O]`, added at every step.

    `delays_ms`: inputs arrive later, rounded to steps of the data: of each input `[I]`, or of each
    synapse `[O, I]`. ExportError for arrays of other shapes or dtypes, and for negative delays.
    """

    weight: Array
    bias: Array | None = None
    delays_ms: Array | None = None

    def __post_init__(self) -> None:
        if self.delays_ms is not None:
            _check_arrays("a dense layer", delays_ms=self.delays_ms)
            if self.delays_ms.shape not in (self.weight.shape, self.weight.shape[1:]):
                raise ExportError(
                    f"delays of inputs {list(self.weight.shape[1:])} or of synapses "
                    f"{list(self.weight.shape)} are needed; got {list(self.delays_ms.shape)}."
                )
            if not 0 <= self.delays_ms.min() <= self.delays_ms.max() < math.inf:
                raise ExportError("delays_ms must be at least 0 and finite.")
        _check_arrays("a dense layer", weight=self.weight, bias=self.bias)
        if self.weight.ndim != 2:
            raise ExportError(f"a dense weight has two dimensions; got {list(self.weight.shape)}.")
        _check_bias(self.bias, self.weight)

    @property
    def input_shape(self) -> Shape:
        return (self.weight.shape[1],)

    @property
    def output_shape(self) -> Shape:
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False)
class FlattenNode(LayerNode):
    """Reshape from `[C, H, W]` to `[C * H * W]`."""

    shape: Shape

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return (prod(self.shape),)


@dataclass(frozen=True, eq=False)
class _Neurons(LayerNode):
    """Neurons of `shape`, with one output for each, and one input at every port."""

    shape: Shape

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class LIFNode(_Neurons):
    """LIF neurons: v[t] = exp(-dt / tau) v[t-1] + x[t], a spike where v >= threshold, then reset.

    x: the sum of the inputs. `tau_ms`: one time constant, or one per channel `[C]`.
    ExportError for a time constant or threshold that is not positive.
    """

    tau_ms: TimeConstant
    threshold: float
    reset: Reset = "subtract"

    def __post_init__(self) -> None:
        _check_neurons(self.shape, self.threshold, self.reset, tau_ms=self.tau_ms)


@dataclass(frozen=True, eq=False)
class CubaLIFNode(_Neurons):
    """LIF neurons with a synaptic current (CuBa LIF).

    i[t] = exp(-dt / tau_current) i[t-1] + x[t];  v[t] = exp(-dt / tau) v[t-1] + i[t]; spikes and
    reset of v as in `LIFNode`. Time constants: one, or one per channel `[C]`.
    ExportError for a time constant or threshold that is not positive.
    """

    tau_current_ms: TimeConstant
    tau_ms: TimeConstant
    threshold: float
    reset: Reset = "subtract"

    def __post_init__(self) -> None:
        taus_ms = {"tau_current_ms": self.tau_current_ms, "tau_ms": self.tau_ms}
        _check_neurons(self.shape, self.threshold, self.reset, **taus_ms)


@dataclass(frozen=True, eq=False)
class DualLIFNode(_Neurons):
    """Dual-timescale neurons with an input for each compartment; equations in `ops/dual_lif.py`.

    `gamma` `[C]` in [0, 1] weights the fast compartment under merge "gate"; it is None under "or".
    ExportError for parameters out of range.
    """

    ports: ClassVar[tuple[str, ...]] = ("fast", "slow")

    tau_fast_ms: float
    tau_slow_ms: float
    threshold: float
    gamma: Array | None
    merge: Merge = "gate"
    reset: Reset = "subtract"

    def __post_init__(self) -> None:
        taus_ms = {"tau_fast_ms": self.tau_fast_ms, "tau_slow_ms": self.tau_slow_ms}
        _check_neurons(self.shape, self.threshold, self.reset, **taus_ms)
        _check_choice("merge", self.merge, get_args(Merge))
        _check_arrays("a dual-timescale LIF", gamma=self.gamma)
        if self.merge == "or" and self.gamma is not None:
            raise ExportError(
                f"merge=or takes no gamma; got one of shape {list(self.gamma.shape)}."
            )
        if self.merge == "gate":
            if self.gamma is None or self.gamma.shape != self.shape[:1]:
                given = None if self.gamma is None else list(self.gamma.shape)
                raise ExportError(
                    f"merge=gate needs a gamma of shape [{self.shape[0]}]; got {given}."
                )
            if not ((self.gamma >= 0) & (self.gamma <= 1)).all():  # in this form NaN is refused too
                raise ExportError("gamma must be in [0, 1].")


@dataclass(frozen=True, eq=False)
class ReadoutNode(LayerNode):
    """Class scores y[t] at every step, without spikes.

    x[t] is the sum of the inputs and `bias` `[K]`. `tau_ms`: of a leaky integrator,
    y[t] = d y[t-1] + (1 - d) x[t] with d = exp(-dt / tau); None: y[t] = x[t].
    ExportError for a bias of another shape, and a time constant that is not positive.
    """

    bias: Array
    tau_ms: float | None = None

    def __post_init__(self) -> None:
        if self.tau_ms is not None:
            _check_time_constant("tau_ms of a readout", self.tau_ms)
        _check_arrays("a readout", bias=self.bias)
        if self.bias.ndim != 1:
            raise ExportError(f"a readout's bias has one dimension; got {list(self.bias.shape)}.")

    @property
    def input_shape(self) -> Shape:
        return self.bias.shape

    @property
    def output_shape(self) -> Shape:
        return self.bias.shape


def _check_bias(bias: Array | None, weight: Array) -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ExportError(f"a bias of shape [{weight.shape[0]}] is needed; got {list(bias.shape)}.")


def _check_arrays(what: str, **arrays: Array | None) -> None:
    for name, array in arrays.items():
        if array is not None and array.dtype != np.float32:
            raise ExportError(f"the {name} of {what} must be float32; got {array.dtype}.")


def _check_neurons(shape: Shape, threshold: float, reset: str, **taus_ms: TimeConstant) -> None:
    for name, tau_ms in taus_ms.items():
        _check_time_constant(name, tau_ms)
        if isinstance(tau_ms, np.ndarray):
            _check_arrays("neurons", **{name: tau_ms})
            if tau_ms.shape != shape[:1]:
                raise ExportError(
                    f"{name} must be one number or have the shape [{shape[0]}]; got "
                    f"{list(tau_ms.shape)}."
                )
    if not 0 < threshold < math.inf:
        raise ExportError(f"threshold must be above 0 and finite; got {threshold}.")
    _check_choice("reset", reset, get_args(Reset))


def _check_time_constant(name: str, tau_ms: TimeConstant) -> None:
    lowest = np.min(tau_ms)
    if not lowest > 0:  # in this form NaN is refused too
        raise ExportError(f"{name} must be above 0; got {lowest}.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ExportError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


#: nodes that spike, and nodes of weights
NeuronNode = LIFNode | CubaLIFNode | DualLIFNode
SynapseNode = Conv2dNode | DenseNode
