"""The profiler: measurements, output files, and no change of results."""

from __future__ import annotations

import json
import pstats

import pytest

from neuro.config.build import build
from neuro.errors import ConfigError
from neuro.io import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.profiler import Profiler
from neuro.training.sections import Sections
from tests.fakes import TWO_PHASES, linear, make_trainer, rows, same_state


def profiled(directory, *, phases=TWO_PHASES, **options):
    profiler = Profiler(**options)
    trainer = make_trainer(directory, linear(), phases=phases, callbacks={"p": profiler})
    trainer.fit()
    return trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("plain"), linear(), phases=TWO_PHASES)
    trainer.fit()
    return trainer


@pytest.mark.parametrize("kind", ["simple", "advanced", "pytorch"])
def test_profiling_does_not_change_results(kind, plain, tmp_path):
    trainer = profiled(tmp_path, kind=kind)
    assert same_state(trainer.model.state_dict(), plain.model.state_dict())
    assert rows(tmp_path) == rows(plain.run_dir)
    assert type(trainer.sections) is Sections


def counts(directory):
    """Calls by (stage, part) in the simple table; its shares add up to 1 for each stage."""
    lines = [
        line.rsplit(maxsplit=4)
        for line in (directory / "profile/simple.txt").read_text().split("\n")[1:-1]
    ]
    found = {tuple(names.split(maxsplit=1)): (int(calls), float(share.rstrip("%")))
             for names, calls, _, _, share in lines}  # fmt: skip
    for stage in {stage for stage, _ in found}:
        total = sum(share for (of, _), (_, share) in found.items() if of == stage)
        assert total == pytest.approx(100, abs=0.5)
    return {key: calls for key, (calls, _) in found.items()}


def test_the_simple_table(tmp_path):
    """8 updates in the first phase, and two validations of two batches."""
    profiled(tmp_path, train_batches=3, validation_batches=3)
    assert counts(tmp_path) == {
        ("train", "data"): 3, ("train", "forward"): 3, ("train", "backward"): 3,
        ("train", "optimizer"): 3, ("train", "the rest"): 3, ("train", "checkpoint"): 1,
        ("validation", "data"): 4, ("validation", "forward"): 3, ("validation", "the rest"): 3,
    }  # fmt: skip


def test_more_batches_than_available(tmp_path):
    """All batches of the first phase are profiled, and its checkpoints."""
    profiled(tmp_path, train_batches=100, validation_batches=0)
    found = counts(tmp_path)
    assert found["train", "forward"] == 7  # without the first batch, which compiles kernels
    assert found["train", "checkpoint"] == 2
    assert not any(stage == "validation" for stage, _ in found)


def test_slow_parts_are_found(tmp_path):
    """The time is attributed to the part that took it."""
    import time

    class Slow(Callback):
        def on_step(self, trainer, metrics):
            time.sleep(0.05)

    profiler = Profiler(train_batches=2, validation_batches=0)
    make_trainer(tmp_path, linear(), callbacks={"p": profiler, "slow": Slow()}).fit()
    first = (tmp_path / "profile/simple.txt").read_text().split("\n")[1]
    assert first.startswith("train       the rest")


def test_the_advanced_tables(tmp_path):
    profiled(tmp_path, kind="advanced", train_batches=2, validation_batches=1, rows=200)
    train = (tmp_path / "profile/advanced-train.txt").read_text()
    validation = (tmp_path / "profile/advanced-validation.txt").read_text()
    assert train.startswith("2 batches") and "(update)" in train
    assert "(update)" not in validation and "(pool)" in validation
    stats = pstats.Stats(str(tmp_path / "profile/advanced-train.prof"))
    assert stats.total_calls > 100  # type: ignore[attr-defined]
    short = profiled(tmp_path / "short", kind="advanced", rows=3).run_dir
    assert len((short / "profile/advanced-train.txt").read_text()) < len(train)


def test_the_torch_trace(tmp_path):
    options = {"kind": "torch", "train_batches": 2, "validation_batches": 1}
    profiled(tmp_path / "a", **options, memory=False)
    trace = json.loads((tmp_path / "a/profile/trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in trace if event.get("ph") == "X"]
    assert names.count("train: forward") == 2
    assert "validation: data" in names and "aten::linear" in names
    table = (tmp_path / "a/profile/torch.txt").read_text()
    assert table.startswith("2 batches of train, 1 batches of validation")
    assert "CPU Mem" not in table and "Input Shapes" not in table
    profiled(tmp_path / "b", **options, memory=True, shapes=True, stacks=True)
    table = (tmp_path / "b/profile/torch.txt").read_text()
    assert "CPU Mem" in table and "Input Shapes" in table
    assert "trainer.py" in (tmp_path / "b/profile/trace.json").read_text()
    assert "trainer.py" not in (tmp_path / "a/profile/trace.json").read_text()


def test_a_finished_profile_is_not_repeated(tmp_path):
    trainer = profiled(tmp_path / "whole", train_batches=2)
    path = tmp_path / "whole" / "checkpoints" / "one-final.safetensors"
    state = checkpoint.load(path)
    again = make_trainer(
        tmp_path / "again", linear(), phases=TWO_PHASES, state=state, callbacks={"p": Profiler()}
    )
    again.fit(state)
    assert not (tmp_path / "again" / "profile").exists()
    assert same_state(again.model.state_dict(), trainer.model.state_dict())


def test_no_batches_to_profile():
    target = "neuro.training.callbacks.profiler.Profiler"
    node = {"_target_": target, "train_batches": 0, "validation_batches": 0}
    with pytest.raises(ConfigError, match="callbacks.profiler: train_batches, validation_batches"):
        build(node, Callback, "callbacks.profiler")
