"""`python -m neuro data make|inspect`, and the options in conf/data."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf

from neuro.__main__ import main
from neuro.config.build import build
from neuro.data.base import DataSource
from neuro.data.cli import CONF, inherited
from neuro.data.images.digits import DigitImages
from neuro.data.images.temporal import TemporalImages
from neuro.errors import ConfigError
from tests.data.helpers import numbered, write_hdf5, write_mnist

OPTIONS = ("temporal_digits", "temporal_mnist", "hdf5")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURO_DATA", str(tmp_path / "cache"))


def option(name: str, *overrides: str) -> dict:
    node = OmegaConf.merge(
        *inherited(CONF / f"{name}.yaml"), OmegaConf.from_dotlist(list(overrides))
    )
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


@pytest.mark.parametrize("name", OPTIONS)
def test_options_name_every_key_with_its_default(name: str) -> None:
    config = option(name, *(["path=a.h5"] if name == "hdf5" else []))
    source = build(config, DataSource, "data")
    parameters = inspect.signature(type(source)).parameters
    assert {key for key in config if key != "_target_"} == set(parameters)
    for key, parameter in parameters.items():
        if key not in ("root", "path", "images", "timings", "tasks"):
            assert config[key] == parameter.default


def test_the_digits_option_equals_the_defaults() -> None:
    built = build(option("temporal_digits"), DataSource, "data")
    assert isinstance(built, TemporalImages)
    plain = TemporalImages(images=DigitImages())
    assert built.timings == plain.timings
    assert built.definitions == plain.definitions
    assert built.root == plain.root


def test_files_per_task_can_be_configured() -> None:
    files = "tasks={a: {train: 1.h5, test: 2.h5}, b: {train: 3.h5, val: 4.h5, test: 5.h5}}"
    assert build(option("hdf5", files), DataSource, "data").tasks == ("a", "b")
    with pytest.raises(ConfigError, match=r"data\.tasks\.a\.tests: unknown key"):
        build(option("hdf5", files.replace("test: 2", "tests: 2")), DataSource, "data")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("timings.slow.rate=3", r"data.timings.slow.rate: unknown key"),
        ("timings.slow.rate_hz=-1", r"data.timings.slow.rate_hz: got -1"),
        ("timings.slow.duration_ms=30", r"data.timings.slow.*30 ms at 50 Hz are 1.5 frames"),
        ("tasks.fast.classes=[a]", r"data.tasks.fast.classes.0"),
        ("tasks.fast.classes=[]", r"data.tasks.fast.classes"),
        ("coding=rate", r"data.coding: got 'rate'"),
        ("batch_size=0", r"data.batch_size: got 0"),
        ("batch_size=2.5", r"data.batch_size: got 2.5"),
        ("val_fraction=1.0", r"data.val_fraction: got 1.0"),
        ("in_memory=maybe", r"data.in_memory"),
        ("limit_train=0", r"data.limit_train: got 0"),
        ("jitter=1", r"data.jitter: unknown key.*Did you mean 'jitter_px'"),
        ("tasks.fast.timing=quick", r"data.tasks.fast.timing: no timing 'quick'"),
    ],
)
def test_wrong_keys_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(option("temporal_digits", override), DataSource, "data")


def test_make_prints_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "temporal_digits", "tasks.all=null", "limit_val=7"]) == 0
    printed = capsys.readouterr().out
    assert "fast: 1 x 8 x 8, 200 x 1 ms, class, classes 0, 1, 2, 3, 4" in printed
    assert "all:" not in printed
    assert "577 of 200 frames, held at 1000 Hz in" in printed
    assert "val        7 samples" in printed
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    assert all(str(file) in printed for file in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "temporal_digit"], "no such option.*Did you mean 'temporal_digits'"),
        (["make", "temporal_digits", "batch_size"], "'batch_size': expected key=value"),
        (["make", "temporal_digits", "batch_size=x"], "data.batch_size: got 'x'"),
        (["make", "temporal_digits", "root=${nowhere}"], "nowhere"),
        (["make", "hdf5"], "give either one file or files for each task"),
        (["make", "temporal_mnist"], "mnist: no such folder"),
        (["inspect", "nothing.h5"], r"nothing\.h5: no such file"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["data", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert re.search(message, printed.err)


def test_inspect_hdf5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"train": numbered(8), "test": numbered(4)},
                      frame_rate=50.0)  # fmt: skip
    assert main(["data", "inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "train: 8 samples",
        "data float32 [8, 3, 2]",
        "50 Hz, dt 20 ms, 3 frames",
        "values 0",
        "4 classes (0: 2, 1: 2, 2: 2, 3: 2)",
        "well-formed for neuro",
        f"python launch.py model=soen phase=single data=hdf5 data.path={path}\n",
    ):
        assert text in printed


KINDS = {
    "class": (np.arange(8) % 3, ["supervised, seq2static", "distillation, seq2static"], ""),
    "class_sequence": (
        np.arange(24).reshape(8, 3) % 5,
        ["supervised, seq2seq", "distillation, seq2seq"],
        "objective.mapping=seq2seq",
    ),
    "value": (np.ones(8), ["supervised, seq2static", "distillation, seq2static"], "'loss=[mse]'"),
    "class_map": (
        np.ones((8, 5, 2), bool),
        ["supervised, none"],
        "objective.mapping=none",
    ),
    "image": (
        np.ones((8, 5, 2)),
        ["supervised, none"],
        "objective.mapping=none 'loss=[mse]'",
    ),
    "value_sequence": (
        np.ones((8, 3, 2)),
        ["supervised, seq2seq", "distillation, seq2seq"],
        "objective.mapping=seq2seq 'loss=[mse]'",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_lists_what_can_be_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    labels, ways, overrides = KINDS[kind]
    content = {"data": numbered(8)["data"], "labels": labels}
    path = write_hdf5(tmp_path / "a.h5", {"train": content})
    assert main(["data", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("what can be learned"))
    lines = lines[start + 1 :]
    found = [line.strip().partition(", by ")[0] for line in lines[::2]]
    assert sorted(found) == sorted([*ways, "self_supervised, seq2seq"])
    command = f"python launch.py model=soen phase=single data=hdf5 data.path={path}"
    if "none" in overrides:
        command = command.replace("soen", "MODEL")
    assert lines[1].strip() == f"{command} {overrides}".strip()
    assert len(ways) == 1 or "teacher=" in lines[2 * found.index(ways[1]) + 1]


def test_inspect_symbols_and_wrong_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    symbols = np.arange(24).reshape(8, 3) % 4
    path = write_hdf5(tmp_path / "a.h5", {"": {"data": symbols}}, frame_rate=1.0)
    assert main(["data", "inspect", str(path)]) == 0
    assert (
        "data.input_encoding=one_hot objective.paradigm=self_supervised "
        "objective.mapping=seq2seq 'loss=[autoregressive_cross_entropy]'"
    ) in capsys.readouterr().out
    for wrong in ({"data": np.ones((8, 3))}, {**numbered(8), "labels": np.ones((7, 2))}):
        path = write_hdf5(tmp_path / "b.h5", {"": wrong}, frame_rate=1.0)
        assert main(["data", "inspect", str(path)]) == 2
        printed = capsys.readouterr().err
        assert "supervised, seq2seq: data [N, T, D], labels [N, T] int" in printed
        assert "data float64 [8, 3]" in printed or "labels float64 [7, 2]" in printed


def test_inspect_reports_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = numbered(8)
    content["data"][3] = np.nan
    path = write_hdf5(tmp_path / "a.h5", {"": content}, classes=[0, 1])
    assert main(["data", "inspect", str(path)]) == 2
    printed = capsys.readouterr().err
    for text in (
        "not usable as it is",
        "first in sample 3",
        "label 2 of sample 2 of labels is outside the classes (0, 1)",
        "supervised, seq2static: data [N, T, D], labels [N] int",
        "self_supervised, seq2seq: data [N, T] int",
    ):
        assert text in printed
    foreign = write_hdf5(tmp_path / "b.h5", {"x": {"y": np.zeros(3)}})
    assert main(["data", "inspect", str(foreign)]) == 2
    assert "x/y float64 [3]" in capsys.readouterr().err
    foreign.write_text("text")
    assert main(["data", "inspect", str(foreign)]) == 2
    assert "neither HDF5 nor IDX nor .ts" in capsys.readouterr().err


def test_inspect_a_directory_and_unread_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": {**numbered(8), "targets": np.zeros(8)}})
    assert main(["data", "inspect", str(path)]) == 0
    assert "not read: targets\n" in capsys.readouterr().out
    assert main(["data", "inspect", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "expected a file (HDF5, IDX, .ts) or a folder of tokens. It holds a.h5." in printed
    assert "data make data=text path=" in printed


def test_the_example_replaces_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.h5"
    assert main(["data", "example", str(path), "--steps", "2"]) == 0
    written = path.stat().st_mtime_ns
    assert main(["data", "example", str(path), "--steps", "2"]) == 0  # the file exists already
    assert path.stat().st_mtime_ns == written
    assert main(["data", "example", str(path), "--steps", "3"]) == 2
    assert "exists already. Choose another name, or replace it with --over" in (
        capsys.readouterr().err
    )
    assert main(["data", "example", str(path), "--steps", "3", "--overwrite"]) == 0
    assert main(["data", "example", str(tmp_path), "--overwrite"]) == 2


def test_inspect_files_of_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TemporalImages(images=DigitImages()).prepare()
    for path in (tmp_path / "cache").iterdir():
        assert main(["data", "inspect", str(path)]) == 0
        printed = capsys.readouterr().out
        assert "well-formed for neuro" in printed
        assert "one frame held for" in printed
        with h5py.File(path) as file:
            assert str(file.attrs["generator"]) in printed


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_inspect_idx(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    folder = write_mnist(tmp_path / "idx", suffix=suffix)
    assert main(["data", "inspect", str(folder / f"train-images-idx3-ubyte{suffix}")]) == 0
    assert "IDX" in (printed := capsys.readouterr().out)
    assert "uint8 [60, 6, 6]" in printed
    assert f"data=temporal_mnist data.images.path={folder}" in printed
    assert main(["data", "inspect", str(folder / f"t10k-labels-idx1-ubyte{suffix}")]) == 0
    assert "10 classes (0: 2, 1: 2" in capsys.readouterr().out


def test_inspecting_a_file_does_not_import_torch(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": numbered(8)}, frame_rate=1)
    code = (
        "import sys; from neuro.__main__ import main\n"
        "assert 'h5py' not in sys.modules\n"
        f"main(['data', 'inspect', {str(path)!r}])\n"
        "assert not {'torch', 'omegaconf', 'pydantic', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), (["data", "--help"], 0), ([], 2), (["data"], 2)):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == code
    assert "make data files, or look into one" in capsys.readouterr().out
