"""Bad input ends before training with exit code 2, one helpful message and no files."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from neuro.io import checkpoint
from tests.data.helpers import write_idx
from tests.e2e.helpers import ROOT, SINGLE, TINY, launch_here, launch_in_process, read

PLUGINS = "tests.e2e.plugins"


def message(*arguments: str, base: tuple[str, ...] = TINY) -> str:
    """The error message of a launch that must fail without traceback and without any run."""
    done = launch_here(*base, *arguments)
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    assert "Error executing job" not in done.err
    assert "update" not in done.out
    assert done.err.count("Error: ") == 1
    text = done.err.partition("Error: ")[2].strip()
    assert text
    assert not list(Path().rglob("run_meta.json"))
    assert not Path("outputs").exists() or not any(Path("outputs").iterdir())
    return text


COMPOSITION = {
    "model=ltgat": [
        "model: there is no option 'ltgat'",
        "dsdsnn, fno, gru, gru_lm, hlop",
        "'ltgate'?",
    ],
    "scenario=null": ["scenario=null: name an option of the group, or leave", "'~scenario'"],
    "callbacks=[calibraton]": ["callbacks: there is no option", "Did you mean 'calibration'?"],
    "hydra/sweeper=optun": ["hydra/sweeper: there is no option 'optun'", "Did you mean 'optuna'?"],
    "loss=nothing": ["loss: there is no option 'nothing'", "cross_entropy"],
    "optimzer=adam": ["'optimzer'", "Did you mean 'optimizer'?"],
    "seeed=1": ["'seeed'", "Did you mean 'seed'?"],
    "model.neuron.tau_fst_ms=3": [
        "model.neuron.tau_fst_ms",
        "tau_slow_ms",
        "Did you mean 'tau_fast_ms'?",
    ],
    "data.timings.fast.rate=3": ["data.timings.fast.rate", "Did you mean 'rate_hz'?"],
    "phase.task1.epoch=3": ["phase.task1.epoch", "Did you mean 'epochs'?"],
    "phase.task3.epochs=3": ["phase.task3", "task1, task2", "Did you mean 'task"],
    "model.channels=[": ["model.channels=[", "not a valid override"],
    "name=${nothing}": ["Interpolation key 'nothing' not found"],
    "seed=0,1": ["seed: got several values, 0,1. Add -m", "a list is 'seed=[0,1]'"],
    "optimizer=adamw,lion": ["optimizer: got several values, adamw,lion. Add -m for one run"],
    "modle=lif": ["'modle'", "Did you mean 'model'?"],
    "tracking.tensorboard.flush_every_s=1": ["Add it: tracking=[...,tensorboard]"],
    "--config-name=other": ["--config-name: neuro has one root config", "--config-dir=DIR"],
    "--experimental-rerun=x.pickle": ["--experimental-rerun: unpickles", "resume=RUN"],
    "name=../../x": ["name: got '../../x'; expected a folder under runs_dir"],
    "name='a\tb'": ["name: got 'a\\tb'; expected a folder under runs_dir: printable characters"],
    "name=2026": ["name: got 2026; input should be a valid string"],
    "seed=99999999999999999999": ["seed: got 99999999999999999999; integers have at most 63 bits"],
    "seed=9223372036854775807": ["seed: got 9223372036854775807; input should be less than"],
    "tags=null": ["tags: got null; input should be a list"],
    "model.channels=[]": ["model.channels: got []; expected at least 1 item"],
    "model=null": ["model=null: name an option of the group"],
}


@pytest.mark.parametrize("override", COMPOSITION)
def test_composition(override: str) -> None:
    text = message(override)
    for part in COMPOSITION[override]:
        assert part in text
    assert "To append to your config" not in text
    assert "\n" not in text


#: problems of different keys, all reported by one launch
TOGETHER: list[dict[str, list[str]]] = [
    {
        "+model.neuron.tau_fst_ms=3": [
            "model.neuron.tau_fst_ms: unknown key",
            "Did you mean 'tau_fast_ms'?",
        ],
        "+phase.task1.epoch=3": ["phase.task1.epoch: unknown key", "Did you mean 'epochs'?"],
        "+trainer.log.step=3": ["trainer.log.step: unknown key"],
        "+seeed=3": ["seeed: unknown key", "Did you mean 'seed'?"],
        "+hardware.devics=2": ["hardware.devics: unknown key", "Did you mean 'devices'?"],
        "+model.spec=3": ["model.spec: is set by the program"],
        "model.neuron.tau_slow_ms=abc": ["model.neuron.tau_slow_ms: got 'abc'", "number"],
        "model.neuron.tau_fast_ms='5'": ["model.neuron.tau_fast_ms: got '5'", "number"],
        "data.batch_size=1.5": ["data.batch_size: got 1.5", "integer"],
        "seed=true": ["seed: got true", "integer"],
        "mode=evaluat": ["mode: got 'evaluat'", "Did you mean 'evaluate'?"],
        "optimizer.lr=nan": ["optimizer.lr: got nan", "finite"],
        "hardware.device=tpu": ["hardware.device: got 'tpu'", "'auto', 'cpu' or 'gpu'"],
    },
    {
        "model.neuron.tau_fast_ms=-1": ["model.neuron.tau_fast_ms: got -1", "greater than 0"],
        "model.neuron.gate.gamma=1.5": [
            "model.neuron.gate.gamma: got 1.5",
            "less than or equal to 1",
        ],
        "model.neuron.gate.kind=varianc": [
            "model.neuron.gate.kind: got 'varianc'",
            "Did you mean 'variance'?",
        ],
        "seed=-1": ["seed: got -1", "greater than or equal to 0"],
        "trainer.log.steps=0": ["trainer.log.steps: got 0", "greater than 0"],
        "data.limit_train=0": ["data.limit_train: got 0"],
        "optimizer.lr=inf": ["optimizer.lr: got inf", "finite"],
        "hardware.devices=0": ["hardware.devices: got 0"],
    },
    {
        "mode=evaluate": ["mode=evaluate needs run=<directory of a finished run>"],
        "model._target_=os.path.join": ["model._target_", "'os.path.join'", "CoreModel"],
        "optimizer._target_=torch.optim.Adam": ["optimizer._target_", "OptimizerFactory"],
        "hardware._target_=neuro.hardware.host.Hst": ["no 'Hst'", "Did you mean 'Host'?"],
        "scheduler._target_=nothing.at.All": ["scheduler._target_", "no module 'nothing'"],
        "objective._target_=Objective": ["objective._target_", "not a dotted path"],
    },
    {
        "phase.task1.task=quick": ["phase.task1.task: the data has no task 'quick'", "fast, slow"],
        "phase.task2.evaluate=[fast,slo]": ["phase.task2.evaluate", "Did you mean 'slow'?"],
        "phase.task2.steps=5": ["phase.task2: give either epochs or steps"],
        f"model._target_={PLUGINS}.Unfinished": ["does not implement", "forward", "initial_state"],
        "+phase.task2.optimizer.rate=1": ["phase.task2.optimizer.rate: unknown key", "lr"],
    },
    {
        "optimizer.groups={readot.*:{lr:1.0}}": ["optimizer.groups: no parameter matches"],
        "phase.task1.freeze=[layer]": ["phase.task1.freeze: no parameter matches 'layer'"],
        "+phase.task1.flags.memory=true": ["phase.task1.flags.memory", "no such phase flag"],
    },
    {
        "trainer.monitor=val/acc": ["trainer.monitor", "'val/acc'", "'val/accuracy'?"],
        "trainer.objective=test/quick/loss": ["trainer.objective", "test/fast/loss"],
    },
    {"callbacks.weight_bounds.minimum=3": ["callbacks.weight_bounds: minimum (3.0)", "maximum"]},
    {"model.strides=[1]": ["model: channels has 3 entries and strides 1"]},
    {"hardware.strategy=ddpp": ["hardware.strategy: got 'ddpp'", "Did you mean 'ddp'?"]},
]


@pytest.mark.parametrize("cases", TOGETHER, ids=lambda cases: next(iter(cases)))
def test_config(cases: dict[str, list[str]]) -> None:
    text = message(*cases)
    for override, parts in cases.items():
        for part in parts:
            assert part in text, override
    if len(cases) > 1:
        assert text.startswith(f"{len(cases)} problems in the configuration:")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ("scheduler=cosine", "scheduler.warmup=1.5"),
            ["scheduler.warmup.fraction: got 1.5", "less than or equal to 1"],
        ),
        (
            ("scheduler=linear", "scheduler.warmup={epoch:1}"),
            ["scheduler.warmup.epoch: unknown key", "Did you mean 'epochs'?"],
        ),
        (
            ("scheduler=rex", "scheduler.warmup={steps:9000}"),
            ["phase.task1.scheduler.warmup: takes 9000 updates", "the phase has only"],
        ),
        (
            ("scheduler=greedy", "trainer.validation.epochs=null"),
            ["'task1' Greedy reacts to val/accuracy", "set trainer.validation.epochs=1"],
        ),
        (("scheduler=sgdr", "scheduler.cycle=0"), ["scheduler.cycle", "longer than 0"]),
        (("optimizer.lr=aut",), ["optimizer.lr: got 'aut'", "number", "'auto'"]),
        (
            ("mode=lr_find", "trainer.lr_find.max_lr=1e-9"),
            ["trainer.lr_find: ", "min_lr (1e-07) must be below max_lr (1e-09)"],
        ),
        (("mode=lr_fnd",), ["mode: got 'lr_fnd'", "Did you mean 'lr_find'?"]),
    ],
)
def test_learning_rates(overrides: tuple[str, ...], parts: list[str]) -> None:
    text = message(*overrides)
    for part in parts:
        assert part in text


def test_sequences_and_what_changes_over_training() -> None:
    text = message("trainer.tbptt={length:4,stride:5}", "trainer.stateful.take=frist")
    assert "trainer.tbptt: got {'length': 4, 'stride': 5}" in text
    assert "a stride of 5 leaves out frames between chunks of 4" in text
    assert "Did you mean 'first'?" in text
    text = message("hardware=loihi2", "trainer.stateful.test=true", "phase.task1.carry.state=true")
    assert "trainer.stateful.test: Loihi2 starts every test sample from the initial state" in text
    assert "phase.task1.carry.state: no state is kept from batch to batch" in text
    text = message("trainer.tbptt={lenght:4}")
    assert "trainer.tbptt.lenght: unknown key" in text
    assert "Did you mean 'length'?" in text
    pooling = "objective.pooling={kind: mean_last_n, n: 8}"
    text = message("trainer.tbptt={length:4}", pooling, "data.timings.fast.duration_ms=8")
    assert "objective.pooling.n: got 8, but with trainer.tbptt the last chunk" in text
    text = message(
        "callbacks=[loss_weights,noise,quantisation]",
        "callbacks.loss_weights.target=loss.hebbia",
        "callbacks.noise.sources=[{where:weights,names:[lyers.*]}]",
        "callbacks.quantisation.parameters=[reado]",
    )
    assert "callbacks.loss_weights.target: got 'loss.hebbia'" in text
    assert "Did you mean 'hebbian'?" in text
    assert "callbacks.noise.sources.0.names: nothing matches 'lyers.*'. The model has:" in text
    assert "callbacks.quantisation.parameters: nothing matches 'reado'" in text
    text = message("callbacks=[noise]", "callbacks.noise.sources=[{where:inputs,stat:0.1}]")
    assert "callbacks.noise.sources.0.stat: unknown key" in text
    assert "Did you mean 'start'?" in text
    text = message("callbacks=[noise]", "callbacks.noise.sources=[{where:weights}]")
    assert "noise on weights needs names" in text


def test_run_needs_a_mode_for_finished_runs(finished: Path) -> None:
    assert "run: is for mode=evaluate, predict, generate, export and benchmark" in message(
        f"run={finished}", base=()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("override", ["hardware=gpu", "hardware.device=gpu"])
def test_no_gpu(override: str) -> None:
    assert "finds no GPU on this machine. Use hardware=cpu" in message(override)


@pytest.mark.parametrize("key", ["runs_dir", "hydra.run.dir"])
def test_unwritable_output(key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = message(f"{key}={tmp_path / 'file' / 'below'}")
    assert str(tmp_path / "file" / "below") in text
    assert "Set runs_dir or hydra.run.dir to a writable directory" in text


def test_a_directory_that_holds_a_run(finished: Path) -> None:
    before = read(finished)
    done = launch_here(*TINY, f"hydra.run.dir={finished}")
    assert done.code == 2
    assert f"holds a run already. Continue it with resume={finished}" in done.err
    assert read(finished) == before


# -- data -----------------------------------------------------------------------------------------


def hdf5(path: Path, *, labels: int = 3, **attributes: object) -> Path:
    """A small file of a user's sequences."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"frame_rate": 100.0, **attributes})
        for split in ("train", "val", "test"):
            file[f"{split}/data"] = np.random.default_rng(0).random((12, 4, 1, 4, 4), np.float32)
            file[f"{split}/labels"] = np.arange(12) % labels
    return path


HDF5 = (*SINGLE[3:4], *SINGLE[6:], "data=hdf5", "phase.task1.task=all")


def broken_hdf5(kind: str, path: Path) -> None:
    match kind:
        case "truncated":
            content = hdf5(path).read_bytes()
            path.write_bytes(content[: len(content) // 2])
        case "foreign":
            path.write_bytes(b"PK\x03\x04 a zip file")
        case "other content":
            with h5py.File(path, "w") as file:
                file["measurements"] = np.zeros(3)
        case "labels":
            hdf5(path, labels=5, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("missing", ["no such file"]),
        ("truncated", ["damaged or truncated"]),
        ("foreign", ["not an HDF5 file", "PK"]),
        ("other content", ["measurements", "expected groups train, val, test"]),
        ("labels", ["label 3", "outside the classes (0, 1, 2)"]),
    ],
)
def test_hdf5(kind: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    broken_hdf5(kind, path)
    text = message(f"data.path={path}", base=HDF5)
    assert str(path) in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("missing", ["train-images", "none of"]),
        ("truncated", ["train-images", "truncated"]),
        ("foreign", ["train-images", "begins with 0x", "expected 0x00000803"]),
        ("labels", ["train-labels", "label 12"]),
    ],
)
def test_idx(kind: str, parts: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", rng.integers(0, 255, (40, 6, 6)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(40) % 10)
    images = tmp_path / "train-images-idx3-ubyte"
    match kind:
        case "missing":
            images.unlink()
        case "truncated":
            images.write_bytes(images.read_bytes()[:-5])
        case "foreign":
            images.write_bytes(b"\x89PNG" + bytes(100))
        case "labels":
            write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(40) % 13)
    text = message("data=temporal_mnist", f"data.images.path={tmp_path}")
    for part in parts:
        assert part in text


# -- other runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["init_from", "resume"])
def test_no_such_run(key: str, tmp_path: Path) -> None:
    assert f"{key}=nowhere: nowhere: there is no such run" in message(f"{key}=nowhere")
    text = message(f"{key}={tmp_path}")
    assert "not a run directory: run_meta.json and config.yaml missing" in text


def test_no_latest() -> None:
    assert "outputs: there is no completed run to take" in message("init_from=latest")


def test_a_folder_of_runs(task1: Path) -> None:
    text = message(f"init_from={task1.parent}")
    assert "Runs in it" in text


def test_another_architecture(task1: Path) -> None:
    text = message(f"init_from={task1}", "model.dense_units=8")
    assert "from another architecture; these tensors differ" in text
    assert "layers.dense.threshold" in text or "layers.dense" in text
    assert "init_strict=false" in text
    assert "conv1" not in text


def test_an_unknown_checkpoint(task1: Path) -> None:
    text = message(f"init_from={task1}", "checkpoint=bst")
    assert "has no 'bst'. It has: best, last" in text
    assert "Did you mean 'best'?" in text


def test_weights_of_a_model_file(task1: Path) -> None:
    Path("x.pt").write_bytes(b"PK")
    text = message("init_from=x.pt")
    assert "Give a run, one of its checkpoints or its model.safetensors" in text
    file = task1 / "model.safetensors"
    done = launch_here(*SINGLE, f"init_from={file}", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert f"Starting from the weights of {file}" in done.out


def test_a_multirun_with_a_flag_before_the_run(task1: Path) -> None:
    done = launch_here("-m", "mode=evaluate", f"run={task1}", "checkpoint=best,last")
    assert done.code == 0, done.err
    assert len(list(Path("multirun").rglob("report.json"))) == 2


def test_a_file_that_is_no_checkpoint(task1: Path) -> None:
    text = message("mode=predict", f"run={task1}", "checkpoint=/etc/passwd", base=())
    assert "has no '/etc/passwd'. It has: best, last" in text
    assert "A file must be a checkpoint, <run>/checkpoints/<name>.safetensors" in text


def test_all_checkpoints_deleted(task1: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(task1, tmp_path / "copy"))
    shutil.rmtree(run / "checkpoints")
    done = launch_here("mode=evaluate", f"run={run}")
    assert done.code == 2
    assert "has no 'last'. It has: none" in done.err
    meta = read(run, "run_meta.json")
    (run / "run_meta.json").write_text(json.dumps(meta | {"status": "interrupted"}))
    (run / "report.json").unlink()
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.err
    assert "has no checkpoint, although it has logged 6 updates" in done.out


def test_an_unfinished_run_is_evaluated_with_a_warning(task1: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(task1, tmp_path / "copy"))
    meta = read(run, "run_meta.json")
    (run / "run_meta.json").write_text(json.dumps(meta | {"status": "interrupted"}))
    done = launch_here("mode=evaluate", f"run={run}")
    assert done.code == 0, done.err
    assert f"{run} is interrupted: its training has not ended" in done.out


def damage(path: Path) -> None:
    """Flip bits in the middle of a file."""
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 8):
        content[i] ^= 0xFF
    path.unlink()  # a hard link to it keeps its content
    path.write_bytes(content)


def test_a_corrupted_checkpoint(task1: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(task1, tmp_path / "copy"))
    last = run / "checkpoints" / "last.safetensors"
    damage(last)
    done = launch_here("mode=evaluate", f"run={run}")
    assert done.code == 0
    assert f"{last}: " in done.out
    assert "Using previous-last.safetensors instead" in done.out
    damage(checkpoint.previous(last))
    done = launch_here("mode=evaluate", f"run={run}")
    assert done.code == 2
    assert "last.safetensors" in done.err
    assert "previous-last.safetensors" in done.err
    assert "Traceback" not in done.err


def test_a_damaged_description(task1: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(task1, tmp_path / "copy"))
    (run / "run_meta.json").write_text('{"run_id": ')
    done = launch_here("mode=evaluate", f"run={run}")
    assert done.code == 2
    assert f"{run / 'run_meta.json'}: cannot be read" in done.err


# -- user components ------------------------------------------------------------------------------


def test_a_users_own_model() -> None:
    done = launch_here(*SINGLE, f"model._target_={PLUGINS}.OwnModel", "hydra.run.dir=own")
    assert done.code == 0, done.err
    assert read(Path("own"))["objective"] >= 0


def test_out_of_memory() -> None:
    done = launch_here(*SINGLE, f"model._target_={PLUGINS}.OutOfMemory", "hydra.run.dir=big")
    assert done.code == 4
    assert re.search(
        r"Out of memory after update \d; everything up to update \d was saved", done.err
    )
    assert "data.batch_size=4 with trainer.accumulate=2" in done.err
    assert "python launch.py resume=" in done.err
    assert "Traceback" not in done.err
    assert read(Path("big"), "run_meta.json")["status"] == "failed"
    advice = ("resume=big", "data.batch_size=4", "trainer.accumulate=2")
    done = launch_here(*advice)
    assert done.code == 0, done.err
    meta = read(Path("big"), "run_meta.json")
    assert meta["status"] == "completed"
    assert meta["resumed"][0]["changes"] == {"data.batch_size": 4, "trainer.accumulate": 2}


# -- as a process ---------------------------------------------------------------------------------


def test_a_process_that_fails(tmp_path: Path) -> None:
    done = launch_in_process(*TINY, "optimizer.lr=nan", cwd=tmp_path)
    assert done.code == 2
    assert done.err.strip() == (
        "Error: optimizer.lr: got nan; input should be a finite number, or input should be 'auto'."
    )
    assert done.out == ""
    assert not list(tmp_path.iterdir())  # not even a directory is left


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_tracebacks_on_demand(value: str, shown: bool, tmp_path: Path) -> None:
    done = launch_in_process(*TINY, "model=ltgat", cwd=tmp_path, HYDRA_FULL_ERROR=value)
    assert done.code == 2
    assert ("Traceback" in done.err) == shown
    assert "Did you mean 'ltgate'?" in done.err


def test_a_job_of_a_multirun() -> None:
    done = launch_here("-m", *TINY, "optimizer.lr=0.1,nan")
    assert done.code == 2
    assert "Error: optimizer.lr: got nan" in done.err
    assert "(job optimizer.lr=nan)" in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())  # the first job has not begun either


#: invalid values of any kind, one per process
APART = (
    "callbacks.weight_bounds.maximum=\"a='b, c' äöü\"",
    "data.batch_size=[]",
    "seed=1.5",
    "name=''",
    "data.val_fraction=nan",
    "optimizer.betas={unknown:1}",
    "mode='~train'",
    "repeats=0",
    "tags=x",
    "project=null",
    "init_strict=null",
    "teacher_mixtures=1e300",
    "model.channels=[[x]]",
    "data.image_size=4611686018427387904",
    "model.neuron.tau_fast_ms=-inf",
    "model.neuron.surrogate.slope=0",
    "model.neuron.gate='~x'",
    "model.readout_layers=[]",
    "data.timings.fast.duration_ms=1e30",
    "data.timings.fast.rate_hz=null",
    "data.tasks.fast.classes=[]",
    "data.tasks.slow.timing=ä",
    "trainer.log={steps:x}",
    "trainer.monitor=\"~val/a=b\"",
    "trainer.accumulate=100000000000000000000000000",
    "phase.task1.epochs=null",
    "phase.task1.task=[]",
    "phase.task2.freeze='a=b, c'",
    "hardware.devices=true",
    "scheduler._target_=''",
)  # fmt: skip


def refused_in_process(override: str, cwd: Path) -> None:
    """Assert that a process ends with one message about the override's key and leaves no files."""
    done = launch_in_process(
        *TINY, "callbacks=[weight_bounds]", override, cwd=cwd, NEURO_DATA=str(cwd)
    )
    key = override.partition("=")[0]
    assert done.code == 2, done.out + done.err
    message = done.err.strip()
    assert message.startswith("Error: ")
    assert "\n" not in message
    assert key in message or key.rpartition(".")[2] in message
    assert "Traceback" not in message
    assert not any(path.suffix != ".h5" for path in cwd.iterdir())
    assert not any(cwd.rglob("run_meta.json"))


@pytest.mark.parametrize("override", APART[:2])
def test_wrong_values_in_a_process(override: str, tmp_path: Path) -> None:
    refused_in_process(override, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("override", APART[2:])
def test_more_wrong_values_in_a_process(override: str, tmp_path: Path) -> None:
    refused_in_process(override, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        ["launch.py", *TINY, "phase.task1.epochs=null"],
        ["-m", "neuro", "litho", "kernels", "kernels.h5", "--na", "7"],
        ["-m", "neuro", "data", "make", "no_kind"],
    ],
    ids=["launch", "litho", "data"],
)
def test_errors_are_reported_within_a_second_of_importing_torch(wrong: list[str]) -> None:
    imported, answered = (
        min(cpu_seconds([sys.executable, *arguments]) for _ in range(3))
        for arguments in (["-c", "import torch"], wrong)
    )
    assert answered < imported + 1.0


def cpu_seconds(command: Sequence[str]) -> float:
    """CPU time of a process, which does not depend on the load of the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
