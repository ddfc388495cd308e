"""The code examples of the documentation are run."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from neuro.config.build import build
from neuro.data.base import DataSource
from neuro.learning.objective import Objective
from neuro.learning.step import TrainStep
from tests.fakes import FakeData, linear

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "data.limit_train=20", "data.limit_val=10", "data.limit_test=10", "tracking=none",
    "data.timings.fast.duration_ms=8", "data.timings.slow.duration_ms=80",
)  # fmt: skip


def blocks(page: str) -> dict[str, str]:
    """Code blocks of a page whose first line names a file, by that name."""
    text = (ROOT / page).read_text()
    found = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    return dict(found)


def launch(directory: Path, *overrides: str) -> str:
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "launch.py"), "--config-dir", str(directory / "conf"),
            *TINY, *overrides,
        ],
        cwd=directory, capture_output=True, text=True,
        env={"PYTHONPATH": str(directory), "PATH": "/usr/bin:/bin", "HOME": str(directory)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(directory: Path, name: str) -> None:
    content = blocks("docs/extending.md")[name]
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(content)


def test_the_documented_model_trains_with_the_documented_callback(tmp_path: Path) -> None:
    for name in ("my_lab/rates.py", "my_lab/enough.py", "conf/model/rates.yaml"):
        write(tmp_path, name)
    command = re.search(
        r"python launch.py (model=rates .*)", (ROOT / "docs/extending.md").read_text()
    )
    assert command is not None
    overrides = [part.strip('"') for part in command[1].split()]
    enough = "+callbacks.enough={_target_: my_lab.enough.Enough, loss: 100.0}"
    output = launch(
        tmp_path, *overrides, enough, "model.units=8", "trainer.log.steps=1", "data.batch_size=8",
        "trainer.stateful={training: true, validation: true, test: true, reset: never}",
    )  # fmt: skip
    assert "test/accuracy" in output
    assert "ended after 1 updates" in output


def test_the_documented_data_source_is_built_from_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my_lab/waves.py", "conf/data/waves.yaml"):
        write(tmp_path, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NEURO_DATA", str(tmp_path / "data"))
    node = OmegaConf.to_container(OmegaConf.load(tmp_path / "conf/data/waves.yaml"), resolve=True)
    data = build(node, DataSource, "data")
    monkeypatch.delitem(sys.modules, "my_lab.waves")
    spec = data.spec("all")
    assert (spec.inputs.shape, spec.outputs, spec.timings) == ((1,), 2, ((50, 10.0),))
    (batch, *_) = data.loader("all", "train", shuffle=True).batches()
    assert batch.inputs.shape == (32, 50, 1) and set(batch.targets.tolist()) == {0, 1}
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert "data=waves model=soen phase=single" in (ROOT / "docs/extending.md").read_text()


def test_the_documented_term_and_metric_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "my_lab/terms.py")
    monkeypatch.syspath_prepend(str(tmp_path / "my_lab"))
    terms = importlib.import_module("terms")
    monkeypatch.delitem(sys.modules, "terms")
    model, data = linear(), FakeData()
    model.register_buffer("mean_output", torch.zeros(()))
    objective = Objective(
        {"running_mean": terms.RunningMean()}, metrics={"confidence": terms.Confidence()}
    )
    objective.check(model, data.spec("fast"))
    (batch, *_) = data.loader("fast", "train").batches()
    loss = TrainStep(model, objective)(batch)
    values = model(batch.sequence(), dt_ms=1.0).values.mean(1)
    assert loss.total.item() == pytest.approx(values.square().mean().item())
    assert loss.updates["mean_output"].value == 0.01 * values.mean()
    confidence = values.softmax(1).amax(1).mean().item()
    assert terms.Confidence().value(loss.metrics["confidence"]) == pytest.approx(confidence)


def test_the_documented_curriculum_runs(tmp_path: Path) -> None:
    write(tmp_path, "conf/phase/there_and_back.yaml")
    small = ["model.channels=[4,4]", "model.strides=[2,2]", "model.dense_units=16"]
    output = launch(
        tmp_path, "phase=there_and_back", "experiment=ltgate_surrogate", *small,
        "phase.again.steps=2", "callbacks=[calibration]",
    )  # fmt: skip
    assert "again" in output
