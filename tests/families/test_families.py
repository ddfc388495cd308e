"""Families in one file each, brought by a user: tokens with a state, images, plastic weights.

Each trains, logs its metrics, resumes bit for bit after a SIGKILL, and runs on two processes,
without any code in neuro for it.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.e2e.helpers import fork, launch_here, launch_in_process, read, rows, weights

CONF = Path(__file__).with_name("conf")

FAMILIES = {
    "tokens": ("perplexity", "accuracy"),
    "text": ("perplexity", "bits_per_byte"),
    "images": ("psnr", "mae"),
    "plastic": ("accuracy",),
}
SMALL = {
    "plastic": (
        "data.limit_train=24", "data.limit_val=10", "data.limit_test=10", "data.batch_size=8",
        "data.timings.fast.duration_ms=8", "data.timings.slow.duration_ms=160",
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):  # three batches of 4 x 16 bytes in the training documents of `text`
        file = tmp_path / "corpus" / "ab"[number % 2] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number:2d} " * 7)


def arguments(family: str, run: Path | str, *more: str) -> list[str]:
    return [
        "--config-dir", str(CONF), f"experiment={family}", "tracking=none", "trainer.log.steps=1",
        "trainer.checkpoint.steps=1", f"hydra.run.dir={run}", *SMALL.get(family, ()), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_resumes_bit_for_bit_after_sigkill(family: str) -> None:
    done = launch_here(*arguments(family, "whole"))
    assert done.code == 0, done.err
    report = read(Path("whole"))
    for metric in FAMILIES[family]:
        assert f"test/{metric}" in report["metrics"]
    assert report["objective_metric"] == f"test/{FAMILIES[family][0]}"
    logged = Path("whole", "metrics.jsonl").read_text()
    assert ("train/tokens_per_s" in logged) == (family in ("tokens", "text"))
    killer = ("+callbacks.kill._target_=tests.families.interruption.KillOnce",)
    killed = fork(
        *arguments(family, "killed", *killer, "+callbacks.kill.step=4"),
        cwd=Path.cwd(), KILL_MARKER="marker",
    )  # fmt: skip
    assert killed.wait(120) == -signal.SIGKILL
    resumed = launch_here("--config-dir", str(CONF), "resume=killed")
    assert resumed.code == 0, resumed.err
    assert rows(Path("killed")) == rows(Path("whole"))
    for name, value in weights(Path("whole")).items():
        assert torch.equal(weights(Path("killed"))[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_runs_on_two_processes(family: str) -> None:
    for run, devices in (("one", 1), ("two", 2)):
        parallel = ("hardware=ddp", "hardware.device=cpu", f"hardware.devices={devices}")
        done = launch_in_process(*arguments(family, run, *parallel), cwd=Path.cwd())
        assert done.code == 0, done.err
    one, two = rows(Path("one")), rows(Path("two"))
    assert len(one) == len(two)
    for row, twin in zip(one, two, strict=True):
        assert row == pytest.approx(twin, rel=1e-4, abs=1e-5)
