"""Losses and rules against values by hand and autograd."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch, TargetSpec
from neuro.errors import ConfigError
from neuro.learning.continual.ewc import EWC
from neuro.learning.losses.cross_entropy import CrossEntropy, keep_present
from neuro.learning.objective import Objective
from neuro.learning.rules.hlop import HLOPSubspace
from neuro.learning.rules.ltgate import GateVariance
from neuro.learning.rules.readout import DeltaRule, Discriminant
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear
from tests.networks import network

SPEC = FakeData().spec("fast")


def mean(values, lengths=None):
    return values.mean(1)


def first_batch(task="fast"):
    return next(FakeData().loader(task, "train", batch_size=6).batches())


def output(model, batch, record=("features",), pooling="mean"):
    """The argument of a term: outputs pooled by the objective."""
    raw = model(batch.sequence(), dt_ms=batch.dt_ms, record=record)
    return raw._replace(values=raw.values.mean(1) if pooling == "mean" else raw.values.sum(1))


# -- cross-entropy ----------------------------------------------------------------------------


SCORES = torch.tensor([[1.0, 2.0, 4.0], [0.0, 3.0, 9.0]])
TARGETS = torch.tensor([0, 1])


def loss_of(term, scores=SCORES, targets=TARGETS):
    return term(None, Batch(torch.zeros(2, 1), targets, 1.0), ModelOutput(scores, (), {})).loss


def test_cross_entropy_by_hand():
    expected = -(SCORES.softmax(1)[0, 0].log() + SCORES.softmax(1)[1, 1].log()) / 2
    torch.testing.assert_close(loss_of(CrossEntropy()), expected)
    torch.testing.assert_close(
        loss_of(CrossEntropy(temperature=4.0)), F.cross_entropy(SCORES / 4, TARGETS)
    )


def test_absent_classes_are_ignored():
    scores = SCORES.clone().requires_grad_()
    loss = loss_of(CrossEntropy(present_only=True), scores)
    torch.testing.assert_close(loss, F.cross_entropy(SCORES[:, :2], TARGETS))
    loss.backward()
    assert not scores.grad[:, 2].any()
    assert scores.grad[:, :2].abs().min() > 0


@pytest.mark.parametrize("present_only", [False, True])
def test_targets_without_a_label_are_left_out(present_only):
    term = CrossEntropy(present_only=present_only)
    scores = torch.cat([SCORES, torch.ones(1, 3)])
    found = loss_of(term, scores, torch.tensor([0, 1, -100]))
    torch.testing.assert_close(found, loss_of(term))
    assert loss_of(CrossEntropy(), SCORES, torch.tensor([-100, -100])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keeping_present_classes_stays_finite_in_any_precision(dtype):
    kept = keep_present(SCORES.to(dtype), TARGETS)
    assert torch.isfinite(kept.float().softmax(1)).all()
    assert torch.equal(kept[:, :2], SCORES[:, :2].to(dtype))


def test_one_target_per_step():
    scores = SCORES.expand(3, 2, 3)
    targets = TARGETS.expand(3, 2)
    torch.testing.assert_close(loss_of(CrossEntropy(), scores, targets), loss_of(CrossEntropy()))


# -- readout rules ----------------------------------------------------------------------------


def readout_model(seed=3):
    model = network("lif", readout="linear")
    generator = torch.Generator().manual_seed(seed)
    model.readout.weight.data.normal_(generator=generator)
    model.readout.bias.data.normal_(generator=generator)
    return model


@pytest.mark.parametrize("present_only", [False, True])
def test_the_delta_rule_is_the_gradient_of_cross_entropy_on_detached_features(present_only):
    model, batch = readout_model(), first_batch()
    out = output(model, batch)
    rule = DeltaRule(present_only=present_only, normalise=False, decay=0.0)
    readout = model.readout
    found = torch.autograd.grad(rule(model, batch, out).loss, [readout.weight, readout.bias])
    scores = readout(out.records["features"].detach())
    if present_only:
        scores = keep_present(scores, batch.targets)
    loss = F.cross_entropy(scores, batch.targets)
    expected = torch.autograd.grad(loss, [readout.weight, readout.bias])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_delta_rule_changes_the_readout_only_and_needs_no_graph():
    model, batch = readout_model(), first_batch()
    with torch.no_grad():
        out = output(model, batch)
    DeltaRule()(model, batch, out).loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "readout.weight", "readout.bias",
    }  # fmt: skip
    assert DeltaRule.needs_graph is False


def test_normalising_divides_by_the_mean_squared_length_and_decay_shrinks():
    model, batch = readout_model(), first_batch()
    out = output(model, batch)

    def direction(**options):
        loss = DeltaRule(**options)(model, batch, out).loss
        return torch.autograd.grad(loss, model.readout.weight)[0]

    plain = direction(normalise=False, decay=0.0)
    length = out.records["features"].square().sum(1).mean()
    torch.testing.assert_close(direction(decay=0.0), plain / length)
    decayed = direction(normalise=False, decay=0.5)
    torch.testing.assert_close(decayed, plain + 0.5 * model.readout.weight)


def test_the_delta_rule_is_finite_without_spikes():
    model, batch = readout_model(), first_batch()
    out = output(model, batch)
    out.records["features"].zero_()
    loss = DeltaRule()(model, batch, out).loss
    assert torch.isfinite(torch.autograd.grad(loss, model.readout.weight)[0]).all()


@pytest.mark.parametrize(
    "rule, kind, message",
    [
        (DeltaRule, "discriminant", "DeltaRule trains a LinearReadout.*readout=linear"),
        (Discriminant, "linear", "Discriminant trains a Discrim.*readout=discriminant"),
    ],
)
def test_readout_rules_need_their_readout(rule, kind, message):
    with pytest.raises(ConfigError, match=message):
        rule().check(network("lif", readout=kind), SPEC)
    with pytest.raises(ConfigError, match="which Linear does not have"):
        rule().check(linear(), SPEC)
    other = {"linear": "discriminant", "discriminant": "linear"}[kind]
    rule().check(network("lif", readout=other), SPEC)
    values = dataclasses.replace(SPEC, targets=TargetSpec("class_sequence", classes=4))
    with pytest.raises(ConfigError, match="needs one class per sequence; task 'fast'"):
        rule().check(network("lif", readout=other), values)


def test_discriminant_moments_are_sums():
    model, batch = network("lif", readout="discriminant"), first_batch()
    out = output(model, batch)
    updates = Discriminant()(model, batch, out).updates
    x, y = out.records["features"].double(), batch.targets
    assert {c.reduce for c in updates.values()} == {"sum"}
    assert set(updates) <= {name for name, _ in model.named_buffers()}
    assert updates["readout.count"].value.tolist() == [3, 3, 0, 0]
    sums = torch.stack([x[y == c].sum(0) for c in range(4)])
    torch.testing.assert_close(updates["readout.sums"].value, sums)
    products = sum(torch.outer(row, row) for row in x)
    torch.testing.assert_close(updates["readout.products"].value.double(), products)


def test_consolidation_recomputes_the_moments():
    model = network("lif", readout="discriminant")
    model.readout.count.fill_(99)  # accumulated while the layers below still changed
    loader = FakeData().loader("fast", "train")
    Discriminant().consolidate(model, loader.batches(), mean)
    assert model.readout.past_count.tolist() == [7, 7, 0, 0]
    assert not model.readout.count.any()
    Discriminant().consolidate(model, FakeData().loader("slow", "train").batches(), mean)
    assert model.readout.past_count.tolist() == [7, 7, 7, 7]


# -- LT-Gate ----------------------------------------------------------------------------------


def test_gate_variances_move_towards_the_batchs():
    model, batch = network("ltgate", gate_rate=0.1), first_batch()
    term = GateVariance()
    names = term.records(model)
    assert set(names) == {
        f"{layer}/{branch}_rate" for layer in model.layers for branch in ("fast", "slow")
    }
    out = output(model, batch, names)
    updates = term(model, batch, out).updates
    assert set(updates) == {
        f"layers.{layer}.gate.{branch}_variance"
        for layer in model.layers
        for branch in ("fast", "slow")
    }
    assert set(updates) <= {name for name, _ in model.named_buffers()}
    rate = out.records["conv1/slow_rate"].mean((2, 3))
    expected = 0.1 * (rate.var(0, unbiased=False) - 1e-4)
    torch.testing.assert_close(updates["layers.conv1.gate.slow_variance"].value, expected)
    model.plasticity.fill_(0.5)
    halved = term(model, batch, out).updates["layers.conv1.gate.slow_variance"].value
    torch.testing.assert_close(halved, expected / 2)


def test_gates_without_variances_give_no_updates():
    model = network("ltgate", gate="learned")
    assert GateVariance().records(model) == ()
    with pytest.raises(ConfigError, match="SpikingCNN has none. Use model=ltgate"):
        GateVariance().records(network("lif"))


# -- HLOP -------------------------------------------------------------------------------------


def test_hlop_increments_are_ojas_changes_on_mean_inputs():
    model, batch = network("hlop", lateral_neurons=2), first_batch()
    term = HLOPSubspace(rate=0.25, weight=2.0)
    names = term.records(model)
    assert names == ("conv1/inputs", "conv2/inputs", "dense/inputs")
    out = output(model, batch, names)
    result = term(model, batch, out)
    assert result.loss == 0 and not result.loss.requires_grad
    assert set(result.updates) <= {name for name, _ in model.named_buffers()}
    synapse = model.layers["conv2"].synapse
    expected = synapse.oja(out.records["conv2/inputs"].mean(0), 0.5)
    change = result.updates["layers.conv2.synapse.lateral"]
    torch.testing.assert_close(change.value, expected)
    assert change.reduce == "mean"


def test_hlop_needs_lateral_neurons():
    with pytest.raises(ConfigError, match="SpikingCNN has none. Use model=hlop"):
        HLOPSubspace().check(network("lif"), SPEC)
    HLOPSubspace().check(network("hlop"), SPEC)


# -- EWC --------------------------------------------------------------------------------------


def test_ewc_is_zero_in_the_first_phase():
    model, batch = linear(), first_batch()
    assert EWC()(model, batch, output(model, batch)).loss == 0


def test_fisher_information_of_a_linear_model_by_hand():
    """For softmax(W x + b): dlogp(y)/dW = (onehot(y) - p) x^T, so F_W = E_x sum_y p_y (...)^2."""
    model = linear()
    x, _ = FakeData().splits["fast", "train"]
    x = x.flatten(1)[:8]
    p = model.last(x).softmax(1).detach()
    squares = [(F.one_hot(torch.tensor(y), 4) - p) ** 2 for y in range(4)]
    variance = sum(p[:, y : y + 1] * squares[y] for y in range(4))
    expected = (variance.T @ x.square()) / len(x)
    torch.manual_seed(0)
    many = EWC(samples=8)
    total = torch.zeros_like(expected)
    for _ in range(100):  # labels are sampled, so it holds on average
        loader = FakeData().loader("fast", "train")
        term = EWC(samples=8)
        term.consolidate(model, loader.batches(), mean)
        total += term.fisher["last.weight"] / 100
    torch.testing.assert_close(total, expected, rtol=0.15, atol=2e-3)
    assert many.strength == 1000.0


def consolidated(strength=10.0, tasks=("fast",)):
    torch.manual_seed(0)
    model, term = linear(), EWC(strength=strength, samples=5)
    for task in tasks:
        term.consolidate(model, FakeData().loader(task, "train").batches(), mean)
    return model, term


def test_the_penalty_is_quadratic_around_the_anchor():
    model, term = consolidated()
    batch = first_batch()
    assert term(model, batch, output(model, batch)).loss == 0
    model.last.weight.data += 0.5
    model.last.bias.data -= 0.25
    loss = term(model, batch, output(model, batch)).loss
    expected = 5.0 * (
        0.25 * term.fisher["last.weight"].sum() + 0.0625 * term.fisher["last.bias"].sum()
    )
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, model.last.bias)
    torch.testing.assert_close(grad, -10 * 0.25 * term.fisher["last.bias"])
    model.last.weight.requires_grad_(False)  # frozen weights have no penalty
    less = term(model, batch, output(model, batch)).loss
    torch.testing.assert_close(less, 5.0 * 0.0625 * term.fisher["last.bias"].sum())


def test_information_adds_up_over_phases_and_the_anchor_moves():
    model, once = consolidated()
    before = {k: v.clone() for k, v in once.fisher.items()}
    model.last.bias.data += 1
    once.consolidate(model, FakeData().loader("slow", "train").batches(), mean)
    assert all((once.fisher[k] >= before[k]).all() for k in before)
    assert any((once.fisher[k] > before[k]).any() for k in before)
    assert torch.equal(once.anchor["last.bias"], model.last.bias)


def test_the_number_of_samples_and_the_pooling_matter():
    def fisher(samples, pool):
        torch.manual_seed(0)
        model, term = linear(), EWC(samples=samples)
        seen = []
        model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
        term.consolidate(model, FakeData().loader("fast", "train").batches(), pool)
        return term.fisher["last.weight"], seen

    few, calls = fisher(3, mean)
    assert calls == [1, 1, 1]
    assert len(fisher(99, mean)[1]) == 14  # at most all samples
    assert not torch.equal(few, fisher(3, lambda values, lengths: values.sum(1))[0])


def test_without_trainable_weights_there_is_no_information():
    model, term = linear().requires_grad_(False), EWC()
    term.consolidate(model, FakeData().loader("fast", "train").batches(), mean)
    assert len(term.fisher) == 0


def test_ewc_is_restored_from_a_checkpoint():
    model, term = consolidated()
    fresh = Objective({"ce": CrossEntropy(), "ewc": EWC(strength=10.0)})
    fresh.load_state_dict(Objective({"ce": CrossEntropy(), "ewc": term}).state_dict())
    batch = first_batch()
    model.last.weight.data += 0.5
    out = output(model, batch)
    again = fresh.named_terms()["ewc"](model, batch, out).loss
    assert again == term(model, batch, out).loss > 0
    assert not any(p.requires_grad for p in fresh.parameters())


@pytest.mark.parametrize("rule", [DeltaRule(), Discriminant()])
def test_local_readout_rules_need_a_class_for_every_sample(rule):
    readout = "linear" if isinstance(rule, DeltaRule) else "discriminant"
    model, spec = network("lif", readout=readout), FakeData().spec("fast")
    rule.check(model, spec)
    with pytest.raises(ConfigError, match="needs a class for every sample; task 'fast' has"):
        rule.check(model, dataclasses.replace(spec, partly_labelled=True))
