"""The Mamba block against a plain reference and against mambapy; its state and causality."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.layers.mamba import MambaBlock, MambaState


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plain(block: MambaBlock, x_TBD: Tensor) -> Tensor:
    """The block with torch's convolution and a loop over steps."""
    u, z = block.in_proj(x_TBD).chunk(2, -1)
    u = F.silu(block.conv1d(F.pad(u.permute(1, 2, 0), (block.conv1d.kernel_size[0] - 1, 0))))
    u = u.permute(2, 0, 1)
    low_rank, B, C = block.x_proj(u).split((block.rank, *(block.state_size,) * 2), -1)
    dt = F.softplus(block.dt_proj(low_rank))
    A = -block.A_log.exp().view(-1, block.state_size)
    h, outputs = torch.zeros(*u.shape[1:], block.state_size), []
    for t in range(len(u)):
        h = (dt[t, ..., None] * A).exp() * h + (dt[t] * u[t])[..., None] * B[t, :, None]
        outputs.append((h * C[t, :, None]).sum(-1) + block.D * u[t])
    return block.out_proj(torch.stack(outputs) * F.silu(z))


def gradients(block: torch.nn.Module, y: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*block.named_parameters(), strict=True)
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return dict(zip(names, torch.autograd.grad((y * weight).sum(), parameters), strict=True))


@pytest.mark.parametrize(("steps", "kernel"), [(1, 4), (3, 4), (37, 4), (5, 1)])
def test_equals_a_plain_reference(steps: int, kernel: int) -> None:
    block = MambaBlock(20, state_size=5, conv_steps=kernel)
    x = torch.randn(steps, 3, 20)
    ours, theirs = block(x)[0], plain(block, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    found, expected = gradients(block, ours), gradients(block, theirs)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * scale + 1e-9)


def test_equals_mambapy() -> None:
    mamba = pytest.importorskip("mambapy.mamba")
    other = mamba.MambaBlock(mamba.MambaConfig(d_model=24, n_layers=1))
    block = MambaBlock(24)
    weights = other.state_dict()
    block.load_state_dict({**weights, "A_log": weights["A_log"].flatten()})
    x = torch.randn(21, 3, 24)
    ours, theirs = block(x)[0], other(x.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found, expected = gradients(block, ours), gradients(other, theirs)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found[name], gradient.reshape(found[name].shape), rtol=0, atol=1e-5 * scale
        )


def test_one_step_at_a_time_equals_the_sequence() -> None:
    block, x = MambaBlock(16), torch.randn(9, 2, 16)
    whole, last = block(x)
    state: MambaState | None = None
    outputs = []
    for step in x.split(1):
        y, state = block(step, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs), whole, rtol=1e-5, atol=1e-6)
    assert state is not None
    for ours, theirs in zip(state, last, strict=True):
        assert ours.shape[0] == 2
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_is_causal() -> None:
    block, x = MambaBlock(16), torch.randn(9, 2, 16)
    changed = x.clone()
    changed[5] += 1
    before, after = block(x)[0], block(changed)[0]
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5:], after[5:])


def test_the_shift_argument_changes_the_outputs() -> None:
    block, x = MambaBlock(16), torch.randn(9, 2, 16)
    nothing = torch.zeros(9, 2, 32)
    assert torch.equal(block(x)[0], block(x, None, nothing)[0])
    assert not torch.allclose(block(x)[0], block(x, None, nothing + 1)[0])


def test_initial_step_sizes_are_in_their_range() -> None:
    dt = F.softplus(MambaBlock(64).dt_proj.bias.detach())
    assert dt.min() * (1 + 1e-5) >= 1e-3 and dt.max() <= 0.1 * (1 + 1e-5)
    assert float(dt.log().mean()) == pytest.approx(math.log(1e-2), abs=0.5)


def test_extreme_parameters_give_finite_gradients() -> None:
    block = MambaBlock(16)
    with torch.no_grad():
        block.A_log[::2] = 200.0
        block.A_log[1::2] = -200.0
        block.dt_proj.bias[::3] = 500.0
        block.dt_proj.bias[1::3] = -500.0
    y = block(torch.randn(9, 2, 16))[0]
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(block, y).values())


def test_runs_under_autocast_with_states_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y, state = MambaBlock(16)(torch.randn(5, 2, 16))
    assert state.h.dtype == state.inputs.dtype == torch.float32
    assert y.isfinite().all()
