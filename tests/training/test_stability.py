"""Updates with a non-finite loss or gradient are skipped, or end the run resumably.

Each fault is injected on one process only, in 32 bits and with the loss scaler of 16 bits.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from neuro.config.trainer import LossScale
from neuro.errors import ConfigError, DivergedError
from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.learning.buffers import BufferUpdate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.terms import Term, TermOutput
from neuro.training.callbacks.gradient_health import GradientHealth
from neuro.training.stability import GradientGuard, all_finite
from tests.fakes import (
    SGD,
    SIZES,
    FakeData,
    hardware,
    linear,
    make_setup,
    make_trainer,
    rows,
    same_state,
    series,
)

FAULTS = [(where, value) for where in ("loss", "gradient") for value in (math.nan, math.inf)]
PRECISIONS = ("32-true", "16-mixed")


class _Fault(torch.autograd.Function):
    """Identity with a non-finite gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Faulty(CrossEntropy):
    """Cross-entropy with faults at some updates (counted from 1)."""

    def __init__(self, at: set[int], where: str = "loss", value: float = math.nan):
        super().__init__()
        self.at, self.where, self.value, self.update = at, where, value, 0

    def forward(self, model, batch, output):
        self.update += 1
        result = super().forward(model, batch, output)
        if self.update not in self.at:
            return result
        if self.where == "loss":
            return result._replace(loss=result.loss * self.value)
        return result._replace(loss=_Fault.apply(result.loss, self.value))


def fabric_of(precision: str, devices: int = 1) -> Fabric:
    return make_fabric(hardware(devices=devices, precision=precision))


def attempt(
    fabric: Fabric, directory: Path, at: set[int], where: str, value: float, resumes: bool = False
) -> dict[str, Any]:
    """Train with faults on the last process; returns the outcome, equal in all processes."""
    model = linear()
    last = fabric.global_rank == fabric.world_size - 1
    path = directory / "rank0" / "checkpoints" / "last.safetensors"
    fabric.barrier()  # the main process writes it
    state = checkpoint.load(path) if resumes else None
    trainer = make_trainer(
        directory / f"rank{fabric.global_rank}", model, fabric=fabric, state=state,
        terms={"ce": Faulty(at if last else set(), where, value)},
        phases={"one": {"task": "fast", "epochs": 3}}, log={"steps": 1}, max_skipped=3,
    )  # fmt: skip
    trainer.saver.directory = path.parent  # all processes of a run share it
    diverged = ""
    try:
        trainer.fit(state)
    except DivergedError as error:
        diverged = str(error)
    checkpoint.save(trainer.run_dir / "weights.safetensors", model.state_dict())
    return {"step": trainer.progress.step, "skipped": trainer.progress.skipped, "error": diverged}


def attempts(fabric: Fabric, directory: Path, cases: list[tuple[str, float]]) -> dict[str, Any]:
    """For every fault: a run with three of them, a diverging run, and that run resumed.

    All use the same processes, because starting them takes longer than training.
    """
    return {
        f"{where} {value}": (
            attempt(fabric, directory / f"{where}{value}" / "some", {3, 4, 7}, where, value),
            attempt(fabric, directory / f"{where}{value}" / "row", {2, 5, 6, 7}, where, value),
            # faults before the resume do not count towards the limit
            attempt(fabric, directory / f"{where}{value}" / "row", {1, 2}, where, value, True),
        )
        for where, value in cases
    }


def check(directory: Path, precision: str, devices: int, cases: list[tuple[str, float]]) -> None:
    """Assert that training continues after faults and ends resumably after three in a row."""
    found = fabric_of(precision, devices).launch(attempts, directory, cases)
    for where, value in cases:
        some, diverged, resumed = found[f"{where} {value}"]
        assert some == {"step": 12, "skipped": 3, "error": ""}
        assert (diverged["step"], diverged["skipped"]) == (7, 4)
        message = "3 updates in a row had a non-finite loss or gradient (update 7)"
        assert message in diverged["error"]
        assert resumed == {"step": 12, "skipped": 6, "error": ""}
        _check_files(directory / f"{where}{value}", devices)


def _check_files(directory: Path, devices: int) -> None:
    """Assert counted skips, finite logs and checkpoints, and equal weights in all processes."""
    logged = dict(series(directory / "some" / "rank0", "train/skipped_updates"))
    assert [logged[step] for step in (3, 4, 5, 7, 8)] == [1, 2, 2, 3, 3]
    losses = [loss for _, loss in series(directory / "some" / "rank0", "train/loss")]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    for run in ("some", "row"):
        weights, *others = (
            checkpoint.load(directory / run / f"rank{rank}" / "weights.safetensors")
            for rank in range(devices)
        )
        assert all(weight.isfinite().all() for weight in weights.values())
        assert all(same_state(weights, other) for other in others)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("where", "value"), FAULTS)
def test_faults_are_skipped_and_end_the_run_resumably(tmp_path, precision, where, value):
    check(tmp_path, precision, 1, [(where, value)])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_processes_agree_on_a_fault_of_one(tmp_path, precision):
    check(tmp_path, precision, 2, FAULTS)


def test_a_skipped_update_is_reported_with_its_number(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        attempt(fabric_of("32-true"), tmp_path, {3}, "loss", math.nan)
    assert "Update 3 skipped: loss or gradient is not finite (1 in a row, 1 in all)" in caplog.text


# -- the loss scale ---------------------------------------------------------------------------


def scales(directory: Path, at: set[int], **scaler: float) -> list[float]:
    """The loss scale after every of 8 updates."""
    settings = {"scaler": scaler, "max_skipped": 99}
    fabric = make_fabric(hardware(precision="16-mixed"), LossScale(**scaler))
    make_trainer(
        directory, linear(), fabric=fabric, terms={"ce": Faulty(at, "gradient", math.inf)},
        checkpoint={"steps": 1}, keep=99, **settings,
    ).fit()  # fmt: skip
    return [
        checkpoint.load(path)["scaler"]["scale"]
        for path in sorted((directory / "checkpoints").glob("step-*"))
    ]


def test_the_scale_moves_as_configured(tmp_path):
    assert scales(tmp_path / "a", {3}) == [1024.0] * 2 + [512.0] * 6
    assert scales(tmp_path / "b", {3}, init_scale=64.0)[1:3] == [64.0, 32.0]
    assert scales(tmp_path / "c", {3}, backoff_factor=0.25)[2] == 256.0
    grown = scales(tmp_path / "d", {3}, growth_interval=2, growth_factor=4.0)
    assert grown == [1024, 4096, 2048, 2048, 8192, 8192, 32768, 32768]


def test_the_scale_does_not_fall_below_its_floor(tmp_path):
    hard = {"backoff_factor": 0.1, "init_scale": 50.0}
    assert scales(tmp_path / "a", {1, 2, 3}, **hard)[:3] == [5.0, 1.0, 1.0]
    assert scales(tmp_path / "b", {1, 2, 3}, **hard, floor=0.0)[2] == pytest.approx(0.05)


# -- clipping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_clip_value_bounds_every_entry(tmp_path, precision):
    changes = {}
    for name, options in (("free", {}), ("clipped", {"clip_value": 0.01})):
        model = linear()
        before = model.last.weight.detach().clone()
        make_trainer(
            tmp_path / name, model, phases={"one": {"task": "fast", "steps": 1}},
            fabric=fabric_of(precision), **options,
        ).fit()  # fmt: skip
        changes[name] = (model.last.weight.detach() - before) / -0.1  # the rate of SGD
    assert changes["free"].abs().max() > 0.02
    torch.testing.assert_close(changes["clipped"], changes["free"].clamp(-0.01, 0.01))


def test_without_a_guard_updates_are_not_checked(tmp_path):
    """trainer.max_skipped=null: non-finite updates are applied, and no norm is computed."""
    model = linear()
    trainer = make_trainer(
        tmp_path, model, terms={"ce": Faulty({2}, "gradient")}, max_skipped=None,
        phases={"one": {"task": "fast", "epochs": 2}}, log={"steps": 1},
    )  # fmt: skip
    trainer.fit()
    assert trainer.progress.skipped == 0 and trainer.grad_norm is None
    assert not any(parameter.isfinite().any() for parameter in model.parameters())
    assert "train/grad_norm" not in rows(tmp_path)[-1]


def test_gradient_health_needs_norms():
    (problem,) = GradientHealth().check(make_setup(linear(), max_skipped=None))
    assert "trainer.max_skipped" in problem and "trainer.clip_norm" in problem
    clipped = make_setup(linear(), max_skipped=None, clip_norm=1.0)
    assert list(GradientHealth().check(clipped)) == []


# -- gradient health --------------------------------------------------------------------------


def test_gradient_norms_are_logged_and_give_warnings(tmp_path, caplog):
    callback = GradientHealth(every_steps=4, warn_above=1e-3)
    with caplog.at_level(logging.INFO):
        make_trainer(
            tmp_path, linear(), callbacks={"it": callback}, log={"steps": 1},
            phases={"one": {"task": "fast", "steps": 10}}, terms={"ce": Faulty({3})},
        ).fit()  # fmt: skip
    norms = dict(series(tmp_path, "train/grad_norm"))
    own = [row for row in rows(tmp_path) if "gradients/norm" in row]
    assert [row["step"] for row in own] == [4, 8]
    for row, steps in zip(own, ((1, 2, 4), (5, 6, 7, 8)), strict=True):
        values = [norms[step] for step in steps]
        assert row["gradients/norm"] == pytest.approx(sum(values) / len(values))
        assert row["gradients/norm_max"] == pytest.approx(max(values))
        assert row["gradients/skipped"] == 1
        assert row["gradients/loss"] > 0
    assert re.search(r"update 4: loss [\d.]+, gradient norm", caplog.text)
    assert "update 4: the gradient's norm reached" in caplog.text
    caplog.clear()
    silent = GradientHealth(every_steps=4, warn_above=None)
    make_trainer(tmp_path / "silent", linear(), callbacks={"it": silent}).fit()
    assert "reached" not in caplog.text


def test_gradient_health_continues_after_a_resume(tmp_path):
    def run(state=None):
        callback = GradientHealth(every_steps=5)
        make_trainer(
            tmp_path, linear(), callbacks={"it": callback}, checkpoint={"steps": 3}, keep=9,
            state=state,
        ).fit(state)  # fmt: skip
        return series(tmp_path, "gradients/norm")

    whole = run()
    assert run(checkpoint.load(tmp_path / "checkpoints" / "step-00000003.safetensors")) == whole


# -- empty data -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_an_error(tmp_path, split):
    data = FakeData()
    inputs, targets = data.splits["fast", split]
    data.splits["fast", split] = inputs[:0], targets[:0]
    with pytest.raises(ConfigError, match=f"data: fast/{split} holds no samples"):
        make_trainer(tmp_path, linear(), data=data)
    assert SIZES[split] > 0


def test_a_rule_without_a_gradient_needs_no_scale(tmp_path):
    """Without a scaled loss there is nothing to unscale, and no overflow check."""

    class Silent(Term):
        needs_graph = False

        def forward(self, model, batch, output):
            return TermOutput(torch.zeros(()))

    trainer = make_trainer(
        tmp_path, linear(), fabric=fabric_of("16-mixed"), terms={"s": Silent()},
        phases={"one": {"task": "fast", "epochs": 1}},
    )  # fmt: skip
    trainer.fit()
    assert trainer.progress.skipped == 0


# -- finiteness -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_one_non_finite_value_is_found(bad, place):
    """For all dtypes and shapes; the largest finite value of a dtype is not an infinity."""
    values = [
        torch.tensor(1.0), torch.tensor(6e4, dtype=torch.float16),
        torch.tensor(1e300, dtype=torch.float64), torch.ones(2, 3), torch.tensor(2**62),
    ]  # fmt: skip
    assert all_finite(values) == 1.0
    assert all_finite(values[4:]) == 1.0
    values[place] = values[place] * bad
    assert all_finite(values) == 0.0


# -- without waiting for the device -----------------------------------------------------------


class NonFinite(Term):
    """A loss that is not finite in some updates, with a buffer update of the same value."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0

    def updated_buffers(self, model):
        return ("seen",)

    def forward(self, model, batch, output):
        self.calls += 1
        value = torch.tensor(math.nan if self.calls in self.bad else 1.0)
        loss = (output.values.square().mean() + model.last.weight.sum()) * value
        return TermOutput(loss, {"seen": BufferUpdate(value, reduce="sum")})


def run_with_faults(directory, bad, steps, optimizer, monkeypatch, immediate):
    """The model and the trainer of a run whose updates `bad` are not finite."""
    made = GradientGuard.__init__

    def init(guard, *args):
        made(guard, *args)
        guard.immediate = immediate

    monkeypatch.setattr(GradientGuard, "__init__", init)
    model = linear()
    model.register_buffer("seen", torch.zeros(()))
    trainer = make_trainer(
        directory, model, phases={"one": {"task": "fast", "steps": steps}},
        terms={"t": NonFinite(bad)}, optimizer=optimizer, log={"steps": steps},
        validation={"steps": None, "epochs": None}, monitor="val/accuracy",
    )  # fmt: skip
    return model, trainer


@pytest.mark.parametrize("bad", [{1}, {3}, {2, 3}, {1, 5}])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop", "Lion"])
def test_skipped_updates_are_undone_on_the_device(tmp_path, monkeypatch, name, bad):
    optimizer = {"_target_": f"neuro.training.optimizers.{name}", "lr": 0.01}
    if name == "SGD":
        optimizer["momentum"] = 0.9
    found = {}
    for immediate in (True, False):
        model, trainer = run_with_faults(
            tmp_path / str(immediate), bad, 6, optimizer, monkeypatch, immediate
        )
        trainer.fit()
        found[immediate] = model.state_dict(), rows(tmp_path / str(immediate)), trainer.progress
    assert same_state(found[True][0], found[False][0])
    assert found[True][1] == found[False][1]
    assert found[True][2].skipped == found[False][2].skipped == len(bad)


def test_the_device_is_synchronised_at_intervals_only(tmp_path, monkeypatch):
    reads = []
    read = GradientGuard.read_skipped
    monkeypatch.setattr(GradientGuard, "read_skipped", lambda guard: reads.append(1) or read(guard))
    _, trainer = run_with_faults(tmp_path, {2}, 9, SGD, monkeypatch, immediate=False)
    trainer.fit()
    assert len(reads) <= 4 and trainer.progress.skipped == 1


def test_divergence_is_detected_at_the_next_interval(tmp_path, monkeypatch):
    _, trainer = run_with_faults(tmp_path, {2, 3, 4}, 6, SGD, monkeypatch, immediate=False)
    with pytest.raises(DivergedError, match="3 updates in a row"):
        trainer.fit()
