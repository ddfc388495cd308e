"""Every layer: a run equals its single steps, all parameters get gradients, traces are correct."""

from __future__ import annotations

import pytest
import torch

from neuro.layers.soen.base import PassOptions
from neuro.layers.soen.cells import LeakyGRU
from neuro.layers.soen.dendrite import Dendrite
from neuro.layers.soen.maps import Linear, Nonlinear, Scaling, Softmax
from neuro.layers.soen.multiplier import NOCC, WICC
from neuro.layers.soen.noise import QUIET, LayerNoise, NoiseLevels
from neuro.layers.soen.units import GAMMA_PLUS
from neuro.models.soen.architecture import LAYERS
from neuro.ops.sources import source_function

T, B, N = 12, 3, 4
DT = torch.tensor(37.0)
PHYSICAL = ("dendrite", "wicc", "nocc")


def make(kind, dim=N, drives=None, **params):
    torch.manual_seed(0)
    target = LAYERS[kind]
    if target is Dendrite:
        params["drives"] = drives or (1,) * dim
    return target(dim=dim, **params)


def flux(seed=1, steps=T):
    return 0.4 * torch.rand(steps, B, N, generator=torch.Generator().manual_seed(seed))


def internal():
    return 0.3 * torch.randn(N, N, generator=torch.Generator().manual_seed(2))


def stepwise(layer, phi, state, noise=QUIET, connections=None, traces=()):
    options = PassOptions(noise, connections, traces=traces)
    return layer.run_stepwise(phi, state, DT, options)


def leaves(state):
    return torch.utils._pytree.tree_leaves(state)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_run_equals_the_loop_over_its_steps(kind, connected):
    layer, phi = make(kind), flux()
    connections = internal() if connected else None
    state = stepwise(layer, flux(seed=8), layer.initial_state(B)).state  # not at rest
    fast = layer.run(phi, state, DT, noise=QUIET, internal=connections, traces=layer.trace_names)
    slow = stepwise(layer, phi, state, connections=connections, traces=layer.trace_names)
    torch.testing.assert_close(fast.s_TBN, slow.s_TBN, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast.state, slow.state, rtol=1e-4, atol=1e-6)
    assert fast.traces.keys() == set(layer.trace_names) == slow.traces.keys()
    for name in layer.trace_names:
        torch.testing.assert_close(fast.traces[name], slow.traces[name], rtol=1e-4, atol=1e-5)
    assert type(fast.state) is type(layer.initial_state(B))
    assert torch.equal(fast.state[0], fast.s_TBN[-1])


@pytest.mark.parametrize("kind", LAYERS)
def test_two_runs_from_the_state_between_equal_one(kind):
    layer, phi = make(kind), flux()
    whole = layer.run(phi, layer.initial_state(B), DT, noise=QUIET)
    first = layer.run(phi[:5], layer.initial_state(B), DT, noise=QUIET)
    second = layer.run(phi[5:], first.state, DT, noise=QUIET)
    torch.testing.assert_close(torch.cat([first.s_TBN, second.s_TBN]), whole.s_TBN)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_layer_stays_at_zero_without_input(kind):
    rest = leaves(make(kind).initial_state(B))
    assert all(leaf.shape == (B, N) and not leaf.any() for leaf in rest)


@pytest.mark.parametrize("place", ["phi", "g", "s", "bias_current"])
@pytest.mark.parametrize("kind", LAYERS)
def test_noise_acts_on_every_tensor_of_a_layer(kind, place):
    layer, phi = make(kind), flux()
    quiet = layer.run(phi, layer.initial_state(B), DT, noise=QUIET)
    found = []
    for relative in (False, True):
        noise = LayerNoise(NoiseLevels(**{place: 0.05}), NoiseLevels(), relative)
        torch.manual_seed(0)
        found.append(layer.run(phi, layer.initial_state(B), DT, noise=noise).s_TBN)
    places = {"phi", "s"}
    if kind in ("dendrite", "wicc", "nocc", "readout"):
        places |= {"g", "bias_current"}
    for s_TBN in found:
        assert torch.equal(s_TBN, quiet.s_TBN) == (place not in places)
        assert torch.isfinite(s_TBN).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_perturbed_run_equals_its_steps(kind):
    """One draw for every sample, in fused and stepwise runs."""
    layer, phi = make(kind), flux()
    levels = NoiseLevels(phi=0.05, g=0.05, s=0.001, bias_current=0.05)
    found = []
    for run in (layer.run, lambda *a, **k: layer.run_stepwise(*a, PassOptions(**k))):
        torch.manual_seed(0)
        noise = LayerNoise(NoiseLevels(), levels, relative=False)
        found.append(run(phi, layer.initial_state(B), DT, noise=noise).s_TBN)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_reach_inputs_connections_and_every_parameter(kind, connected):
    layer = make(kind, bias=True) if kind == "linear" else make(kind)
    phi = flux().requires_grad_()
    connections = internal().requires_grad_() if connected else None
    dt = DT.clone().requires_grad_()
    out = layer.run(phi, layer.initial_state(B), dt, noise=QUIET, internal=connections)
    weights = torch.randn(out.s_TBN.shape, generator=torch.Generator().manual_seed(4))
    (out.s_TBN * weights).sum().backward()
    assert phi.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert torch.isfinite(parameter.grad).all(), name
    if connected:
        assert connections.grad.abs().sum() > 0
    assert layer.physical == (kind in PHYSICAL)
    if layer.physical:
        assert dt.grad.abs() > 0
    else:
        assert dt.grad is None


@pytest.mark.parametrize("kind", LAYERS)
def test_the_gradients_of_a_run_are_those_of_its_steps(kind):
    found = []
    for run in (
        lambda layer: layer.run,
        lambda layer: lambda *a, **k: layer.run_stepwise(*a, PassOptions(**k)),
    ):
        layer, phi = make(kind), flux().requires_grad_()
        s = run(layer)(phi, layer.initial_state(B), DT, noise=QUIET).s_TBN
        weights = torch.randn(s.shape, generator=torch.Generator().manual_seed(4))
        (s * weights).sum().backward()
        found.append([phi.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "kind, names",
    {
        "dendrite": ("phi_offset", "bias_current", "gamma_plus", "gamma_minus"),
        "wicc": ("phi_y", "bias_current", "gamma_plus", "gamma_minus"),
        "nocc": ("phi_y", "bias_current", "alpha", "beta", "beta_out"),
        "readout": ("phi_offset", "bias_current"),
    }.items(),
)
def test_every_physical_parameter_has_an_effect_and_may_be_learnable(kind, names):
    base = make(kind).run(flux(), make(kind).initial_state(B), DT, noise=QUIET).s_TBN
    for name in names:
        for value in (1.9, (1.9, 1.8, 1.7, 1.6)):
            changed = make(kind, **{name: value})
            s = changed.run(flux(), changed.initial_state(B), DT, noise=QUIET).s_TBN
            assert not torch.equal(s, base), name
        assert [n for n, _ in make(kind, learnable=(name,)).named_parameters()] == [f"{name}.raw"]
        with pytest.raises(ValueError, match=f"{name}: got 2 values for 4 nodes"):
            make(kind, **{name: (1.0, 2.0)})
    assert not list(make(kind, learnable=()).parameters())


def test_the_charging_rate_of_a_dendrite_is_shared_by_its_targets():
    layer = make("dendrite", drives=(0, 1, 2, 4))
    expected = GAMMA_PLUS / torch.tensor([1.0, 1.0, 2.0, 4.0])
    torch.testing.assert_close(layer.gamma_plus(), expected)
    torch.testing.assert_close(
        make("dendrite", fan_out=5).gamma_plus(), torch.full((4,), GAMMA_PLUS / 5)
    )
    torch.testing.assert_close(
        make("dendrite", gamma_plus=2e-3).gamma_plus(), torch.full((4,), 2e-3)
    )
    with pytest.raises(ValueError, match="gamma_plus, fan_out: give one of them"):
        make("dendrite", gamma_plus=0.1, fan_out=2)


def test_defaults_are_the_published_ones():
    layer = make("dendrite")
    for name, value in {"phi_offset": 0.23, "bias_current": 1.7, "gamma_minus": 1e-3}.items():
        torch.testing.assert_close(layer.get_submodule(name)(), torch.full((N,), value))
    torch.testing.assert_close(make("wicc").bias_current(), torch.full((N,), 2.0))
    torch.testing.assert_close(make("nocc").alpha(), torch.full((N,), 1.64053))


@pytest.mark.parametrize("kind", ["fitted", "table", "tanh_gauss", "tanh", "relu", "telu", "gelu"])
def test_a_dendrite_with_every_source_is_its_equation(kind):
    layer, phi = make("dendrite", source=kind), flux()
    out = layer.run(phi, layer.initial_state(B), DT, noise=QUIET, traces=("phi", "g"))
    s = torch.zeros(B, N)
    for t in range(T):
        whole = phi[t] + 0.23
        needs = kind in ("fitted", "table", "tanh_gauss")
        g = source_function(kind, whole, 1.7 - s if needs else None)
        torch.testing.assert_close(out.traces["phi"][t], whole)
        torch.testing.assert_close(out.traces["g"][t], g, rtol=1e-4, atol=1e-5)
        s = s + 37 * (GAMMA_PLUS * g - 1e-3 * s)
        torch.testing.assert_close(out.s_TBN[t], s, rtol=1e-4, atol=1e-6)
    learned = {name for name, _ in layer.named_parameters()}
    assert ("bias_current.raw" in learned) == needs


@pytest.mark.parametrize("solver, kind", [("scan", "tanh"), ("newton", "fitted")])
def test_a_layers_solver_gives_eulers_states(solver, kind):
    layer, phi = make("dendrite", source=kind), flux()
    euler, other = (
        layer.run(phi, layer.initial_state(B), DT, noise=QUIET, solver=name).s_TBN
        for name in ("euler", solver)
    )
    torch.testing.assert_close(other, euler, rtol=0, atol=1e-5)


def test_a_readout_is_the_source_alone():
    layer, phi = make("readout", phi_offset=0.1, bias_current=1.9), flux()
    expected = source_function("table", phi + 0.1, torch.full_like(phi, 1.9))
    torch.testing.assert_close(
        layer.run(phi, layer.initial_state(B), DT, noise=QUIET).s_TBN, expected
    )


@pytest.mark.parametrize("kind", ["dendrite", "readout"])
def test_only_sources_with_a_current_have_a_bias(kind):
    learned = dict(make(kind, source="tanh").named_parameters())
    assert "phi_offset.raw" in learned
    assert "bias_current.raw" not in learned
    for given in ({"learnable": ("bias_current",)}, {"bias_current": 1.9}):
        (key,) = given
        with pytest.raises(ValueError, match=f"{key}: a source of kind tanh has no bias_current"):
            make(kind, source="tanh", **given)


def test_elementwise_layers_equal_their_functions():
    x = flux()
    assert torch.equal(make("input").transform(x), x)
    assert torch.equal(Linear(N).transform(x), x) and not list(Linear(N).parameters())
    biased = Linear(N, bias=True)
    with torch.no_grad():
        biased.bias.copy_(torch.arange(4.0))
    assert torch.equal(biased.transform(x), x + torch.arange(4.0))
    assert torch.equal(Scaling(N, factor=2.0).transform(x), 2 * x)
    assert not list(Scaling(N, factor=2.0, learnable=False).parameters())
    torch.testing.assert_close(Nonlinear(N).transform(x), x.tanh())
    torch.testing.assert_close(Nonlinear(N, "relu").transform(x - 0.2), (x - 0.2).relu())
    torch.testing.assert_close(Softmax(N, beta=3.0).transform(x), (3 * x).softmax(-1))
    with pytest.raises(ValueError, match="function: table needs a squid current"):
        Nonlinear(N, "table")


@pytest.mark.parametrize("kind", [WICC, NOCC])
def test_a_multiplier_needs_a_squid(kind):
    with pytest.raises(ValueError, match="source: tanh takes no squid current"):
        kind(N, source="tanh")


def test_noise_on_the_currents_of_a_multiplier_is_that_on_their_difference():
    """From rest, where both SQUIDs have the same bias, against the equations by hand."""
    phi = flux()[0]
    for kind in ("wicc", "nocc"):
        layer = make(kind)
        noise = LayerNoise(NoiseLevels(g=0.05), NoiseLevels(), relative=False)
        torch.manual_seed(0)
        noisy, _ = layer.step(phi, layer.initial_state(B), DT, noise)
        torch.manual_seed(0)
        added = 0.05 * torch.randn(B, N)
        clean, _ = layer.step(phi, layer.initial_state(B), DT, QUIET)
        if kind == "wicc":
            torch.testing.assert_close(noisy.s - clean.s, 37 * GAMMA_PLUS * added)
            continue
        change = 37 * added / (303.85 + 2 * 91.156)
        torch.testing.assert_close(noisy.m - clean.m, change)
        torch.testing.assert_close(
            noisy.s1 - clean.s1, (37 * added / 2 - 91.156 * change) / 303.85, rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(
            noisy.s2 - clean.s2, (-37 * added / 2 - 91.156 * change) / 303.85, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_cells_equal_torchs(kind):
    """Against torch's module for whole sequences, with the same weights."""
    layer, phi = make(kind), flux()
    whole = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](N, N)
    with torch.no_grad():
        for name, parameter in layer.cell.named_parameters():
            getattr(whole, f"{name}_l0").copy_(parameter)
    torch.testing.assert_close(
        layer.run(phi, layer.initial_state(B), DT, noise=QUIET).s_TBN, whole(phi)[0]
    )


def test_gated_cells_by_their_equations():
    x, s = flux()[0], 0.1 * torch.randn(B, N)
    mingru = make("mingru")
    z, c = torch.sigmoid(mingru.gate(x)), torch.tanh(mingru.candidate(x))
    state, _ = mingru.step(x, mingru.initial_state(B)._replace(s=s), DT, QUIET)
    torch.testing.assert_close(state.s, (1 - z) * s + z * c)
    for leak in (0.0, 0.4, 1.0):
        cell = LeakyGRU(N, leak)
        both = torch.cat([x, s], -1)
        z, c = torch.sigmoid(cell.gate(both)), torch.tanh(cell.candidate(both))
        state, _ = cell.step(x, cell.initial_state(B)._replace(s=s), DT, QUIET)
        torch.testing.assert_close(state.s, (1 - leak) * ((1 - z) * s + z * c))
