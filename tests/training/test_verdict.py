"""The verdict: each criterion, its message, and the exit code."""

from __future__ import annotations

import pytest
import torch

from neuro.errors import CriteriaNotMet, Interrupted
from neuro.io import checkpoint
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.runs.report import Criterion, Report
from neuro.training.callbacks.verdict import Verdict
from tests.e2e.helpers import SINGLE, SURROGATE, launch_here, read
from tests.fakes import linear, make_setup, make_trainer

LONG = {"one": {"task": "fast", "epochs": 4}}


def judged(directory, *, terms=None, state=None, **options):
    trainer = make_trainer(
        directory, linear(), callbacks={"verdict": Verdict(**options)}, terms=terms, phases=LONG,
        state=state,
    )  # fmt: skip
    report = trainer.fit(state)
    return {criterion.name: criterion for criterion in report.criteria}, trainer


def test_a_run_that_learns_meets_all(tmp_path):
    found, _ = judged(tmp_path, max_loss=5.0, improves=("val/loss",))
    assert list(found) == [
        "largest norm of a gradient",
        "fraction of skipped updates",
        "training loss at the end",
        "one: training loss, from start to end",
        "one: val/loss, from start to end",
    ]
    assert all(criterion.met for criterion in found.values())
    assert found["one: val/loss, from start to end"].relation == "<"


@pytest.mark.parametrize(
    "options, name",
    [
        ({"max_norm": 1e-6}, "largest norm of a gradient"),
        ({"max_loss": 1e-6}, "training loss at the end"),
    ],
)
def test_limits(tmp_path, options, name):
    found, _ = judged(tmp_path, **options)
    assert [n for n, criterion in found.items() if not criterion.met] == [name]
    assert name not in judged(tmp_path / "off", **dict.fromkeys(options))[0]


def test_a_loss_that_rises_and_a_metric_that_does_not_improve(tmp_path):
    ascent = {"ce": CrossEntropy(weight=0.0)}
    found, _ = judged(tmp_path, terms=ascent, improves=("val/accuracy",))
    assert not found["one: training loss, from start to end"].met
    assert not found["one: val/accuracy, from start to end"].met
    assert found["one: val/accuracy, from start to end"].relation == ">"


class OneOverflow(CrossEntropy):
    """An infinite loss in the second update."""

    calls = 0

    def forward(self, model, batch, output):
        self.calls += model.training
        result = super().forward(model, batch, output)
        return result._replace(loss=result.loss * (torch.inf if self.calls == 2 else 1.0))


def test_skipped_updates_count_and_have_no_norm(tmp_path):
    found, trainer = judged(tmp_path, terms={"ce": OneOverflow()})
    assert trainer.progress.skipped == 1
    skipped = found["fraction of skipped updates"]
    assert skipped.value == pytest.approx(1 / trainer.progress.step) and not skipped.met
    assert found["largest norm of a gradient"].met
    loose, _ = judged(tmp_path / "loose", terms={"ce": OneOverflow()}, max_skipped=0.5)
    assert loose["fraction of skipped updates"].met


def test_a_resumed_run_is_judged_by_all_of_its_updates(tmp_path):
    whole, _ = judged(tmp_path / "whole", improves=("val/loss",))
    callbacks = {"verdict": Verdict(improves=("val/loss",))}
    trainer = make_trainer(
        tmp_path / "stopped", linear(), callbacks=callbacks, phases=LONG,
        interrupted=lambda: trainer.progress.step >= 8,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        trainer.fit()
    state = checkpoint.load(tmp_path / "stopped" / "checkpoints" / "last.safetensors")
    assert judged(tmp_path / "stopped", improves=("val/loss",), state=state)[0] == whole


def test_problems_before_training():
    setup = make_setup(linear(), validated=("val/accuracy", "val/loss"))
    problems = list(Verdict(improves=("val/acuracy",)).check(setup))
    assert problems[0].startswith("improves: no metric 'val/acuracy'")
    assert problems[0].endswith("Did you mean 'val/accuracy'?")
    assert not list(Verdict(improves=("val/accuracy",)).check(setup))
    unknown = make_setup(linear(), max_skipped=None)
    assert "trainer.clip_norm" in next(iter(Verdict().check(unknown)))


def test_criteria_are_compared_and_printed():
    assert str(Criterion.of("norm", 3.0, "<", 2.0)) == "norm: 3 < 2"
    assert not Criterion.of("norm", float("nan"), "<=", 2.0).met


def test_exit_code_and_report(tmp_path):
    given = (*SINGLE, *SURROGATE, "callbacks=[verdict]")
    done = launch_here(*given, "callbacks.verdict.max_norm=1e-9", f"hydra.run.dir={tmp_path / 'a'}")
    assert done.code == CriteriaNotMet.exit_code == 6
    assert "largest norm of a gradient" in done.err and "verdict: not all" in done.out
    report = Report.load(tmp_path / "a")
    assert [c.met for c in report.criteria][:2] == [False, True]
    assert read(tmp_path / "a", "run_state.json")["status"] == "completed"
