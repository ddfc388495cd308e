"""All trackers at once, also across a resume; the record of a run in W&B."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.analysis.reader import RunReader
from tests.e2e.helpers import SINGLE, SURROGATE, launch_here, read, rows
from tests.e2e.test_resume import interrupt
from tests.tracking.test_wandb import history, of_type, settled

UNTRACKED = tuple(argument for argument in SINGLE if not argument.startswith("tracking="))
ALL = ("tracking=[csv,tensorboard,wandb,mlflow]", "trainer.log.steps=1")


@pytest.mark.slow
def test_every_tracker_has_every_number_once() -> None:
    mlflow = pytest.importorskip("mlflow")
    interrupt(Path("run"), 3, *UNTRACKED, *ALL)
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    logged = [(row["step"], row["train/loss"]) for row in rows(Path("run")) if "train/loss" in row]
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    client = mlflow.MlflowClient(tracking_uri=Path("mlruns").resolve().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("neuro").experiment_id])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == logged
    header, *lines = (Path("run") / "metrics.csv").read_text().splitlines()
    assert "train/loss" in header and len(lines) == len({row["step"] for row in rows(Path("run"))})
    segments = settled(Path("run"))
    assert len(segments) == 2
    assert len({of_type(segment, "run")[0]["run_id"] for segment in segments}) == 1
    points = [point for segment in segments for point in history(segment, "train/loss")]
    assert points == [(step, pytest.approx(value)) for step, value in logged]
    events = RunReader("run/tensorboard").scalars("^train/loss$")
    assert list(events["step"]) == [1, 2, 3, 4, 5, 6]
    assert list(events["value"]) == pytest.approx([value for _, value in logged])


@pytest.mark.filterwarnings("default")  # W&B's own deprecations are not ours
def test_wandb_gathers_the_runs_of_a_sweep() -> None:
    """Project, group, job type, tags, the whole config and the final numbers."""
    done = launch_here(
        "-m", *UNTRACKED, "tracking=wandb", "seed=0,1", "project=lab", "tags=[small,quick]",
        "hydra.sweep.dir=multirun/widths", "phase.task1.epochs=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    ids = set()
    for seed in (0, 1):
        run = Path("multirun/widths", str(seed))
        (records,) = settled(run)
        (told,) = of_type(records, "run")
        assert (told["project"], told["run_group"], told["job_type"]) == ("lab", "widths", "train")
        assert told["tags"] == ["small", "quick"]
        config = told["config"]["update"]
        assert config["seed"] == seed and config["model"]["channels"] == [4, 4, 8]
        summary: dict[str, object] = {}
        for record in of_type(records, "summary"):
            summary |= record.get("update", {})
        wanted = read(run)["metrics"]
        assert {name: summary[name] for name in wanted} == pytest.approx(wanted)
        assert read(run, "run_meta.json")["group"] == "widths"
        ids.add(told["run_id"])
    assert len(ids) == 2


def test_groups_set_by_the_user_or_by_repeats() -> None:
    one_epoch = (*SINGLE, "phase.task1.epochs=1")
    done = launch_here("-m", *one_epoch, "group=mine", "seed=0", "hydra.sweep.dir=multirun/other")
    assert done.code == 0, done.err
    assert read(Path("multirun/other/0"), "run_meta.json")["group"] == "mine"
    done = launch_here(*one_epoch, "repeats=2", "hydra.run.dir=set")
    assert done.code == 0, done.err
    whole, *members = (read(Path("set", d), "run_meta.json") for d in (".", "repeat_0", "repeat_1"))
    assert [member["group"] for member in members] == [whole["run_id"]] * 2


def test_a_found_learning_rate_is_in_the_config_of_a_resumed_run() -> None:
    auto = ("optimizer.lr=auto", "trainer.lr_find.steps=30", "trainer.lr_find.burn_in=0")
    interrupt(Path("run"), 33, *SINGLE, *SURROGATE, *auto, "trainer.log.steps=1")
    before = read(Path("run"), "run_meta.json")
    assert before["status"] == "interrupted"
    found = [row["lr_find/suggestion"] for row in rows(Path("run")) if "lr_find/suggestion" in row]
    assert before["found_lr"] == {"task1": found[0]}
    picture = Path("run/plots/lr_find.png")
    picture.unlink()
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    assert not picture.exists()  # it was not searched for again
    assert read(Path("run"))["found_lr"] == before["found_lr"]
    assert read(Path("run"), "run_meta.json")["found_lr"] == before["found_lr"]
    assert {row["train/lr"] for row in rows(Path("run")) if "train/lr" in row} == {*found}
