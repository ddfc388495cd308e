"""Every pooling against a computation by hand, its gradient, and its parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from neuro.config.build import build
from neuro.config.trainer import Stateful, Truncation
from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.evaluation import evaluate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.pooling import Pooling
from neuro.learning.step import TrainStep
from neuro.training.sequences import SequenceRunner
from tests.fakes import FakeData, FakeLoader, linear

VALUES = np.array([[[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 2.0], [0.0, 9.0]]])
WEIGHTS = np.array([0.25, 0.5, 1.0])  # 0.25^(1 - i/2)

BY_HAND = {
    "mean": VALUES.mean(1),
    "sum": VALUES.sum(1),
    "max": [[3, 5], [0, 9]],
    "last": [[2, 0], [0, 9]],
    "rms": np.sqrt((VALUES**2).mean(1) + 1e-8),
    "mean_last_n": [[2.5, 0.5], [0, 5.5]],
    "ewa": (WEIGHTS[:, None] * VALUES).sum(1) / WEIGHTS.sum(),
}
PARAMETERS = {"mean_last_n": {"n": 2}, "ewa": {"min_weight": 0.25}}


def objective(pooling, **options):
    node = {"_target_": "neuro.learning.objective.Objective", "pooling": pooling, **options}
    return build(node, Objective, "objective", terms={"ce": CrossEntropy()}, target="class")


@pytest.mark.parametrize("kind", BY_HAND)
def test_by_hand_and_by_finite_differences(kind):
    pooling = Pooling(kind=kind, **PARAMETERS.get(kind, {}))
    values = torch.tensor(VALUES, requires_grad=True)
    torch.testing.assert_close(pooling(values), torch.tensor(np.array(BY_HAND[kind], float)))
    free = torch.randn(2, 4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(pooling, free.requires_grad_())


@pytest.mark.parametrize("kind", BY_HAND)
def test_from_a_config_times_its_scale(kind):
    chosen = {"kind": kind, **PARAMETERS[kind]} if kind in PARAMETERS else kind
    pooled = objective(chosen, scale=3.0).pool(torch.tensor(VALUES))
    torch.testing.assert_close(pooled, 3 * torch.tensor(np.array(BY_HAND[kind], float)))


def test_silence_has_a_gradient_and_short_sequences_are_pooled_too():
    silence = torch.zeros(1, 3, 2, requires_grad=True)
    Pooling(kind="rms")(silence).sum().backward()
    assert torch.isfinite(silence.grad).all()
    values = torch.tensor(VALUES)
    assert torch.equal(Pooling(kind="mean_last_n", n=99)(values), values.mean(1))
    assert torch.equal(Pooling(kind="ewa")(values[:, :1]), values[:, 0])


def test_the_default_weight_of_the_first_step_is_a_fifth_of_the_last():
    values = torch.eye(5).unsqueeze(0)
    first, *_, last = Pooling(kind="ewa")(values)[0].tolist()
    assert first / last == pytest.approx(0.2)
    assert sum(Pooling(kind="ewa")(values)[0].tolist()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "pooling, message",
    [
        ("final", "objective.pooling.kind: got 'final'; .*'mean', 'sum', 'max', 'last'"),
        ("mean_last", "Did you mean 'mean_last_n'?"),
        ("mean_last_n", "objective.pooling: got .*; .*mean_last_n needs n, as in"),
        ({"kind": "mean_last_n", "n": 0}, "objective.pooling.n: got 0; .*greater than or equal"),
        ({"kind": "ewa", "min_weight": 0.0}, "objective.pooling.min_weight: got 0.0; .*than 0"),
        ({"kind": "ewa", "min_weigth": 0.1}, "objective.pooling.min_weigth: unknown key"),
        ({"kind": "ewa", "n": 3}, "n belongs to mean_last_n; with kind ewa it has no effect"),
        (
            {"kind": "max", "min_weight": 0.1},
            "min_weight belongs to ewa; with kind max it has",
        ),
    ],
)
def test_parameters_are_those_of_the_kind(pooling, message):
    with pytest.raises(ConfigError, match=message):
        objective(pooling)


def test_a_window_must_fit_the_sequences():
    spec = FakeData().spec("fast")  # 6 steps
    objective({"kind": "mean_last_n", "n": 6}).check(linear(), spec)
    longer = objective({"kind": "mean_last_n", "n": 7})
    with pytest.raises(ConfigError, match=r"objective\.pooling\.n: got 7, but task 'fast' .* 6"):
        longer.check(linear(), spec)
    shortest = dataclasses.replace(spec, timings=((9, 1.0), (4, 1.0)))
    with pytest.raises(ConfigError, match="give at most 4"):
        objective({"kind": "mean_last_n", "n": 6}).check(linear(), shortest)


# -- sequences of different lengths ---------------------------------------------------------------


@pytest.mark.parametrize("kind", BY_HAND)
def test_padding_is_ignored(kind):
    pooling = Pooling(kind=kind, **PARAMETERS.get(kind, {}))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, 3, dtype=torch.double, generator=generator)
    lengths = torch.tensor([6, 1, 3, 4])
    padded = values.clone()
    for i, length in enumerate(lengths):
        padded[i, length:] = torch.nan
    alone = [pooling(values[i : i + 1, :length]) for i, length in enumerate(lengths)]
    torch.testing.assert_close(pooling(padded, lengths), torch.cat(alone))
    free = values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooling(x, lengths), free)
    pooling(free, lengths).sum().backward()
    assert all((free.grad[i, length:] == 0).all() for i, length in enumerate(lengths))


def test_an_empty_sequence_gives_finite_outputs():
    values = torch.rand(2, 3, 2)
    for kind in BY_HAND:
        pooling = Pooling(kind=kind, **PARAMETERS.get(kind, {}))
        assert torch.isfinite(pooling(values, torch.tensor([0, 3]))).all()


class PaddedLoader(FakeLoader):
    """Sequences of up to 6 steps, padded with values far from those of the data."""

    def batches(self, epoch=0, start=0):
        for batch in super().batches(epoch, start):
            lengths = 1 + torch.arange(len(batch.targets)) % 6
            frames = batch.sequence().clone()
            for i, length in enumerate(lengths):
                frames[i, length:] = 1e4
            yield batch._replace(inputs=frames, frames=None, lengths=lengths)


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_training_and_evaluation_ignore_padding(pooling):
    data, model = FakeData(), linear()
    inputs, targets = data.splits["fast", "train"]
    terms = Objective({"ce": CrossEntropy()}, pooling=pooling)
    plain, padded = (kind(inputs, targets, (6, 1.0), 4) for kind in (FakeLoader, PaddedLoader))
    first, other = (next(loader.batches()) for loader in (plain, padded))
    step = TrainStep(model, terms)
    torch.testing.assert_close(
        step(other).total, step(first).total
    )  # held frames: the length has no effect
    device = torch.device("cpu")
    found = [evaluate(model, terms, loader, device).values() for loader in (plain, padded)]
    assert found[0] == pytest.approx(found[1])


def test_padding_that_cannot_be_ignored_is_refused():
    values, lengths = torch.rand(2, 3, 2), torch.tensor([1, 3])
    with pytest.raises(ConfigError, match="sequences of different lengths"):
        Objective({}, "seq2seq", target="value_sequence").pool(values, lengths)
    assert Objective({}, "seq2seq", target="token").pool(values, lengths).equal(values)
    runner = SequenceRunner(
        Fabric(accelerator="cpu"), linear(), Objective({}), Truncation(length=2), Stateful()
    )
    batch = Batch(torch.rand(2, 3, 36), torch.zeros(2), 1.0, lengths=lengths)
    with pytest.raises(ConfigError, match="trainer.tbptt: sequences of different lengths"):
        runner.learn(None, batch, {}, last=True)
