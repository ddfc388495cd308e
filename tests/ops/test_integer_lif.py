"""Integer neurons: the kernel against its definition in 64 bits and traces computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from neuro.ops import Merge, Reset
from neuro.ops.fixed_point import GAMMA_UNITY, MEMORYLESS, STATE_LIMIT
from neuro.ops.integer_lif import (
    IntegerDualLIFState,
    IntegerLIFState,
    integer_dual_lif,
    integer_dual_lif_reference,
    integer_lif,
    integer_lif_reference,
    merge_membranes,
)
from tests.ops.checks import SHAPES

DECAYS = (0, 1, 700, 4094, 4095)
# usual sums; ones that wrap i and saturate v; ones beyond the 24 bits, and almost beyond 32
SIZES = (40, 1 << 18, 1 << 21, 1 << 31)


def decays(rng: np.random.Generator, shape: tuple[int, ...]) -> Sequence[int]:
    """All decays, or one of them for a shape on which the definition takes a second."""
    return DECAYS if np.prod(shape) < 1_000_000 else [int(rng.choice(DECAYS))]


def integers(rng: np.random.Generator, shape: tuple[int, ...], limit: int) -> Tensor:
    """Random integers between -limit and limit; a scalar for an empty shape."""
    return torch.as_tensor(rng.integers(-limit, limit, shape), dtype=torch.int32)


def tensors(output: Any) -> list[Tensor | None]:
    """All tensors of an output, those of its state among them."""
    found: list[Tensor | None] = []
    for item in output:
        found += tensors(item) if isinstance(item, tuple) else [item]
    return found


def assert_same(ours: Any, theirs: Any) -> None:
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 2])
@pytest.mark.parametrize("own", [("du",), ("dv",), ("du", "dv")], ids="-".join)
def test_decays_of_each_channel(shape: tuple[int, ...], own: tuple[str, ...]) -> None:
    rng = np.random.default_rng(shape)
    sums = integers(rng, shape, 1 << 12)
    options: dict[str, Any] = {"du": 700, "dv": 30, "vth": 5000, "reset": "subtract"}
    for name in own:
        options[name] = torch.from_numpy(rng.choice(DECAYS, shape[2]).astype(np.int32))
    ours = integer_lif(sums, **options)
    assert_same(ours, integer_lif_reference(sums, **options))
    for channel in range(min(shape[2], 3)):
        alone = {k: int(x[channel]) if k in own else x for k, x in options.items()}
        expected = integer_lif(sums, **alone).spikes[:, :, channel]
        assert torch.equal(ours.spikes[:, :, channel], expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reset", get_args(Reset))
def test_lif_equals_its_definition(shape: tuple[int, ...], size: int, reset: Reset) -> None:
    rng = np.random.default_rng([*shape, size])
    for du in decays(rng, shape):
        sums = integers(rng, shape, size)
        state = IntegerLIFState(*(integers(rng, shape[1:], STATE_LIMIT) for _ in range(2)))
        bias = integers(rng, shape[2:3], 1 << 19)
        options: dict[str, Any] = {
            "du": du,
            "dv": int(rng.choice(DECAYS)),
            "vth": int(rng.integers(0, min(4 * size, 1 << 17))),
            "bias": bias if rng.random() < 0.7 else None,
            "reset": reset,
            "record_membrane": bool(rng.random() < 0.5),
        }
        for start in (None, state):
            assert_same(
                integer_lif(sums, start, **options), integer_lif_reference(sums, start, **options)
            )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("merge", get_args(Merge))
@pytest.mark.parametrize("reset", get_args(Reset))
def test_dual_lif_equals_its_definition(
    shape: tuple[int, ...], size: int, merge: Merge, reset: Reset
) -> None:
    rng = np.random.default_rng([*shape, size])
    for dv_fast in decays(rng, shape):
        sums = [integers(rng, shape, size) for _ in range(2)]
        state = IntegerDualLIFState(*(integers(rng, shape[1:], STATE_LIMIT) for _ in range(2)))
        gamma = torch.as_tensor(rng.integers(0, GAMMA_UNITY + 1, shape[2:3]))
        options: dict[str, Any] = {
            "dv_fast": dv_fast,
            "dv_slow": int(rng.choice(DECAYS)),
            "vth": int(rng.integers(0, min(4 * size, 1 << 17))),
            "gamma": gamma if merge == "gate" else None,
            "reset": reset,
            "record_membranes": bool(rng.random() < 0.5),
        }
        for start in (None, state):
            assert_same(
                integer_dual_lif(*sums, start, merge=merge, **options),
                integer_dual_lif_reference(*sums, start, **options),
            )


def one_neuron(values: list[int]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def trace(values: list[int], **options: Any) -> tuple[list[int], list[int], Any]:
    """Spikes, membrane and output of one neuron, checked against the definition."""
    options = {"dv": 0, "vth": (1 << 17) - 1, "record_membrane": True} | options
    output = integer_lif(one_neuron(values), **options)
    assert_same(output, integer_lif_reference(one_neuron(values), **options))
    assert output.membrane is not None
    return output.spikes.flatten().tolist(), output.membrane.flatten().tolist(), output


@pytest.mark.parametrize(
    ("reset", "spikes", "membrane"),
    [
        # v decays by half, rounded down; 64 is not above 1 << 6; a spike subtracts 65
        ("subtract", [0, 1, 1, 1, 1], [64, 96, 79, 71, 67]),
        ("zero", [0, 1, 0, 1, 0], [64, 96, 64, 96, 64]),
    ],
)
def test_spikes_and_resets_by_hand(reset: Reset, spikes: list[int], membrane: list[int]) -> None:
    got_spikes, got_membrane, _ = trace([1] * 5, dv=2048, vth=1, reset=reset)
    assert (got_spikes, got_membrane) == (spikes, membrane)


def test_magnitudes_are_shifted() -> None:
    """Rounding is toward zero, so negative membrane potentials decay to 0 like positive ones."""
    _, membrane, output = trace([-1] + [0] * 8, dv=2048)
    assert membrane == [-64, -32, -16, -8, -4, -2, -1, 0, 0]
    assert output.changes.item() == 8  # the first step and the next seven


def test_u_decays() -> None:
    assert trace([64, 0, 0], du=0)[1] == [4096, 4096 + 4095, 4096 + 4095 + 4094]
    assert trace([64, 0, 0], du=2047)[1] == [4096, 4096 + 2048, 4096 + 2048 + 1024]
    assert trace([64, 0, 0], du=4094)[1] == [4096, 4097, 4097]
    assert trace([64, 0, 0], du=MEMORYLESS)[1] == [4096, 4096, 4096]


@pytest.mark.parametrize(
    ("summed", "i"),
    [
        (1 << 17, 1 << 23),
        ((1 << 17) + 1, (1 << 23) + 64 - (1 << 24)),
        (1 - (1 << 17), 64 - (1 << 23)),
        (-(1 << 17), 1 << 23),
        (1 << 19, (1 << 25) - (1 << 24)),  # once, so that it stays beyond 24 bits
        (1 << 25, -(1 << 31) + (1 << 24)),  # 32 bits, as Lava's arrays
    ],
)
def test_i_wraps_once_and_v_saturates(summed: int, i: int) -> None:
    _, membrane, output = trace([summed, summed], du=MEMORYLESS)
    highest = STATE_LIMIT - 1
    assert output.state.i.item() == i
    assert membrane == [max(-highest, min(n * i, highest)) for n in (1, 2)]


def test_bias_is_added_to_v_at_every_step() -> None:
    bias = torch.tensor([-3, 200], dtype=torch.int32)
    output = integer_lif(torch.ones(2, 1, 2, 1, 3), dv=0, vth=3, bias=bias, record_membrane=True)
    assert output.membrane is not None
    assert output.membrane[:, 0, :, 0, 2].tolist() == [[61, 264], [122, 335]]
    assert output.spikes[:, 0, :, 0, 2].tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("reset", "fast", "slow"),
    [
        # merged: (192 * 128 + 64 * 64) >> 8 = 112, which is above 64
        ("subtract", [128, 127, 126], [64, 63, 62]),
        ("zero", [128, 128, 128], [64, 64, 64]),
    ],
)
def test_gate_by_hand(reset: Reset, fast: list[int], slow: list[int]) -> None:
    output = integer_dual_lif(
        one_neuron([2, 1, 1] if reset == "subtract" else [2] * 3),
        one_neuron([1] * 3),
        dv_fast=0,
        dv_slow=0,
        vth=1,
        gamma=torch.tensor([192]),
        reset=reset,
        record_membranes=True,
    )
    assert output.fast_membrane is not None and output.slow_membrane is not None
    assert output.fast_membrane.flatten().tolist() == fast
    assert output.slow_membrane.flatten().tolist() == slow
    assert output.spikes.flatten().tolist() == [1, 1, 1]


def test_merged_membrane_rounds_toward_zero() -> None:
    fast, slow = torch.tensor([0, 0, 256, -1]), torch.tensor([255, -255, -256, -1])
    assert merge_membranes(fast, slow, 255).tolist() == [0, 0, 254, -1]


def test_without_a_merged_spike_compartments_are_not_reset() -> None:
    output = integer_dual_lif(
        one_neuron([50, 0]),
        one_neuron([-50, 0]),
        dv_fast=0,
        dv_slow=0,
        vth=1,
        gamma=torch.tensor([128]),
    )
    assert not output.spikes.any()
    assert [v.item() for v in output.state] == [3200, -3200]
    assert output.changes.item() == 2  # both at the first step, none at the second


def test_or_by_hand() -> None:
    """Each compartment spikes separately; the neuron spikes once if both do."""
    output = integer_dual_lif(
        one_neuron([2, 0, 2, 0]),
        one_neuron([0, 2, 2, 0]),
        dv_fast=0,
        dv_slow=0,
        vth=1,
        merge="or",
        record_membranes=True,
    )
    assert output.spikes.flatten().tolist() == [1, 1, 1, 1]
    assert output.fast_membrane is not None and output.slow_membrane is not None
    assert output.fast_membrane.flatten().tolist() == [128, 63, 191, 126]
    assert output.slow_membrane.flatten().tolist() == [0, 128, 191, 126]
    assert [v.item() for v in output.state] == [61, 61]
    assert output.changes.item() == 2 + 1 + 2 + 2


def test_constant_and_float_sums() -> None:
    rng = np.random.default_rng(0)
    step = integers(rng, (3, 7), 1000)
    held = step.expand(9, 3, 7)
    expected = integer_lif(held.contiguous(), dv=100, vth=30)
    assert expected.spikes.any()
    assert_same(integer_lif(held, dv=100, vth=30), expected)
    assert_same(integer_lif(held.float() + 1e-4, dv=100, vth=30), expected)
    view = held.contiguous().transpose(1, 2).contiguous().transpose(1, 2)
    assert_same(integer_lif(view, dv=100, vth=30), expected)


def test_chunks_with_carried_state_equal_the_whole() -> None:
    rng = np.random.default_rng(0)
    fast, slow = (integers(rng, (12, 2, 5), 1000) for _ in range(2))
    options: dict[str, Any] = {"dv_fast": 700, "dv_slow": 40, "vth": 900, "merge": "or"}
    whole = integer_dual_lif(fast, slow, **options)
    first = integer_dual_lif(fast[:5], slow[:5], **options)
    second = integer_dual_lif(fast[5:], slow[5:], first.state, **options)
    assert torch.equal(torch.cat((first.spikes, second.spikes)), whole.spikes)
    assert_same(second.state, whole.state)

    alone = integer_lif(fast, du=50, dv=40, vth=900)
    first_alone = integer_lif(fast[:5], du=50, dv=40, vth=900)
    second_alone = integer_lif(fast[5:], first_alone.state, du=50, dv=40, vth=900)
    assert_same(second_alone.state, alone.state)


def test_several_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fast, slow = (integers(rng, (50, 4, 2000), 4000) for _ in range(2))

    def everything() -> list[Tensor | None]:
        return [
            *tensors(integer_lif(fast, du=99, dv=40, vth=900)),
            *tensors(integer_dual_lif(fast, slow, dv_fast=9, dv_slow=40, vth=900, merge="or")),
        ]

    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(everything())
    assert_same(*results)


def test_inputs_are_not_mutated() -> None:
    rng = np.random.default_rng(0)
    arguments = [integers(rng, (6, 2, 5), 1000), integers(rng, (6, 2, 5), 1000)]
    state = [integers(rng, (2, 5), 1000) for _ in range(2)]
    bias, gamma = integers(rng, (5,), 1000), torch.full((5,), 99, dtype=torch.int32)
    everything = [*arguments, *state, bias, gamma]
    copies = [x.clone() for x in everything]
    integer_lif(arguments[0], IntegerLIFState(*state), dv=9, vth=5, bias=bias)
    integer_dual_lif(
        *arguments, IntegerDualLIFState(*state), dv_fast=9, dv_slow=9, vth=5, gamma=gamma
    )
    assert all(torch.equal(x, copy) for x, copy in zip(everything, copies, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dv": 4096}, r"dv has 12 bits, 0 .. 4095; got 4096"),
        ({"du": -1}, r"du has 12 bits, 0 .. 4095; got -1"),
        ({"vth": 1 << 17}, r"vth has 17 bits, 0 .. 131071; got 131072"),
        ({"reset": "hard"}, "reset must be one of subtract, zero; got 'hard'"),
        ({"bias": torch.ones(3)}, r"bias must be a scalar or have shape \[4\]"),
        ({"sums_TBN": torch.ones(5)}, r"sums must be a sequence of integers \[T, B"),
        ({"sums_TBN": torch.ones(0, 2, 4)}, r"at least one element; got .*\[0, 2, 4\]"),
        ({"state": IntegerLIFState(*torch.zeros(2, 3, 4))}, r"state.i must have shape \[2, 4\]"),
    ],
)
def test_bad_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"sums_TBN": torch.zeros(5, 2, 4).int(), "dv": 9, "vth": 9}
    with pytest.raises(ValueError, match=message):
        integer_lif(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slow_TBN": torch.zeros(5, 2, 3)}, "the slow sums must have shape"),
        ({"merge": "and"}, "merge must be one of gate, or; got 'and'"),
        ({"merge": "or"}, "merge 'gate' needs gamma, merge 'or' takes none"),
        ({"gamma": None}, "merge 'gate' needs gamma, merge 'or' takes none"),
        ({"dv_slow": 5000}, "dv_slow has 12 bits"),
    ],
)
def test_bad_dual_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    sums = torch.zeros(5, 2, 4).int()
    arguments: dict[str, Any] = {
        "fast_TBN": sums,
        "slow_TBN": sums,
        "dv_fast": 9,
        "dv_slow": 9,
        "vth": 9,
        "gamma": torch.ones(4),
    }
    with pytest.raises(ValueError, match=message):
        integer_dual_lif(**arguments | changes)
