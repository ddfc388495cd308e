"""Scheduled values (weights, lengths, noise) and changes of the forward pass in training."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from neuro.errors import ConfigError
from neuro.io import checkpoint
from neuro.layers.lif import LIFNeuron
from neuro.learning.continual.ewc import EWC
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import DeltaRule
from neuro.models.rsnn import RSNN
from neuro.ops.codebook import codebook, nearest_level, straight_through
from neuro.training.annealing import Ramp
from neuro.training.callbacks.anneal import Anneal
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.noise import Noise, NoiseSource
from neuro.training.callbacks.quantisation import Quantisation
from tests.fakes import ADAMW, FakeData, linear, make_setup, make_trainer, rows, same_state, series
from tests.networks import network

LENGTH = 3  # epochs of four updates
PHASE = {"one": {"task": "fast", "epochs": LENGTH}}


class BatchRecorder(Callback):
    """Record the training batches, as changed by earlier callbacks, and the term's weight."""

    def __init__(self):
        self.batches, self.weights = [], []

    def on_batch(self, trainer, batch):
        self.batches.append(batch)
        self.weights.append(trainer.objective.named_terms()["ce"].weight)
        return batch


def length(kind, start, end, start_epoch, end_epoch):
    return Anneal(f"sequence.{kind}", start, end, "linear", start_epoch, end_epoch)


def fit(directory, callback, model=None, state=None, phases=PHASE, **options):
    watch = BatchRecorder()
    trainer = make_trainer(
        directory, model or linear(), phases=phases, callbacks={"it": callback, "watch": watch},
        state=state, log={"steps": 1}, **options,
    )  # fmt: skip
    trainer.fit(state)
    return trainer, watch


def ramp(start, end, start_epoch, end_epoch, shape="linear"):
    """The values of twelve updates, four to an epoch."""
    done = [min(max((i / 4 - start_epoch) / (end_epoch - start_epoch), 0), 1) for i in range(12)]
    return [Ramp(start, end, shape).at(d) for d in done]


def test_shapes_against_their_closed_forms():
    assert Ramp(2.0, 4.0).at(0.25) == 2.5
    assert Ramp(0.01, 1.0, "exponential").at(0.5) == pytest.approx(0.1)
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    assert Ramp(1.0, 0.0, "cosine").at(0.25) == pytest.approx(quarter)
    for shape in ("linear", "exponential", "cosine"):
        assert Ramp(0.5, 3.0, shape).at(-1.0) == Ramp(0.5, 3.0, shape).at(0.0) == pytest.approx(0.5)
        assert Ramp(0.5, 3.0, shape).at(9.0) == Ramp(0.5, 3.0, shape).at(1.0) == pytest.approx(3.0)


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine", "sinusoidal"])
def test_weights_of_terms(tmp_path, shape):
    _, watch = fit(tmp_path, Anneal("loss.ce", 0.5, 2.0, shape, 0.5, 2.5, 2.0))
    if shape == "sinusoidal":
        since = [min(max(i / 4, 0.5), 2.5) - 0.5 for i in range(12)]
        expected = [0.5 + 1.5 * math.sin(math.pi * s / 2) ** 2 for s in since]
    else:
        expected = ramp(0.5, 2.0, 0.5, 2.5, shape)
    assert watch.weights == pytest.approx(expected)
    assert [v for _, v in series(tmp_path, "train/weight/ce")] == pytest.approx(expected)


def test_a_weight_of_zero_disables_one_term_only(tmp_path):
    model = linear()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    terms = {"ce": CrossEntropy(), "ewc": EWC(weight=7.0)}
    fit(tmp_path, Anneal("loss.ce", 0.0, 0.0), model, terms=terms)
    assert same_state(model.state_dict(), before)
    assert terms["ewc"].weight == 7.0
    (problem,) = Anneal("loss.ec", 0.0, 1.0).check(make_setup(model, terms=terms))
    assert problem.startswith("target: got 'loss.ec'")
    assert "ce, ewc" in problem


def test_invalid_schedules_are_refused():
    for options, message in (
        (("loss.ce", 0.0, 1.0, "exponential"), "exponential shape needs two values above 0"),
        (("objective.scale", 1.0, 2.0, "linear", 1.0), r"end_epoch \(1.0\) must be later"),
        (("los.ce", 0.0, 1.0), r"target: got 'los.ce'; allowed: loss.<term>, objective.scale, del"),
        (("loss.", 0.0, 1.0), "target: got 'loss.'"),
        (("loss.ce", -1.0, 1.0), r"start \(-1\) must be at least 0 for target=loss.ce"),
        (("objective.scale", 1.0, 0.0), r"end \(0\) must be above 0"),
        (("sequence.length", 2.5, None), r"start \(2.5\) must be a whole number of at least 1"),
        (("loss.ce", 1.0, None), "end: null is the length of a sequence"),
    ):
        with pytest.raises(ValueError, match=message):
            Anneal(*options)
    first, second = Anneal("loss.ce", 0.0, 1.0), Anneal("loss.ce", 1.0, 0.0)
    setup = make_setup(linear(), callbacks={"a": first, "b": second})
    assert list(first.check(setup)) == []
    assert list(second.check(setup)) == ["target: callbacks.a changes loss.ce already."]
    with pytest.raises(ValueError, match="zero between them"):
        Quantisation(minimum=0.5)
    with pytest.raises(ValueError, match="either bits or levels"):
        Quantisation(levels=3)
    with pytest.raises(ValueError, match="noise on weights needs names"):
        NoiseSource(where="weights")
    with pytest.raises(ValueError, match="noise on inputs takes no names"):
        NoiseSource(names=("x",))
    with pytest.raises(ValueError, match="of kind noise"):
        NoiseSource(where="weights", names=("*",), kind="perturb")


def test_delay_width(tmp_path):
    def model(**options):
        return RSNN(FakeData().spec("fast"), LIFNeuron(), hidden=(4,), **options)

    learned = model(delays_ms=3.0, delay_kind="axonal")
    fit(tmp_path, Anneal("delays.width", 3.0, 0.5, "exponential", 1.0, 2.0), learned)
    expected = ramp(3.0, 0.5, 1.0, 2.0, "exponential")
    assert [v for _, v in series(tmp_path, "train/delay_width")] == pytest.approx(expected)
    assert learned.delay_width == 0.5
    for plain in (linear(), model(), model(delays_ms=3.0)):
        (problem,) = Anneal("delays.width", 3.0, 0.5).check(make_setup(plain))
        assert problem.startswith("target: got 'delays.width'; the model learns no delays")
    with pytest.raises(ValueError, match=r"end \(0\) must be above 0"):
        Anneal("delays.width", 3.0, 0.0)


def test_pooling_scale(tmp_path):
    trainer, _ = fit(tmp_path, Anneal("objective.scale", 1.0, 5.0, "linear", 1.0, 2.0))
    expected = ramp(1.0, 5.0, 1.0, 2.0)
    assert [v for _, v in series(tmp_path, "train/pooling_scale")] == pytest.approx(expected)
    assert float(trainer.objective.scale) == 5.0
    values = torch.randn(2, 3, 4)
    assert torch.equal(trainer.objective.pool(values), 5.0 * values.mean(1))
    plain, _ = fit(tmp_path / "plain", Callback())
    assert not same_state(plain.model.state_dict(), trainer.model.state_dict())


# -- length ---------------------------------------------------------------------------------------


class Recorded(FakeData):
    """The same frames as recorded sequences: frame t is scaled by t + 1."""

    def loader(self, *args, **kwargs):
        loader = super().loader(*args, **kwargs)
        batches = loader.batches

        def unrolled(*a):
            for batch in batches(*a):
                ramp = torch.arange(1, batch.frames + 1).view(1, -1, 1, 1, 1)
                yield batch._replace(inputs=batch.inputs * ramp, frames=None)

        loader.batches = unrolled
        return loader


def test_held_frames_for_more_and_more_steps(tmp_path):
    _, watch = fit(tmp_path, length("length", 2, 9, 0.0, 2.0))
    expected = [round(v) for v in ramp(2, 9, 0.0, 2.0)]
    assert [batch.frames for batch in watch.batches] == expected
    assert {batch.dt_ms for batch in watch.batches} == {1.0}
    assert [v for _, v in series(tmp_path, "train/frames")] == expected


def test_recorded_sequences_are_cut_or_thinned(tmp_path):
    _, plain = fit(tmp_path / "plain", Callback(), data=Recorded())
    _, cut = fit(tmp_path / "cut", length("length", 2, None, 1.0, 2.0), data=Recorded())
    _, thin = fit(
        tmp_path / "thin",
        length("resolution", 2, None, 1.0, 2.0),
        data=Recorded(),
    )
    for whole, part, few in zip(plain.batches, cut.batches, thin.batches, strict=True):
        n = part.steps
        assert torch.equal(part.inputs, whole.inputs[:, :n])
        assert part.dt_ms == 1.0
        assert few.steps == n
        assert few.steps * few.dt_ms == pytest.approx(6.0)
        if n == 2:
            assert torch.equal(few.inputs, whole.inputs[:, [1, 4]])
    assert [batch.steps for batch in cut.batches] == [round(v) for v in ramp(2, 6, 1.0, 2.0)]


class WithTeacher(FakeData):
    """The same held frames with teacher trajectories whose outputs are the step numbers."""

    def loader(self, *args, **kwargs):
        loader = super().loader(*args, **kwargs)
        batches = loader.batches

        def taught(*a):
            for batch in batches(*a):
                steps = torch.arange(batch.frames).float().view(1, -1, 1)
                yield batch._replace(teacher=steps.expand(len(batch.targets), -1, 4))

        loader.batches = taught
        return loader


def test_a_teachers_trajectories_have_the_steps_of_the_inputs(tmp_path):
    _, cut = fit(tmp_path / "cut", length("length", 2, 9, 0.0, 2.0), data=WithTeacher())
    assert {batch.steps for batch in cut.batches} == {2, 3, 4, 5, 6}  # at most the teacher's steps
    for batch in cut.batches:
        assert batch.teacher[0, :, 0].tolist() == list(range(batch.steps))
    _, thin = fit(tmp_path / "thin", length("resolution", 2, 9, 0.0, 2.0), data=WithTeacher())
    assert max(batch.steps for batch in thin.batches) == 9
    for batch in thin.batches:
        assert batch.teacher.shape[1] == batch.steps
        if batch.steps == 2:
            assert batch.teacher[0, :, 0].tolist() == [1, 4]


# -- noise ----------------------------------------------------------------------------------------


def source(**options):
    return NoiseSource(**{"start": 0.5, "end": 0.5, **options})


@pytest.mark.parametrize("shape", ["linear", "cosine", "sinusoidal"])
def test_noise_on_inputs_fades_and_is_fresh_for_every_frame(tmp_path, shape):
    noise = source(
        start=0.4, end=0.0, shape=shape, start_epoch=0.0, end_epoch=2.0, period_epochs=2.0
    )
    _, watch = fit(tmp_path / "noise", Noise((noise,)))
    _, plain = fit(tmp_path / "plain", Callback())
    sizes = ramp(0.4, 0.0, 0.0, 2.0, shape)
    assert [v for _, v in series(tmp_path / "noise", "train/noise/0")] == pytest.approx(sizes)
    for noisy, clean, size in zip(watch.batches, plain.batches, sizes, strict=True):
        difference = noisy.sequence() - clean.sequence()
        assert float(difference.std()) == pytest.approx(size, rel=0.15)
        assert (noisy.frames is None) == (size > 0)
        assert size == 0 or not torch.equal(difference[:, 0], difference[:, 1])


def test_a_perturbation_is_held_and_relative_noise_has_the_inputs_scale(tmp_path):
    _, watch = fit(tmp_path / "a", Noise((source(kind="perturb", relative=True),)))
    _, plain = fit(tmp_path / "b", Callback())
    for noisy, clean in zip(watch.batches, plain.batches, strict=True):
        assert noisy.frames == clean.frames
        rms = float(clean.inputs.square().mean().sqrt())
        assert float((noisy.inputs - clean.inputs).std()) == pytest.approx(0.5 * rms, rel=0.25)


def test_noise_on_weights_leaves_the_updated_weights_clean(tmp_path):
    """The update is the gradient at noisy weights, applied to the clean ones."""
    seen = []

    class Look(CrossEntropy):
        def forward(self, model, batch, output):
            seen.append(output.values.detach().clone())
            return super().forward(model, batch, output)

    model = linear()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    noise = Noise((source(where="weights", names=("last.weight",), relative=True),))
    torch.manual_seed(5)
    _, watch = fit(
        tmp_path, noise, model, terms={"ce": Look()}, phases={"one": {"task": "fast", "steps": 1}}
    )
    assert list(model.state_dict()) == list(start)
    torch.manual_seed(5)
    drawn = torch.randn_like(start["last.weight"])
    rms = start["last.weight"].square().mean().sqrt()
    weight = (start["last.weight"] + 0.5 * rms * drawn).requires_grad_()
    bias = start["last.bias"].clone().requires_grad_()
    (batch,) = watch.batches
    values = batch.sequence().flatten(2) @ weight.T + bias
    torch.testing.assert_close(seen[0], values.detach().mean(1))
    torch.nn.functional.cross_entropy(values.mean(1), batch.targets).backward()
    torch.testing.assert_close(
        model.state_dict()["last.weight"], start["last.weight"] - 0.1 * weight.grad
    )


def test_noise_on_outputs_acts_in_training_only(tmp_path):
    model = network("lif")
    images = torch.rand(2, 4, 1, 6, 6)
    noise = source(where="outputs", names=("layers.*.synapse",), kind="perturb")
    trainer, _ = fit(tmp_path / "a", Noise((noise,)), model)
    assert not any(module._forward_hooks for module in model.modules())
    first = model(images, dt_ms=1.0).values
    assert torch.equal(first, model(images, dt_ms=1.0).values)
    plain, _ = fit(tmp_path / "b", Callback(), network("lif"))
    assert not same_state(plain.model.state_dict(), trainer.model.state_dict())


def test_a_perturbation_of_outputs_is_one_draw_per_sample():
    noise = Noise((source(where="outputs", names=("x",), kind="perturb"),))
    noise._samples = 3
    drawn = noise._unit(0, "x", torch.zeros(12, 5)).unflatten(0, (4, 3))
    assert all(torch.equal(step, drawn[0]) for step in drawn)
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    assert torch.equal(noise._unit(0, "x", torch.zeros(12, 5)), drawn.flatten(0, 1))
    with pytest.raises(ConfigError, match="choose kind: noise"):
        noise._unit(0, "x", torch.zeros(4, 3, 5))


def test_noise_on_missing_tensors_is_refused(tmp_path):
    model = network("lif")
    missing = Noise((source(), source(where="weights", names=("last.*",))))
    (problem,) = missing.check(make_setup(model))
    assert problem.startswith("sources.1.names: nothing matches 'last.*'")
    with pytest.raises(ConfigError, match=r"'layers.conv1' gives no tensor but LayerOutput"):
        fit(tmp_path / "a", Noise((source(where="outputs", names=("layers.conv1",)),)), model)
    with pytest.raises(ConfigError, match=r"calls none of layers in its forward pass"):
        fit(tmp_path / "b", Noise((source(where="outputs", names=("layers",)),)), model)


# -- quantisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 16])
def test_a_codebook_is_even_and_has_a_zero(levels):
    book = codebook(levels, -0.5, 1.0)
    assert (book == 0).sum() == 1
    grid = torch.linspace(-0.5, 1.0, levels)
    moved = grid.abs().argmin()
    assert torch.equal(book, grid.index_fill(0, moved, 0.0))
    weight = torch.linspace(-2, 2, 401)
    nearest = book[(weight[:, None] - book).abs().argmin(1)]
    distance = (nearest_level(weight, book) - weight).abs()
    torch.testing.assert_close(distance, (nearest - weight).abs())


def test_gradients_pass_straight_through():
    weight = torch.randn(50, requires_grad=True)
    rounded = straight_through(weight, codebook(4, -1.0, 1.0))
    torch.testing.assert_close(rounded.detach(), nearest_level(weight, codebook(4, -1.0, 1.0)))
    factors = torch.randn(50)
    (rounded * factors).sum().backward()
    assert torch.equal(weight.grad, factors)


def test_training_uses_rounded_weights_and_both_are_validated(tmp_path):
    seen = []

    class Look(CrossEntropy):
        def forward(self, model, batch, output):
            seen.append((batch, output.values.detach(), model.last.weight.detach().clone()))
            return super().forward(model, batch, output)

    model = linear()
    with torch.no_grad():
        model.last.bias.zero_()
    quantised = Quantisation(("last.*",), bits=2, start_epoch=1.0)
    trainer, _ = fit(tmp_path, quantised, model, terms={"ce": Look()}, clip_norm=1e-6)
    book = codebook(4, -1.0, 1.0)
    for i, (batch, values, weight) in enumerate(seen):
        used = weight if i < 4 else nearest_level(weight, book)
        expected = (batch.sequence().flatten(2) @ used.T).mean(1)
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(nearest_level(model.last.weight, book), model.last.weight)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with trainer.swap_weights(quantised._rounded(model)):
        rounded = trainer.measure(("fast",), "val")["fast"]
    assert same_state(model.state_dict(), own)
    assert series(tmp_path, "val_quantised/loss")[-1] == (12, rounded["loss"])
    assert series(tmp_path, "val_quantised/accuracy")[-1] == (12, rounded["accuracy"])
    assert series(tmp_path, "val/loss")[-1][1] == trainer.measure(("fast",), "val")["fast"]["loss"]
    assert series(tmp_path, "test_quantised/fast/accuracy")
    (problem,) = Quantisation(("lst*",)).check(make_setup(model))
    assert problem.startswith("parameters: nothing matches 'lst*'. The model has: last.weight")


def test_validation_with_rounded_weights_does_not_change_training(tmp_path):
    plain, _ = fit(tmp_path / "plain", Callback())
    measured, _ = fit(tmp_path / "measured", Quantisation(train=False))
    trained, _ = fit(tmp_path / "trained", Quantisation())
    assert same_state(plain.model.state_dict(), measured.model.state_dict())
    assert not same_state(plain.model.state_dict(), trained.model.state_dict())
    assert series(tmp_path / "measured", "val_quantised/accuracy")


def test_training_on_rounded_weights_helps_rounded_accuracy(tmp_path):
    final = {}
    for train in (True, False):
        directory = tmp_path / str(train)
        callback = Quantisation(("last.weight",), bits=None, levels=3, train=train)
        phases = {"one": {"task": "fast", "epochs": 15}}
        fit(directory, callback, linear(), phases=phases, optimizer=ADAMW)
        final[train] = series(directory, "val_quantised/loss")[-1][1]
    assert final[True] < final[False]


# -- together -------------------------------------------------------------------------------------


def everything():
    return {
        "weights": Anneal("loss.one", 0.2, 2.0, end_epoch=1.5),
        "scale": Anneal("objective.scale", 1.0, 3.0, end_epoch=1.5),
        "length": length("length", 3, 8, 0.0, 1.5),
        "noise": Noise(
            (
                source(start=0.2, end=0.0),
                source(where="weights", names=("layers.*weight",), relative=True, end=0.1),
                source(where="outputs", names=("layers.dense.*",), kind="perturb", end=0.1),
            )
        ),
        "quantised": Quantisation(bits=5),
    }


SYSTEMS = {
    "lif": ("lif", {}, lambda: {"one": CrossEntropy()}),
    "local": (
        "ltgate",
        {"readout": "linear"},
        lambda: {"one": Hebbian(), "v": GateVariance(), "d": DeltaRule()},
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_schedules_continue_after_a_resume(tmp_path, system):
    kind, options, terms = SYSTEMS[system]

    def run(directory, state=None):
        trainer = make_trainer(
            directory, network(kind, **options), terms=terms(), optimizer=ADAMW, state=state,
            phases={"one": {"task": "fast", "epochs": 1}, "two": {"task": "slow", "epochs": 2}},
            callbacks=everything(), log={"steps": 1}, checkpoint={"steps": 3}, keep=99,
            tbptt={"length": 3, "stride": 2}, stateful={"training": True}, accumulate=2,
        )  # fmt: skip
        trainer.fit(state)
        return trainer

    whole = run(tmp_path / "whole")
    assert whole.progress.skipped == 0
    for path in sorted((tmp_path / "whole" / "checkpoints").glob("step-*")):
        part = tmp_path / path.stem
        shutil.copytree(tmp_path / "whole", part)
        state = checkpoint.load(part / "checkpoints" / path.name)
        again = run(part, state)
        assert same_state(again.model.state_dict(), whole.model.state_dict()), path.stem
        assert rows(part) == rows(tmp_path / "whole"), path.stem
