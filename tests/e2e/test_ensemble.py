"""mode=evaluate run=[...] ensemble=mean: the mean of several runs' outputs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.e2e.helpers import SINGLE, launch_here, read, train_here

MORE = ("data.limit_test=40",)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one experiment."""
    return train_here(tmp_path_factory.mktemp("sets") / "set", *SINGLE, "repeats=2", *MORE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another model on the same samples."""
    model = ("model=lif", "model.readout=linear")
    return train_here(tmp_path_factory.mktemp("sets") / "other", *SINGLE, *model, *MORE)


def evaluate(*runs: Path, arguments: tuple[str, ...] = ()) -> dict[str, object]:
    named = str(runs[0]) if len(runs) == 1 else f"[{','.join(map(str, runs))}]"
    done = launch_here(
        "mode=evaluate", f"run={named}", "ensemble=mean", "hydra.run.dir=together", *arguments
    )
    assert done.code == 0, done.err
    assert "together" in done.out
    return read(Path("together"))


def test_mean_of_probabilities(repeated: Path, other: Path) -> None:
    """A set and a single run of another model, against their predictions."""
    report = evaluate(repeated, other)
    runs = [repeated / "repeat_0", repeated / "repeat_1", other]
    scores, labels = [], torch.empty(0)
    for i, run in enumerate(runs):
        done = launch_here("mode=predict", f"run={run}", f"hydra.run.dir=predicted{i}")
        assert done.code == 0, done.err
        with open(f"predicted{i}/predictions.csv", newline="") as file:
            table = list(csv.DictReader(file))
        scores.append(
            torch.tensor([[float(row[f"score_{k}"]) for k in range(10)] for row in table])
        )
        labels = torch.tensor([int(row["label"]) for row in table])
    mean = torch.stack([s.double().softmax(-1) for s in scores]).mean(0)
    metrics = report["metrics"]
    assert metrics["test/fast/accuracy"] == float((mean.argmax(-1) == labels).double().mean())
    expected = torch.nn.functional.nll_loss(mean.log(), labels)
    assert metrics["test/fast/loss"] == pytest.approx(float(expected), rel=1e-5)
    assert report["objective"] == metrics["test/accuracy"]
    for member, run in zip(report["members"], runs, strict=True):
        own = {k: v for k, v in read(run)["metrics"].items() if k.startswith("test/")}
        assert member["run"] == str(run)
        assert member["metrics"] == pytest.approx(own, rel=1e-5)


def test_a_set_is_expanded_to_its_runs(repeated: Path) -> None:
    report = evaluate(repeated)
    assert [Path(member["run"]).name for member in report["members"]] == ["repeat_0", "repeat_1"]
    meta = read(Path("together"), "run_meta.json")
    assert (meta["mode"], meta["status"]) == ("evaluate", "completed")


def test_overrides_apply_to_all_members(repeated: Path, other: Path) -> None:
    report = evaluate(repeated, other, arguments=("data.limit_test=20", "checkpoint=best"))
    assert all(path.endswith("best.safetensors") for path in report["evaluated"])
    assert report["members"][2]["metrics"] != read(other)["metrics"]


def refused(*arguments: str) -> str:
    done = launch_here(*arguments)
    assert done.code == 2, done.out + done.err
    assert not list(Path().rglob("run_meta.json"))
    return done.err


def test_runs_that_do_not_fit(repeated: Path, task1: Path, finished: Path) -> None:
    text = refused("mode=evaluate", f"run=[{repeated},{task1}]", "ensemble=mean")
    assert f"{task1} does not fit {repeated / 'repeat_0'}: task 'fast' has other test" in text
    assert "data.limit_test (40 and 10)" in text
    text = refused("mode=evaluate", f"run=[{repeated},{finished}]", "ensemble=mean")
    assert "it is tested on fast, slow instead of fast" in text


def test_misuse(repeated: Path, task1: Path) -> None:
    text = refused("mode=evaluate", f"run={repeated}")
    assert "ensemble: run names 2 runs; ensemble=mean with mode=evaluate" in text
    text = refused("mode=evaluate", f"run={task1}", "ensemble=mean")
    assert "ensemble: run names 1 run;" in text
    text = refused("mode=evaluate", f"run=[{task1},{task1}]", "ensemble=median")
    assert "ensemble: got 'median'; input should be 'mean'" in text
    text = refused("mode=predict", f"run=[{task1},{task1}]", "ensemble=mean")
    assert "ensemble: is for mode=evaluate, not mode=predict" in text
    text = refused(*SINGLE, "ensemble=mean")
    assert "ensemble: is for mode=evaluate, not mode=train" in text
    text = refused("mode=evaluate", f"run=[{task1},nowhere]", "ensemble=mean")
    assert "run=nowhere: nowhere: there is no such run" in text
    text = refused("mode=evaluate", f"run={repeated}", "ensemble=mean", "hardware=loihi2")
    assert "hardware: an ensemble is several networks" in text
