"""The training loop on a linear model and two tiny tasks."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from neuro.errors import ConfigError, DivergedError, Interrupted, OutOfMemoryError
from neuro.io import checkpoint
from neuro.learning.buffers import BufferUpdate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.terms import Term, TermOutput
from neuro.training.callbacks.base import Callback
from tests.fakes import (
    ADAMW,
    COSINE,
    SGD,
    TWO_PHASES,
    FakeData,
    linear,
    make_trainer,
    rows,
    same_state,
    series,
)


def load(directory, name):
    return checkpoint.load(directory / "checkpoints" / f"{name}.safetensors")


class Watch(Callback):
    """Record every hook with the step of its call; may end the phase."""

    def __init__(self, stop_at=None, stop_in="on_step"):
        self.calls = []
        self.stop_at, self.stop_in = stop_at, stop_in
        for hook in ("on_fit_start", "on_phase_start", "on_step", "on_epoch_end", "on_validation",
                     "on_phase_end", "on_fit_end"):  # fmt: skip
            setattr(self, hook, lambda trainer, *_, hook=hook: self.note(trainer, hook))

    def note(self, trainer, hook):
        self.calls.append((hook, trainer.progress.step))
        if hook == self.stop_in and trainer.progress.phase_step == self.stop_at:
            trainer.stop_phase("enough")

    def steps(self, hook):
        return [step for name, step in self.calls if name == hook]


# -- learning ---------------------------------------------------------------------------------


def test_a_fit_learns_and_reports(tmp_path):
    trainer = make_trainer(
        tmp_path, linear(), phases={"one": {"task": "fast", "epochs": 10}}, optimizer=ADAMW
    )
    report = trainer.fit()
    assert report.metrics["test/fast/accuracy"] == report.metrics["test/accuracy"] == 1.0
    assert report.continual is None
    assert report.phases[0].test["fast"]["accuracy"] == 1.0
    first, *_, last = series(tmp_path, "train/loss")
    assert last[1] < first[1] / 2


def test_an_update_is_the_optimizers_step_on_the_mean_loss(tmp_path):
    model, own = linear(), linear()
    trainer = make_trainer(tmp_path, model, phases={"one": {"task": "fast", "steps": 2}})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    for _, batch in zip(range(2), trainer.phase.loader.batches(0), strict=False):
        scores = own(batch.sequence(), dt_ms=1.0).values.mean(1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, batch.targets).backward()
        optimizer.step()
    trainer.fit()
    assert same_state(model.state_dict(), own.state_dict())


def test_metrics_have_their_documented_names(tmp_path):
    make_trainer(tmp_path, linear(), phases=TWO_PHASES).fit()
    names = {name for row in rows(tmp_path) for name in row}
    assert names >= {
        "step", "train/loss", "train/accuracy", "train/lr", "train/grad_norm",
        "val/loss", "val/accuracy", "test/fast/accuracy", "test/slow/loss",
    }  # fmt: skip
    assert "train/ce" not in names  # the only term is the loss itself


def test_several_terms_and_tasks_are_logged_separately(tmp_path):
    terms = {"a": CrossEntropy(weight=2.0), "b": CrossEntropy(temperature=3.0)}
    phases = {"both": {"task": ["fast", "slow"], "epochs": 1}}
    make_trainer(tmp_path, linear(), terms=terms, phases=phases, log={"steps": 1}).fit()
    for row in rows(tmp_path):
        if "train/loss" in row:
            assert row["train/loss"] == pytest.approx(2 * row["train/a"] + row["train/b"])
    row = next(row for row in rows(tmp_path) if "val/accuracy" in row)
    both = [row["val/fast/accuracy"], row["val/slow/accuracy"]]
    assert row["val/accuracy"] == pytest.approx(sum(both) / 2)


def test_train_metrics_are_means_since_the_last_log(tmp_path):
    often, rarely = tmp_path / "often", tmp_path / "rarely"
    make_trainer(often, linear(), log={"steps": 1}).fit()
    make_trainer(rarely, linear(), log={"steps": 4}).fit()
    losses = [value for _, value in series(often, "train/loss")]
    sizes = [4, 4, 4, 2]
    for i, (_, value) in enumerate(series(rarely, "train/loss")):
        group = zip(losses[4 * i : 4 * i + 4], sizes, strict=True)
        assert value == pytest.approx(sum(loss * n for loss, n in group) / 14)


# -- updates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size, accumulate", [(2, 3), (1, 6), (3, 2)])
def test_accumulation_equals_the_large_batch(tmp_path, size, accumulate):
    """14 samples in batches of 6, 6, 2: the last group is smaller, and its batches uneven."""
    large, small = linear(hidden=5), linear(hidden=5)
    phases = {"one": {"task": "fast", "epochs": 2}}
    one = make_trainer(tmp_path / "1", large, phases=phases, data=FakeData(batch_size=6))
    many = make_trainer(
        tmp_path / "2", small, phases=phases, data=FakeData(batch_size=size), accumulate=accumulate
    )
    assert one.plan[0].total_steps == many.plan[0].total_steps == 6
    one.fit()
    many.fit()
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert series(tmp_path / "1", "train/loss") == [
        (step, pytest.approx(value)) for step, value in series(tmp_path / "2", "train/loss")
    ]


def test_clip_norm_shortens_the_whole_gradient(tmp_path):
    model = linear()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    phases = {"one": {"task": "fast", "steps": 1}}
    make_trainer(tmp_path, model, phases=phases, clip_norm=0.05).fit()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert series(tmp_path, "train/grad_norm")[0][1] > 0.05  # before clipping


class Sometimes(Term):
    """A loss, gradient or buffer increment that is not finite at some updates."""

    def __init__(self, bad, kind="loss"):
        super().__init__()
        self.bad, self.kind, self.calls = bad, kind, 0

    def forward(self, model, batch, output):
        self.calls += 1
        bad = self.calls in self.bad
        loss = model.last.weight.sum() * 0.1
        if bad and self.kind == "loss":
            loss = loss * math.nan
        if bad and self.kind == "gradient":  # sqrt at 0: a finite loss with an infinite gradient
            loss = loss + (model.last.bias * 0).sqrt().sum()
        value = torch.tensor(math.inf if bad and self.kind == "update" else 1.0)
        return TermOutput(loss, {"seen": BufferUpdate(value, reduce="sum")})

    def updated_buffers(self, model):
        return ("seen",)


@pytest.mark.parametrize("kind", ["loss", "gradient", "update"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path, kind):
    model, clean = linear(), linear()
    for m in (model, clean):
        m.register_buffer("seen", torch.zeros(()))
    phases = {"one": {"task": "fast", "steps": 4}}
    trainer = make_trainer(
        tmp_path, model, phases=phases, terms={"t": Sometimes({2}, kind)}, log={"steps": 1}
    )
    trainer.fit()
    make_trainer(
        tmp_path / "clean", clean, phases={"one": {"task": "fast", "steps": 3}},
        terms={"t": Sometimes(())},
    ).fit()  # fmt: skip
    torch.testing.assert_close(model.state_dict(), clean.state_dict())
    assert trainer.progress.step == 4
    assert [v for _, v in series(tmp_path, "train/skipped_updates")] == [1, 1, 1]
    assert all(math.isfinite(v) for _, v in series(tmp_path, "train/loss"))


def test_a_non_finite_micro_batch_skips_its_whole_group(tmp_path):
    model = linear()
    model.register_buffer("seen", torch.zeros(()))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    make_trainer(
        tmp_path, model, phases={"one": {"task": "fast", "steps": 1}}, accumulate=3,
        terms={"t": Sometimes({1}, "update")},
    ).fit()  # fmt: skip
    assert same_state(model.state_dict(), before)


def test_too_many_skipped_updates_end_the_run_with_a_usable_checkpoint(tmp_path):
    model = linear()
    model.register_buffer("seen", torch.zeros(()))
    trainer = make_trainer(
        tmp_path, model, phases={"one": {"task": "fast", "epochs": 9}},
        terms={"t": Sometimes({3, 4, 6, 7, 8}, "loss")},
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r"3 updates in a row .*update 8.*optimizer\.lr"):
        trainer.fit()
    state = load(tmp_path, "last")
    assert state["progress"]["skipped"] == 5
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    again = linear(seed=1)
    again.register_buffer("seen", torch.zeros(()))
    phases = {"one": {"task": "fast", "epochs": 9}}
    resumed = make_trainer(tmp_path, again, phases=phases, terms={"t": Sometimes(())}, state=state)
    resumed.fit(state)
    assert resumed.progress.skipped == 5
    assert resumed.progress.step == 36


def test_buffer_updates_are_summed_or_averaged_over_micro_batches(tmp_path):
    class Count(Term):
        def forward(self, model, batch, output):
            size = torch.tensor(float(len(batch.targets)))
            return TermOutput(
                model.last.weight.sum() * 0,
                {"total": BufferUpdate(size, reduce="sum"), "average": BufferUpdate(size)},
            )

        def updated_buffers(self, model):
            return ("total", "average")

    model = linear()
    model.register_buffer("total", torch.zeros(()))
    model.register_buffer("average", torch.zeros((), dtype=torch.float64))
    make_trainer(
        tmp_path, model, phases={"one": {"task": "fast", "epochs": 1}}, accumulate=4,
        terms={"count": Count()},
    ).fit()  # fmt: skip
    assert model.total == 14  # batches of 4, 4, 4, 2
    assert model.average == pytest.approx((3 * 4 * 4 + 2 * 2) / 14)


def test_a_phase_with_nothing_to_train_runs(tmp_path):
    class Silent(Term):
        needs_graph = False

        def forward(self, model, batch, output):
            return TermOutput(torch.zeros(()), {"seen": BufferUpdate(torch.ones(()), reduce="sum")})

        def updated_buffers(self, model):
            return ("seen",)

    model = linear()
    model.register_buffer("seen", torch.zeros(()))
    phases = {"one": {"task": "fast", "epochs": 1, "freeze": ["*"]}}
    before = model.last.weight.clone()
    make_trainer(tmp_path, model, phases=phases, terms={"s": Silent()}).fit()
    assert model.seen == 4
    assert torch.equal(model.last.weight, before)


def half_precision():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=2)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[plugin])


def test_half_precision_clips_true_norms_and_recovers_from_overflow(tmp_path):
    model = linear()
    trainer = make_trainer(
        tmp_path, model, fabric=half_precision(), clip_norm=10.0, max_skipped=40,
        phases={"one": {"task": "fast", "steps": 40}}, log={"steps": 1},
    )  # fmt: skip
    trainer.fit()
    assert 0 < trainer.progress.skipped < 40
    full = tmp_path / "full"
    make_trainer(full, linear(), phases={"one": {"task": "fast", "steps": 1}}).fit()
    first = series(tmp_path, "train/grad_norm")[0][1]
    assert first == pytest.approx(series(full, "train/grad_norm")[0][1], rel=0.5)
    assert load(tmp_path, "last")["scaler"]["scale"] < 2.0**40


def test_half_precision_without_any_gradient(tmp_path):
    phases = {"one": {"task": "fast", "steps": 2, "freeze": ["*"]}}
    trainer = make_trainer(tmp_path, linear(), fabric=half_precision(), phases=phases)
    assert trainer.fit().metrics["test/loss"] > 0


# -- phases -----------------------------------------------------------------------------------


def test_rate_follows_the_schedule(tmp_path):
    trainer = make_trainer(tmp_path, linear(), scheduler=COSINE, log={"steps": 1})
    schedule, span = trainer.plan[0].schedule, trainer.plan[0].span
    trainer.fit()
    assert [lr for _, lr in series(tmp_path, "train/lr")] == [
        pytest.approx(0.1 * schedule.factor(i, span)) for i in range(span.steps)
    ]


def test_frozen_parameters_are_constant_in_their_phase_only(tmp_path):
    model = linear(hidden=5)
    frozen = model.first.weight.clone()
    phases = {
        "one": {"task": "fast", "epochs": 1, "freeze": ["first.*"]},
        "two": {"task": "slow", "epochs": 1},
    }
    seen = []

    class Look(Callback):
        def on_phase_end(self, trainer, metrics):
            seen.append(trainer.model.first.weight.clone())

    make_trainer(tmp_path, model, phases=phases, callbacks={"look": Look()}, optimizer=ADAMW).fit()
    assert torch.equal(seen[0], frozen)
    assert not torch.equal(seen[1], frozen)


def test_flags_hold_until_a_later_phase_changes_them(tmp_path):
    phases = {
        "one": {"task": "fast", "steps": 1, "flags": {"scale": 2.0, "lifelong": True}},
        "two": {"task": "slow", "steps": 1, "flags": {"scale": 0.5}},
    }
    model = linear()
    make_trainer(tmp_path, model, phases=phases).fit()
    assert (model.scale, model.lifelong) == (0.5, True)
    resumed = linear()
    state = load(tmp_path, "one-final")
    make_trainer(tmp_path, resumed, phases=phases, state=state).fit(state)
    assert (resumed.scale, resumed.lifelong) == (0.5, True)  # although phase one did not run here


def test_carrying_the_best_or_the_last_weights(tmp_path):
    """With an excessive learning rate, the first epoch is the best."""
    at_end = {}
    for which in ("best", "last"):
        phases = {
            "one": {"task": "fast", "epochs": 4, "carry": {"weights": which}},
            "two": {"task": "slow", "steps": 1},
        }
        trainer = make_trainer(
            tmp_path / which, linear(), phases=phases, optimizer={**SGD, "lr": 30.0},
            data=FakeData(noise=3.0), monitor="val/loss", direction="min",
        )  # fmt: skip
        trainer.fit()
        at_end[which] = load(tmp_path / which, "one-final")["model"]
    losses = [v for s, v in series(tmp_path / "best", "val/loss") if s <= 16]
    assert min(losses) < losses[-1]
    assert not same_state(at_end["best"], at_end["last"])
    best_test = series(tmp_path / "best", "test/fast/loss")[0][1]
    assert best_test < series(tmp_path / "last", "test/fast/loss")[0][1]


@pytest.mark.parametrize("carry", [True, False])
def test_carrying_the_optimizer_with_other_options_and_parameters(tmp_path, carry):
    phases = {
        "one": {"task": "fast", "steps": 3, "carry": {"optimizer": carry}, "freeze": ["first.*"]},
        "two": {"task": "slow", "steps": 1, "optimizer": {"weight_decay": 0.25, "lr": 0.5}},
    }
    counts, options = [], []

    class Look(Callback):
        def on_step(self, trainer, metrics):
            if trainer.phase.index == 1:
                state = trainer.optimizer.optimizer.state
                counts.append(int(state[trainer.model.last.weight]["step"]))
                counts.append(int(state[trainer.model.first.weight]["step"]))
                options.append(trainer.optimizer.param_groups[0]["weight_decay"])
                options.append(trainer.optimizer.param_groups[0]["lr"])

    watch = {"look": Look()}
    for state in (None, "one-final"):
        resume = load(tmp_path, state) if state else None
        make_trainer(
            tmp_path, linear(hidden=3), phases=phases, optimizer=ADAMW, callbacks=watch,
            state=resume,
        ).fit(resume)  # fmt: skip
        assert counts == ([4, 1] if carry else [1, 1])
        assert options == [0.25, 0.5]
        counts.clear()
        options.clear()


def test_callbacks_see_every_batch_of_an_evaluation(tmp_path):
    class Seen(Callback):
        def __init__(self):
            self.found = []

        def on_evaluation(self, trainer, evaluation):
            self.found.append((trainer.progress.step, *evaluation))

    seen = Seen()
    trainer = make_trainer(
        tmp_path, linear(), phases={"one": {"task": "fast", "steps": 2}}, callbacks={"seen": seen}
    )
    trainer.fit()
    wanted = []
    for split in ("val", "test"):
        batches = len(trainer.data.loader("fast", split))
        wanted += [(2, "fast", split, done, batches) for done in range(1, batches + 1)]
    assert seen.found == wanted


def test_a_callback_ends_the_phase_not_the_run(tmp_path):
    for hook in ("on_step", "on_validation"):
        watch = Watch(stop_at=3, stop_in=hook)
        directory = tmp_path / hook
        trainer = make_trainer(
            directory, linear(), phases=TWO_PHASES, callbacks={"watch": watch},
            validation={"steps": 3}, log={"steps": 2},
        )  # fmt: skip
        report = trainer.fit()
        assert len(report.phases) == 2
        assert watch.steps("on_phase_end") == [3, 6]
        assert watch.steps("on_validation") == [3, 6]  # the last update is validated, once
        assert [s for s, _ in series(directory, "train/loss")] == [2, 3, 5, 6]
        assert load(directory, "one-final")["progress"]["phase_index"] == 1


def test_a_phase_that_was_ended_stays_ended_after_a_resume(tmp_path):
    watch = Watch(stop_at=4, stop_in="on_validation")
    phases = {"one": {"task": "fast", "epochs": 5}}
    trainer = make_trainer(tmp_path, linear(), callbacks={"watch": watch}, phases=phases)
    trainer._leave = lambda phase: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):  # killed after the checkpoint, before the phase's end
        trainer.fit()
    state = load(tmp_path, "last")
    resumed = make_trainer(tmp_path, linear(), phases=phases, state=state)
    resumed.fit(state)
    assert resumed.progress.step == 4


# -- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interval, expected",
    [
        ({"steps": 3}, [3, 6, 9, 10]),
        ({"epochs": 2}, [8, 10]),
        ({"steps": 5, "epochs": 1}, [4, 5, 8, 10]),
        ({}, []),
    ],
)
def test_intervals_count_steps_or_epochs_and_the_phases_end(tmp_path, interval, expected):
    """Epochs of 4 updates; the phase ends within its third."""
    watch = Watch()
    phases = {"one": {"task": "fast", "steps": 10}}
    make_trainer(
        tmp_path, linear(), phases=phases, validation=interval, log=interval,
        checkpoint=interval, keep=99, callbacks={"watch": watch},
    ).fit()  # fmt: skip
    assert watch.steps("on_validation") == expected
    assert [s for s, _ in series(tmp_path, "train/lr")] == (expected or [10])
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [int(path.stem[5:]) for path in kept] == expected
    assert watch.steps("on_epoch_end") == [4, 8]
    assert watch.steps("on_step") == list(range(1, 11))


def test_only_the_newest_numbered_checkpoints_are_kept(tmp_path):
    make_trainer(tmp_path, linear(), checkpoint={"steps": 2}, keep=2).fit()
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {
        "step-00000006.safetensors", "step-00000008.safetensors", "last.safetensors",
        "previous-last.safetensors", "best.safetensors", "one-best.safetensors",
        "one-final.safetensors",
    } | ({"previous-one-best.safetensors", "previous-best.safetensors"} & names)  # fmt: skip


@pytest.mark.parametrize("direction, choose", [("max", max), ("min", min)])
def test_best_follows_the_direction(tmp_path, direction, choose):
    trainer = make_trainer(
        tmp_path, linear(), monitor="val/loss", direction=direction, validation={"steps": 1}
    )
    trainer.fit()
    values = dict(series(tmp_path, "val/loss"))
    best = load(tmp_path, "best")
    assert best["best"] == choose(values.values())
    assert values[best["progress"]["step"]] == best["best"]


# -- continual learning -----------------------------------------------------------------------


def test_the_report_of_a_curriculum_holds_the_matrix(tmp_path):
    trainer = make_trainer(tmp_path, linear(), phases=TWO_PHASES, optimizer=ADAMW)
    continual = trainer.fit().continual
    assert continual.tasks == ["fast", "slow"]
    tested = [
        [row[f"test/{task}/accuracy"] for task in ("fast", "slow")]
        for row in rows(tmp_path)
        if "test/fast/accuracy" in row
    ]
    assert continual.matrix == tested
    assert continual.acc == pytest.approx(sum(tested[1]) / 2)
    assert continual.bwt == pytest.approx(tested[1][0] - tested[0][0])
    assert list(continual.initial) == ["slow"]  # the other has no forward transfer
    assert continual.fwt == pytest.approx(tested[0][1] - continual.initial["slow"])


def test_consolidation_uses_each_sample_of_the_task_once_even_with_replay(tmp_path):
    seen = []

    class Look(CrossEntropy):
        def consolidate(self, model, batches, pool):
            seen.append(sorted(label for batch in batches for label in batch.targets.tolist()))

    phases = {**TWO_PHASES, "two": {"task": "slow", "epochs": 1, "replay": {"samples": 4}}}
    make_trainer(tmp_path, linear(), phases=phases, terms={"look": Look()}).fit()
    assert seen == [[0] * 7 + [1] * 7, [2] * 7 + [3] * 7]


# -- stopping ---------------------------------------------------------------------------------


def test_a_signal_saves_between_updates(tmp_path):
    polls = iter([False, False, True])
    trainer = make_trainer(tmp_path, linear(), interrupted=lambda: next(polls))
    with pytest.raises(Interrupted, match="update 3"):
        trainer.fit()
    assert load(tmp_path, "last")["progress"]["step"] == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_saves_and_advises(tmp_path, error):
    model = linear()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 12 and isinstance(error, Exception):
            raise error

    trainer = make_trainer(tmp_path, model, phases={"one": {"task": "fast", "epochs": 5}})
    model.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemoryError, match=r"data\.batch_size=2 with trainer\.accumulate=2"):
        trainer.fit()
    state = load(tmp_path, "last")
    assert state["progress"]["step"] > 0
    assert state["progress"]["step"] == trainer.progress.step


def test_out_of_memory_advises_fewer_streams(tmp_path):
    def fail(*_):
        raise MemoryError

    trainer = make_trainer(tmp_path, linear(), stateful={"training": True})
    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemoryError, match=r"data\.batch_size=2 in a new run \(init_from="):
        trainer.fit()


def test_out_of_memory_at_the_first_update_can_be_resumed(tmp_path):
    """The start of the phase is not repeated."""
    model = linear()
    watch = Watch()
    trainer = make_trainer(tmp_path, model, callbacks={"watch": watch}, data=FakeData(batch_size=1))
    handle = trainer.objective.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.fit()
    assert "batch_size" not in str(caught.value)  # a batch of 1 cannot be halved
    handle.remove()
    state = load(tmp_path, "last")
    resumed = make_trainer(
        tmp_path, linear(), callbacks={"watch": watch}, state=state, data=FakeData(batch_size=1)
    )
    resumed.fit(state)
    assert watch.steps("on_phase_start") == [0]
    assert resumed.progress.step == 28


def test_other_errors_are_not_changed(tmp_path):
    trainer = make_trainer(tmp_path, linear())
    trainer.objective.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ"))
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer.fit()
    assert not (tmp_path / "checkpoints").exists()


# -- changes on resume ------------------------------------------------------------------------


def test_a_finished_phase_cannot_be_made_longer(tmp_path):
    make_trainer(tmp_path, linear()).fit()
    state = load(tmp_path, "last")
    longer = make_trainer(
        tmp_path, linear(), phases={"one": {"task": "fast", "epochs": 3}}, state=state
    )
    with pytest.raises(ConfigError, match=r"phase\.one: this phase is finished"):
        longer.fit(state)


def test_an_unfinished_phase_can_be_made_longer(tmp_path):
    make_trainer(tmp_path, linear(), checkpoint={"steps": 4}, keep=9).fit()
    state = load(tmp_path, "step-00000004")
    phases = {"one": {"task": "fast", "epochs": 3}}
    longer = make_trainer(tmp_path, linear(), phases=phases, state=state)
    longer.fit(state)
    assert longer.progress.step == 12


def test_another_batch_size_continues_at_the_same_sample(tmp_path):
    phases = {"one": {"task": "fast", "epochs": 3}}
    make_trainer(
        tmp_path, linear(), phases=phases, data=FakeData(batch_size=2), checkpoint={"steps": 1},
        keep=99,
    ).fit()  # fmt: skip
    state = load(tmp_path, "step-00000011")  # 7 updates an epoch; 4 of the second are done
    resumed = make_trainer(
        tmp_path, linear(), phases=phases, data=FakeData(batch_size=4), state=state
    )
    resumed.fit(state)
    assert resumed.progress.step == 11 + 2 + 4
    assert resumed.progress.samples == 3 * 14


def test_a_best_checkpoint_later_than_the_resumed_update_is_not_carried(tmp_path):
    phases = {"one": {"task": "fast", "epochs": 4, "carry": {"weights": "best"}}}
    make_trainer(
        tmp_path, linear(), phases=phases, monitor="val/loss", direction="min",
        checkpoint={"steps": 4}, keep=9,
    ).fit()  # fmt: skip
    assert load(tmp_path, "best")["progress"]["step"] == 16
    state = load(tmp_path, "step-00000008")
    shorter = {"one": {**phases["one"], "epochs": 3}}
    resumed = make_trainer(
        tmp_path, linear(), phases=shorter, monitor="val/loss", direction="min", state=state
    )
    resumed.fit(state)
    assert load(tmp_path, "best")["progress"]["step"] == 12


def test_a_checkpoint_holds_plain_json_beside_its_tensors(tmp_path):
    make_trainer(tmp_path, linear()).fit()
    state = load(tmp_path, "last")
    json.dumps({k: state[k] for k in ("progress", "rows", "initial", "validation", "lengths")})
