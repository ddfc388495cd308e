"""The pages on techniques and guides are up to date, and all their commands work."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from neuro.__main__ import main
from neuro.errors import CriteriaNotMet
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from tests.analysis.helpers import finish
from tests.e2e.helpers import (
    launch_here,
    launch_in_process,
    load,
    read,
    rows,
    same_weights,
    weights,
)
from tests.test_conf import check, compose

ROOT = Path(__file__).resolve().parents[1]
FIVE = ("first", "second", "third", "fourth", "fifth")
PRESETS = ("quick_baseline", "limited_memory", "max_accuracy", "fast_iteration", "production")
#: overrides that reduce a command to about a second
SMALL = (
    "data.limit_train=24", "data.limit_val=10", "data.limit_test=10",
    "data.timings.fast.duration_ms=8", "data.timings.slow.duration_ms=160", "tracking=none",
    "model.dense_units=16",
)  # fmt: skip


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("maker", ROOT / "tools" / "make_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_page(name: str) -> list[str]:
    """The overrides of the commands in a page's tables."""
    text = (ROOT / "docs" / name).read_text()
    return re.findall(r"`python launch\.py ([^`]*)`", text)


def indented(name: str, program: str) -> list[str]:
    """The arguments of the commands in a page's indented lines, without their descriptions."""
    text = (ROOT / "docs" / name).read_text()
    found = re.findall(rf"^    {re.escape(program)} (.*)$", text, re.MULTILINE)
    return [re.split(r"\s{3,}", line)[0] for line in found]


COMMANDS = list(dict.fromkeys([*generator().commands(), *on_page("guides.md")]))


def test_the_pages_made_from_config_files_are_up_to_date() -> None:
    """`make docs` writes them."""
    maker = generator()
    assert (ROOT / "docs" / "techniques.md").read_text() == maker.techniques_page()
    assert (ROOT / "docs" / "losses.md").read_text() == maker.losses_page()


def test_every_loss_is_on_its_page() -> None:
    """Rules of a model and techniques have separate pages."""
    elsewhere = {
        "agem",
        "delta",
        "derpp",
        "discriminant",
        "ewc",
        "gate_variance",
        "hebbian",
        "hlop_subspace",
        "lwf",
        "mas",
        "memory_budget",
        "si",
    }
    options = {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")}
    assert set(generator().losses()) == options - elsewhere


#: overrides that reduce a command on the page of losses to some seconds
BRIEF = ("data.limit_train=32", "data.limit_val=10", "data.limit_test=10", "tracking=none")
LOSSES = indented("losses.md", "python launch.py")


@pytest.mark.parametrize("command", LOSSES)
def test_every_loss_composes(command: str) -> None:
    check(compose(*shlex.split(command)))


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in LOSSES if "mine.h5" not in c])
def test_every_loss_runs(command: str, tmp_path: Path) -> None:
    given = shlex.split(command)
    phase = ["task1", "task2"] if "ltgate" in command else ["main"]
    brief = [*BRIEF, *(f"phase.{name}.epochs=1" for name in phase)]
    done = launch_here(*given, *brief, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    check(compose(*shlex.split(command)))


@pytest.mark.parametrize("command", indented("compare.md", "python launch.py"))
def test_every_run_to_compare_composes(command: str) -> None:
    first = [
        part if "[" in part else part.partition(",")[0]
        for part in shlex.split(command)
        if part != "-m"
    ]
    check(compose(*first))


@pytest.mark.parametrize("command", indented("compare.md", "python -m neuro"))
def test_every_comparison_works(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (ablation, gate) in enumerate([("full", "variance"), ("no_slow", "fixed")]):
        for seed in range(3):
            accuracy = 0.9 - 0.1 * number + 0.01 * seed**2
            metrics = {"test/accuracy": accuracy, "test/loss": 1.0, "continual/forgetting": 0.1}
            metrics |= {f"test/context_{ms}/accuracy": accuracy for ms in (60, 200)}
            changes = {"model.neuron.gate.kind": gate, "callbacks.calibration.target": 0.1 + number}
            for name in ("ltgate_ablation", "ltgate_rate", "timescales_context"):
                run = tmp_path / "multirun" / name / str(3 * number + seed)
                finish(run, metrics, f"name={ablation}", seed=seed, config=changes)
            run = tmp_path / "outputs" / str(3 * number + seed)
            finish(run, metrics, f"name={ablation}", seed=seed, config=changes)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0


@pytest.mark.parametrize(
    "command",
    [
        command
        for page in ("data.md", "text.md", "memory_lm.md", "continual.md")
        for command in indented(page, "python launch.py")
    ],
)
def test_every_command_on_data_composes(command: str) -> None:
    check(compose(*shlex.split(command)))


@pytest.mark.slow
def test_the_commands_on_data_work_in_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURO_DATA", ".data")
    for line in indented("data.md", "python"):
        program, *given = shlex.split(line)
        if program == "-m":
            assert main(given[1:]) == 0
            continue
        done = launch_here(*given, *BRIEF, "phase.main.epochs=1")
        assert done.code == 0, f"{line}: {done.err}"


SEARCHES = indented("search.md", "python launch.py")
#: commands that need a server or a cluster
_ELSEWHERE = ("postgresql://", "submitit_slurm", "address=auto")


@pytest.mark.parametrize("command", SEARCHES)
def test_every_search_composes(command: str) -> None:
    searched = [part for part in shlex.split(command) if part != "-m" and "(" not in part]
    check(compose(*searched))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command", [c for c in SEARCHES if not any(word in c for word in _ELSEWHERE)]
)
def test_every_search_runs(command: str, tmp_path: Path) -> None:
    given = shlex.split(command)
    names = {override.partition("=")[0] for override in given}
    small = (*SMALL, "phase.task1.epochs=1", "phase.task2.epochs=1")
    chosen = [o for o in small if o.partition("=")[0] not in names]
    given = [o for o in given if not o.startswith(("hydra.sweep.dir=", "hydra.sweeper.n_trials="))]
    more = ("hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = launch_in_process(*given, *chosen, *more, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "sweep" / "best.yaml").exists()


def test_the_full_run_of_the_memory_model_has_its_guides_settings() -> None:
    config = compose("experiment=memory_lm_full")
    phases = config["phase"]
    assert [(name, p["task"], p["steps"]) for name, p in phases.items()] == [
        ("a", "tinystories", 5000), ("b", "all", 5000), ("c", "all", 2500),
    ]  # fmt: skip
    assert config["data"]["shares"] == {"fineweb_edu": 0.6, "dclm": 0.4}
    assert {"tinystories", "fineweb_edu", "dclm"} == config["data"]["sources"].keys()
    assert (config["data"]["streams"], config["data"]["span"], config["model"]["span"]) == (
        48, 256, 64,
    )  # fmt: skip
    tier = config["model"]["tier"]
    assert (tier["dim"], tier["layers"], tier["columns"]) == (768, 12, 6)
    optimizer, schedule, trainer = (config[key] for key in ("optimizer", "scheduler", "trainer"))
    assert optimizer["_target_"].endswith(".AdamW")
    assert (optimizer["lr"], optimizer["betas"], optimizer["weight_decay"]) == (
        3e-4, [0.9, 0.95], 0.01,
    )  # fmt: skip
    assert schedule["_target_"].endswith(".Cosine") and schedule["warmup"] == {"steps": 1000}
    assert schedule["min_factor"] * optimizer["lr"] == pytest.approx(1e-5, rel=1e-3)
    assert trainer["clip_norm"] == 1.0 and trainer["stateful"]["training"]
    intervals = [trainer[key]["steps"] for key in ("log", "validation", "checkpoint")]
    callbacks = config["callbacks"]
    intervals += [callbacks[c]["every_steps"] for c in ("text_samples", "curves", "ablations")]
    assert intervals == [50, 200, 2500, 200, 500, 1000]
    assert len(callbacks["curves"]["figures"]) == 6
    assert not config["hardware"]["compile"]


#: commands that need a GPU and a network
_FULL = "experiment=memory_lm_full"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if _FULL not in c])
def test_every_command_runs(command: str, tmp_path: Path) -> None:
    given = shlex.split(command)
    names = {override.partition("=")[0] for override in given}
    small = [o for o in SMALL if o.partition("=")[0] not in names]
    if "experiment=soen_digits" in given:
        small = [*BRIEF, "phase.main.epochs=1"]
    elif "experiment=memory_lm" in given:
        packages = "data.sources.documentation.packages=[python]"
        small = ["tracking=none", "data.limit_val=4", "data.limit_test=4", packages]
        small += [f"phase.{phase}.steps=2" for phase in "abc"]
    elif any(part.startswith("experiment=hybrid") for part in given):
        brief = ["data.limit_train=10", "data.limit_val=1", "data.limit_test=1", "tracking=none"]
        phases = {"phase3": FIVE[:2], "domains_2": FIVE[:2], "phase4": FIVE}
        found = [names_ for key, names_ in phases.items() if key in " ".join(given)]
        for name in found[0] if found else ("main",):
            brief += [f"phase.{name}.epochs=null", f"phase.{name}.steps=3"]
        small = [o for o in brief if o.partition("=")[0] not in names]
    elif not any(name == "phase" or name.startswith("phase.") for name in names):
        small += ["phase.task1.epochs=2", "phase.task2.epochs=2"]
    done = launch_here(*small, *given, f"hydra.run.dir={tmp_path / 'run'}")
    if done.code == CriteriaNotMet.exit_code:  # with a few updates
        assert "criteria" in read(tmp_path / "run")
    else:
        assert done.code == 0, done.err


COMPARED = {"same", "better", "different"}


def test_every_row_of_the_guides_is_compared() -> None:
    """Notes are short; longer ones are in a numbered list below the table, in their order."""
    text = (ROOT / "docs" / "guides.md").read_text()
    assert text.count("\n| ") > 130
    for section in text.split("\n## ")[1:]:
        lines = section.splitlines()
        table = [line for line in lines if line.startswith("| ") and not line.startswith("| there")]
        assert table, lines[0]
        numbers = []
        for line in table:
            *_, verdict, note = line.removesuffix("|").split(" | ")
            assert set(verdict.split(", ")) <= COMPARED, line
            assert len(note.strip()) <= 80, line
            numbers += re.findall(r"\[(\d+)\]$", note.strip())
        listed = [match[1] for line in lines if (match := re.match(r"(\d+)\. ", line))]
        assert numbers == listed == [str(n + 1) for n in range(len(listed))], lines[0]


# -- effects described in the guides --------------------------------------------------------------

GRADIENT = ("experiment=ltgate_surrogate", *SMALL, "phase=task1", "data.batch_size=8")


def trained(directory: Path, *overrides: str) -> Path:
    done = launch_here(*GRADIENT, *overrides, f"hydra.run.dir={directory}")
    assert done.code == 0, done.err
    return directory


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both averages, quantisation, gradient health and early stopping."""
    return trained(
        tmp_path_factory.mktemp("guides") / "run", "phase.task1.epochs=4",
        "callbacks=[calibration,progress,ema,swa,quantisation,gradient_health,early_stopping]",
        "callbacks.swa.start_epoch=1", "callbacks.early_stopping.patience=99",
        "callbacks.gradient_health.every_steps=3",
    )  # fmt: skip


def test_averages_have_separate_files_that_differ(averaged: Path) -> None:
    last = weights(averaged)
    for name in ("ema", "swa"):
        assert (averaged / "checkpoints" / f"{name}.safetensors").is_file()
        assert not same_weights(weights(averaged, name), last)
    metrics = read(averaged)["metrics"]
    assert {"val_ema/loss", "val_swa/loss"} <= metrics.keys()
    assert metrics["val_ema/loss"] != metrics["val/loss"]


def test_quantised_accuracy_is_reported(averaged: Path) -> None:
    metrics = read(averaged)["metrics"]
    assert "val_quantised/accuracy" in metrics
    assert {name for name in metrics if name.startswith("test_quantised/")} == {
        name.replace("test/", "test_quantised/", 1)
        for name in metrics
        if name.startswith("test/") and name.count("/") == 2
    }


def test_the_norm_of_the_gradient_is_logged_beside_the_loss(averaged: Path) -> None:
    logged = [row for row in rows(averaged) if "gradients/norm" in row]
    assert logged and all(row["gradients/loss"] > 0 for row in logged)


def test_early_stopping_monitors_the_loss(averaged: Path) -> None:
    """The restored best weights are those of the lowest loss."""
    config = compose("callbacks=[early_stopping]")["callbacks"]["early_stopping"]
    assert config["monitor"] == "val/loss"
    losses = {row["step"]: row["val/loss"] for row in rows(averaged) if "val/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    stopped = load(averaged, "last")["callbacks"]["early_stopping"]
    assert stopped["best"] == pytest.approx(losses[best])


def test_the_finder_suggests_a_rate(tmp_path: Path) -> None:
    done = launch_here(
        "mode=lr_find", *GRADIENT, "data.limit_train=100", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.code == 0, done.err
    assert re.search(r"suggested learning rate: [\d.e-]+", done.out + done.err)
    assert (tmp_path / "run" / "plots" / "lr_find.png").is_file()


@pytest.mark.slow
def test_the_finder_reports_why_a_local_rule_has_no_rate(tmp_path: Path) -> None:
    done = launch_here(
        "mode=lr_find", *SMALL, "trainer.lr_find.steps=20", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.code == 0, done.err
    assert "are local rules" in done.out + done.err and "rule=surrogate" in done.out + done.err


@pytest.mark.parametrize("preset", ["production", "max_accuracy"])
def test_presets_with_averages_train_what_is_averaged(preset: str) -> None:
    parts = assemble(parse_experiment(compose(f"experiment={preset}", *SMALL)))
    assert parts.notes == ()
    assert {"ema", "swa"} <= parts.callbacks.keys()


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run_unchanged(preset: str, tmp_path: Path) -> None:
    done = launch_here(f"experiment={preset}", *SMALL, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.slow
def test_transfer_and_ensemble(tmp_path: Path) -> None:
    runs = tmp_path / "outputs"
    first = ("phase=task1", "phase.task1.epochs=2", f"runs_dir={runs}")
    done = launch_here(*SMALL, *first)
    assert done.code == 0, done.err
    done = launch_here("experiment=transfer", *SMALL, f"runs_dir={runs}")
    assert done.code == 0, done.err
    whole = tmp_path / "set"
    done = launch_here(
        "experiment=ensemble", *SMALL, "repeats=2", *first[:2], f"hydra.run.dir={whole}"
    )
    assert done.code == 0, done.err
    done = launch_here(
        "mode=evaluate", f"run={whole}", "ensemble=mean", f"hydra.run.dir={tmp_path / 'vote'}"
    )
    assert done.code == 0, done.err
