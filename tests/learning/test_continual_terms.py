"""Methods of continual learning against their equations, and in training."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.learning.continual.ewc import EWC
from neuro.learning.continual.lwf import LwF
from neuro.learning.continual.mas import MAS
from neuro.learning.continual.memory import Memory
from neuro.learning.continual.rehearsal import AGEM, DERpp
from neuro.learning.continual.si import SI
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import ModelOutput
from tests.fakes import SGD, TWO_PHASES, FakeData, hardware, linear, make_trainer, rows, series

DATA = FakeData()


def mean(values, lengths=None):
    return values.mean(1)


def train(task="fast"):
    return DATA.loader(task, "train").batches()


def batch_of(task="fast"):
    return next(iter(train(task)))


def loss_of(term, model, batch):
    """The term's loss, with the objective's pooling and records."""
    term.pool = mean
    made = model(batch.sequence(), dt_ms=batch.dt_ms)
    output = ModelOutput(mean(made.values), (), {"values": made.values})
    return term(model, batch, output).loss


def gradient(loss, model):
    return torch.autograd.grad(loss, model.last.weight)[0]


# -- importances of weights -----------------------------------------------------------------------


def shifted(model, by):
    moved = copy.deepcopy(model)
    moved.last.weight.data += by * torch.arange(moved.last.weight.numel()).view_as(
        moved.last.weight
    )
    return moved


def test_ewc_per_task_is_the_sum_of_the_penalties_of_the_tasks() -> None:
    first, second, now = (shifted(linear(), by) for by in (0.0, 0.01, -0.02))
    together, alone = EWC(kind="per_task"), [EWC(), EWC()]
    for term, model, task in (
        (alone[0], first, "fast"),
        (alone[1], second, "slow"),
        (together, first, "fast"),
        (together, second, "slow"),
    ):
        torch.manual_seed(3)  # draws labels
        term.consolidate(model, train(task), mean)
    expected = sum(gradient(loss_of(term, now, batch_of()), now) for term in alone)
    found = gradient(loss_of(together, now, batch_of()), now)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_ewc_online_decays_information_and_moves_its_anchor() -> None:
    first, second = linear(), shifted(linear(), 0.01)
    once, decaying = EWC(), EWC(decay=0.25)
    torch.manual_seed(3)
    decaying.consolidate(first, train(), mean)
    before = decaying.fisher["last.weight"]
    torch.manual_seed(4)
    decaying.consolidate(second, train("slow"), mean)
    torch.manual_seed(4)
    once.consolidate(second, train("slow"), mean)
    expected = once.fisher["last.weight"] + 0.25 * before
    torch.testing.assert_close(decaying.fisher["last.weight"], expected)
    assert torch.equal(decaying.anchor["last.weight"], second.last.weight)


def test_ewc_consolidates_within_a_phase() -> None:
    model, term = linear(), EWC(every=2)
    term.pool = mean
    term.on_step(model, batch_of(), 1)
    assert not term.fisher
    term.on_step(model, batch_of(), 2)
    assert term.fisher["last.weight"].sum() > 0
    assert not term.needs_earlier_phase and EWC().needs_earlier_phase
    for options, key in (({"every": 3}, "every"), ({"decay": 0.5}, "decay")):
        with pytest.raises(ConfigError, match=f"{key}: kind=per_task keeps"):
            EWC(kind="per_task", **options).check(model, DATA.spec("fast"))


def test_si_measures_the_path_of_the_weights() -> None:
    model, term = linear(), SI(strength=3.0, damping=0.5)
    weight = model.last.weight
    start = weight.detach().clone()
    omega = torch.zeros_like(weight)
    for _ in range(3):
        assert loss_of(term, model, batch_of()) == 0
        weight.grad = torch.ones_like(weight) + weight.detach()
        step = -0.1 * weight.grad
        omega -= weight.grad * step
        weight.data += step
        term.on_step(model, batch_of(), 1)
    weight.grad = torch.full_like(weight, torch.nan)  # a reverted update
    term.on_step(model, batch_of(), 2)
    term.consolidate(model, train(), mean)
    importance = omega / ((weight.detach() - start) ** 2 + 0.5)
    torch.testing.assert_close(term.importance["last.weight"], importance)
    weight.data += 0.2
    torch.testing.assert_close(
        loss_of(term, model, batch_of()).detach(), 3.0 * 0.04 * importance.sum()
    )


def test_mas_measures_the_sensitivity_of_the_outputs() -> None:
    """d ||W x + b||^2 / dW = 2 (W x + b) x^T, whose absolute values are averaged."""
    model, term = linear(), MAS(strength=2.0, samples=8)
    term.consolidate(model, train(), mean)
    x = DATA.splits["fast", "train"][0].flatten(1)[:8]
    expected = (2 * model.last(x)[:, :, None] * x[:, None]).abs().mean(0).detach()
    torch.testing.assert_close(term.importance["last.weight"], expected)
    model.last.weight.data += 0.5
    torch.testing.assert_close(
        loss_of(term, model, batch_of()).detach(), 2.0 * 0.25 * expected.sum()
    )


def test_lwf_keeps_the_scores_of_learned_classes_alone() -> None:
    model, term, batch = linear(hidden=3), LwF(temperature=2.0), batch_of("slow")
    assert loss_of(term, model, batch) == 0
    term.consolidate(model, train(), mean)  # of classes 0 and 1
    assert loss_of(term, model, batch).item() == pytest.approx(0, abs=1e-6)
    old = mean(model(batch.sequence(), dt_ms=1.0).values).detach()[:, :2]
    model.last.bias.data[2:] += 5
    assert loss_of(term, model, batch).item() == pytest.approx(0, abs=1e-6)
    model.last.bias.data[0] += 1
    new = mean(model(batch.sequence(), dt_ms=1.0).values)[:, :2]
    expected = 4 * F.kl_div((new / 2).log_softmax(-1), (old / 2).softmax(-1), reduction="batchmean")
    loss = loss_of(term, model, batch)
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(gradient(loss, model)).all()
    assert model.training


# -- memories of samples --------------------------------------------------------------------------


def numbered(*numbers: int, dt_ms: float = 1.0) -> tuple[Batch, torch.Tensor]:
    values = torch.tensor(numbers, dtype=torch.float32)[:, None]
    return Batch(values[:, None], torch.tensor(numbers) % 4, dt_ms, task="t"), 10 * values


def content(memory: Memory) -> list[int]:
    return [int(sample.batch.inputs) for sample in memory._samples]


def test_a_reservoir_keeps_each_sample_with_the_same_probability() -> None:
    memory = Memory(300)
    for start in range(0, 3000, 50):
        memory.offer(*numbered(*range(start, start + 50)))
    assert (len(memory), memory.offered) == (300, 3000)
    kept = torch.tensor(content(memory))
    assert len(set(kept.tolist())) == 300
    thirds = torch.histc(kept.float(), 3, 0, 3000)
    assert (thirds - 100).abs().max() < 30  # 3.7 standard deviations


def test_samples_are_drawn_with_their_outputs_and_others_of_the_same_timing() -> None:
    memory = Memory()
    memory.offer(*numbered(1, 2, 3))
    memory.offer(*numbered(4, 5, dt_ms=20.0))
    kinds = set()
    for _ in range(20):
        batch, outputs = memory.draw(2)
        assert torch.equal(outputs, 10 * batch.inputs[:, 0])
        assert len(batch.targets) == 2 and len(set(batch.inputs.flatten().tolist())) == 2
        kinds.add((batch.dt_ms, *sorted(batch.inputs.flatten().tolist())))
    assert {kind[0] for kind in kinds} == {1.0, 20.0} and len(kinds) == 4
    assert len(memory.draw(9).batch.targets) in (2, 3)


def test_a_memory_is_restored_from_its_state() -> None:
    memory, again = Memory(5), Memory(5)
    memory.offer(*numbered(1, 2, 3))
    memory.offer(*numbered(4, 5, 6, 7, dt_ms=20.0))
    again.load_state_dict(memory.state_dict())
    for _ in range(3):
        for one, two in ((memory, again), (again, memory)):
            assert content(one) == content(two)
        first, second = memory.draw(2), again.draw(2)
        assert torch.equal(first.outputs, second.outputs)
        assert first.batch.dt_ms == second.batch.dt_ms
        for own in (memory, again):
            own.offer(*numbered(8, 9))
    memory.load_state_dict(Memory(5).state_dict())
    assert len(memory) == 0


def test_derpp_rehearses_outputs_and_labels() -> None:
    model, term = linear(), DERpp(alpha=0.3, beta=0.7, capacity=9, samples=99)
    batch = batch_of()
    assert loss_of(term, model, batch) == 0
    term.on_step(model, batch, 1)
    kept = mean(model(batch.sequence(), dt_ms=1.0).values).detach()
    model.last.bias.data += torch.tensor([1.0, 0.0, 0.0, -2.0])
    now = mean(model(batch.sequence(), dt_ms=1.0).values)
    expected = 0.3 * (now - kept).square().mean() + 0.7 * F.cross_entropy(now, batch.targets)
    torch.testing.assert_close(loss_of(term, model, batch_of("slow")), expected)
    term.on_step(model, batch, 2)
    assert len(term.memory) == 8
    with pytest.raises(ConfigError, match="capacity: got 3, fewer than the 4 classes"):
        DERpp(capacity=3).check(model, DATA.spec("fast"))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_agem_projects_a_gradient_that_conflicts_with_that_of_the_memory(sign) -> None:
    model, term, batch = linear(), AGEM(per_phase=4, samples=4), batch_of()
    term.pool = mean
    term.consolidate(model, train(), mean)
    assert len(term.memory) == 4
    parameters = list(model.parameters())
    scores = mean(model(batch.sequence(), dt_ms=1.0).values)
    reference = torch.autograd.grad(F.cross_entropy(scores, batch.targets), parameters)
    before = []
    for parameter, r in zip(parameters, reference, strict=True):
        parameter.grad = sign * r + 0.1 * torch.ones_like(r)
        before.append(parameter.grad.clone())
    term.change_gradient(model)
    against = sum((g * r).sum() for g, r in zip(before, reference, strict=True))
    after = sum((p.grad * r).sum() for p, r in zip(parameters, reference, strict=True))
    assert (against < 0) == (sign < 0)
    for parameter, gradient in zip(parameters, before, strict=True):
        assert torch.equal(parameter.grad, gradient) == (sign > 0)
    assert after == pytest.approx(float(max(against, torch.zeros(()))), abs=1e-5)
    with pytest.raises(ConfigError, match="per_phase: got 1, fewer than the 2 classes"):
        AGEM(per_phase=1).check(model, DATA.spec("fast"))


# -- in training ----------------------------------------------------------------------------------

METHODS = {
    "ewc": lambda: EWC(strength=2.0, samples=3),
    "si": lambda: SI(),
    "mas": lambda: MAS(samples=3),
    "lwf": lambda: LwF(),
    "derpp": lambda: DERpp(capacity=9, samples=4),
    "agem": lambda: AGEM(per_phase=4, samples=4),
}


def trained(directory, terms, fabric=None, **settings):
    terms = {"ce": CrossEntropy(), **{name: METHODS[name]() for name in terms}}
    trainer = make_trainer(
        directory, linear(hidden=5), terms=terms, phases=TWO_PHASES, optimizer=SGD, fabric=fabric,
        **settings,
    )  # fmt: skip
    trainer.fit()
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_the_second_phase_only(tmp_path, method) -> None:
    plain, changed = (trained(tmp_path / str(len(m)), m) for m in ([], [method]))
    name = "one-final.safetensors"
    first, second = (
        checkpoint.load(trainer.saver.directory / name)["model"] for trainer in (plain, changed)
    )
    same = all(torch.equal(first[key], second[key]) for key in first)
    assert same == (method != "derpp")  # which also rehearses within a phase
    assert not torch.equal(plain.model.last.weight, changed.model.last.weight)


@pytest.mark.parametrize(
    "settings", [{"accumulate": 2}, {"fabric": "bf16-mixed"}], ids=["accumulate", "bf16"]
)
def test_all_methods_together_train(tmp_path, settings) -> None:
    if "fabric" in settings:
        fabric = Fabric(accelerator="cpu", devices=1, precision=settings.pop("fabric"))
        settings["fabric"] = fabric
    trainer = trained(tmp_path, METHODS, **settings)
    losses = [row["train/loss"] for row in rows(tmp_path) if "train/loss" in row]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert trainer.progress.skipped == 0
    terms = trainer.objective.named_terms()
    assert len(terms["derpp"].memory) == 9 and len(terms["agem"].memory) == 8
    assert terms["derpp"].memory.offered == trainer.progress.samples  # over all micro-batches


class GradientRecorder(Term):
    """Record the gradients of updates, and halve them."""

    changes_gradient = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, model, batch, output):
        return TermOutput(output.values.new_zeros(()))

    def change_gradient(self, model):
        self.seen.append(model.last.weight.grad.clone())
        model.last.weight.grad *= 0.5


def test_a_gradient_is_complete_and_unscaled_when_it_is_changed(tmp_path) -> None:
    """With micro-batches and a scaled loss, and before the norm is taken."""
    phases = {"one": {"task": "fast", "steps": 1}}
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    half = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    found, norms = [], []
    for number, fabric in enumerate((None, half)):
        look, model = GradientRecorder(), linear()
        make_trainer(
            tmp_path / str(number), model, terms={"ce": CrossEntropy(), "look": look},
            phases=phases, fabric=fabric, accumulate=2, log={"steps": 1},
        ).fit()  # fmt: skip
        (gradient,) = look.seen
        found.append(gradient)
        norms.append(series(tmp_path / str(number), "train/grad_norm")[0][1])
        change = linear().last.weight - model.last.weight
        torch.testing.assert_close(change, 0.1 * 0.5 * gradient)  # of SGD
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-3)
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert norms[0] < found[0].norm()


def processes(fabric, directory) -> None:
    own = directory / f"rank{fabric.global_rank}"
    trainer = trained(own, [m for m in METHODS if m != "ewc"], fabric=fabric)
    checkpoint.save(
        own / "all.safetensors",
        {"model": trainer.model.state_dict(), "objective": trainer.objective.state_dict()},
    )


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path) -> None:
    processes(Fabric(accelerator="cpu", devices=1), tmp_path / "one")
    make_fabric(hardware(devices=2, strategy="ddp")).launch(processes, tmp_path / "two")
    one, first, second = (
        checkpoint.load(tmp_path / place / "all.safetensors")
        for place in ("one/rank0", "two/rank0", "two/rank1")
    )
    for part in ("model", "objective"):
        assert first[part].keys() == second[part].keys() == one[part].keys()
        for name, value in one[part].items():
            assert torch.equal(first[part][name], second[part][name]), name
            torch.testing.assert_close(
                first[part][name], value, rtol=1e-3, atol=1e-4, equal_nan=True
            )
