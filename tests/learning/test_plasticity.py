"""Plasticity rules as terms: connections, bounds and effects."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuro.data.base import Batch
from neuro.errors import ConfigError, Interrupted
from neuro.io import checkpoint
from neuro.layers.hybrid_block import ClosedForm, Exchange, Mamba, Spiking
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.rules.plasticity import BCM, STDP, Homeostasis, TripletSTDP, mean_change
from neuro.models.hybrid import Hybrid
from neuro.ops.plasticity import Factors
from tests.fakes import FakeData, linear, make_trainer, rows
from tests.language import END, token_spec, tokens
from tests.networks import network

RULES = {"stdp": STDP, "triplet": TripletSTDP, "homeostasis": Homeostasis, "bcm": BCM}
#: large changes, visible within few steps
STRONG = {
    "stdp": {"a_plus": 0.5},
    "triplet": {"a2_plus": 0.5},
    "homeostasis": {"rate": 5.0, "target": 0.5},
    "bcm": {"rate": 50.0},
}
ONE = {"one": {"task": "fast", "steps": 3}}


def fit(directory, model, terms, phases=ONE, **options):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    objective = Objective(terms)
    objective.check(model, FakeData().spec("fast"))
    trainer = make_trainer(directory, model, terms=terms, phases=phases, **options)
    trainer.fit()
    after = dict(model.named_parameters())
    return [name for name, old in before.items() if not torch.equal(old, after[name])]


@pytest.mark.parametrize("kind", ["lif", "ltgate"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_alone_changes_its_connections_only(tmp_path, kind, rule):
    model = network(kind, readout="linear")
    name = {"lif": "conv1", "ltgate": "conv1/slow"}[kind]
    term = RULES[rule](connections=(name,), **STRONG[rule])
    terms = {"rule": term}
    if kind == "ltgate":
        from neuro.learning.rules.ltgate import GateVariance

        terms["variance"] = GateVariance()
    changed = fit(tmp_path, model, terms)
    assert changed == [model.spiking_connections()[name].weight]
    logged = [row for row in rows(tmp_path) if f"train/rule/{name}/weight_change" in row]
    assert logged and logged[0][f"train/rule/{name}/weight_change"] > 0


def test_all_connections_change_by_default(tmp_path):
    model = network("lif", readout="linear")
    changed = fit(tmp_path, model, {"rule": STDP(a_plus=0.5)})
    assert changed == [c.weight for c in model.spiking_connections().values()]


def test_changes_and_weights_are_bounded(tmp_path):
    model = network("lif", readout="linear")
    weight = model.layers["dense"].synapse.weight.detach()
    old = weight.clone()
    rule = STDP(connections=("dense",), a_plus=1.0, a_minus=0.0, max_change=1e-3)
    fit(tmp_path / "a", model, {"rule": rule})
    change = (weight - old).abs().max()
    assert 0 < change <= 3.01e-3
    rule = STDP(connections=("dense",), a_plus=1.0, a_minus=0.0, max_change=9.0, high=0.3)
    fit(tmp_path / "b", model, {"rule": rule})
    assert float(weight.max()) == pytest.approx(0.3)


def test_the_weight_of_the_term_scales_its_changes(tmp_path):
    changes = []
    for weight in (1.0, 0.25):
        model = network("lif", readout="linear")
        old = model.layers["conv1"].synapse.weight.detach().clone()
        rule = STDP(weight, connections=("conv1",), max_change=9.0)
        fit(tmp_path / str(weight), model, {"rule": rule}, {"one": {"task": "fast", "steps": 1}})
        changes.append(model.layers["conv1"].synapse.weight - old)
    torch.testing.assert_close(changes[1], 0.25 * changes[0], rtol=1e-3, atol=1e-7)


def test_beside_a_loss_both_change_the_weights(tmp_path):
    found = {}
    for name, terms in {
        "gradient": {"ce": CrossEntropy()},
        "rule": {"ce": CrossEntropy(), "rule": STDP(a_plus=0.5)},
    }.items():
        model = network("lif", readout="linear")
        fit(tmp_path / name, model, terms)
        found[name] = model.layers["conv1"].synapse.weight
    assert not torch.equal(found["gradient"], found["rule"])


def test_frozen_weights_are_left_to_the_rule(tmp_path):
    phases = {"one": {"task": "fast", "steps": 2, "freeze": ["layers.*"]}}
    model = network("lif", readout="linear")
    terms = {"ce": CrossEntropy(), "rule": STDP(connections=("dense",), a_plus=0.5)}
    changed = fit(tmp_path, model, terms, phases)
    assert "layers.dense.synapse.weight" in changed
    assert not any(name.startswith("layers.conv") for name in changed)
    assert any(name.startswith("readout") for name in changed)


def test_a_skipped_update_has_no_change(tmp_path):
    class Overflow(CrossEntropy):
        def forward(self, model, batch, output):
            result = super().forward(model, batch, output)
            return result._replace(loss=result.loss * torch.inf)

    model = network("lif", readout="linear")
    terms = {"ce": Overflow(), "rule": STDP(a_plus=0.5)}
    assert fit(tmp_path, model, terms, {"one": {"task": "fast", "steps": 2}}) == []


def test_bcm_keeps_its_threshold_over_a_resume(tmp_path):
    def trainer(directory, state=None, **options):
        model = network("lif", readout="linear")
        terms = {"rule": BCM(connections=("conv1",), rate=50.0, threshold_batches=2.0)}
        Objective(terms).check(model, FakeData().spec("fast"))
        return make_trainer(
            directory, model, terms=terms, phases={"one": {"task": "fast", "steps": 6}},
            state=state, **options,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole")
    whole.fit()
    stopped = trainer(tmp_path / "part", interrupted=lambda: stopped.progress.step >= 3)
    with pytest.raises(Interrupted):
        stopped.fit()
    state = checkpoint.load(tmp_path / "part" / "checkpoints" / "last.safetensors")
    resumed = trainer(tmp_path / "part", state)
    resumed.fit(state)
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[name]), name
    assert torch.equal(
        whole.model.layers["conv1"].synapse.weight, resumed.model.layers["conv1"].synapse.weight
    )


def test_a_convolution_is_changed_at_every_place():
    """The change is the mean over places of dense correlations."""
    rng = torch.Generator().manual_seed(0)
    synapse = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    pre = torch.rand(4, 2, 2, 5, 5, generator=rng)
    post = (torch.rand(4, 2, 3, 5, 5, generator=rng) < 0.5).float()
    found = mean_change(synapse, [Factors(pre, post)])
    padded = torch.nn.functional.pad(pre, (1, 1, 1, 1))
    expected = torch.zeros_like(found)
    for y in range(5):
        for x in range(5):
            patch = padded[..., y : y + 3, x : x + 3]
            expected += torch.einsum("tbo,tbchw->ochw", post[..., y, x], patch)
    torch.testing.assert_close(found, expected / (2 * 25))


# -- the hybrid's encoder -------------------------------------------------------------------------


def hybrid(spiking=True):
    torch.manual_seed(0)
    encoder = Spiking(units=4, decay=0.9, dropout=0.0) if spiking else None
    parts = ClosedForm(units=6, backbone_units=8), Mamba(4), Exchange(2, attention_heads=2)
    return Hybrid(token_spec(), 8, 2, "sequential", encoder, *parts)


def test_the_encoders_spikes_are_recorded_across_documents():
    model, x = hybrid(), tokens()
    x[0, 3] = END
    output = model(x, dt_ms=None, record=model.recordable)
    assert output.records["encoder2/hidden_spikes"].shape == (x.shape[1], len(x), 8)
    assert output.records["encoder1/spikes"].shape == (x.shape[1], len(x), 4)
    torch.testing.assert_close(output.values, model(x, dt_ms=None).values)
    with pytest.raises(ConfigError, match="records no 'encoder3/spikes'"):
        model(x, dt_ms=None, record=("encoder3/spikes",))


@pytest.mark.parametrize(
    "connection, shape", [("encoder1/out", (4, 8)), ("encoder2/hidden", (8, 8))]
)
def test_rules_change_the_encoder_of_a_hybrid(connection, shape):
    model, x = hybrid(), tokens()
    rule = STDP(connections=(connection,), a_plus=0.5)
    objective = Objective({"rule": rule}, "seq2seq", target="token")
    objective.check(model, token_spec())
    output = model(x, dt_ms=None, record=objective.records(model))
    (update,) = objective(model, Batch(x, x, None), output).updates.values()
    assert update.value.shape == shape and update.value.abs().sum() > 0


# -- messages -------------------------------------------------------------------------------------


def test_unknown_connections_are_refused_with_the_nearest_match():
    with pytest.raises(ConfigError) as caught:
        STDP(connections=("conv1/slwo",)).check(network("ltgate"), FakeData().spec("fast"))
    assert "has no connection 'conv1/slwo'" in str(caught.value)
    assert "Did you mean 'conv1/slow'?" in str(caught.value)


@pytest.mark.parametrize("model", [linear(), hybrid(spiking=False)], ids=["linear", "hybrid"])
def test_models_without_spikes_are_refused(model):
    with pytest.raises(ConfigError, match=r"connections"):
        STDP(connections=("dense",)).check(model, FakeData().spec("fast"))


def test_bounds_must_be_in_order():
    with pytest.raises(ValueError, match="low, high: got 1 and 0.5"):
        STDP(low=1.0, high=0.5)
